//! Archives: taken apart aside while they arrive, put in place when their layer is proven.
//!
//! What entries may be called and lead to is checked by the archive's reader; what is on disk already is checked here.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::StreamExt as _;
use globset::GlobSet;
use tokio::sync::mpsc::Receiver;

use super::batch::{Batches, Pieces, batches};
use super::error::PullError;
use super::fetch::Context;
use super::{PulledFile, files};
use crate::archive::{EntryKind, Event, ReadEntry, Reader, Whiteouts};
use crate::cache::ExtractedFile;
use crate::content::Encoding;
use crate::content::encoding::Decoder;
use crate::digest::{Digest, Hasher};
use crate::oci::Descriptor;
use crate::progress::Phase;
use crate::source::FileIdentity;

/// An archive that was taken apart, or whose files are there already.
pub(super) struct Staged {
    /// What stands for the layer and for what was taken of it.
    key: Digest,
    name: String,
    state: State,
}

enum State {
    /// All files are in place from an earlier pull.
    Present(Vec<ExtractedFile>),
    /// They are below this directory.
    Aside {
        root: PathBuf,
        entries: Vec<StagedEntry>,
    },
}

/// One thing to be put in place.
struct StagedEntry {
    path: String,
    size: u64,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    File,
    Link,
}

impl Staged {
    /// Whether nothing was fetched.
    pub(super) const fn is_present(&self) -> bool {
        matches!(self.state, State::Present(_))
    }
}

/// Fetches an archive and takes it apart, unless its files are there.
pub(super) async fn stage(
    context: &Context<'_>,
    index: usize,
    name: &str,
    descriptor: &Descriptor,
    encoding: Encoding,
) -> Result<Staged, PullError> {
    let key = key(context, descriptor);
    context.started(index, Phase::Verify);
    if let Some(files) = present(context, key) {
        return Ok(Staged {
            key,
            name: name.to_owned(),
            state: State::Present(files),
        });
    }
    context.started(index, Phase::Download);
    let root = context
        .work
        .join(format!("{}.files", descriptor.digest.hex()));
    remove(&root)?;
    files::create_directory(&root)?;
    let (batches, pieces) = batches();
    let taking = Taking {
        what: name.to_owned(),
        root: root.clone(),
        include: context.include.clone(),
        strip: context
            .options
            .strip
            .as_ref()
            .map(|strip| strip.trim_matches('/').to_owned()),
        entries: Vec::new(),
        file: None,
    };
    let whiteouts = context.whiteouts;
    let taker = tokio::task::spawn_blocking(move || taking.run(pieces, encoding, whiteouts));
    let received = forward(context, index, name, descriptor, batches).await;
    let taken = taker.await.map_err(|_| PullError::Writer {
        what: name.to_owned(),
    })?;
    // A fault on the way is told before what half an archive looks like.
    let judged = received.and(taken).and_then(|(digest, entries)| {
        if digest == descriptor.digest {
            return Ok(entries);
        }
        Err(PullError::Mismatch {
            what: name.to_owned(),
            expected: descriptor.digest,
            actual: digest,
        })
    });
    match judged {
        Ok(entries) => Ok(Staged {
            key,
            name: name.to_owned(),
            state: State::Aside { root, entries },
        }),
        Err(error) => {
            remove(&root)?;
            Err(error)
        }
    }
}

/// Sends what arrives to the thread that takes it apart.
async fn forward(
    context: &Context<'_>,
    index: usize,
    name: &str,
    descriptor: &Descriptor,
    mut batches: Batches,
) -> Result<(), PullError> {
    let size = descriptor.size;
    let failed = |cause| PullError::Origin { cause };
    let mut pieces = context
        .origin
        .read(descriptor.digest, 0..size)
        .await
        .map_err(failed)?;
    let mut arrived = 0;
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(failed)?;
        let length = piece.len() as u64;
        arrived += length;
        if arrived > size {
            break;
        }
        if batches.add(piece).await.is_err() {
            // The other side has its own error.
            return Ok(());
        }
        context.received(index, length);
    }
    if arrived == size {
        // A thread that has stopped has an error of its own.
        let _ = batches.end().await;
        return Ok(());
    }
    Err(PullError::Size {
        what: name.to_owned(),
        expected: size,
        actual: arrived,
    })
}

/// Layer, selection and naming as one value.
fn key(context: &Context<'_>, descriptor: &Descriptor) -> Digest {
    let mut hasher = Hasher::default();
    let strip = context.options.strip.as_deref().unwrap_or_default();
    hasher.update(descriptor.digest.to_string().as_bytes());
    for text in std::iter::once(strip).chain(context.options.include.iter().map(String::as_str)) {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    }
    hasher.finish()
}

fn present(context: &Context<'_>, key: Digest) -> Option<Vec<ExtractedFile>> {
    let cache = context.options.cache.as_ref()?;
    cache
        .extracted
        .unchanged(key, &context.directory.canonicalize().ok()?)
}

fn remove(root: &Path) -> Result<(), PullError> {
    match fs::remove_dir_all(root) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(PullError::file("remove", root, cause))
        }
        _ => Ok(()),
    }
}

/// Gives everything that was taken out its final name.
pub(super) fn put_in_place(
    context: &Context<'_>,
    staged: Staged,
) -> Result<Vec<PulledFile>, PullError> {
    let (root, entries) = match staged.state {
        State::Present(files) => return Ok(files.into_iter().map(present_file).collect()),
        State::Aside { root, entries } => (root, entries),
    };
    let mut pulled = Vec::new();
    let mut extracted = Vec::new();
    for entry in entries {
        files::check_parents(context.directory, &entry.path)?;
        let target = context.directory.join(&entry.path);
        if entry.kind == Kind::Directory {
            files::check_parents(context.directory, &format!("{}/.", entry.path))?;
            files::create_directory(&target)?;
            continue;
        }
        files::rename(&root.join(&entry.path), &target)?;
        let identity = fs::symlink_metadata(&target)
            .ok()
            .and_then(|found| FileIdentity::of(&found));
        extracted.extend(identity.map(|identity| ExtractedFile {
            path: PathBuf::from(&entry.path),
            identity,
        }));
        pulled.push(PulledFile {
            path: PathBuf::from(entry.path),
            size: entry.size,
            digest: None,
            present: false,
        });
    }
    remove(&root)?;
    if let (Some(cache), Ok(directory)) = (&context.options.cache, context.directory.canonicalize())
        && let Err(error) = cache.extracted.remember(staged.key, &directory, extracted)
    {
        tracing::warn!(%error, layer = staged.name, "the next pull will fetch more than it needs to");
    }
    Ok(pulled)
}

fn present_file(file: ExtractedFile) -> PulledFile {
    PulledFile {
        path: file.path,
        size: file.identity.size,
        digest: None,
        present: true,
    }
}

/// An archive that is being taken apart.
struct Taking {
    what: String,
    root: PathBuf,
    include: Option<GlobSet>,
    strip: Option<String>,
    entries: Vec<StagedEntry>,
    /// The file that data goes to; none for what is left out.
    file: Option<File>,
}

impl Taking {
    fn run(
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
