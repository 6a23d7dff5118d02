//! Nodes whose owner, or whose keeper, is killed.

use super::*;

/// A process that owns a node, so that it can be killed.
struct Owner {
    process: Child,
    variables: BTreeMap<String, String>,
}

impl Owner {
    fn start() -> Self {
        let program = programs::find(programs::TESTBED).unwrap();
        let process = Command::new(program)
            .arg("node")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            process,
            variables: BTreeMap::new(),
        }
    }

    /// Reads what the process says once its node is ready.
    fn wait(&mut self) {
        let stdout = self.process.stdout.take().unwrap();
        for line in BufReader::new(stdout).lines() {
            let line = line.unwrap();
            if let Some((name, value)) = line
                .strip_prefix("export ")
                .and_then(|rest| rest.split_once('='))
            {
                let value = value.trim_matches('\'').to_owned();
                self.variables.insert(name.to_owned(), value);
            }
            if line.starts_with("# stop with") {
                return;
            }
        }
        panic!("the owner of a node ended early: {:?}", self.process.wait());
    }

    fn identity(&self) -> Identity {
        let folder = Path::new(&self.variables["KAITO_NODE_FOLDER"]).to_owned();
        let network = format!("/proc/{}/ns/net", self.variables["KAITO_NODE_PID"]);
        Identity {
            name: folder.file_name().unwrap().to_str().unwrap().to_owned(),
            folder,
            network: fs::metadata(network).unwrap().ino(),
        }
    }

    fn kubectl(&self, arguments: &[&str]) -> String {
        let output = Command::new("nsenter")
            .arg(format!(
                "--net=/proc/{}/ns/net",
                self.variables["KAITO_NODE_PID"]
            ))
            .arg(find_or_build(Binary::Kubectl).unwrap())
            .args(arguments)
            .env("KUBECONFIG", &self.variables["KUBECONFIG"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a pod from the image that every node has.
    fn run_pod(&self) {
        self.kubectl(&[
            "run",
            "sleeper",
            "--image=kaito.test/pause:1",
            "--image-pull-policy=Never",
        ]);
        self.kubectl(&[
            "wait",
            "pod/sleeper",
            "--for=condition=Ready",
            "--timeout=120s",
        ]);
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Looks until nothing of the node is left, or nothing but the files and groups that a sweep removes.
fn wait_until_gone(identity: &Identity, enough: impl Fn(&Traces) -> bool) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let traces = identity.traces().unwrap();
        if enough(&traces) {
            return;
        }
        assert!(Instant::now() < deadline, "{traces:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
#[ignore = "needs root on Linux: tests/run --only node"]
fn two_nodes_live_side_by_side_and_a_killed_owner_or_keeper_leaves_nothing() {
    let before = host_settings();
    let (mut one, mut other) = (Owner::start(), Owner::start());
    one.wait();
    other.wait();
    let (first, second) = (one.identity(), other.identity());
    one.run_pod();
    other.run_pod();
    let traces = first.traces().unwrap();
    assert!(
        !traces.processes.is_empty() && !traces.groups.is_empty(),
        "{traces:?}"
    );
    assert_eq!(traces.mounts, Vec::<String>::new());

    let started = Instant::now();
    one.process.kill().unwrap();
    wait_until_gone(&first, |traces| *traces == Traces::default());
    report("gone after the owner was killed", started);
    other.kubectl(&["get", "pod", "sleeper"]);

    // The keeper is what would have cleaned up.
    let keeper = second.traces().unwrap().processes.into_iter();
    let keeper =
        keeper.filter(|(_, line)| line.contains(" node-cage ") && !line.contains(" supervise "));
    let keepers: Vec<i32> = keeper.map(|(pid, _)| pid).collect();
    assert_eq!(keepers.len(), 1, "{keepers:?}");
    kill(Pid::from_raw(keepers[0]), Signal::SIGKILL).unwrap();
    drop(other);
    wait_until_gone(&second, |traces| traces.processes.is_empty());
    assert_ne!(second.traces().unwrap(), Traces::default());
    node::sweep().unwrap();
    assert_eq!(second.traces().unwrap(), Traces::default());
    assert_eq!(host_settings(), before);
}
