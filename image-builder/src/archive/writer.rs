//! Archives as parts: equal entries give equal bytes, whatever their order was and whoever wrote them. May do no I/O.

use std::collections::HashSet;

use bytes::{Bytes, BytesMut};

use super::header::{self, Format};
use super::{ArchiveError, BLOCK, NameKind, Names, check_path};
use crate::content::Part;

/// The time of every entry: 1980-01-01, the oldest that every archive format can hold and that no program calls implausible.
///
/// Not the source date: a layer whose files have not changed must keep its digest from one release to the next.
pub const MTIME: u64 = 315_532_800;

/// A file to be archived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its path in the archive.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// Mode 0755 instead of 0644.
    pub executable: bool,
    /// Its bytes.
    pub content: Content,
}

/// Where the bytes of an entry are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// In the source's file at this path.
    File(String),
    /// Here.
    Bytes(Bytes),
}

/// An archive of these files with the directories that they are in: sorted by path, owner 0, one time.
///
/// # Errors
/// When a path must not be in an archive, or clashes with another.
pub fn write(entries: &[Entry]) -> Result<Vec<Part>, ArchiveError> {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by(|left, right| left.path.as_bytes().cmp(right.path.as_bytes()));
    let mut names = Names::default();
    let mut output = Output::default();
    let mut directories: HashSet<&str> = HashSet::new();
    for entry in sorted {
        check_path(&entry.path)?;
        names.claim(&entry.path, NameKind::File)?;
        for (end, _) in entry.path.match_indices('/') {
            if let Some(parent) = entry.path.get(..end)
                && directories.insert(parent)
            {
                output.header(&format!("{parent}/"), 0o755, 0, b'5');
            }
        }
        output.file(entry);
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
    fn header(&mut self, name: &str, mode: u32, size: u64, kind: u8) {
        let bytes = name.as_bytes();
        if let Some(format) = header::format(bytes, size) {
            self.block(&header::write(format, bytes, mode, size, kind));
            return;
        }
        // GNU's record: the name and a zero byte as the content of an entry before the entry.
        let length = bytes.len() as u64 + 1;
        self.block(&header::write(
            Format::Gnu,
            b"././@LongLink",
            0o644,
            length,
            b'L',
        ));
        self.pending.extend_from_slice(bytes);
        self.pending.extend_from_slice(&[0]);
        self.pad(length);
        let short = bytes.get(..100).unwrap_or(bytes);
        self.block(&header::write(Format::Gnu, short, mode, size, kind));
    }

    fn file(&mut self, entry: &Entry) {
        let mode = if entry.executable { 0o755 } else { 0o644 };
        self.header(&entry.path, mode, entry.size, b'0');
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
