//! Chunks of a blob: filled, hashed, compressed where that is wanted, and handed on one chunk late, so that whoever sends
//! them never has all of a blob that is not what it should be.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::mpsc::Sender;

use super::feed::{Boundaries, Fed, FeedError, Order, Start};
use crate::content::Encoding;
use crate::content::encoding::Encoder;
use crate::digest::{Digest, Hasher};
use crate::registry::Item;

/// Bytes of one chunk. Measured with 4 GiB over loopback: 64 KiB cost a third more, above 512 KiB nothing is gained.
const CHUNK: usize = 512 << 10;
/// Chunks that may wait to be sent.
pub(super) const AHEAD: usize = 3;
/// Chunks that are kept for use again: those that wait, those with the connection, and the one being filled.
const POOLED: usize = AHEAD + 4;
/// Chunks of remote sources that are at least this large are passed on without being copied.
const WORTH_PASSING: usize = 64 << 10;

/// Collects bytes into chunks, hashes them and hands them on, one chunk late.
pub(super) struct Output {
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
    pub(super) fn new(
        sender: Sender<Item>,
        order: &Order,
        boundaries: Boundaries,
    ) -> Result<Self, FeedError> {
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
    pub(super) fn room(&mut self) -> &mut [u8] {
        let end = (self.used as u64 + self.until_boundary()).min(self.chunk.len() as u64);
        self.chunk
            .get_mut(self.used..usize::try_from(end).unwrap_or(usize::MAX))
            .unwrap_or_default()
    }

    /// Bytes until the chunk must end because a segment does.
    fn until_boundary(&self) -> u64 {
        let position = self.hasher.length() + self.used as u64;
        self.segment
            .map_or(u64::MAX / 2, |segment| segment - position % segment)
    }

    pub(super) fn filled(&mut self, count: usize) -> Result<(), FeedError> {
        let ends = self.segment.is_some() && count as u64 == self.until_boundary();
        self.used += count;
        if ends || self.used == self.chunk.len() {
            self.flush()
        } else {
            Ok(())
        }
    }

    pub(super) fn bytes(&mut self, mut bytes: &[u8]) -> Result<(), FeedError> {
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
    pub(super) fn pass(&mut self, bytes: Bytes) -> Result<(), FeedError> {
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

    pub(super) fn finish(mut self, expected: Option<Digest>) -> Result<Fed, FeedError> {
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
