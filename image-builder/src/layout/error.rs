//! Why a layout cannot be read or written. May do no I/O.

use std::io;
use std::path::PathBuf;

/// Why a layout cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The file system refused.
    #[error("cannot {action} {path}")]
    File {
        /// `create`, `read`, `write`, `rename`, `remove`.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system answered.
        #[source]
        cause: io::Error,
    },
    /// The directory is no layout.
    #[error("{path} is no OCI image layout: {reason}")]
    NotALayout {
        /// The directory.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// A document that is not what it should be.
    #[error("cannot read {path} as {what}")]
    Document {
        /// The file.
        path: PathBuf,
        /// `an index`, `a manifest`.
        what: &'static str,
        /// What is wrong with it.
        #[source]
        cause: serde_json::Error,
    },
    /// A document that is too large to be one.
    #[error("{path} has {size} bytes, too many for a document; at most {limit} are read")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Content that differs from its name.
    #[error("{path} is damaged: {reason}; build it again or copy it again")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// A reference that the layout does not have.
    #[error("{path} has no reference `{reference}`; it has {present}")]
    NoReference {
        /// The layout.
        path: PathBuf,
        /// What was asked for.
        reference: String,
        /// What there is.
        present: String,
    },
    /// The work was cancelled with its runtime.
    #[error("work on {path} was cancelled")]
    Cancelled {
        /// The layout.
        path: PathBuf,
    },
}
