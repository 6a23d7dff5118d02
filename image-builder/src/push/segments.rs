//! A blob in several `PATCH`es, for hosts or proxies that limit the size of bodies. What has arrived is asked for after a
//! failure, and only the segment that was cut is sent again.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc::channel;

use super::blob::Way;
use super::feed::{self, Fed, Feed, Start};
use super::send::Attempt;
use crate::content::Encoding;
use crate::registry::{Patched, RegistryError, Repository, RequestBody, StreamBody, Upload};

/// Sends a blob in segments of `size` bytes, or of what the registry wants at least.
pub(super) async fn send(
    way: &Way<'_>,
    repository: &Repository,
    upload: Upload,
    size: u64,
    known: Option<&Fed>,
) -> Result<Fed, Attempt> {
    let size = size.max(upload.chunk_minimum.unwrap_or_default()).max(1);
    let mut sending = Sending {
        way,
        repository,
        upload,
        size,
        known,
        start: Start::default(),
    };
    let mut next = 2;
    loop {
        let error = match sending.send_rest().await {
            Ok((patched, fed)) => {
                return way.close(repository, &sending.upload, patched, fed).await;
            }
            Err(Attempt::Final(error)) => return Err(Attempt::Final(error)),
            Err(Attempt::Registry(error)) => error,
        };
        // Only what may work the second time, and only where the registry still has what it acknowledged.
        let Some(wait) = repository.client().retry().wait(next, error.class()) else {
            return Err(Attempt::Registry(error));
        };
        tokio::time::sleep(wait).await;
        if !sending.find_start().await {
            return Err(Attempt::Registry(error));
        }
        next += 1;
    }
}

struct Sending<'a> {
    way: &'a Way<'a>,
    repository: &'a Repository,
    upload: Upload,
    size: u64,
    known: Option<&'a Fed>,
    /// What the registry has acknowledged.
    start: Start,
}

impl Sending<'_> {
    /// Sends everything that was not acknowledged.
    async fn send_rest(&mut self) -> Result<(Patched, Fed), Attempt> {
        let expected = self.known.map(|fed| fed.digest);
        let mut feed = self.way.feed(expected, self.start.clone(), Some(self.size));
        let total = (self.way.job.blob.encoding == Encoding::Plain)
            .then(|| self.way.job.blob.content_size());
        let mut patched = Patched::Added;
        let mut waiting = next_bytes(&mut feed).await;
        while let Some(first) = waiting.take() {
            let answer = self.segment(&mut feed, first, total).await;
            match answer {
                Ok((answer, following)) => {
                    patched = answer;
                    waiting = following;
                    if let Some(start) = feed.boundaries.at(self.start.offset) {
                        self.start = start;
                    }
                }
                Err(error) => {
                    let Feed { items, outcome, .. } = feed;
                    drop(items);
                    let answer = Err(error);
                    let fed = feed::settled(outcome, &answer).await;
                    return self.way.judge(answer, fed);
                }
            }
        }
        let fed = feed::outcome(feed.outcome).await;
        self.way.judge(Ok(patched), fed)
    }

    /// Sends one segment, which begins with `first`; returns the first bytes of the next one, if there is one.
    async fn segment(
        &mut self,
        feed: &mut Feed,
        first: Bytes,
        total: Option<u64>,
    ) -> Result<(Patched, Option<Bytes>), RegistryError> {
        let offset = self.start.offset;
        let limit = self.size - offset % self.size;
        let length = total.map(|total| limit.min(total - offset));
        let (sender, items) = channel(2);
        let body = StreamBody::new(items, length, self.way.on_sent());
        let sent = Arc::new(AtomicU64::new(offset));
        let forward = forward(feed, first, limit, sender, Arc::clone(&sent));
        let part = length.map(|length| offset..offset + length);
        let end = || sent.load(Ordering::Relaxed);
        let patch = self
            .repository
            .patch(&mut self.upload, part, RequestBody::Stream(body), end);
        let (answer, following) = tokio::join!(patch, forward);
        let answer = answer?;
        self.start.offset = sent.load(Ordering::Relaxed);
        Ok((answer, following))
    }

    /// Where to go on after a failure; false where the upload is lost.
    async fn find_start(&mut self) -> bool {
        let Ok(has) = self.repository.upload_length(&mut self.upload).await else {
            return false;
        };
        has == Some(self.start.offset)
    }
}

/// Hands on the bytes of one segment; returns the first bytes of the next one.
async fn forward(
    feed: &mut Feed,
    first: Bytes,
    limit: u64,
    sender: tokio::sync::mpsc::Sender<Option<Bytes>>,
    sent: Arc<AtomicU64>,
) -> Option<Bytes> {
    let mut left = limit;
    let mut bytes = Some(first);
    while let Some(now) = bytes {
        let length = now.len() as u64;
        if sender.send(Some(now)).await.is_err() {
            return None;
        }
        sent.fetch_add(length, Ordering::Relaxed);
        // The reader ends its chunks at the ends of segments.
        left = left.saturating_sub(length);
        bytes = next_bytes(feed).await;
        if left == 0 {
            break;
        }
    }
    // A body of known length needs no end mark.
    let _ = sender.send(None).await;
    bytes
}

async fn next_bytes(feed: &mut Feed) -> Option<Bytes> {
    feed.items.recv().await.flatten()
}
