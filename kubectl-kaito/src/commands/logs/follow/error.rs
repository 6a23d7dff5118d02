//! Why logs are not followed, or no longer.

use crate::error::Failure;

/// Why logs are not followed, or no longer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The watch is over, which it never should be.
    #[error("the watch of the pods ended")]
    WatchEnded,
    /// The pod is not there, in the server's words.
    #[error("Error from server (NotFound): pods {name:?} not found")]
    NotFound {
        /// The pod.
        name: String,
    },
    /// More streams than asked for.
    #[error(
        "you are attempting to follow {count} log streams, but maximum allowed concurrency is {most}, use \
         --max-log-requests to increase the limit"
    )]
    ManyStreams {
        /// Streams there would be.
        count: usize,
        /// Streams there may be.
        most: usize,
    },
    /// The server forbids the watch.
    #[error("pods cannot be watched: {reason}")]
    Forbidden {
        /// In the server's words.
        reason: String,
    },
    /// No container has started in time.
    #[error("timed out waiting for the condition")]
    NothingStarted,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::NotFound { .. } => Self::verbatim(error),
            Error::NothingStarted => Self::of(&error)
                .with_hint("No container has started; --pod-running-timeout waits longer."),
            _ => Self::of(&error),
        }
    }
}
