//! One thread per blob that reads it, hashes it and hands it on, some chunks ahead of whoever sends it.
//!
//! Reading and hashing are done in one thread because a chunk that was just read is still in the processor's cache; sending
//! is done elsewhere, so that a blob takes as long as the slower of both. Chunks come from a small pool, whatever the blob's
//! size.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinHandle;

use super::output::{AHEAD, Output};
use crate::content::encoding::EncodingError;
use crate::content::{Blob, Part};
use crate::digest::{Digest, Hasher};
use crate::registry::{Item, RegistryError};
use crate::source::{FileIdentity, Source, SourceError};

/// How long a reader may take to end after a refusal. A fault of the source that caused the refusal is known at once.
const REFUSED: Duration = Duration::from_millis(500);
/// Boundaries of segments that are remembered: the reader is never more than one segment ahead of the sender.
const BOUNDARIES: usize = 3;

/// A blob on its way out of its source.
pub(super) struct Feed {
    /// Its bytes. Dropping this stops the reading.
    pub(super) items: Receiver<Item>,
    /// What it turned out to be, once everything was handed on.
    pub(super) outcome: JoinHandle<Result<Fed, FeedError>>,
    /// Hash states at the ends of segments.
    pub(super) boundaries: Boundaries,
}

/// What a blob turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fed {
    pub(super) digest: Digest,
    pub(super) content_digest: Digest,
    pub(super) size: u64,
}

/// Why a blob was not handed on whole.
#[derive(Debug)]
pub(super) enum FeedError {
    /// The source failed.
    Source(SourceError),
    /// The content is not what was expected. The last chunk was held back, so nobody has all of it.
    Mismatch { expected: Digest, actual: Digest },
    /// The compressor refused.
    Encoding(EncodingError),
    /// Whoever was to send it stopped.
    Abandoned,
}

/// Where to begin a blob of which a part was sent before.
#[derive(Clone, Default)]
pub(super) struct Start {
    /// Bytes that are not handed on again.
    pub(super) offset: u64,
    /// The hash of those.
    pub(super) hasher: Hasher,
}

/// Hash states at the ends of the last segments, so that a cut segment is sent again without those before it.
#[derive(Clone, Default)]
pub(super) struct Boundaries(Arc<Mutex<Vec<Start>>>);

impl Boundaries {
    /// Where to begin again when `offset` bytes have arrived.
    pub(super) fn at(&self, offset: u64) -> Option<Start> {
        let states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.iter().find(|start| start.offset == offset).cloned()
    }

    pub(super) fn add(&self, start: Start) {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        states.push(start);
        if states.len() > BOUNDARIES {
            states.remove(0);
        }
    }
}

/// What to hand on, and how.
pub(super) struct Order {
    pub(super) blob: Arc<Blob>,
    pub(super) source: Arc<dyn Source>,
    /// The digest that it must have.
    pub(super) expected: Option<Digest>,
    pub(super) start: Start,
    /// Chunks end at multiples of this many bytes, where the hash is remembered.
    pub(super) segment: Option<u64>,
}

/// Starts to read.
pub(super) fn start(order: Order) -> Feed {
    let (sender, items) = channel(AHEAD);
    let boundaries = Boundaries::default();
    let kept = boundaries.clone();
    let handle = Handle::current();
    let outcome = tokio::task::spawn_blocking(move || run(&order, sender, kept, &handle));
    Feed {
        items,
        outcome,
        boundaries,
    }
}

fn run(
    order: &Order,
    sender: Sender<Item>,
    boundaries: Boundaries,
    handle: &Handle,
) -> Result<Fed, FeedError> {
    let mut output = Output::new(sender, order, boundaries)?;
    let mut skip = order.start.offset;
    for part in &order.blob.parts {
        let size = part.size();
        if skip >= size {
            skip -= size;
            continue;
        }
        match part {
            Part::Bytes(bytes) => output.bytes(bytes.get(index(skip)..).unwrap_or_default())?,
            Part::File { path, size } => match order.source.local_path(path) {
                Some(local) => {
                    let identity = order.source.identity(path);
                    read_local(&local, path, skip..*size, identity, &mut output)?;
                }
                None => read_remote(
                    order.source.as_ref(),
                    path,
                    skip..*size,
                    handle,
                    &mut output,
                )?,
            },
        }
        skip = 0;
    }
    output.finish(order.expected)
}

/// Offsets within bytes in memory always fit.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// Reads a file of this machine and makes sure that it is the version that was listed, before and after.
fn read_local(
    local: &Path,
    path: &str,
    range: std::ops::Range<u64>,
    identity: Option<FileIdentity>,
    output: &mut Output,
) -> Result<(), FeedError> {
    use std::io::Seek as _;

    let failed = |action| {
        move |cause| {
            FeedError::Source(SourceError::File {
                action,
                path: local.display().to_string(),
                cause,
            })
        }
    };
    let mut file = File::open(local).map_err(failed("open"))?;
    check_unchanged(&file, local, path, range.end, identity)?;
    if range.start > 0 {
        file.seek(std::io::SeekFrom::Start(range.start))
            .map_err(failed("read"))?;
    }
    let mut left = range.end - range.start;
    while left > 0 {
        let room = output.room();
        let most = room.len().min(index(left));
        let read = match file.read(room.get_mut(..most).unwrap_or_default()) {
            Ok(0) => return Err(changed(path, "it became shorter")),
            Ok(read) => read,
            Err(cause) if cause.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(cause) => return Err(failed("read")(cause)),
        };
        left -= read as u64;
        output.filled(read)?;
    }
    check_unchanged(&file, local, path, range.end, identity)
}

fn check_unchanged(
    file: &File,
    local: &Path,
    path: &str,
    size: u64,
    identity: Option<FileIdentity>,
) -> Result<(), FeedError> {
    let metadata = file.metadata().map_err(|cause| {
        let path = local.display().to_string();
        FeedError::Source(SourceError::File {
            action: "read",
            path,
            cause,
        })
    })?;
    if metadata.len() != size {
        return Err(changed(
            path,
            &format!("it has {} bytes, {size} were listed", metadata.len()),
        ));
    }
    match identity {
        Some(listed) if FileIdentity::of(&metadata).is_some_and(|now| now != listed) => {
            Err(changed(path, "it was written to or replaced"))
        }
        _ => Ok(()),
    }
}

/// Reads a range of a source that only the runtime can read. This thread waits; connections are served by the others.
fn read_remote(
    source: &dyn Source,
    path: &str,
    range: std::ops::Range<u64>,
    handle: &Handle,
    output: &mut Output,
) -> Result<(), FeedError> {
    let mut left = range.end - range.start;
    let mut stream = handle
        .block_on(source.read(path, range))
        .map_err(FeedError::Source)?;
    while let Some(bytes) = handle.block_on(stream.next()) {
        let bytes = bytes.map_err(FeedError::Source)?;
        left = left
            .checked_sub(bytes.len() as u64)
            .ok_or_else(|| changed(path, "it is longer than was listed"))?;
        output.pass(bytes)?;
    }
    if left > 0 {
        return Err(changed(path, &format!("it ended {left} bytes early")));
    }
    Ok(())
}

fn changed(path: &str, what: &str) -> FeedError {
    FeedError::Source(SourceError::Changed {
        path: path.to_owned(),
        what: what.to_owned(),
    })
}

/// Reads a whole blob into memory. For small ones only.
pub(super) async fn collect(mut feed: Feed) -> Result<(Fed, Bytes), FeedError> {
    let mut all = Vec::new();
    while let Some(Some(bytes)) = feed.items.recv().await {
        all.extend_from_slice(&bytes);
    }
    Ok((outcome(feed.outcome).await?, all.into()))
}

/// Reads a whole blob for its digest only.
pub(super) async fn hash(mut feed: Feed, on_read: impl Fn(u64)) -> Result<Fed, FeedError> {
    while let Some(Some(bytes)) = feed.items.recv().await {
        on_read(bytes.len() as u64);
    }
    outcome(feed.outcome).await
}

/// How the reading ended, once the registry has answered. After a refusal a connection may hold on to the rest of the body
/// for a while: the reader then ends by itself later, and nobody waits for it.
pub(super) async fn settled<T>(
    handle: JoinHandle<Result<Fed, FeedError>>,
    answer: &Result<T, RegistryError>,
) -> Result<Fed, FeedError> {
    if answer.is_ok() {
        return outcome(handle).await;
    }
    tokio::time::timeout(REFUSED, outcome(handle))
        .await
        .unwrap_or(Err(FeedError::Abandoned))
}

/// How the reading ended.
pub(super) async fn outcome(handle: JoinHandle<Result<Fed, FeedError>>) -> Result<Fed, FeedError> {
    handle.await.unwrap_or(Err(FeedError::Abandoned))
}
