//! Why a pull failed. May do no I/O.

use std::io;
use std::path::{Path, PathBuf};

use crate::archive::ArchiveError;
use crate::content::encoding::EncodingError;
use crate::digest::Digest;
use crate::push::OriginError;
use crate::registry::RegistryError;

/// Why a pull failed. Files that were finished stay; the next pull goes on.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// What is pulled cannot be read.
    #[error("cannot pull")]
    Origin {
        /// What could not be read.
        #[source]
        cause: OriginError,
    },
    /// A blob cannot be read from its registry.
    #[error("cannot pull {what}")]
    Registry {
        /// The blob's name for people.
        what: String,
        /// What the registry said.
        #[source]
        cause: RegistryError,
    },
    /// What came is not what its name says.
    #[error(
        "refused {what}: its digest is {actual}, but the manifest says {expected}; it was altered on its way or in the \
         registry, and nothing of it was kept"
    )]
    Mismatch {
        /// The blob's name for people.
        what: String,
        /// The digest that the manifest says.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
    /// More or less came than the manifest says.
    #[error(
        "refused {what}: {actual} bytes came, but the manifest says {expected}; nothing of it was kept"
    )]
    Size {
        /// The blob's name for people.
        what: String,
        /// Bytes according to the manifest.
        expected: u64,
        /// Bytes that came, or more than this.
        actual: u64,
    },
    /// The disk is full.
    #[error(
        "no space left for {}: {needed} bytes are needed there, {free} are free; free some, or pull to another disk, and \
         run the command again: it goes on where it stopped",
        path.display()
    )]
    DiskFull {
        /// Where.
        path: PathBuf,
        /// Bytes that are still to be written.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The file system refused.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `create`, `write`, `rename`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        cause: io::Error,
    },
    /// A name that must not be written, or an archive that is damaged.
    #[error("refused {what}")]
    Archive {
        /// The layer's name for people.
        what: String,
        /// What is wrong with it.
        #[source]
        cause: ArchiveError,
    },
    /// A layer cannot be decompressed.
    #[error("refused {what}")]
    Encoding {
        /// The layer's name for people.
        what: String,
        /// What is wrong with it.
        #[source]
        cause: EncodingError,
    },
    /// Something that is in the way.
    #[error("refused to write {}: {reason}; remove it or pull to another directory", path.display())]
    InTheWay {
        /// The file.
        path: PathBuf,
        /// What is there.
        reason: &'static str,
    },
    /// A document that names no files.
    #[error("cannot pull {what}: {reason}")]
    NotFiles {
        /// Which document.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An index that has nothing for the platform.
    #[error("nothing in {what} is for {wanted}; it has {present}: choose with --platform")]
    Platform {
        /// The index.
        what: String,
        /// What was asked for.
        wanted: String,
        /// What there is.
        present: String,
    },
    /// A glob that cannot be read, or that no file matches.
    #[error("cannot use --include {glob}: {reason}")]
    Include {
        /// The glob, or all of them.
        glob: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A thread died.
    #[error(
        "the thread that writes {what} ended without an answer; this is a fault of image-builder"
    )]
    Writer {
        /// The blob's name for people.
        what: String,
    },
}

impl PullError {
    /// An error of the file system; a full disk is told as such.
    pub(super) fn file(action: &'static str, path: &Path, cause: io::Error) -> Self {
        if matches!(
            cause.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
        ) {
            return Self::DiskFull {
                path: path.to_owned(),
                needed: 1,
                free: 0,
            };
        }
        Self::File {
            action,
            path: path.to_owned(),
            cause,
        }
    }
}

/// Bytes that are free for us at a path, where the system tells.
#[cfg(unix)]
pub(super) fn free_space(path: &Path) -> Option<u64> {
    let found = nix::sys::statvfs::statvfs(path).ok()?;
    // The widths differ between systems.
    #[expect(clippy::useless_conversion, reason = "these are u32 on some systems")]
    Some(u64::from(found.blocks_available()) * u64::from(found.fragment_size()))
}

/// Bytes that are free for us at a path, where the system tells.
#[cfg(not(unix))]
pub(super) fn free_space(_path: &Path) -> Option<u64> {
    None
}
