//! Starting a node: cage, control plane, registry, containerd, kubelet, kube-proxy, and the wait for each.

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Api;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::settings::{self, Layout, PAUSE};
use super::{
    ADDRESS, Account, Error, Image, NAME, NETWORK, Node, Options, cage, leftovers, needs, network,
    system,
};
use crate::binaries::{self, Binary, find_or_build};
use crate::control_plane::{self, ControlPlane};
use crate::programs;
use crate::registry::{self, Registry};
use crate::supervise::{Launch, Supervised, tail};
use crate::wait::wait_for;

/// Limit of each wait; on a loaded machine with two cores the node is ready after half a minute.
const LIMIT: Duration = Duration::from_secs(180);
/// Time between two looks.
const POLL: Duration = Duration::from_millis(30);
/// Lines of a log in an error.
const LINES: usize = 25;

/// See [`Node::start`].
pub(super) async fn start(options: Options) -> Result<Node, Error> {
    needs::check()?;
    if Handle::current().runtime_flavor() != RuntimeFlavor::CurrentThread {
        return Err(Error::Threads);
    }
    leftovers::sweep().map_err(system("remove what an earlier node has left"))?;
    provide_binaries().await?;
    let folder = tempfile::Builder::new().prefix("kaito-node-").tempdir();
    let folder = folder.map_err(system("make a folder for the node"))?;
    let layout = Layout {
        folder: folder.path().to_owned(),
        group: name_of(folder.path()),
    };
    let mut cage = start_cage(&layout)?;
    let first = wait_for_cage(&layout, &mut cage).await?;
    let stay = network::Stay::enter(first).map_err(system("enter the node's network"))?;
    let plane = ControlPlane::start(control_plane::Options {
        address: ADDRESS,
        ..options.control_plane
    })
    .await?;
    let registry = Registry::start(registry::Options {
        address: IpAddr::V4(ADDRESS),
        ..registry::Options::secured()
    })
    .await?;
    let servers = Servers {
        layout: &layout,
        first,
        plane: &plane,
    };
    let containerd = servers.containerd(&registry, &cage).await?;
    let kubelet_launch = servers.kubelet(&options.labels)?;
    let kubelet = spawn(&kubelet_launch, Some(&containerd))?;
    let proxy = spawn(&servers.proxy()?, Some(&containerd))?;
    let node = Node {
        _account: Account {
            layout: layout.clone(),
        },
        proxy,
        kubelet,
        kubelet_launch,
        containerd,
        registry,
        plane,
        stay,
        cage,
        first,
        layout,
        _folder: folder,
    };
    wait_until_ready(&node).await?;
    Ok(node)
}

async fn provide_binaries() -> Result<(), Error> {
    let found = tokio::task::spawn_blocking(|| -> Result<(), binaries::Error> {
        let wanted = [Binary::Registry, Binary::Oras].into_iter();
        wanted
            .chain(Binary::NODE)
            .try_for_each(|binary| find_or_build(binary).map(drop))
    });
    let found = found.await.map_err(io::Error::other);
    Ok(found.map_err(system("look for the binaries"))??)
}

fn name_of(folder: &Path) -> String {
    let name = folder.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

fn start_cage(layout: &Layout) -> Result<Supervised, Error> {
    let testbed = programs::find(programs::TESTBED)?;
    let arguments = cage::Arguments::command_line(&layout.folder, &layout.group, NETWORK);
    let mut launch = Launch::new("the node's cage", &testbed, &layout.log("cage")).with(arguments);
    // The kernel ends containers one by one.
    launch.grace = Duration::from_secs(30);
    spawn(&launch, None)
}

pub(super) fn spawn(launch: &Launch, needs: Option<&Supervised>) -> Result<Supervised, Error> {
    Supervised::spawn(launch, needs).map_err(|source| Error::Run(Box::new(source)))
}

async fn wait_for_cage(layout: &Layout, cage: &mut Supervised) -> Result<i32, Error> {
    wait_until("the node's cage", cage, || {
        cage::ready_file(&layout.folder).exists()
    })
    .await?;
    let file = cage::pid_file(&layout.folder);
    let pid = std::fs::read_to_string(&file)
        .and_then(|text| text.trim().parse().map_err(io::Error::other));
    pid.map_err(system(format!("read {}", file.display())))
}

/// Looks until it is so, the server has ended or the limit has passed.
async fn wait_until(
    name: &'static str,
    server: &mut Supervised,
    so: impl Fn() -> bool,
) -> Result<(), Error> {
    let deadline = Instant::now() + LIMIT;
    while !so() {
        let ended = server.ended().map(|status| status.to_string());
        let late = (Instant::now() >= deadline).then(|| format!("{} s passed", LIMIT.as_secs()));
        if let Some(status) = ended.or(late) {
            return Err(Error::Down {
                server: name,
                status,
                tail: tail(server.log(), LINES),
            });
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// nsenter's arguments before the program's: every namespace of the cage.
pub(super) fn entering(first: i32) -> Vec<OsString> {
    let target = format!("--target={first}");
    let kinds = ["--mount", "--net", "--pid", "--uts", "--ipc", "--"];
    std::iter::once(target.into())
        .chain(kinds.into_iter().map(Into::into))
        .collect()
}

/// What the servers in the cage have in common.
struct Servers<'a> {
    layout: &'a Layout,
    first: i32,
    plane: &'a ControlPlane,
}

impl Servers<'_> {
    /// The launch from within the cage.
    fn caged(&self, launch: Launch) -> Result<Launch, Error> {
        let mut launch = launch.through(Path::new("nsenter"), entering(self.first));
        // containerd finds the shim beside itself, everything else where Debian puts it.
        let own = find_or_build(Binary::ContainerdShim)?;
        let own = own.parent().unwrap_or(Path::new("/"));
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", own.display());
        launch.environment.push(("PATH".to_owned(), path.into()));
        Ok(launch)
    }

    async fn containerd(
        &self,
        registry: &Registry,
        cage: &Supervised,
    ) -> Result<Supervised, Error> {
        let config = settings::write_containerd(self.layout, registry.host(), registry.authority())
            .map_err(system("write containerd's configuration"))?;
        let program = find_or_build(Binary::Containerd)?;
        let launch = Launch::new("containerd", &program, &self.layout.log("containerd"))
            .with(["--config"])
            .with([config]);
        let mut server = spawn(&self.caged(launch)?, Some(cage))?;
        let socket = self.layout.socket();
        wait_until("containerd", &mut server, || {
            UnixStream::connect(&socket).is_ok()
        })
        .await?;
        self.import_pause()?;
        Ok(server)
    }

    /// The image that every pod needs first comes from a file: kubelet has no password for it.
    fn import_pause(&self) -> Result<(), Error> {
        let image = Image::busybox().map_err(system("read busybox"))?;
        let archive = self.layout.file("pause.tar");
        image
            .entrypoint(&["/bin/sleep", "infinity"])
            .write_archive(&archive, PAUSE)
            .map_err(system("write the pause image"))?;
        let mut command = Command::new(find_or_build(Binary::Ctr)?);
        command
            .arg("--address")
            .arg(self.layout.socket())
            .args(["--namespace", "k8s.io", "images", "import"])
            .arg(&archive);
        succeed(&mut command, "importing the pause image")
    }

    fn kubelet(&self, labels: &[(String, String)]) -> Result<Launch, Error> {
        let user = format!("system:node:{NAME}");
        let address = ADDRESS.to_string();
        let credentials =
            self.plane
                .credentials("kubelet", &user, Some("system:nodes"), &[NAME, &address])?;
        let config = settings::write_kubelet(
            self.layout,
            &settings::Identity {
                certificate: &credentials.certificate,
                key: &credentials.key,
                authority: self.plane.authority(),
            },
        )
        .map_err(system("write kubelet's configuration"))?;
        let labels: Vec<String> = labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        let program = find_or_build(Binary::Kubelet)?;
        let launch = Launch::new("kubelet", &program, &self.layout.log("kubelet")).with([
            format!("--config={}", config.display()),
            format!("--kubeconfig={}", credentials.kubeconfig.display()),
            format!("--root-dir={}", self.layout.kubelet_root().display()),
            format!("--cert-dir={}", self.layout.file("pki").display()),
            format!("--hostname-override={NAME}"),
            format!("--node-ip={ADDRESS}"),
            format!("--node-labels={}", labels.join(",")),
        ]);
        self.caged(launch)
    }

    fn proxy(&self) -> Result<Launch, Error> {
        let credentials = self
            .plane
            .credentials("kube-proxy", "system:kube-proxy", None, &[])?;
        let config = settings::write_proxy(self.layout, &credentials.kubeconfig)
            .map_err(system("write kube-proxy's configuration"))?;
        let program = find_or_build(Binary::KubeProxy)?;
        let launch = Launch::new("kube-proxy", &program, &self.layout.log("kube-proxy"))
            .with([format!("--config={}", config.display())]);
        self.caged(launch)
    }
}

async fn wait_until_ready(node: &Node) -> Result<(), Error> {
    let nodes: Api<NodeObject> = Api::all(node.client().await?);
    let ready = |node: Option<&NodeObject>| {
        let status = node.and_then(|node| node.status.as_ref());
        let conditions = status.and_then(|status| status.conditions.as_deref());
        conditions
            .unwrap_or_default()
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    let waited = wait_for(&nodes, NAME, "the node is ready", LIMIT, ready).await;
    waited.map(drop).map_err(|source| Error::NotReady {
        source: Box::new(source),
        tail: tail(&node.log("kubelet"), LINES),
    })
}

/// Runs a command to its end, which must be a good one.
pub(super) fn succeed(command: &mut Command, what: &str) -> Result<(), Error> {
    let output = command.output().map_err(system(what))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Error::Command {
        what: what.to_owned(),
        said: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
