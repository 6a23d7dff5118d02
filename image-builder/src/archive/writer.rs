//! Archives as parts: equal entries give equal bytes, whatever their order was and whoever wrote them. May do no I/O.

use std::collections::HashSet;

use bytes::{Bytes, BytesMut};

use super::header::{self, Format, Header};
use super::names::check_link;
use super::{ArchiveError, BLOCK, NameKind, Names, check_path};
use crate::content::Part;

/// The time of every entry: 1980-01-01, the oldest that every archive format can hold and that no program calls implausible.
///
/// Not the source date: a layer whose files have not changed must keep its digest from one release to the next.
pub const MTIME: u64 = 315_532_800;

/// Something to be archived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path in the archive.
    pub path: String,
    /// Its size in bytes; 0 for all but files.
    pub size: u64,
    /// Mode 0755 instead of 0644, of a file.
    pub executable: bool,
    /// What it is.
    pub content: Content,
}

/// What an entry is: a file whose bytes are somewhere, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// In the source's file at this path.
    File(String),
    /// Here.
    Bytes(Bytes),
    /// A symbolic link to this target, relative to the link's directory.
    Link(String),
    /// A directory that nothing else is in.
    Directory,
}

impl Content {
    const fn kind(&self) -> NameKind {
        match self {
            Self::File(_) | Self::Bytes(_) => NameKind::File,
            Self::Link(_) => NameKind::Link,
            Self::Directory => NameKind::Directory,
        }
    }
}

/// An archive of these entries with the directories that they are in: sorted by path, owner 0, one time.
///
/// # Errors
/// When a path must not be in an archive, or clashes with another, or a link leads out.
pub fn write(entries: &[Entry]) -> Result<Vec<Part>, ArchiveError> {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by(|left, right| left.path.as_bytes().cmp(right.path.as_bytes()));
    let mut names = Names::default();
    let mut output = Output::default();
    let mut directories: HashSet<&str> = HashSet::new();
    for entry in sorted {
        check_path(&entry.path)?;
        if let Content::Link(target) = &entry.content {
            check_link(&entry.path, target)?;
        }
        names.claim(&entry.path, entry.content.kind())?;
        for (end, _) in entry.path.match_indices('/') {
            if let Some(parent) = entry.path.get(..end)
                && directories.insert(parent)
            {
                output.directory(parent);
            }
        }
        match &entry.content {
            Content::Link(target) => output.link(&entry.path, target),
            Content::Directory if directories.insert(&entry.path) => output.directory(&entry.path),
            Content::Directory => {}
            Content::File(_) | Content::Bytes(_) => output.file(entry),
        }
    }
    output.pending.extend_from_slice(&[0; BLOCK * 2]);
    output.flush();
    Ok(output.parts)
}

/// Where the bytes of the file begin in an archive of one file of `size` bytes.
#[must_use]
pub fn data_offset(parts: &[Part], size: u64) -> u64 {
    let total: u64 = parts.iter().map(Part::size).sum();
    let after = size + padding(size) as u64 + (BLOCK * 2) as u64;
    total.saturating_sub(after)
}

/// Zeros after this many bytes, up to the next block.
pub(super) fn padding(size: u64) -> usize {
    let over = usize::try_from(size % BLOCK as u64).unwrap_or_default();
    (BLOCK - over) % BLOCK
}

#[derive(Default)]
struct Output {
    parts: Vec<Part>,
    pending: BytesMut,
}

impl Output {
    /// The header of an entry, with records before it for what does not fit.
    fn header(&mut self, mut header: Header) {
        let format = if header::holds_link(&header.link) {
            header::format(&header.name, header.size)
        } else {
            self.long(b'K', &header.link);
            (header.name.len() <= 100).then_some(Format::Gnu)
        };
        if format.is_none() {
            self.long(b'L', &header.name);
            header.name.truncate(100);
        }
        self.block(&header::write(format.unwrap_or(Format::Gnu), &header));
    }

    /// GNU's record: a text and a zero byte as the content of an entry before the entry.
    fn long(&mut self, kind: u8, text: &[u8]) {
        let length = text.len() as u64 + 1;
        let record = Header {
            name: b"././@LongLink".to_vec(),
            mode: 0o644,
            size: length,
            kind,
            link: Vec::new(),
        };
        self.block(&header::write(Format::Gnu, &record));
        self.pending.extend_from_slice(text);
        self.pending.extend_from_slice(&[0]);
        self.pad(length);
    }

    fn directory(&mut self, path: &str) {
        self.header(Header {
            name: format!("{path}/").into_bytes(),
            mode: 0o755,
            size: 0,
            kind: b'5',
            link: Vec::new(),
        });
    }

    fn link(&mut self, path: &str, target: &str) {
        self.header(Header {
            name: path.as_bytes().to_vec(),
            mode: 0o777,
            size: 0,
            kind: b'2',
            link: target.as_bytes().to_vec(),
        });
    }

    fn file(&mut self, entry: &Entry) {
        self.header(Header {
            name: entry.path.as_bytes().to_vec(),
            mode: if entry.executable { 0o755 } else { 0o644 },
            size: entry.size,
            kind: b'0',
            link: Vec::new(),
        });
        match &entry.content {
            Content::Bytes(bytes) => self.pending.extend_from_slice(bytes),
            // Nothing to read of an empty file.
            Content::File(_) if entry.size == 0 => {}
            Content::File(path) => {
                self.flush();
                self.parts.push(Part::File {
                    path: path.clone(),
                    size: entry.size,
                });
            }
            Content::Link(_) | Content::Directory => {}
        }
        self.pad(entry.size);
    }

    fn block(&mut self, block: &[u8; BLOCK]) {
        self.pending.extend_from_slice(block);
    }

    fn pad(&mut self, size: u64) {
        let rest = padding(size);
        self.pending
            .extend_from_slice([0; BLOCK].get(..rest).unwrap_or_default());
    }

    fn flush(&mut self) {
        if !self.pending.is_empty() {
            self.parts.push(Part::Bytes(self.pending.split().freeze()));
        }
    }
}
