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

use crate::content::encoding::{Encoder, EncodingError};
use crate::content::{Blob, Encoding, Part};
use crate::digest::{Digest, Hasher};
use crate::registry::{Item, RegistryError};
use crate::source::{FileIdentity, Source, SourceError};

/// Bytes of one chunk. Measured with 4 GiB over loopback: 64 KiB cost a third more, above 512 KiB nothing is gained.
const CHUNK: usize = 512 << 10;
/// Chunks that may wait to be sent.
const AHEAD: usize = 3;
/// Chunks that are kept for use again: those that wait, those with the connection, and the one being filled.
const POOLED: usize = AHEAD + 4;
/// Chunks of remote sources that are at least this large are passed on without being copied.
const WORTH_PASSING: usize = 64 << 10;
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

    fn add(&self, start: Start) {
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

/// Collects bytes into chunks, hashes them and hands them on, one chunk late.
struct Output {
    sender: Sender<Item>,
    hasher: Hasher,
    segment: Option<u64>,
    boundaries: Boundaries,
    pool: Pool,
    chunk: Vec<u8>,
    used: usize,
    held: Option<Bytes>,
    /// For blobs that are compressed: `hasher` is then that of what comes out, this one of what goes in.
    encoder: Option<(Encoder, Hasher)>,
}

impl Output {
    fn new(sender: Sender<Item>, order: &Order, boundaries: Boundaries) -> Result<Self, FeedError> {
        let pool = Pool::default();
        let encoder = match order.blob.encoding {
            Encoding::Plain => None,
            encoding => Some((
                Encoder::new(encoding).map_err(FeedError::Encoding)?,
                Hasher::default(),
            )),
        };
        Ok(Self {
            encoder,
            sender,
            hasher: order.start.hasher.clone(),
            segment: order.segment,
            boundaries,
            chunk: pool.take(),
            used: 0,
            held: None,
            pool,
        })
    }

    /// Where the next bytes may be written; never empty.
    fn room(&mut self) -> &mut [u8] {
        let end = (self.used as u64 + self.until_boundary()).min(self.chunk.len() as u64);
        self.chunk
            .get_mut(self.used..index(end))
            .unwrap_or_default()
    }

    /// Bytes until the chunk must end because a segment does.
    fn until_boundary(&self) -> u64 {
        let position = self.hasher.length() + self.used as u64;
        self.segment
            .map_or(u64::MAX / 2, |segment| segment - position % segment)
    }

    fn filled(&mut self, count: usize) -> Result<(), FeedError> {
        let ends = self.segment.is_some() && count as u64 == self.until_boundary();
        self.used += count;
        if ends || self.used == self.chunk.len() {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn bytes(&mut self, mut bytes: &[u8]) -> Result<(), FeedError> {
        while !bytes.is_empty() {
            let room = self.room();
            let count = room.len().min(bytes.len());
            let (now, later) = bytes.split_at(count);
            if let Some(room) = room.get_mut(..count) {
                room.copy_from_slice(now);
            }
            bytes = later;
            self.filled(count)?;
        }
        Ok(())
    }

    /// Hands bytes on as they are where that is cheaper than copying them.
    fn pass(&mut self, bytes: Bytes) -> Result<(), FeedError> {
        if bytes.len() < WORTH_PASSING || self.segment.is_some() || self.encoder.is_some() {
            return self.bytes(&bytes);
        }
        self.flush()?;
        self.hasher.update(&bytes);
        self.hold(bytes)
    }

    fn flush(&mut self) -> Result<(), FeedError> {
        if self.used == 0 {
            return Ok(());
        }
        if self.encoder.is_some() {
            return self.encode();
        }
        self.hasher
            .update(self.chunk.get(..self.used).unwrap_or_default());
        let chunk = std::mem::replace(&mut self.chunk, self.pool.take());
        let chunk = Pooled {
            chunk,
            used: self.used,
            pool: self.pool.clone(),
        };
        self.used = 0;
        let position = self.hasher.length();
        if self
            .segment
            .is_some_and(|segment| position.is_multiple_of(segment))
        {
            self.boundaries.add(Start {
                offset: position,
                hasher: self.hasher.clone(),
            });
        }
        self.hold(Bytes::from_owner(chunk))
    }

    /// Compresses what was collected.
    fn encode(&mut self) -> Result<(), FeedError> {
        let Some((encoder, content)) = &mut self.encoder else {
            return Ok(());
        };
        let chunk = std::mem::replace(&mut self.chunk, self.pool.take());
        let bytes = Bytes::from_owner(Pooled {
            chunk,
            used: self.used,
            pool: self.pool.clone(),
        });
        self.used = 0;
        content.update(&bytes);
        let encoded = encoder.push(bytes).map_err(FeedError::Encoding)?;
        self.encoded(encoded)
    }

    fn encoded(&mut self, bytes: Bytes) -> Result<(), FeedError> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.hasher.update(&bytes);
        self.hold(bytes)
    }

    fn hold(&mut self, bytes: Bytes) -> Result<(), FeedError> {
        match self.held.replace(bytes) {
            Some(before) => self.send(Some(before)),
            None => Ok(()),
        }
    }

    fn send(&self, item: Item) -> Result<(), FeedError> {
        self.sender
            .blocking_send(item)
            .map_err(|_| FeedError::Abandoned)
    }

    fn finish(mut self, expected: Option<Digest>) -> Result<Fed, FeedError> {
        self.flush()?;
        let mut content_digest = None;
        if let Some((encoder, content)) = self.encoder.take() {
            let rest = encoder.finish().map_err(FeedError::Encoding)?;
            self.encoded(rest)?;
            content_digest = Some(content.finish());
        }
        let size = self.hasher.length();
        let digest = std::mem::take(&mut self.hasher).finish();
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(FeedError::Mismatch {
                expected,
                actual: digest,
            });
        }
        if let Some(last) = self.held.take() {
            self.send(Some(last))?;
        }
        // Bodies of known length are complete without the end mark, and nobody waits for it.
        let _ = self.sender.blocking_send(None);
        Ok(Fed {
            digest,
            content_digest: content_digest.unwrap_or(digest),
            size,
        })
    }
}

/// Chunks that were sent and can be filled again.
#[derive(Clone, Default)]
struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

impl Pool {
    fn take(&self) -> Vec<u8> {
        let free = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        free.unwrap_or_else(|| vec![0; CHUNK])
    }

    fn give(&self, chunk: Vec<u8>) {
        let mut free = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < POOLED {
            free.push(chunk);
        }
    }
}

/// A chunk that goes back to its pool when nobody needs it any more.
struct Pooled {
    chunk: Vec<u8>,
    used: usize,
    pool: Pool,
}

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        self.chunk.get(..self.used).unwrap_or_default()
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.chunk));
    }
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
