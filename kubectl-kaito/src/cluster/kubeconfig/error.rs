//! Why there is no configuration, in kubectl's words where it has some.

use crate::error::Failure;

/// Why there is no configuration, in kubectl's words where it has some.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The file of `--kubeconfig` is not there.
    #[error("stat {path}: no such file or directory")]
    Missing {
        /// As typed.
        path: String,
    },
    /// A file that cannot be read.
    #[error("error loading config file {path:?}: {reason}")]
    Broken {
        /// The file.
        path: String,
        /// What is wrong, with all causes, each once.
        reason: String,
    },
    /// No such context.
    #[error("Error in configuration: context was not found for specified context: {name}")]
    Context {
        /// The context.
        name: String,
    },
    /// No such user.
    #[error("auth info {name:?} does not exist")]
    User {
        /// The user.
        name: String,
    },
    /// A cluster without an address.
    #[error("no server found for cluster {cluster:?}")]
    NoServer {
        /// The cluster.
        cluster: String,
    },
    /// Two flags that contradict each other.
    #[error("specifying a root certificates file with the insecure flag is not allowed")]
    InsecureWithAuthority,
    /// Fields that cannot be used, as the client library says.
    #[error("invalid configuration: {reason}")]
    Configuration {
        /// What is wrong; the library's own text names the cause already.
        reason: String,
    },
    /// A proxy without an address.
    #[error("invalid proxy URL {url:?}")]
    Proxy {
        /// As configured.
        url: String,
    },
    /// A server without an address.
    #[error("host must be a URL or a host:port pair: {server:?}")]
    Host {
        /// As configured.
        server: String,
    },
    /// Nothing names a server.
    #[error(
        "no configuration: no API server is named by a kubeconfig file, a flag or a pod's service account"
    )]
    NoConfiguration,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Context { .. } => Self::verbatim(error),
            _ => Self::of(&error),
        }
    }
}
