//! Why a registry could not be used, and what class of failure that is. May do no I/O.

use std::time::Duration;

use http::StatusCode;

use super::auth::AuthError;
use super::reference::ReferenceError;
use super::transport::TransportError;
use crate::digest::Digest;

/// Why something that was asked of a registry did not happen. Never holds a secret.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The name is none.
    #[error("cannot tell which image is meant")]
    Reference(#[from] ReferenceError),
    /// The registry said no.
    #[error("cannot {action} at {host}: the registry answered {status}{detail}{}", hint(*status))]
    Answered {
        /// What was asked, as an infinitive with its object.
        action: String,
        /// The registry.
        host: String,
        /// The answer's status.
        status: StatusCode,
        /// Codes and messages of the answer's body, beginning with `: `, or empty.
        detail: String,
        /// When the registry wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// The registry could not be reached, or the connection broke.
    #[error("cannot {action} at {host}")]
    Transport {
        /// What was asked.
        action: String,
        /// The registry.
        host: String,
        /// What broke.
        #[source]
        cause: Box<TransportError>,
    },
    /// No credentials, or they were refused.
    #[error("cannot {action} at {host}")]
    Auth {
        /// What was asked.
        action: String,
        /// The registry.
        host: String,
        /// What the token service or the credential store said.
        #[source]
        cause: Box<AuthError>,
    },
    /// Content is not what its name says.
    #[error(
        "refused {what} from {host}: its digest is {actual}, but {expected} was asked for; it was altered on its way or \
         in the registry: do not use it, and report it to who runs the registry"
    )]
    Digest {
        /// What was read.
        what: String,
        /// The registry.
        host: String,
        /// The digest that was asked for.
        expected: Box<Digest>,
        /// The digest of what came.
        actual: Box<Digest>,
    },
    /// Content is shorter or longer than its descriptor says.
    #[error("refused {what} from {host}: {actual} bytes came, but its descriptor says {expected}")]
    Size {
        /// What was read.
        what: String,
        /// The registry.
        host: String,
        /// Bytes according to the descriptor.
        expected: u64,
        /// Bytes that came.
        actual: u64,
    },
    /// A registry has other bytes of an upload than were sent.
    #[error("{host} says that it has the bytes up to {has} of an upload of which {sent} were sent")]
    WrongRange {
        /// The registry.
        host: String,
        /// Bytes that were sent.
        sent: u64,
        /// The last byte that it says it has.
        has: u64,
    },
    /// An answer that the protocol does not allow.
    #[error("cannot {action} at {host}: {what}")]
    Protocol {
        /// What was asked.
        action: String,
        /// The registry.
        host: String,
        /// What is wrong with the answer.
        what: String,
    },
    /// A document that should be JSON is not, or lacks fields.
    #[error("cannot read {what} of {host}")]
    Document {
        /// Which document.
        what: String,
        /// The registry.
        host: String,
        /// Where it fails.
        #[source]
        cause: serde_json::Error,
    },
}

/// What can be done about a failure; decides retries and exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It may work when tried again, at once or after the given time.
    Transient(Option<Duration>),
    /// Credentials are missing, expired or insufficient.
    Unauthorized,
    /// What was asked for is not there.
    Missing,
    /// The body or the range is not accepted: another form of upload may be.
    Form,
    /// What came or went is not what it should be.
    Integrity,
    /// The registry or its configuration refuses; trying again changes nothing.
    Refused,
}

impl RegistryError {
    /// What can be done about it.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Answered {
                status,
                retry_after,
                ..
            } => class_of_status(*status, *retry_after),
            Self::Transport { cause, .. } => match **cause {
                TransportError::Address { .. } | TransportError::Certificates { .. } => {
                    Class::Refused
                }
                _ => Class::Transient(None),
            },
            Self::Auth { cause, .. } if cause.is_transient() => Class::Transient(None),
            Self::Auth { .. } => Class::Unauthorized,
            Self::WrongRange { .. } => Class::Form,
            Self::Digest { .. } | Self::Size { .. } => Class::Integrity,
            Self::Reference(_) | Self::Protocol { .. } | Self::Document { .. } => Class::Refused,
        }
    }

    /// The status of the registry's answer, where it answered.
    #[must_use]
    pub const fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Answered { status, .. } => Some(*status),
            _ => None,
        }
    }
}

fn class_of_status(status: StatusCode, retry_after: Option<Duration>) -> Class {
    match status.as_u16() {
        401 | 403 => Class::Unauthorized,
        404 => Class::Missing,
        408 | 425 | 429 => Class::Transient(retry_after),
        405 | 411 | 413 | 416 | 501 => Class::Form,
        500..=599 => Class::Transient(retry_after),
        _ => Class::Refused,
    }
}

/// What to do next, where the status alone tells.
fn hint(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "; log in (docker login, or image-builder login) and try again",
        403 => "; the account may not do this: ask for push (or pull) rights on the repository",
        404 => "; check the name, and whether the account may see it",
        413 => "; a limit on request bodies is in the way, often of a proxy before the registry",
        429 => "; the registry limits requests: wait, or push fewer blobs at once",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_fall_into_the_classes_that_retries_rely_on() {
        let class = |status| class_of_status(StatusCode::from_u16(status).unwrap(), None);
        for status in [408, 425, 429, 500, 502, 503, 504] {
            assert_eq!(class(status), Class::Transient(None), "{status}");
        }
        for status in [411, 413, 416] {
            assert_eq!(class(status), Class::Form, "{status}");
        }
        assert_eq!(class(400), Class::Refused);
        assert_eq!(class(403), Class::Unauthorized);
        assert_eq!(class(404), Class::Missing);
    }
}
