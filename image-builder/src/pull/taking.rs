//! An archive that arrives in pieces becomes files aside.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use globset::GlobSet;
use tokio::sync::mpsc::Receiver;

use super::batch::Pieces;
use super::error::PullError;
use super::files;
use crate::archive::{EntryKind, Event, ReadEntry, Reader, Whiteouts};
use crate::content::Encoding;
use crate::content::encoding::Decoder;
use crate::digest::{Digest, Hasher};

/// One thing to be put in place.
pub(super) struct StagedEntry {
    pub(super) path: String,
    pub(super) size: u64,
    pub(super) kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
    Link,
}

/// An archive that is being taken apart.
pub(super) struct Taking {
    what: String,
    root: PathBuf,
    include: Option<GlobSet>,
    strip: Option<String>,
    entries: Vec<StagedEntry>,
    /// The file that data goes to; none for what is left out.
    file: Option<File>,
}

impl Taking {
    pub(super) fn new(
        what: &str,
        root: &Path,
        include: Option<GlobSet>,
        strip: Option<&str>,
    ) -> Self {
        Self {
            what: what.to_owned(),
            root: root.to_owned(),
            include,
            strip: strip.map(|strip| strip.trim_matches('/').to_owned()),
            entries: Vec::new(),
            file: None,
        }
    }

    /// Takes apart what arrives; returns the digest of that, and what is to be put in place.
    pub(super) fn run(
        mut self,
        mut batches: Receiver<Pieces>,
        encoding: Encoding,
        whiteouts: Whiteouts,
    ) -> Result<(Digest, Vec<StagedEntry>), PullError> {
        let what = self.what.clone();
        let broken = |cause| PullError::Encoding {
            what: what.clone(),
            cause,
        };
        let mut hasher = Hasher::default();
        let mut decoder = Decoder::new(encoding).map_err(broken)?;
        let mut reader = Reader::new(whiteouts);
        let mut waiting = Pieces::new().into_iter();
        while let Some(piece) = next(&mut batches, &mut waiting) {
            hasher.update(&piece);
            decoder.feed(piece);
            while let Some(content) = decoder.take().map_err(broken)? {
                self.take(&mut reader, content)?;
            }
        }
        let digest = hasher.finish();
        let rest = decoder.finish().map_err(broken)?;
        self.take(&mut reader, rest)?;
        reader.finish().map_err(|cause| PullError::Archive {
            what: what.clone(),
            cause,
        })?;
        Ok((digest, self.entries))
    }

    fn take(&mut self, reader: &mut Reader, content: Bytes) -> Result<(), PullError> {
        let events = reader.feed(content).map_err(|cause| PullError::Archive {
            what: self.what.clone(),
            cause,
        })?;
        for event in events {
            match event {
                Event::Start(entry) => self.begin(entry)?,
                Event::Data(bytes) => {
                    if let Some(file) = &mut self.file {
                        file.write_all(&bytes)
                            .map_err(|cause| PullError::file("write", &self.root, cause))?;
                    }
                }
                Event::End => self.file = None,
            }
        }
        Ok(())
    }

    fn begin(&mut self, entry: ReadEntry) -> Result<(), PullError> {
        let Some(path) = self.stripped(&entry.path) else {
            return Ok(());
        };
        let wanted = self
            .include
            .as_ref()
            .is_none_or(|globs| globs.is_match(&path));
        // Directories of files that are left out would only be clutter; those of files come with them.
        if !wanted || (entry.kind == EntryKind::Directory && self.include.is_some()) {
            return Ok(());
        }
        let place = self.root.join(&path);
        if let Some(parent) = place.parent() {
            files::create_directory(parent)?;
        }
        let kind = self.make(&entry, &place)?;
        if let Some(kind) = kind {
            self.entries.push(StagedEntry {
                path,
                size: entry.size,
                kind,
            });
        }
        Ok(())
    }

    /// A path below the directory that is left out of names; `None` for everything else.
    fn stripped(&self, path: &str) -> Option<String> {
        match self.strip.as_deref() {
            None | Some("") => Some(path.to_owned()),
            Some(strip) => path
                .strip_prefix(strip)?
                .strip_prefix('/')
                .map(str::to_owned),
        }
    }

    fn make(&mut self, entry: &ReadEntry, place: &Path) -> Result<Option<Kind>, PullError> {
        let failed = |cause| PullError::file("create", place, cause);
        match &entry.kind {
            EntryKind::Directory => {
                files::create_directory(place)?;
                Ok(Some(Kind::Directory))
            }
            EntryKind::File => {
                self.file = Some(create(place, entry.mode).map_err(failed)?);
                Ok(Some(Kind::File))
            }
            EntryKind::Link { target } => {
                link(target, place).map_err(failed)?;
                Ok(Some(Kind::Link))
            }
            EntryKind::HardLink { target } => {
                // Its file may have been left out, and then so is its other name.
                let from = self.stripped(target).map(|target| self.root.join(target));
                match from.filter(|from| from.exists()) {
                    Some(from) => fs::hard_link(from, place)
                        .map_err(failed)
                        .map(|()| Some(Kind::File)),
                    None => Ok(None),
                }
            }
        }
    }
}

/// The next piece of the batch at hand, or of the next batch.
fn next(batches: &mut Receiver<Pieces>, waiting: &mut std::vec::IntoIter<Bytes>) -> Option<Bytes> {
    loop {
        match waiting.next() {
            Some(piece) => return Some(piece),
            None => *waiting = batches.blocking_recv()?.into_iter(),
        }
    }
}

/// A new file; executable where the archive says so, otherwise as the user's mask wants it.
#[cfg(unix)]
fn create(place: &Path, mode: u32) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;

    let mode = if mode & 0o111 == 0 { 0o666 } else { 0o777 };
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(place)
}

/// A new file.
#[cfg(not(unix))]
fn create(place: &Path, _mode: u32) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(place)
}

#[cfg(unix)]
fn link(target: &str, place: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, place)
}

/// Links need a privilege here that few have.
#[cfg(not(unix))]
fn link(_target: &str, _place: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
