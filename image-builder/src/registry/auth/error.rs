//! Why we could not prove who we are. May do no I/O.

use std::path::PathBuf;

use http::StatusCode;

use crate::registry::transport::TransportError;

/// Why we could not prove who we are.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// A file of credentials cannot be read.
    #[error("cannot read the credentials in {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: std::io::Error,
    },
    /// A file of credentials is not as docker writes it.
    #[error("the credentials in {} are not as docker writes them: {reason}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong, without its content.
        reason: String,
    },
    /// A credential helper failed.
    #[error(
        "the credential helper docker-credential-{name} failed: {reason}; run it by hand, or remove it from the docker config"
    )]
    Helper {
        /// The part of its name after `docker-credential-`.
        name: String,
        /// What it said, or why it could not run.
        reason: String,
    },
    /// The token service refused.
    #[error(
        "the token service {service} answered {status}{detail}; check user and password (docker login)"
    )]
    Refused {
        /// Its address.
        service: String,
        /// The answer's status.
        status: StatusCode,
        /// The answer's error codes, beginning with `: `, or empty.
        detail: String,
    },
    /// The token service answered, but with no token.
    #[error("the token service {service} answered without a token")]
    NoToken {
        /// Its address.
        service: String,
    },
    /// The token service cannot be reached.
    #[error("cannot reach the token service {service}")]
    Transport {
        /// Its address.
        service: String,
        /// What broke.
        #[source]
        cause: TransportError,
    },
    /// The registry named a token service to which no secret may be sent.
    #[error(
        "the registry names the token service {service}, which is not encrypted; no credentials were sent"
    )]
    Insecure {
        /// Its address.
        service: String,
    },
    /// The registry's challenge cannot be understood.
    #[error("the registry asks for proof in an unknown way: {what}")]
    Challenge {
        /// What it sent.
        what: String,
    },
    /// No Entra identity gave a token.
    #[error(
        "no Entra identity gave a token for this registry ({tried}); run az login, or docker login {host}"
    )]
    Azure {
        /// The registry.
        host: String,
        /// What was tried and what each said.
        tried: String,
    },
}

impl AuthError {
    /// Whether trying again may help.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Refused { status, .. } => {
                status.is_server_error() || matches!(status.as_u16(), 408 | 429)
            }
            Self::Transport { cause, .. } => !matches!(
                cause,
                TransportError::Address { .. } | TransportError::Certificates { .. }
            ),
            _ => false,
        }
    }
}
