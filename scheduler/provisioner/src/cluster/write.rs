//! Writes to the API server: bounded in time, with errors that name the operation and its object.

use std::future::Future;
use std::time::Duration;

/// How long one request may take. kube sets no limit of its own, and a server that never answers must not stop us.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Field manager and user agent of everything written here.
pub(crate) const MANAGER: &str = kaito_api::names::PROVISIONER_MANAGER;

/// A request to the API server failed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The server refused, or could not be reached.
    #[error("cannot {action} {object}; it is tried again")]
    Request {
        /// What was being done.
        action: &'static str,
        /// To what.
        object: String,
        /// Why not.
        #[source]
        source: Box<kube::Error>,
    },
    /// The server did not answer; whether it did what was asked is unknown.
    #[error("no answer within {} seconds to: {action} {object}; it is looked at again", TIMEOUT.as_secs())]
    Timeout {
        /// What was being done.
        action: &'static str,
        /// To what.
        object: String,
    },
}

impl WriteError {
    fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Request { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::Timeout { .. } => None,
        }
    }

    /// The object is gone.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_not_found)
    }

    /// The object has changed since it was read, or is another one of the same name.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_conflict)
    }

    /// There is one already.
    #[must_use]
    pub fn is_already_exists(&self) -> bool {
        self.status()
            .is_some_and(kube::core::Status::is_already_exists)
    }

    /// Too many requests; for evictions: the disruption budget says not now.
    #[must_use]
    pub fn is_throttled(&self) -> bool {
        self.status().is_some_and(|status| status.code == 429)
    }
}

/// Sends one request. `action` is a verb phrase (`patch the status of`), `object` names the object.
///
/// # Errors
/// [`WriteError`].
pub async fn send<T>(
    action: &'static str,
    object: &str,
    request: impl Future<Output = kube::Result<T>>,
) -> Result<T, WriteError> {
    match tokio::time::timeout(TIMEOUT, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(WriteError::Request {
            action,
            object: object.to_owned(),
            source: Box::new(source),
        }),
        Err(_) => Err(WriteError::Timeout {
            action,
            object: object.to_owned(),
        }),
    }
}

/// A missing object is as good as a deleted one.
///
/// # Errors
/// Any other error of `result`.
pub fn or_gone<T>(result: Result<T, WriteError>) -> Result<Option<T>, WriteError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
