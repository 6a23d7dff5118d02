//! What a reader of archives gives. May do no I/O.

use bytes::Bytes;

/// What happens next in an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An entry begins. Data follows for [`EntryKind::File`] only, then [`Event::End`] in every case.
    Start(Entry),
    /// The next bytes of the entry; never empty.
    Data(Bytes),
    /// The entry is whole.
    End,
}

/// An entry that passed all checks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Relative path, safe to join to a directory, without `/` at the end.
    pub path: String,
    /// Size in bytes; 0 for all but files.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// What it is.
    pub kind: EntryKind,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory; the same one may come several times.
    Directory,
    /// A symbolic link whose target, relative to the link's directory, stays inside. Nothing comes below it.
    Link {
        /// The target as it is written.
        target: String,
    },
    /// Another name of a file that came before.
    HardLink {
        /// The path of that file.
        target: String,
    },
}

/// What is done with names that delete files of lower layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whiteouts {
    /// They are refused: in images they would delete.
    Refuse,
    /// They are files like others: in artifacts they mean nothing.
    Keep,
}
