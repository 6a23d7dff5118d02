//! Why a push failed. May do no I/O.

use crate::content::encoding::EncodingError;
use crate::digest::Digest;
use crate::layout::LayoutError;
use crate::plan::PlanError;
use crate::registry::RegistryError;
use crate::source::SourceError;

/// Why a push or a copy failed. Blobs that were finished stay; the next push finds them.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// A file could not be read.
    #[error("cannot read {blob}")]
    Source {
        /// The blob's name for people.
        blob: String,
        /// What the source said.
        #[source]
        cause: SourceError,
    },
    /// A blob could not be compressed.
    #[error("cannot compress {blob}")]
    Encoding {
        /// The blob's name for people.
        blob: String,
        /// What the compressor said.
        #[source]
        cause: EncodingError,
    },
    /// Content is not what was expected.
    #[error(
        "{blob} has the digest {actual}, but {expected} was expected: it was changed or damaged on its way, and was not \
         pushed; fetch it again, or see whether its source has a new version"
    )]
    Mismatch {
        /// The blob's name for people.
        blob: String,
        /// What the source or an earlier run said.
        expected: Digest,
        /// What was read.
        actual: Digest,
    },
    /// The registry refused or could not be reached.
    #[error("cannot push {what}")]
    Registry {
        /// A blob's name or a document.
        what: String,
        /// What the registry said.
        #[source]
        cause: RegistryError,
    },
    /// What is copied could not be read.
    #[error("cannot copy")]
    Origin {
        /// What could not be read.
        #[source]
        cause: super::origin::OriginError,
    },
    /// A blob is larger than the registry takes.
    #[error(
        "{blob} has {size} bytes; {host} takes blobs of up to {most}: split the file (re-shard the model) or use another \
         registry"
    )]
    TooLarge {
        /// The blob's name for people.
        blob: String,
        /// Its size in bytes.
        size: u64,
        /// The registry.
        host: String,
        /// The registry's limit in bytes.
        most: u64,
    },
    /// Microsoft's registry takes no pushes.
    #[error(
        "mcr.microsoft.com takes no pushes: push to an Azure registry that is onboarded for publishing, into a repository \
         below public/, then run image-builder wait-mcr"
    )]
    Mcr,
    /// The layout on disk could not be written or read.
    #[error("cannot use the OCI layout for {what}")]
    Layout {
        /// A blob's name or a document.
        what: String,
        /// What went wrong.
        #[source]
        cause: LayoutError,
    },
    /// The manifests could not be made.
    #[error("cannot write the manifests")]
    Plan {
        /// Why not.
        #[source]
        cause: PlanError,
    },
    /// Nothing to push.
    #[error("there is no document to push")]
    Empty,
    /// The base image's layers are neither there nor anywhere to be read from.
    #[error("the layer {digest} of the base image cannot be copied: where it is was not given")]
    NoBase {
        /// The layer.
        digest: Digest,
    },
    /// A document that was to be copied names no manifest that can be read.
    #[error("cannot copy {what}: {reason}")]
    Unreadable {
        /// Which document.
        what: String,
        /// What is wrong.
        reason: String,
    },
    /// The thread that reads died.
    #[error(
        "the thread that reads {blob} ended without an answer; this is a fault of image-builder"
    )]
    Reader {
        /// The blob's name for people.
        blob: String,
    },
}

impl PushError {
    pub(super) fn registry(what: &str, cause: RegistryError) -> Self {
        Self::Registry {
            what: what.to_owned(),
            cause,
        }
    }

    pub(super) fn layout(what: &str, cause: LayoutError) -> Self {
        Self::Layout {
            what: what.to_owned(),
            cause,
        }
    }
}
