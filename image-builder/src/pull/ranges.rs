//! A large blob in ranges over several connections, written in place, hashed once along what has arrived without a gap.
//!
//! Only with a registry that answers 206 for the same version of the blob each time. Ranges that are whole are recorded
//! beside the file: a pull that is killed loses what was on its way.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{StreamExt as _, TryStreamExt as _};
use tokio::sync::mpsc::Receiver;

use super::arrived::{Arrived, write_at};
use super::batch::{Pieces, batches};
use super::error::PullError;
use super::fetch::Context;
use super::partial::discard;
use super::record::{Record, record_path};
use crate::digest::Digest;
use crate::oci::Descriptor;
use crate::registry::{Class, RegistryError, Repository};

/// Whether a blob is fetched in ranges: when it is large and connections are free, or was begun so.
pub(super) fn pays(context: &Context<'_>, descriptor: &Descriptor, path: &Path) -> bool {
    let large = descriptor.size >= context.options.range.max(1).saturating_mul(2);
    (large && context.ranges > 1) || record_path(path).exists()
}

/// What all ranges of one blob share.
struct Shared<'a> {
    context: &'a Context<'a>,
    repository: &'a Repository,
    descriptor: &'a Descriptor,
    index: usize,
    what: &'a str,
    file: Arc<File>,
    path: &'a Path,
    size: u64,
    arrived: Arc<Arrived>,
    etag: Mutex<Option<String>>,
}

/// How one range ended without failing.
enum Ended {
    Whole,
    /// The registry sent the whole blob instead.
    NoRanges,
}

/// Fetches a blob; `None` where the registry serves no ranges. What had arrived is then discarded.
pub(super) async fn fetch(
    context: &Context<'_>,
    repository: &Repository,
    index: usize,
    what: &str,
    descriptor: &Descriptor,
    path: &Path,
) -> Result<Option<Digest>, PullError> {
    let record = Record::open(path, descriptor.size, context.options.range.max(1))?;
    let file = open(path, descriptor.size)?;
    let arrived = Arc::new(Arrived::new(&record, descriptor.size));
    let follower = {
        let (arrived, file) = (Arc::clone(&arrived), Arc::clone(&file));
        tokio::task::spawn_blocking(move || arrived.hash(&file))
    };
    let shared = Shared {
        context,
        repository,
        descriptor,
        index,
        what,
        file,
        path,
        size: record.size,
        arrived: Arc::clone(&arrived),
        etag: Mutex::default(),
    };
    let fetched = shared.fetch_missing(record).await;
    if !matches!(fetched, Ok(Ended::Whole)) {
        arrived.give_up();
    }
    let hashed = follower.await.map_err(|_| PullError::Writer {
        what: what.to_owned(),
    })?;
    match fetched? {
        Ended::Whole => {
            let digest = hashed.map_err(|cause| PullError::file("read", path, cause))?;
            let _ = std::fs::remove_file(record_path(path));
            digest.map(Some).ok_or_else(|| PullError::Writer {
                what: what.to_owned(),
            })
        }
        Ended::NoRanges => {
            discard(path);
            Ok(None)
        }
    }
}

fn open(path: &Path, size: u64) -> Result<Arc<File>, PullError> {
    let failed = |cause| PullError::file("create", path, cause);
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(failed)?;
    file.set_len(size).map_err(failed)?;
    Ok(Arc::new(file))
}

impl Shared<'_> {
    async fn fetch_missing(&self, record: Record) -> Result<Ended, PullError> {
        let record = Mutex::new(record);
        let missing = {
            let record = record.lock().unwrap_or_else(PoisonError::into_inner);
            let count = self.descriptor.size.div_ceil(self.size);
            (0..count)
                .filter(|number| !record.whole.contains(number))
                .collect::<Vec<_>>()
        };
        let record = &record;
        let mut ended = futures::stream::iter(missing)
            .map(|number| async move {
                let ended = self.fetch_range(number).await?;
                if matches!(ended, Ended::Whole) {
                    record
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .add(number)?;
                }
                Ok::<Ended, PullError>(ended)
            })
            .buffer_unordered(self.context.ranges);
        while let Some(ended) = ended.try_next().await? {
            if matches!(ended, Ended::NoRanges) {
                return Ok(ended);
            }
        }
        Ok(Ended::Whole)
    }

    /// Fetches one range, and goes on within it where a connection is cut.
    async fn fetch_range(&self, number: u64) -> Result<Ended, PullError> {
        let start = number * self.size;
        let end = (start + self.size).min(self.descriptor.size);
        let retry = self.repository.client().retry();
        let mut failures = 0;
        loop {
            let from = start + self.arrived.of(number);
            if from >= end {
                return Ok(Ended::Whole);
            }
            let error = match self.fetch_part(number, from..end).await {
                Ok(Ended::NoRanges) => return Ok(Ended::NoRanges),
                Ok(Ended::Whole) if start + self.arrived.of(number) >= end => {
                    return Ok(Ended::Whole);
                }
                // It ended early without an error, as some proxies let it.
                Ok(Ended::Whole) => None,
                Err(Failure::Registry(error)) => Some(error),
                Err(Failure::Final(error)) => return Err(error),
            };
            if start + self.arrived.of(number) > from {
                failures = 0;
            }
            failures += 1;
            let class = error
                .as_ref()
                .map_or(Class::Transient(None), RegistryError::class);
            match (retry.wait(failures + 1, class), error) {
                (Some(wait), _) => tokio::time::sleep(wait).await,
                (None, Some(cause)) => {
                    return Err(PullError::Registry {
                        what: self.what.to_owned(),
                        cause,
                    });
                }
                (None, None) => {
                    return Err(PullError::Size {
                        what: self.what.to_owned(),
                        expected: self.descriptor.size,
                        actual: start + self.arrived.of(number),
                    });
                }
            }
        }
    }

    async fn fetch_part(&self, number: u64, part: Range<u64>) -> Result<Ended, Failure> {
        let etag = self
            .etag
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let answer = self
            .repository
            .read_blob(self.descriptor.digest, Some(part.clone()), etag.as_deref())
            .await
            .map_err(Failure::Registry)?;
        if !answer.is_partial || !self.is_same_version(answer.etag) {
            return Ok(Ended::NoRanges);
        }
        let (mut batches, pieces) = batches();
        let (file, arrived) = (Arc::clone(&self.file), Arc::clone(&self.arrived));
        let start = part.start;
        let writer =
            tokio::task::spawn_blocking(move || write(&file, start, pieces, &arrived, number));
        let mut stream = answer.stream;
        let mut left = part.end - part.start;
        let mut failure = None;
        while let Some(piece) = stream.next().await {
            match piece {
                Ok(mut piece) => {
                    // More than was asked for belongs to another range.
                    piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                    let length = piece.len() as u64;
                    left -= length;
                    if length == 0 || batches.add(piece).await.is_err() {
                        break;
                    }
                    self.context.received(self.index, length);
                }
                Err(error) => {
                    failure = Some(Failure::Registry(error));
                    break;
                }
            }
        }
        // A thread that has stopped has an error of its own.
        let _ = batches.end().await;
        let written = writer.await.map_err(|_| {
            Failure::Final(PullError::Writer {
                what: self.what.to_owned(),
            })
        })?;
        written.map_err(|cause| Failure::Final(PullError::file("write", self.path, cause)))?;
        failure.map_or(Ok(Ended::Whole), Err)
    }

    /// Whether an answer is of the version that the first answer was of.
    fn is_same_version(&self, etag: Option<String>) -> bool {
        let mut first = self.etag.lock().unwrap_or_else(PoisonError::into_inner);
        match (first.as_ref(), etag) {
            (Some(first), Some(etag)) => *first == etag,
            (None, Some(etag)) => {
                *first = Some(etag);
                true
            }
            // A blob's address is its digest: without a validator the hash at the end decides.
            (_, None) => true,
        }
    }
}

enum Failure {
    Registry(RegistryError),
    Final(PullError),
}

fn write(
    file: &File,
    mut offset: u64,
    mut batches: Receiver<Pieces>,
    arrived: &Arrived,
    number: u64,
) -> io::Result<()> {
    while let Some(pieces) = batches.blocking_recv() {
        for piece in pieces {
            write_at(file, &piece, offset)?;
            offset += piece.len() as u64;
            arrived.add(number, piece.len() as u64);
        }
    }
    Ok(())
}
