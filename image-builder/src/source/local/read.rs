//! Positional reads of about 1 MiB in the blocking pool, into buffers that are used again: fresh memory costs a page
//! fault per 4 KiB, which is a good part of what hashing costs.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;

use super::{Entry, platform};
use crate::source::{ByteStream, FileIdentity, SourceError};

/// Bytes per read.
const CHUNK: u64 = 1 << 20;
/// Reads of one stream under way at a time: one is read while another is hashed and sent.
const AHEAD: usize = 2;
/// Buffers kept for later; more are made when needed and freed afterwards.
const KEPT_BUFFERS: usize = 16;

/// Buffers of [`CHUNK`] bytes that are free.
#[derive(Debug, Default)]
pub(super) struct BufferPool {
    free: Mutex<Vec<Vec<u8>>>,
}

impl BufferPool {
    fn take(&self) -> Vec<u8> {
        let kept = self
            .free
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        kept.unwrap_or_else(|| vec![0; usize::try_from(CHUNK).unwrap_or(1 << 20)])
    }

    fn give_back(&self, buffer: Vec<u8>) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT_BUFFERS {
            free.push(buffer);
        }
    }
}

/// The filled front of a buffer; goes back to its pool when the last reader drops it.
struct Filled {
    buffer: Vec<u8>,
    length: usize,
    pool: Arc<BufferPool>,
}

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        self.buffer.get(..self.length).unwrap_or_default()
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.buffer));
    }
}

/// An open file, known to be the version that was listed.
pub(super) struct OpenFile {
    path: String,
    file: File,
    listed: FileIdentity,
    buffers: Arc<BufferPool>,
}

impl OpenFile {
    pub(super) fn open(
        path: String,
        entry: &Entry,
        buffers: Arc<BufferPool>,
    ) -> Result<Self, SourceError> {
        let file = File::open(&entry.place).map_err(|cause| SourceError::File {
            action: "open",
            path: entry.place.display().to_string(),
            cause,
        })?;
        let opened = Self {
            path,
            file,
            listed: entry.identity,
            buffers,
        };
        opened.check_unchanged()?;
        Ok(opened)
    }

    /// Fails when the file is not the listed version any more.
    fn check_unchanged(&self) -> Result<(), SourceError> {
        let metadata = self.file.metadata().map_err(|cause| self.failed(cause))?;
        let now = platform::identity(&metadata);
        if now == self.listed {
            return Ok(());
        }
        let what = if now.size != self.listed.size {
            format!("it had {} bytes and now has {}", self.listed.size, now.size)
        } else if (now.device, now.inode) != (self.listed.device, self.listed.inode) {
            "another file took its place".to_owned()
        } else {
            "it was written to".to_owned()
        };
        Err(SourceError::Changed {
            path: self.path.clone(),
            what,
        })
    }

    fn chunk(&self, range: Range<u64>) -> Result<Bytes, SourceError> {
        let mut buffer = self.buffers.take();
        let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let mut length = 0;
        while length < wanted {
            let Some(rest) = buffer.get_mut(length..wanted) else {
                break;
            };
            match platform::read_at(&self.file, rest, range.start + length as u64) {
                Ok(0) => {
                    return Err(SourceError::Changed {
                        path: self.path.clone(),
                        what: format!("it ends after {} bytes", range.start + length as u64),
                    });
                }
                Ok(count) => length += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(self.failed(cause)),
            }
        }
        Ok(Bytes::from_owner(Filled {
            buffer,
            length,
            pool: self.buffers.clone(),
        }))
    }

    fn failed(&self, cause: io::Error) -> SourceError {
        SourceError::File {
            action: "read",
            path: self.path.clone(),
            cause,
        }
    }
}

/// The bytes of `range`, then a last look at the file: when it changed meanwhile, the stream ends with an error.
pub(super) fn stream(file: Arc<OpenFile>, range: Range<u64>) -> ByteStream {
    let last_look = file.clone();
    let chunks = (range.start..range.end)
        .step_by(usize::try_from(CHUNK).unwrap_or(1 << 20))
        .map(move |start| start..range.end.min(start + CHUNK));
    stream::iter(chunks)
        .map(move |chunk| {
            let file = file.clone();
            let work = tokio::task::spawn_blocking(move || file.chunk(chunk));
            async move { work.await.unwrap_or_else(|error| Err(gone(error))) }
        })
        .buffered(AHEAD)
        .chain(
            stream::once(async move { last_look.check_unchanged() }).filter_map(
                |result| async move {
                    match result {
                        Ok(()) => None,
                        Err(error) => Some(Err(error)),
                    }
                },
            ),
        )
        .boxed()
}

fn gone(error: tokio::task::JoinError) -> SourceError {
    SourceError::File {
        action: "read",
        path: "a file".to_owned(),
        cause: io::Error::other(error),
    }
}
