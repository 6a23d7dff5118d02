//! Reads an archive in chunks, without trust: ustar, GNU long names and sizes, PAX path and size. May do no I/O.
//!
//! Memory is bounded by the names, of which there may be a million; data passes through without being copied.

use bytes::{Buf as _, Bytes, BytesMut};

use super::event::{Entry, EntryKind, Event, Whiteouts};
use super::header::{self, Header};
use super::names::{check_link, refuse_link};
use super::writer::padding;
use super::{ArchiveError, BLOCK, NameKind, Names, check_path, pax};

/// Names that an archive may have.
const MAX_NAMES: usize = 1_000_000;

/// Bytes that a long name or a PAX header may have.
const MAX_EXTENSION_BYTES: u64 = 256 * 1024;

/// Largest file in bytes: no registry takes a layer of 1 PiB.
const MAX_FILE_BYTES: u64 = 1 << 50;

/// An archive being read.
#[derive(Debug)]
pub struct Reader {
    whiteouts: Whiteouts,
    state: State,
    /// Bytes of a block or an extension that is not yet whole.
    pending: BytesMut,
    names: Names,
    next: Extensions,
    offset: u64,
    zero_blocks: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Header,
    /// Bytes left of the data, then zeros up to the next block.
    Data {
        left: u64,
        padding: usize,
    },
    Padding(usize),
    Extension {
        kind: u8,
        size: u64,
    },
    Done,
}

/// What was said of the next entry before its header.
#[derive(Debug, Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    sparse: bool,
}

impl Reader {
    /// Begins an archive.
    #[must_use]
    pub fn new(whiteouts: Whiteouts) -> Self {
        Self {
            whiteouts,
            state: State::Header,
            pending: BytesMut::new(),
            names: Names::default(),
            next: Extensions::default(),
            offset: 0,
            zero_blocks: 0,
        }
    }

    /// Takes the next bytes and gives what they complete.
    ///
    /// # Errors
    /// When the archive is damaged, or an entry is refused. Nothing of a refused entry is given out.
    pub fn feed(&mut self, mut chunk: Bytes) -> Result<Vec<Event>, ArchiveError> {
        let mut events = Vec::new();
        while !chunk.is_empty() {
            match self.state {
                State::Done => {
                    self.offset += chunk.len() as u64;
                    chunk.clear();
                }
                State::Data { left, padding } => {
                    let bytes = chunk.split_to(at_most(left, chunk.len()));
                    self.offset += bytes.len() as u64;
                    let left = left - bytes.len() as u64;
                    events.push(Event::Data(bytes));
                    self.state = State::Data { left, padding };
                    if left == 0 {
                        events.push(Event::End);
                        self.skip(padding);
                    }
                }
                State::Padding(left) => {
                    let skipped = left.min(chunk.len());
                    chunk.advance(skipped);
                    self.offset += skipped as u64;
                    self.skip(left - skipped);
                }
                State::Header => {
                    if let Some(block) = self.collect(&mut chunk, BLOCK) {
                        self.header(&block, &mut events)?;
                    }
                }
                State::Extension { kind, size } => {
                    let length = usize::try_from(size).unwrap_or(usize::MAX);
                    if let Some(bytes) = self.collect(&mut chunk, length) {
                        self.extension(kind, &bytes)?;
                        self.skip(padding(size));
                    }
                }
            }
        }
        Ok(events)
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// [`ArchiveError::Damaged`] when it was cut off.
    pub fn finish(self) -> Result<(), ArchiveError> {
        let between =
            self.state == State::Header && self.pending.is_empty() && self.next.is_empty();
        if between || self.state == State::Done {
            return Ok(());
        }
        Err(self.damaged("it was cut off"))
    }

    fn skip(&mut self, bytes: usize) {
        self.state = if bytes == 0 {
            State::Header
        } else {
            State::Padding(bytes)
        };
    }

    /// Gathers exactly `length` bytes, over several chunks if need be.
    fn collect(&mut self, chunk: &mut Bytes, length: usize) -> Option<Bytes> {
        let missing = length.saturating_sub(self.pending.len());
        let taken = chunk.split_to(missing.min(chunk.len()));
        self.offset += taken.len() as u64;
        if self.pending.is_empty() && taken.len() == length {
            return Some(taken);
        }
        self.pending.extend_from_slice(&taken);
        (self.pending.len() == length).then(|| self.pending.split().freeze())
    }

    fn header(&mut self, block: &[u8], events: &mut Vec<Event>) -> Result<(), ArchiveError> {
        let header = match header::read(block) {
            Ok(Some(header)) => header,
            Ok(None) => {
                self.zero_blocks += 1;
                if self.zero_blocks == 2 {
                    self.state = State::Done;
                }
                return Ok(());
            }
            Err(header::BadHeader(reason)) => return Err(self.damaged(reason)),
        };
        if self.zero_blocks > 0 {
            return Err(self.damaged("an entry follows the end mark"));
        }
        match header.kind {
            b'L' | b'K' | b'x' | b'g' => self.begin_extension(&header),
            _ => self.begin_entry(&header, events),
        }
    }

    fn begin_extension(&mut self, header: &Header) -> Result<(), ArchiveError> {
        if header.size > MAX_EXTENSION_BYTES {
            return Err(self.limit("a long name or PAX header has over 256 KiB"));
        }
        self.state = State::Extension {
            kind: header.kind,
            size: header.size,
        };
        if header.size == 0 {
            self.extension(header.kind, &[])?;
            self.state = State::Header;
        }
        Ok(())
    }

    fn extension(&mut self, kind: u8, bytes: &[u8]) -> Result<(), ArchiveError> {
        let text = || {
            let text = bytes.split(|byte| *byte == 0).next();
            text.unwrap_or_default().to_vec()
        };
        match kind {
            b'L' => self.next.path = Some(text()),
            b'K' => self.next.link = Some(text()),
            b'x' => {
                let records = pax::parse(bytes).map_err(|reason| self.damaged(reason))?;
                let next = &mut self.next;
                next.path = records.path.or(next.path.take());
                next.link = records.link.or(next.link.take());
                next.size = records.size.or(next.size);
                next.sparse |= records.sparse;
            }
            // Global records are comments of version control systems; paths and sizes do not come from them.
            _ => {
                pax::parse(bytes).map_err(|reason| self.damaged(reason))?;
            }
        }
        Ok(())
    }

    fn begin_entry(
        &mut self,
        header: &Header,
        events: &mut Vec<Event>,
    ) -> Result<(), ArchiveError> {
        let next = std::mem::take(&mut self.next);
        let raw = next.path.as_ref().unwrap_or(&header.name);
        let Some((path, directory)) = clean(raw) else {
            return Err(self.damaged("a path is not UTF-8"));
        };
        let size = next.size.unwrap_or(header.size);
        if size > MAX_FILE_BYTES {
            return Err(self.limit("a file has over 1 PiB"));
        }
        let kind = self.entry_kind(header, &next, &path, directory)?;
        let size = if kind == EntryKind::File { size } else { 0 };
        // The directory that the archive is of.
        if kind == EntryKind::Directory && path.is_empty() {
            self.state = State::Header;
            return Ok(());
        }
        self.admit(&path, &kind)?;
        let entry = Entry {
            path,
            size,
            mode: header.mode & 0o777,
            kind,
        };
        events.push(Event::Start(entry));
        if size == 0 {
            events.push(Event::End);
            self.state = State::Header;
        } else {
            self.state = State::Data {
                left: size,
                padding: padding(size),
            };
        }
        Ok(())
    }

    fn entry_kind(
        &self,
        header: &Header,
        next: &Extensions,
        path: &str,
        directory: bool,
    ) -> Result<EntryKind, ArchiveError> {
        let refuse = |what| ArchiveError::Type {
            path: path.to_owned(),
            what,
        };
        let target = || {
            let raw = next.link.as_ref().unwrap_or(&header.link);
            String::from_utf8(raw.clone()).map_err(|_| self.damaged("a link is not UTF-8"))
        };
        if next.sparse {
            return Err(refuse("a sparse file"));
        }
        match header.kind {
            b'0' | 0 if directory && header.size == 0 => Ok(EntryKind::Directory),
            b'0' | b'7' | 0 => Ok(EntryKind::File),
            b'5' => Ok(EntryKind::Directory),
            b'2' => Ok(EntryKind::Link { target: target()? }),
            b'1' => Ok(EntryKind::HardLink { target: target()? }),
            b'3' | b'4' => Err(refuse("a device")),
            b'6' => Err(refuse("a pipe")),
            b'S' => Err(refuse("a sparse file")),
            _ => Err(refuse("of an unknown type")),
        }
    }

    /// Lets an entry in, or not.
    fn admit(&mut self, path: &str, kind: &EntryKind) -> Result<(), ArchiveError> {
        check_path(path)?;
        let whiteout = path.split('/').any(|name| name.starts_with(".wh."));
        if whiteout && self.whiteouts == Whiteouts::Refuse {
            return Err(ArchiveError::Whiteout {
                path: path.to_owned(),
            });
        }
        match kind {
            EntryKind::File => self.names.claim(path, NameKind::File)?,
            EntryKind::Directory => self.names.claim(path, NameKind::Directory)?,
            EntryKind::Link { target } => {
                check_link(path, target)?;
                self.names.claim(path, NameKind::Link)?;
            }
            EntryKind::HardLink { target } => {
                if self.names.kind(target) != Some(NameKind::File) {
                    return Err(refuse_link(path, target, "no such file came before it"));
                }
                self.names.claim(path, NameKind::File)?;
            }
        }
        if self.names.len() > MAX_NAMES {
            return Err(self.limit("it has over a million names"));
        }
        Ok(())
    }

    fn damaged(&self, reason: &'static str) -> ArchiveError {
        ArchiveError::Damaged {
            offset: self.offset,
            reason,
        }
    }

    fn limit(&self, reason: &'static str) -> ArchiveError {
        ArchiveError::Limit {
            offset: self.offset,
            reason,
        }
    }
}

impl Extensions {
    const fn is_empty(&self) -> bool {
        self.path.is_none() && self.link.is_none() && self.size.is_none() && !self.sparse
    }
}

/// A path without `./` before it and `/` after it; whether there was one after it.
fn clean(raw: &[u8]) -> Option<(String, bool)> {
    let mut path = std::str::from_utf8(raw).ok()?;
    while let Some(rest) = path.strip_prefix("./") {
        path = rest;
    }
    if path == "." {
        return Some((String::new(), true));
    }
    match path.strip_suffix('/') {
        Some(directory) => Some((directory.to_owned(), true)),
        None => Some((path.to_owned(), path.is_empty())),
    }
}

fn at_most(left: u64, length: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(length)
}
