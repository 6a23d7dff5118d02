//! A real node: kubelet, kube-proxy and containerd with a control plane and a registry, in namespaces of their own.
//!
//! Everything is real but the GPUs, which [`crate::device_plugin`] only pretends. Needs root on Linux and a few
//! programs ([`check`] says which). It reads and writes nothing but its folder and its control group; the host's
//! network, mounts, kernel settings and processes stay as they are (see [`cage`]).
//!
//! [`Node::start`] moves the calling thread into the node's network, where the API server, pods and Services can be
//! reached from, and [`Node::stop`] moves it back. So it wants a runtime with one thread, which `#[tokio::test]` makes.

mod built;
pub mod cage;
mod cgroups;
mod image;
mod leftovers;
mod needs;
mod network;
mod settings;
mod start;
pub mod story;
mod trainer;

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::{Api, Client};

use crate::binaries::{self, Binary, find_or_build};
use crate::control_plane::{self, ControlPlane};
use crate::programs;
use crate::registry::{self, Registry};
use crate::supervise::{self, Launch, Supervised};
use crate::wait;
use settings::Layout;

pub use image::Image;
pub use leftovers::{Identity, Traces, sweep};
pub use needs::{Error as Missing, check};
pub use trainer::{Files, Trainer, sources as trainer_sources};

/// Name of the Node object.
pub const NAME: &str = "kaito-node";
/// Address of the node, of the API server and of the registry. Of a range that is reserved for such uses (RFC 2544).
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 9, 1);
/// The address with the length of its network.
const NETWORK: &str = "198.18.9.1/24";
/// Addresses of pods.
const POD_NETWORK: &str = "198.18.10.0/24";
/// Debian's runc.
const CONTAINER_RUNTIME: &str = "/usr/sbin/runc";
/// Where the network plugins may be: Debian's place and everybody else's.
const CNI_PROGRAMS: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// Lines of each server's log that are shown when a test fails.
const ACCOUNT_LINES: usize = 40;

/// What a node is like.
#[derive(Debug, Clone)]
pub struct Options {
    /// Its control plane; the address is set by [`Node::start`].
    pub control_plane: control_plane::Options,
    /// Labels of the Node object besides kubelet's own, which must be of a kind that a node may set itself.
    pub labels: Vec<(String, String)>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            control_plane: control_plane::Options::full(),
            labels: Vec::new(),
        }
    }
}

/// Why a node could not be started, used or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine lacks something.
    #[error("this machine cannot run a node")]
    Missing(#[from] needs::Error),
    /// The runtime has more than one thread.
    #[error("a node wants a runtime with one thread, since it moves threads between networks")]
    Threads,
    /// A binary is missing.
    #[error("the node lacks a binary")]
    Binaries(#[from] binaries::Error),
    /// A program of ours is missing.
    #[error("the node lacks a program")]
    Program(#[from] programs::Error),
    /// The system refused something.
    #[error("cannot {what}")]
    System {
        /// The operation, with its object.
        what: String,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The control plane did not start, or refused something.
    #[error("the node's control plane failed")]
    ControlPlane(#[from] control_plane::Error),
    /// The registry did not start.
    #[error("the node's registry failed")]
    Registry(#[from] registry::Error),
    /// A server could not be started or stopped.
    #[error("cannot run the node's servers")]
    Run(#[source] Box<supervise::Error>),
    /// A server ended or did not come up in time.
    #[error("{server} is not up ({status}); its last lines:\n{tail}")]
    Down {
        /// The server.
        server: &'static str,
        /// Exit status, or how long it was waited for.
        status: String,
        /// End of its log.
        tail: String,
    },
    /// A command failed.
    #[error("{what} failed: {said}")]
    Command {
        /// The operation, with its object.
        what: String,
        /// What it printed to standard error.
        said: String,
    },
    /// The Node object did not become ready.
    #[error("the node is not ready; the end of kubelet's log:\n{tail}")]
    NotReady {
        /// What was seen of it.
        #[source]
        source: Box<wait::Error>,
        /// End of kubelet's log.
        tail: String,
    },
}

fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let what = what.into();
    move |source| Error::System { what, source }
}

/// A running node with its control plane and registry. Dropping it takes everything down, in order.
pub struct Node {
    // Dropped from top to bottom.
    _account: Account,
    proxy: Supervised,
    kubelet: Supervised,
    kubelet_launch: Launch,
    containerd: Supervised,
    registry: Registry,
    plane: ControlPlane,
    // Before the cage, so that the network ends with it.
    stay: network::Stay,
    cage: Supervised,
    /// First process of the cage, as the host counts.
    first: i32,
    layout: Layout,
    _folder: tempfile::TempDir,
}

/// Prints the ends of the servers' logs when it is dropped during a panic: they go with the folder.
struct Account {
    layout: Layout,
}

impl Drop for Account {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for server in ["containerd", "kubelet", "kube-proxy"] {
                let text = supervise::tail(&self.layout.log(server), ACCOUNT_LINES);
                let _ = writeln!(io::stderr(), "--- {server}\n{text}");
            }
        }
    }
}

impl Node {
    /// Starts everything, waits until the node is ready, and moves the calling thread into its network. Builds missing
    /// binaries first, which takes minutes; removes what a killed node has left.
    ///
    /// # Errors
    /// [`Error`]; what has started is stopped again.
    pub async fn start(options: Options) -> Result<Self, Error> {
        // Large, and callers' stacks are small.
        Box::pin(start::start(options)).await
    }

    /// The control plane.
    #[must_use]
    pub const fn plane(&self) -> &ControlPlane {
        &self.plane
    }

    /// The registry, with TLS and a password; containerd trusts its certificate and does not know the password.
    #[must_use]
    pub const fn registry(&self) -> &Registry {
        &self.registry
    }

    /// A client with every right.
    ///
    /// # Errors
    /// [`Error::ControlPlane`] if there is none to be had.
    pub async fn client(&self) -> Result<Client, Error> {
        Ok(self.plane.client().await?)
    }

    /// The Node object.
    ///
    /// # Errors
    /// [`Error::ControlPlane`] if the API server does not answer.
    pub async fn object(&self) -> Result<NodeObject, Error> {
        let nodes: Api<NodeObject> = Api::all(self.client().await?);
        let found = nodes.get(NAME).await;
        found.map_err(|source| {
            Error::ControlPlane(control_plane::Error::Api {
                what: format!("get node {NAME}"),
                source: Box::new(source),
            })
        })
    }

    /// Pushes an image to the registry as `name:tag` and returns its reference there.
    ///
    /// # Errors
    /// [`Error::Command`] with what oras said.
    pub fn push(&self, image: &Image, name: &str, tag: &str) -> Result<String, Error> {
        let archive = self.layout.file("push.tar");
        image
            .write_archive(&archive, tag)
            .map_err(system(format!("write the image {name}")))?;
        let reference = format!("{}/{name}:{tag}", self.registry.host());
        let mut command = self.registry.oras(&["cp"])?;
        command
            .arg("--from-oci-layout")
            .arg(format!("{}:{tag}", archive.display()))
            .arg(&reference);
        start::succeed(&mut command, &format!("pushing {reference}"))?;
        Ok(reference)
    }

    /// Folder in which kubelet looks for device plugins.
    #[must_use]
    pub fn device_plugins(&self) -> PathBuf {
        self.layout.kubelet_root().join("device-plugins")
    }

    /// Runs a program on the node, as an administrator would in a shell: its namespaces, the host's files.
    ///
    /// # Errors
    /// [`Error::System`] if it cannot be started; its exit status is the caller's to judge.
    pub fn run<I: IntoIterator<Item: Into<OsString>>>(
        &self,
        program: &str,
        arguments: I,
    ) -> Result<Output, Error> {
        let output = Command::new("nsenter")
            .args(start::entering(self.first))
            .arg(program)
            .args(arguments.into_iter().map(Into::into))
            .output();
        output.map_err(system(format!("run {program} on the node")))
    }

    /// Ends with SIGKILL, as the kernel does for lack of memory, every process in the node's containers whose command
    /// line has `words` in it.
    ///
    /// # Errors
    /// [`Error::Command`] if there is none.
    pub fn kill(&self, words: &str) -> Result<(), Error> {
        let found = self.run("pgrep", ["--full", words])?;
        let ids = String::from_utf8_lossy(&found.stdout).into_owned();
        if ids.trim().is_empty() {
            return Err(Error::Command {
                what: format!("looking for a process {words:?} on the node"),
                said: "there is none".to_owned(),
            });
        }
        // One that has ended meanwhile is fine.
        let signal = std::iter::once("-KILL");
        self.run("kill", signal.chain(ids.split_whitespace()))
            .map(drop)
    }

    /// containerd's hand tool on the images and containers of pods, for a subcommand such as `["images", "list"]`.
    ///
    /// # Errors
    /// [`Error::Binaries`] if it is missing, otherwise as [`Node::run`].
    pub fn ctr(&self, arguments: &[&str]) -> Result<Output, Error> {
        let program = find_or_build(Binary::Ctr)?;
        let socket = self.layout.socket();
        let fixed = [
            "--address".into(),
            socket.into_os_string(),
            "--namespace".into(),
            "k8s.io".into(),
        ];
        let arguments = fixed.into_iter().chain(arguments.iter().map(Into::into));
        self.run(&program.display().to_string(), arguments)
    }

    /// Stops kubelet and starts it again; containers run on meanwhile. Returns before it has taken up its work.
    ///
    /// # Errors
    /// [`Error::Run`] if it does not end or cannot be started.
    pub fn restart_kubelet(&mut self) -> Result<(), Error> {
        let failed = |source| Error::Run(Box::new(source));
        self.kubelet.stop().map_err(failed)?;
        self.kubelet = start::spawn(&self.kubelet_launch, Some(&self.containerd))?;
        Ok(())
    }

    /// Process id, as the host counts, of the first process in its namespaces: what `nsenter --target` wants.
    #[must_use]
    pub const fn pid(&self) -> i32 {
        self.first
    }

    /// Log of a server: `kubelet`, `kube-proxy`, `containerd` or `cage`.
    #[must_use]
    pub fn log(&self, server: &str) -> PathBuf {
        self.layout.log(server)
    }

    /// Folder of the node; gone after the stop.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.layout.folder
    }

    /// What its traces can be told by after the stop.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity {
            name: self.layout.group.clone(),
            folder: self.layout.folder.clone(),
            network: self.stay.inode(),
        }
    }

    /// Stops everything in order and moves the calling thread back. Dropping does the same but only prints what goes
    /// wrong.
    ///
    /// # Errors
    /// [`Error`] for the first part that does not end.
    pub fn stop(mut self) -> Result<(), Error> {
        let failed = |source| Error::Run(Box::new(source));
        for server in [&mut self.proxy, &mut self.kubelet, &mut self.containerd] {
            server.stop().map_err(failed)?;
        }
        self.registry.stop()?;
        self.plane.stop()?;
        drop(self.stay);
        self.cage.stop().map_err(failed)
    }
}
