//! Tar archives: written the same way every time, and read without trust. May do no I/O.
//!
//! [`write`] gives an archive as parts, so that files of any size are streamed from where they are. [`Reader`] takes an
//! archive in chunks and gives events; whoever extracts acts on them and needs no check of its own.

mod event;
mod header;
mod names;
mod pax;
mod reader;
mod writer;

pub use event::{Entry as ReadEntry, EntryKind, Event, Whiteouts};
pub use names::{NameKind, Names, check_path};
pub use reader::Reader;
pub use writer::{Content, Entry, MTIME, data_offset, write};

/// Bytes of a block, the unit of tar.
pub const BLOCK: usize = 512;

/// Why an archive cannot be written or read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ArchiveError {
    /// A path that could leave the directory, or that not every system can hold.
    #[error("the path `{path}` {reason}; rename it")]
    Path {
        /// The path as it was given.
        path: String,
        /// What is wrong with it, as a phrase.
        reason: &'static str,
    },
    /// Two paths that are one where case does not count.
    #[error("`{second}` and `{first}` are one name where case does not count; rename one")]
    CaseClash {
        /// The one that came first.
        first: String,
        /// The one that came later.
        second: String,
    },
    /// A path that is a file here and a directory there, or is there twice.
    #[error("`{path}` is there twice: {reason}")]
    Twice {
        /// The path.
        path: String,
        /// As what.
        reason: &'static str,
    },
    /// A link that leaves the directory or names what is not there.
    #[error("the link `{path}` to `{target}` is refused: {reason}")]
    Link {
        /// The link.
        path: String,
        /// What it names.
        target: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// A device, pipe, sparse file or other thing that no model consists of.
    #[error("`{path}` is refused: it is {what}")]
    Type {
        /// The entry.
        path: String,
        /// What it is.
        what: &'static str,
    },
    /// A name that means deletion in image layers.
    #[error("`{path}` is refused: names with `.wh.` delete files of lower layers")]
    Whiteout {
        /// The entry.
        path: String,
    },
    /// Bytes that are no tar.
    #[error("the archive is damaged at byte {offset}: {reason}")]
    Damaged {
        /// Where, in bytes from the archive's begin.
        offset: u64,
        /// What is wrong there.
        reason: &'static str,
    },
    /// More than is accepted.
    #[error("the archive is refused at byte {offset}: {reason}")]
    Limit {
        /// Where, in bytes from the archive's begin.
        offset: u64,
        /// Which limit.
        reason: &'static str,
    },
}
