//! A real Kubernetes control plane: etcd, kube-apiserver, and on request kube-controller-manager and kube-scheduler.
//!
//! TLS and RBAC are on, everything listens on free ports (of 127.0.0.1 unless [`Options::address`] differs), all files are in one temporary folder, and no
//! root is needed. It has no nodes: tests and the simulated cloud make those. Servers are stopped in order when the
//! value is dropped, when the process ends, and when it is killed (see [`crate::supervise`]).

mod audit;
pub(crate) mod certificates;
mod kubeconfig;
mod options;
mod servers;
mod start;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Api, Client, Config};
use tokio::sync::OnceCell;

use crate::binaries::{self, Binary};
use crate::programs;
use crate::supervise::{self, Launch, Supervised};
use certificates::Subject;
use kubeconfig::{Identity, render};
use servers::Files;

pub use audit::{Request, read as read_audit_log};
pub use certificates::Error as CertificateError;
pub use options::Options;

/// Life of the tokens that [`ControlPlane::service_account_kubeconfig`] asks for, in seconds: longer than any run.
const TOKEN_SECONDS: i64 = 24 * 3600;

/// Why a control plane could not be started or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A binary is missing.
    #[error("the control plane lacks a binary")]
    Binaries(#[from] binaries::Error),
    /// The temporary folder or a port could not be had.
    #[error("cannot {what} for the control plane")]
    System {
        /// The operation, as a verb.
        what: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// Keys, certificates or kubeconfigs could not be made.
    #[error("cannot write the control plane's credentials")]
    Certificates(#[from] CertificateError),
    /// A server could not be started.
    #[error("cannot start {server}")]
    Start {
        /// The server.
        server: &'static str,
        /// The reason.
        #[source]
        source: Box<supervise::Error>,
    },
    /// A server ended while it was waited for.
    #[error(
        "{server} ended while the control plane was starting ({status}); its last lines:\n{tail}"
    )]
    Ended {
        /// The server.
        server: &'static str,
        /// Exit status.
        status: String,
        /// End of its log.
        tail: String,
    },
    /// Something did not come up in time.
    #[error("{what} after {seconds} s; last answer: {last}")]
    Late {
        /// What was waited for.
        what: &'static str,
        /// How long.
        seconds: u64,
        /// What was seen last.
        last: String,
    },
    /// A kubeconfig of ours cannot be loaded.
    #[error("cannot load {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The reason.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// The API server refused a request of the harness itself.
    #[error("cannot {what}")]
    Api {
        /// The operation, with its object.
        what: String,
        /// The reason.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server answered a token request without a token.
    #[error("the API server gave no token for ServiceAccount {account}")]
    NoToken {
        /// Namespace and name.
        account: String,
    },
    /// A program of ours has not been built.
    #[error("a program to run against the control plane is missing")]
    Program(#[source] programs::Error),
    /// A program of ours could not be started.
    #[error("cannot run {name} against the control plane")]
    Run {
        /// What it was to be called.
        name: String,
        /// The reason.
        #[source]
        source: Box<supervise::Error>,
    },
    /// The servers did not end in order.
    #[error("the control plane did not stop cleanly")]
    Stop(#[source] Box<supervise::Error>),
}

/// What proves to the API server, and to its clients, who somebody is.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// Certificate, a PEM file.
    pub certificate: PathBuf,
    /// Its private key, a PEM file.
    pub key: PathBuf,
    /// A kubeconfig that uses the two.
    pub kubeconfig: PathBuf,
}

/// A running control plane.
pub struct ControlPlane {
    // Dropped from top to bottom: each server before what it needs, the folder last.
    scheduler: Option<Supervised>,
    controller_manager: Option<Supervised>,
    api_server: Supervised,
    etcd: Supervised,
    kubectl: PathBuf,
    endpoint: String,
    files: Files,
    folder: tempfile::TempDir,
}

impl ControlPlane {
    /// Starts the servers and waits until the API server is ready and, with a controller manager, the `default`
    /// namespace has its ServiceAccount. Builds the binaries first if they are nowhere, which takes minutes.
    ///
    /// # Errors
    /// [`Error`]; the servers that did start are stopped again.
    pub async fn start(options: Options) -> Result<Self, Error> {
        start::start(options).await
    }

    /// The control plane that all tests of this process share, with all four servers. Each takes a namespace of its
    /// own; a test that changes cluster-scoped objects which others see needs [`ControlPlane::start`].
    ///
    /// # Errors
    /// As [`ControlPlane::start`]; the next caller tries again.
    pub async fn shared() -> Result<&'static Self, Error> {
        static SHARED: OnceCell<ControlPlane> = OnceCell::const_new();
        SHARED
            .get_or_try_init(|| async { Self::start(Options::full()).await })
            .await
    }

    /// A new client with every right. Made anew for each caller because a client lives in the caller's runtime.
    ///
    /// # Errors
    /// [`Error::Kubeconfig`] or [`Error::Api`] if the credentials cannot be used.
    pub async fn client(&self) -> Result<Client, Error> {
        client_of(&self.kubeconfig_path()).await
    }

    /// A client that trusts this control plane and has no credentials: requests bring their own.
    ///
    /// # Errors
    /// [`Error::Kubeconfig`] or [`Error::Api`] if it cannot be made.
    pub async fn client_without_credentials(&self) -> Result<Client, Error> {
        let path = self.files.kubeconfig("anonymous");
        let text = render(
            &self.endpoint,
            &self.files.authority.certificate,
            &Identity::Nobody,
            "default",
        );
        certificates::write(&path, &text)?;
        client_of(&path).await
    }

    /// Kubeconfig with every right, for kubectl and our own programs.
    #[must_use]
    pub fn kubeconfig_path(&self) -> PathBuf {
        self.files.kubeconfig("admin")
    }

    /// Kubeconfig that carries a fresh token of a ServiceAccount, which must exist: what that account may do is what
    /// its bindings say. The token is good for 24 hours.
    ///
    /// # Errors
    /// [`Error::Api`] if the account does not exist.
    pub async fn service_account_kubeconfig(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<PathBuf, Error> {
        self.kubeconfig_by_way_of(&self.endpoint, namespace, name)
            .await
    }

    /// As [`ControlPlane::service_account_kubeconfig`], for a client that reaches the API server at `endpoint`, such
    /// as a proxy.
    ///
    /// # Errors
    /// [`Error::Api`] if the account does not exist.
    pub async fn kubeconfig_by_way_of(
        &self,
        endpoint: &str,
        namespace: &str,
        name: &str,
    ) -> Result<PathBuf, Error> {
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                expiration_seconds: Some(TOKEN_SECONDS),
                ..Default::default()
            }),
            ..Default::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client().await?, namespace);
        let answer = accounts
            .create_token_request(name, &PostParams::default(), &request)
            .await;
        let answer = answer.map_err(|source| Error::Api {
            what: format!("get a token of ServiceAccount {namespace}/{name}"),
            source: Box::new(source),
        })?;
        let token = answer.status.and_then(|status| status.token);
        let token = token.ok_or_else(|| Error::NoToken {
            account: format!("{namespace}/{name}"),
        })?;
        let path = self.files.kubeconfig(&format!("{namespace}.{name}"));
        let authority = &self.files.authority.certificate;
        let text = render(endpoint, authority, &Identity::Token(&token), namespace);
        certificates::write(&path, &text)?;
        Ok(path)
    }

    /// Signs a certificate, good for both ends of a connection, and writes a kubeconfig that uses it. `file` names the
    /// files, `hosts` are the names and addresses of a server.
    ///
    /// # Errors
    /// [`Error::Certificates`] if the files cannot be made.
    pub fn credentials(
        &self,
        file: &str,
        user: &str,
        group: Option<&str>,
        hosts: &[&str],
    ) -> Result<Credentials, Error> {
        let subject = Subject {
            file,
            user,
            group,
            hosts,
        };
        let pair = self.files.sign(&self.endpoint, &subject)?;
        Ok(Credentials {
            certificate: pair.certificate,
            key: pair.key,
            kubeconfig: self.files.kubeconfig(file),
        })
    }

    /// Certificate of the authority that signed all others, a PEM file.
    #[must_use]
    pub fn authority(&self) -> &Path {
        &self.files.authority.certificate
    }

    /// URL of the API server.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Path of the kubectl that matches the servers.
    #[must_use]
    pub fn kubectl(&self) -> &Path {
        &self.kubectl
    }

    /// Folder with certificates, kubeconfigs and logs (`kube-apiserver.log` and so on); gone after the stop.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The audit log; empty unless asked for in [`Options`]. Read it with [`read_audit_log`].
    #[must_use]
    pub fn audit_log(&self) -> &Path {
        &self.files.audit_log
    }

    /// Process ids of the servers that run, the one to stop first in front.
    #[must_use]
    pub fn pids(&self) -> Vec<i32> {
        let loops = self.scheduler.iter().chain(&self.controller_manager);
        loops
            .chain([&self.api_server, &self.etcd])
            .map(Supervised::pid)
            .collect()
    }

    /// kubectl with every right and with our plugin on its PATH, ready for arguments.
    #[must_use]
    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.env("KUBECONFIG", self.kubeconfig_path());
        if let Ok(plugin) = programs::find(programs::PLUGIN) {
            let folders = plugin.parent().map(Path::to_owned).into_iter();
            let inherited = std::env::var_os("PATH").unwrap_or_default();
            let path = std::env::join_paths(folders.chain(std::env::split_paths(&inherited)));
            command.env("PATH", path.unwrap_or(inherited));
        }
        command
    }

    /// Starts a program of this workspace, such as [`programs::SCHEDULER`], which is stopped before the API server.
    /// Its log is `kaito-NAME.log` in [`ControlPlane::folder`], appended to when it is started again.
    ///
    /// # Errors
    /// [`Error::Program`] if it is not built, [`Error::Run`] if it cannot be started.
    pub fn run<I: IntoIterator<Item: Into<OsString>>>(
        &self,
        program: &str,
        name: &str,
        arguments: I,
    ) -> Result<Supervised, Error> {
        let path = programs::find(program).map_err(Error::Program)?;
        let log = self.files.log(&format!("kaito-{name}"));
        let launch = Launch::new(name, &path, &log).with(arguments);
        Supervised::spawn(&launch, Some(&self.api_server)).map_err(|source| Error::Run {
            name: name.to_owned(),
            source: Box::new(source),
        })
    }

    /// Stops the servers in order and waits for each. Dropping does the same but only prints what goes wrong.
    ///
    /// # Errors
    /// [`Error::Stop`] for the first server that does not end.
    pub fn stop(mut self) -> Result<(), Error> {
        let loops = self
            .scheduler
            .iter_mut()
            .chain(&mut self.controller_manager);
        for server in loops.chain([&mut self.api_server, &mut self.etcd]) {
            server
                .stop()
                .map_err(|source| Error::Stop(Box::new(source)))?;
        }
        Ok(())
    }
}

/// A client that uses a kubeconfig file of a control plane.
///
/// # Errors
/// [`Error::Kubeconfig`] or [`Error::Api`] if the file cannot be used.
pub async fn client_of(path: &Path) -> Result<Client, Error> {
    // Fails only if one is installed already, which serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let failed = |source| Error::Kubeconfig {
        path: path.to_owned(),
        source: Box::new(source),
    };
    let file = Kubeconfig::read_from(path).map_err(failed)?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(failed)?;
    Client::try_from(config).map_err(|source| Error::Api {
        what: format!("make a client from {}", path.display()),
        source: Box::new(source),
    })
}

/// Binaries of a control plane with these options, in the order in which they start.
fn needed(options: &Options) -> Vec<Binary> {
    let mut binaries = vec![Binary::Etcd, Binary::KubeApiserver];
    if options.controller_manager {
        binaries.push(Binary::KubeControllerManager);
    }
    if options.scheduler {
        binaries.push(Binary::KubeScheduler);
    }
    binaries
}
