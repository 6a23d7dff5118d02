//! Where files come from. A source lists its files and reads ranges of them; it decides nothing and writes nothing.

pub mod azure;
pub mod hub;
pub mod image;
pub mod local;
pub mod remote;
pub mod select;

use std::ops::Range;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::digest::Digest;

/// A file of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Relative path, `/` between its names, no `.` or `..`.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// Whether it may be executed (becomes mode 0755 in images, else 0644).
    pub executable: bool,
    /// sha256 of its content where the source knows it without reading (the hub's large files, the digest cache).
    pub known_digest: Option<Digest>,
}

/// A symbolic link of a source that is kept as a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Relative path, as [`File::path`].
    pub path: String,
    /// What it names, as it is written there: relative to its directory, or absolute within the tree.
    pub target: String,
}

/// The files of a source at one revision, sorted by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    /// The files, sorted by path (bytewise).
    pub files: Vec<File>,
    /// Links that are kept and not followed, sorted by path. Only images of programs hold them, so only sources that were
    /// asked for them list any.
    pub links: Vec<Link>,
    /// Directories with nothing in them, sorted; listed where links are.
    pub empty_directories: Vec<String>,
    /// Commit or version that was listed, where the source has one.
    pub revision: Option<String>,
    /// A public address of the source without credentials, where it has one.
    pub url: Option<String>,
}

/// What tells a local file from its other versions without reading it: the key under which a digest may be remembered.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub struct FileIdentity {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Size in bytes.
    pub size: u64,
    /// Time of the last change of the content, in nanoseconds since 1970.
    pub mtime_ns: i128,
    /// Time of the last change of content or attributes, in nanoseconds since 1970; no program can set it back.
    pub ctime_ns: i128,
}

impl FileIdentity {
    /// The version of a file, where the system tells it apart from all others.
    #[must_use]
    #[cfg(unix)]
    pub fn of(metadata: &std::fs::Metadata) -> Option<Self> {
        use std::os::unix::fs::MetadataExt as _;

        let nanoseconds =
            |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            mtime_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// The version of a file, where the system tells it apart from all others.
    #[must_use]
    #[cfg(not(unix))]
    pub fn of(_metadata: &std::fs::Metadata) -> Option<Self> {
        None
    }
}

/// The bytes of a range, in order; each item is at most some MiB.
pub type ByteStream = BoxStream<'static, Result<Bytes, SourceError>>;

/// Something that lists files and reads them.
pub trait Source: Send + Sync {
    /// Lists the files. Called once; `read` then serves the revision that was listed.
    fn list(&self) -> BoxFuture<'_, Result<Tree, SourceError>>;

    /// Reads `range` (bytes) of the file at `path`. Resumes and retries inside; an error is final.
    fn read(&self, path: &str, range: Range<u64>)
    -> BoxFuture<'_, Result<ByteStream, SourceError>>;

    /// Which version of the file at `path` was listed, where the source is a file system and has been listed.
    fn identity(&self, _path: &str) -> Option<FileIdentity> {
        None
    }

    /// Where the file at `path` is on this machine, where it is: the push engine then reads and hashes it in one thread.
    fn local_path(&self, _path: &str) -> Option<std::path::PathBuf> {
        None
    }
}

/// Why a source could not be listed or read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file system refused.
    #[error("cannot {action} {path}: {cause}")]
    File {
        /// `list`, `open`, `read`.
        action: &'static str,
        /// The path as the user gave it.
        path: String,
        /// What the system answered.
        #[source]
        cause: std::io::Error,
    },
    /// A file is not what was listed.
    #[error(
        "{path} changed while it was read: {what}; run the command again when nothing writes to it"
    )]
    Changed {
        /// The file.
        path: String,
        /// What differs.
        what: String,
    },
    /// A remote refused or could not be reached.
    #[error("cannot read {url}: {reason}; {remedy}")]
    Remote {
        /// Address without credentials.
        url: String,
        /// What was answered.
        reason: String,
        /// What to do next.
        remedy: String,
        /// The error below, where there is one.
        #[source]
        cause: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// A name or link that must not be packaged.
    #[error("{path} cannot be packaged: {reason}")]
    Refused {
        /// The file.
        path: String,
        /// Why not.
        reason: String,
    },
}
