//! A real node: what kubelet, containerd, kube-proxy and a registry make of our objects. Only the GPUs are *pretended*.
//!
//! Needs root on Linux, so these run only when asked for: `tests/run --only node`.

#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Node as NodeObject, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kaito_api::{Workspace, conditions};
use kaito_tests::binaries::{Binary, find_or_build};
use kaito_tests::cluster;
use kaito_tests::device_plugin::{DevicePlugin, GPU, VARIABLE};
use kaito_tests::fixture::{Namespace, apply_yaml};
use kaito_tests::node::{self, Identity, Image, Node, Traces};
use kaito_tests::programs;
use kaito_tests::wait::{wait_for, wait_for_all};
use kube::api::{DeleteParams, LogParams};
use kube::{Api, ResourceExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const LIMIT: Duration = Duration::from_secs(120);

/// Settings of the whole machine that kubelet likes to change.
fn host_settings() -> Vec<String> {
    let files = [
        "vm/overcommit_memory",
        "kernel/panic",
        "kernel/panic_on_oops",
    ];
    let read = |file: &&str| fs::read_to_string(Path::new("/proc/sys").join(file)).unwrap();
    files.iter().map(read).collect()
}

/// A secret that lets pods pull from the node's registry.
fn pull_secret(node: &Node) -> String {
    let config = node.registry().docker_config();
    format!(
        "apiVersion: v1
kind: Secret
metadata: {{name: registry}}
type: kubernetes.io/dockerconfigjson
stringData: {{.dockerconfigjson: '{config}'}}
"
    )
}

/// A pod as the `restricted` standard wants it, that serves its folder `/www` on port 8080.
fn web_server(image: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: web, labels: {{app: web}}}}
spec:
  automountServiceAccountToken: false
  imagePullSecrets: [{{name: registry}}]
  securityContext: {{runAsNonRoot: true, runAsUser: 65532, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
    - name: web
      image: {image}
      args: ['-c', 'echo serving as $(id -u); exec httpd -f -v -p 8080 -h /www']
      ports: [{{containerPort: 8080}}]
      readinessProbe: {{httpGet: {{path: /index.html, port: 8080}}, periodSeconds: 1}}
      resources: {{requests: {{cpu: 10m, memory: 16Mi}}, limits: {{memory: 64Mi}}}}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {{drop: [ALL]}}
      volumeMounts: [{{name: model, mountPath: /model}}]
  volumes:
    - name: model
      image: {{reference: MODEL, pullPolicy: IfNotPresent}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
"
    )
}

/// A pod that sleeps, with as many GPUs as asked for. It has time to end, so that its GPUs are counted as free only
/// once kubelet has ended it.
fn sleeper(name: &str, image: &str, gpus: u32) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  imagePullSecrets: [{{name: registry}}]
  containers:
    - name: main
      image: {image}
      args: ['-c', 'echo given: ${VARIABLE}; exec sleep 86400']
      resources: {{limits: {{{GPU}: {gpus}}}}}
"
    )
}

fn is_ready(pod: Option<&Pod>) -> bool {
    let status = pod.and_then(|pod| pod.status.as_ref());
    let list = status.and_then(|status| status.conditions.as_deref());
    list.unwrap_or_default()
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

async fn wait_for_ready(pods: &Api<Pod>, name: &str) -> Pod {
    let what = format!("pod {name} is ready");
    let found = wait_for(pods, name, &what, LIMIT, is_ready).await;
    found.unwrap().unwrap()
}

/// Runs a command in a pod, as a user does, and returns what it printed; it must succeed.
fn execute(namespace: &Namespace<'_>, pod: &str, command: &[&str]) -> String {
    let output = namespace
        .plane()
        .kubectl_command()
        .args(["exec", "--namespace", namespace.name(), pod, "--"])
        .args(command)
        .output()
        .unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// How much of a resource kube-scheduler may hand out on the node.
fn allocatable(object: Option<&NodeObject>, resource: &str) -> u64 {
    let amounts = object
        .and_then(|object| object.status.as_ref())
        .and_then(|status| status.allocatable.as_ref());
    let amount = amounts.and_then(|amounts| amounts.get(resource));
    amount.map_or(0, |amount| amount.0.parse().unwrap())
}

/// Takes the node down and looks for what it has left.
fn stop(node: Node, before: &[String]) {
    let identity = node.identity();
    node.stop().unwrap();
    assert_eq!(identity.traces().unwrap(), Traces::default());
    assert_eq!(host_settings(), before);
}

fn report(what: &str, since: Instant) {
    println!("{what}: {:.1} s", since.elapsed().as_secs_f64());
}

#[tokio::test]
#[ignore = "needs root on Linux: tests/run --only node"]
async fn a_restricted_pod_with_a_model_volume_serves_from_our_registry_and_nothing_is_left() {
    let before = host_settings();
    let started = Instant::now();
    let node = Node::start(node::Options::default()).await.unwrap();
    report("node ready", started);
    let image = Image::busybox().unwrap().user("65532:65532");
    let server = node.push(&image, "tests/web", "1").unwrap();
    let weights = Image::empty().file("weights", b"0.1 0.2 0.3".to_vec(), 0o444);
    let model = node.push(&weights, "tests/model", "1").unwrap();
    // Pinned by digest, as weights have to be.
    let model = format!(
        "{}@{}",
        model.trim_end_matches(":1"),
        weights.digest().unwrap()
    );

    let namespace = Namespace::create(node.plane(), "web").await.unwrap();
    restrict(&node, namespace.name());
    let pods: Api<Pod> = namespace.api();
    let yaml = web_server(&server).replace("MODEL", &model);

    let started = Instant::now();
    // Without the secret the registry refuses; with it the very same pod gets its image.
    namespace.apply(&yaml).await.unwrap();
    wait_for_refusal(&namespace.api()).await;
    report("pull refused without the secret", started);
    let started = Instant::now();
    namespace.apply(&pull_secret(&node)).await.unwrap();
    wait_for_ready(&pods, "web").await;
    report("pod ready with the secret", started);

    let lines: Vec<String> = pods
        .log_stream("web", &LogParams::default())
        .await
        .unwrap()
        .lines()
        .try_collect()
        .await
        .unwrap();
    assert_eq!(lines[0], "serving as 65532", "{lines:?}");
    let text = execute(&namespace, "web", &["cat", "/model/weights"]);
    assert_eq!(text, "0.1 0.2 0.3");
    let written = execute(
        &namespace,
        "web",
        &["sh", "-c", "touch /model/new 2>/dev/null || echo refused"],
    );
    assert_eq!(written, "refused\n");
    let mount = execute(&namespace, "web", &["cat", "/proc/self/mountinfo"]);
    let mount = mount
        .lines()
        .find(|line| line.contains(" /model "))
        .unwrap();
    assert!(mount.contains(" ro,") || mount.contains(" ro "), "{mount}");

    service_answers(&node, &namespace).await;
    refuses_what_is_not_restricted(&namespace, &server).await;
    drop(namespace);
    let started = Instant::now();
    stop(node, &before);
    report("node stopped", started);
}

fn restrict(node: &Node, namespace: &str) {
    let output = node
        .plane()
        .kubectl_command()
        .args(["label", "namespace", namespace])
        .arg("pod-security.kubernetes.io/enforce=restricted")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

async fn wait_for_refusal(events: &Api<Event>) {
    wait_for_all(events, "", "the pull is refused", LIMIT, |all| {
        let message = |event: &Event| event.message.clone().unwrap_or_default();
        let refused = |text: String| {
            text.contains("no basic auth credentials")
                || text.contains("authorization failed")
                || text.contains("401")
        };
        all.iter().any(|event| refused(message(event)))
    })
    .await
    .unwrap();
}

async fn service_answers(node: &Node, namespace: &Namespace<'_>) {
    let services: Api<Service> = namespace.api();
    let service = services.get("web").await.unwrap();
    let address = service.spec.unwrap().cluster_ip.unwrap();
    let url = format!("http://{address}/index.html");
    assert_eq!(fetch(node, &url).await, "it works\n");
    let fetch = ["wget", "-q", "-O", "-", &url];
    assert_eq!(execute(namespace, "web", &fetch), "it works\n");
}

/// Fetches a page from the node. Tries again while nobody answers: kube-proxy hears of a ready pod a moment after we do.
async fn fetch(node: &Node, url: &str) -> String {
    let deadline = Instant::now() + LIMIT;
    loop {
        let output = node.run("curl", ["-sS", "-m", "5", url]).unwrap();
        if output.status.success() {
            return String::from_utf8(output.stdout).unwrap();
        }
        assert!(Instant::now() < deadline, "{output:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn refuses_what_is_not_restricted(namespace: &Namespace<'_>, image: &str) {
    let error = namespace
        .apply(&sleeper("lax", image, 0))
        .await
        .unwrap_err();
    let text = format!("{:#}", anyhow::Error::from(error));
    assert!(text.contains("violates PodSecurity \"restricted"), "{text}");
}

#[tokio::test]
#[ignore = "needs root on Linux: tests/run --only node"]
async fn pretended_gpus_are_counted_and_our_scheduler_runs_a_workspace_on_them() {
    let before = host_settings();
    let mut node = Node::start(node::Options::default()).await.unwrap();
    let client = node.client().await.unwrap();
    let nodes: Api<NodeObject> = Api::all(client.clone());
    let plugin = DevicePlugin::start(&node.device_plugins(), GPU, 1)
        .await
        .unwrap();
    let started = Instant::now();
    wait_for(&nodes, node::NAME, "the GPU is counted", LIMIT, |object| {
        allocatable(object, GPU) == 1
    })
    .await
    .unwrap();
    report("pretended GPU counted", started);
    let image = Image::busybox().unwrap();
    let image = node.push(&image, "tests/server", "1").unwrap();
    {
        let namespace = Namespace::create(node.plane(), "gpus").await.unwrap();
        namespace.apply(&pull_secret(&node)).await.unwrap();
        // Boxed, as what follows: together they are too large for the stack of a test.
        Box::pin(a_gpu_is_given_to_one_pod_only(&namespace, &image)).await;
    }
    Box::pin(workspace_runs(&node, &plugin, &image)).await;

    Box::pin(a_restarted_kubelet_knows_the_gpu(
        &mut node, &plugin, &image,
    ))
    .await;
    set_gpus(&node, &plugin, 0).await;
    plugin.stop().await;
    // Not stopped but dropped, as when a test panics.
    let identity = node.identity();
    drop(node);
    assert_eq!(identity.traces().unwrap(), Traces::default());
    assert_eq!(host_settings(), before);
}

/// Containers live through the restart, and the next pod gets the GPU as soon as the first is gone.
async fn a_restarted_kubelet_knows_the_gpu(node: &mut Node, plugin: &DevicePlugin, image: &str) {
    let client = node.client().await.unwrap();
    let (name, secret) = ("default", pull_secret(node));
    apply_yaml(&client, name, &secret).await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), name);
    apply_yaml(&client, name, &sleeper("third", image, 1))
        .await
        .unwrap();
    let before = wait_for_ready(&pods, "third").await;
    node.restart_kubelet().unwrap();
    plugin.listed(2).await;
    apply_yaml(&client, name, &sleeper("fourth", image, 1))
        .await
        .unwrap();
    let after = wait_for_ready(&pods, "third").await;
    assert_eq!(container(&before), container(&after));
    pods.delete("third", &DeleteParams::default())
        .await
        .unwrap();
    wait_for_ready(&pods, "fourth").await;
}

/// Id of the pod's container, which changes when it is started again.
fn container(pod: &Pod) -> &str {
    let status = pod.status.as_ref().unwrap();
    let containers = status.container_statuses.as_ref().unwrap();
    containers[0].container_id.as_deref().unwrap()
}

async fn a_gpu_is_given_to_one_pod_only(namespace: &Namespace<'_>, image: &str) {
    let pods: Api<Pod> = namespace.api();
    namespace.apply(&sleeper("first", image, 1)).await.unwrap();
    wait_for_ready(&pods, "first").await;
    let log = pods.logs("first", &LogParams::default()).await.unwrap();
    assert_eq!(log, "given: pretended-0\n");

    namespace.apply(&sleeper("second", image, 1)).await.unwrap();
    let waits = |pod: Option<&Pod>| {
        let status = pod.and_then(|pod| pod.status.as_ref());
        let list = status.and_then(|status| status.conditions.as_deref());
        list.unwrap_or_default().iter().any(|condition| {
            let message = condition.message.as_deref().unwrap_or_default();
            condition.type_ == "PodScheduled"
                && condition.status == "False"
                && message.contains("Insufficient nvidia.com/gpu")
        })
    };
    wait_for(&pods, "second", "the second pod waits", LIMIT, waits)
        .await
        .unwrap();
    pods.delete("first", &DeleteParams::default())
        .await
        .unwrap();
    wait_for_ready(&pods, "second").await;
    pods.delete("second", &DeleteParams::default())
        .await
        .unwrap();
    wait_for_all(&pods, "", "both are gone", LIMIT, <[Pod]>::is_empty)
        .await
        .unwrap();
}

fn own_server(image: &str) -> String {
    format!(
        "apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {{name: own-server}}
resource: {{labelSelector: {{matchLabels: {{kubernetes.io/os: linux}}}}}}
inference:
  template:
    spec:
      terminationGracePeriodSeconds: 1
      imagePullSecrets: [{{name: registry}}]
      containers:
        - name: server
          image: {image}
          args: ['-c', 'echo given: ${VARIABLE}; exec httpd -f -p 5000 -h /www']
          ports: [{{containerPort: 5000}}]
          resources: {{limits: {{{GPU}: 1}}}}
          readinessProbe: {{httpGet: {{path: /index.html, port: 5000}}, periodSeconds: 1}}
"
    )
}

fn condition<'a>(workspace: Option<&'a Workspace>, kind: &str) -> Option<&'a Condition> {
    let list = workspace?.status.as_ref()?.conditions.as_ref()?;
    list.iter().find(|condition| condition.type_ == kind)
}

fn gates(pod: &Pod) -> Vec<String> {
    let gates = pod.spec.as_ref().unwrap().scheduling_gates.iter().flatten();
    gates.map(|gate| gate.name.clone()).collect()
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref().unwrap().node_name.as_deref()
}

async fn set_gpus(node: &Node, plugin: &DevicePlugin, count: u64) {
    plugin.set_healthy(usize::try_from(count).unwrap());
    let nodes: Api<NodeObject> = Api::all(node.client().await.unwrap());
    let what = format!("{count} GPUs are healthy");
    wait_for(&nodes, node::NAME, &what, LIMIT, |object| {
        allocatable(object, GPU) == count
    })
    .await
    .unwrap();
}

/// Gated, placed, admitted, run, reported ready, reached through its Service, deleted.
async fn workspace_runs(node: &Node, plugin: &DevicePlugin, image: &str) {
    cluster::install(node.plane()).unwrap();
    let arguments = ["--node-provisioner=byo".to_owned()];
    let scheduler = cluster::start_scheduler(node.plane(), &arguments)
        .await
        .unwrap();
    let namespace = Namespace::create(node.plane(), "own").await.unwrap();
    namespace.apply(&pull_secret(node)).await.unwrap();
    set_gpus(node, plugin, 0).await;
    namespace.apply(&own_server(image)).await.unwrap();
    let pods: Api<Pod> = namespace.api();
    let workspaces: Api<Workspace> = namespace.api();
    let blocked = |workspace: Option<&Workspace>| {
        condition(workspace, conditions::PLACED).is_some_and(|found| found.reason == "NoNodeFits")
    };
    wait_for(
        &workspaces,
        "own-server",
        "it waits for a GPU",
        LIMIT,
        blocked,
    )
    .await
    .unwrap();
    wait_for_all(&pods, "", "its pod is held back", LIMIT, |all| {
        all.len() == 1 && gates(&all[0]) == ["kaito.sh/placement"] && node_of(&all[0]).is_none()
    })
    .await
    .unwrap();
    let started = Instant::now();
    plugin.set_healthy(1);
    let found = wait_for_all(&pods, "", "its pod is ready", LIMIT, |all| {
        all.len() == 1 && is_ready(all.first())
    })
    .await
    .unwrap();
    let pod = found.first().unwrap();
    assert_eq!(node_of(pod), Some(node::NAME));
    assert_eq!(gates(pod), Vec::<String>::new());
    let log = pods.logs(&pod.name_any(), &LogParams::default()).await;
    assert_eq!(log.unwrap(), "given: pretended-0\n");

    let ready = |workspace: Option<&Workspace>| {
        condition(workspace, conditions::WORKSPACE_READY)
            .is_some_and(|found| found.status == "True")
    };
    let workspace = wait_for(&workspaces, "own-server", "it is ready", LIMIT, ready)
        .await
        .unwrap()
        .unwrap();
    report("GPU there to Workspace ready", started);
    let used = workspace.status.unwrap().worker_nodes.unwrap();
    assert_eq!(used, [node::NAME]);

    let services: Api<Service> = namespace.api();
    let service = services.get("own-server").await.unwrap().spec.unwrap();
    let url = format!("http://{}/index.html", service.cluster_ip.unwrap());
    assert_eq!(fetch(node, &url).await, "it works\n");

    let started = Instant::now();
    workspaces
        .delete("own-server", &DeleteParams::default())
        .await
        .unwrap();
    wait_for(&workspaces, "own-server", "it is gone", LIMIT, |found| {
        found.is_none()
    })
    .await
    .unwrap();
    wait_for_all(&pods, "", "its pod is gone", LIMIT, <[Pod]>::is_empty)
        .await
        .unwrap();
    let deployments: Api<Deployment> = namespace.api();
    wait_for_all(
        &deployments,
        "",
        "its Deployment is gone",
        LIMIT,
        <[Deployment]>::is_empty,
    )
    .await
    .unwrap();
    report("Workspace deleted", started);
    drop(scheduler);
}

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
                self.variables.insert(name.to_owned(), value.to_owned());
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
