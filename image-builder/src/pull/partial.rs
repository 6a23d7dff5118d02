//! One blob into one file aside, hashed while it is written, gone on with where an earlier pull stopped.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use futures::StreamExt as _;
use tokio::sync::mpsc::Receiver;

use super::batch::{Pieces, batches};
use super::error::PullError;
use super::fetch::Context;
use super::record::record_path;
use super::{files, ranges};
use crate::digest::{Digest, Hasher};
use crate::oci::Descriptor;
use crate::push::Origin;

/// The name of a blob's file while it is not whole.
pub(super) fn name(digest: Digest) -> String {
    format!("{}.partial", digest.hex())
}

/// Fetches a blob and proves it; returns where it is.
pub(super) async fn fetch(
    context: &Context<'_>,
    index: usize,
    what: &str,
    descriptor: &Descriptor,
) -> Result<PathBuf, PullError> {
    let path = context.work.join(name(descriptor.digest));
    let had = std::fs::metadata(&path).map_or(0, |found| found.len());
    let mut fetched = one(context, index, what, descriptor, &path).await;
    // What an earlier pull left may be the damaged part: once more without it.
    let again = had > 0
        && matches!(
            fetched,
            Err(PullError::Mismatch { .. } | PullError::Size { .. })
        );
    if again {
        fetched = one(context, index, what, descriptor, &path).await;
    }
    fetched.map(|()| path)
}

async fn one(
    context: &Context<'_>,
    index: usize,
    what: &str,
    descriptor: &Descriptor,
    path: &Path,
) -> Result<(), PullError> {
    let digest = match context.origin {
        Origin::Repository(repository) if ranges::pays(context, descriptor, path) => {
            match ranges::fetch(context, repository, index, what, descriptor, path).await? {
                Some(digest) => digest,
                // The registry serves no ranges.
                None => stream(context, index, what, descriptor, path).await?,
            }
        }
        _ => stream(context, index, what, descriptor, path).await?,
    };
    if digest == descriptor.digest {
        return Ok(());
    }
    discard(path);
    Err(PullError::Mismatch {
        what: what.to_owned(),
        expected: descriptor.digest,
        actual: digest,
    })
}

/// Removes what must not be gone on with.
pub(super) fn discard(path: &Path) {
    for path in [path.to_owned(), record_path(path)] {
        if let Err(error) = std::fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %path.display(), "could not be removed");
        }
    }
}

/// In one stream: a thread hashes and writes what comes.
async fn stream(
    context: &Context<'_>,
    index: usize,
    what: &str,
    descriptor: &Descriptor,
    path: &Path,
) -> Result<Digest, PullError> {
    let size = descriptor.size;
    let has = std::fs::metadata(path).map_or(0, |found| found.len());
    if has > size {
        discard(path);
    }
    let start = if has > size { 0 } else { has };
    let (mut batches, pieces) = batches();
    let file = path.to_owned();
    let writer = tokio::task::spawn_blocking(move || write(&file, start, pieces));
    let mut arrived = start;
    let mut failure = None;
    let mut pieces = context
        .origin
        .read(descriptor.digest, start..size)
        .await
        .map_err(|cause| PullError::Origin { cause })?;
    while let Some(piece) = pieces.next().await {
        let piece = match piece {
            Ok(piece) => piece,
            Err(cause) => {
                failure = Some(PullError::Origin { cause });
                break;
            }
        };
        let length = piece.len() as u64;
        arrived += length;
        if arrived > size || batches.add(piece).await.is_err() {
            break;
        }
        context.received(index, length);
    }
    // A thread that has stopped has an error of its own.
    let _ = batches.end().await;
    let digest = writer.await.map_err(|_| PullError::Writer {
        what: what.to_owned(),
    })??;
    if let Some(failure) = failure {
        return Err(failure);
    }
    if arrived != size {
        discard(path);
        return Err(PullError::Size {
            what: what.to_owned(),
            expected: size,
            actual: arrived,
        });
    }
    Ok(digest)
}

fn write(path: &Path, start: u64, mut batches: Receiver<Pieces>) -> Result<Digest, PullError> {
    let failed = |cause| PullError::file("write", path, cause);
    let mut hasher = Hasher::default();
    let mut file = open(path).map_err(failed)?;
    if start > 0 {
        files::hash_rest(&mut file, &mut hasher).map_err(failed)?;
    }
    while let Some(pieces) = batches.blocking_recv() {
        for piece in pieces {
            hasher.update(&piece);
            file.write_all(&piece).map_err(failed)?;
        }
    }
    Ok(hasher.finish())
}

/// The file, made if it is not there; reading begins at its start, and writing goes on where reading stops.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
}
