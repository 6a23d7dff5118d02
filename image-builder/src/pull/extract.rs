//! Archives: taken apart aside while they arrive, put in place when their layer is proven.
//!
//! What entries may be called and lead to is checked by the archive's reader; what is on disk already is checked here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use futures::StreamExt as _;

use super::batch::{Batches, batches};
use super::error::PullError;
use super::fetch::Context;
use super::taking::{Kind, StagedEntry, Taking};
use super::{PulledFile, files};
use crate::cache::ExtractedFile;
use crate::content::Encoding;
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
    let taking = Taking::new(
        name,
        &root,
        context.include.clone(),
        context.options.strip.as_deref(),
    );
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
