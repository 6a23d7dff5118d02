//! The bytes of a range, in order, whatever happens to the connections: resumed where they broke, and for large ranges
//! fetched in several parts at a time when the server has shown that it can and that the file stays the same.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use tokio_util::task::AbortOnDropHandle;

use super::fetch::{Answer, Refusal, RemoteFile, chain};
use super::retry;
use crate::source::{ByteStream, SourceError};

/// Bytes per part. With [`PARALLEL`] parts under way a stream holds at most 32 MiB.
pub(crate) const PART: u64 = 4 << 20;
/// Parts of one stream under way.
pub(crate) const PARALLEL: usize = 8;
/// Smaller pieces than this are joined before they are handed on.
const PIECE: usize = 1 << 20;

/// Reads `range` of `file`.
///
/// # Errors
/// When the server refuses the first request for good; later failures are items of the stream.
pub(crate) async fn read(
    file: Arc<RemoteFile>,
    range: Range<u64>,
) -> Result<ByteStream, SourceError> {
    if range.end.saturating_sub(range.start) > 2 * PART {
        let validator = file
            .validator
            .get_or_try_init(|| probe(&file))
            .await?
            .clone();
        if let Some(validator) = validator {
            return Ok(parallel(file, range, validator));
        }
    }
    Ok(pieces(Reader::new(file, range, None)))
}

/// Whether parts may be asked for in parallel: the answer to one byte must be that byte, with a strong entity tag.
async fn probe(file: &Arc<RemoteFile>) -> Result<Option<String>, SourceError> {
    let mut reader = Reader::new(file.clone(), 0..1, None);
    let answer = reader.open().await?;
    Ok(answer.validator.filter(|_| answer.partial))
}

fn parallel(file: Arc<RemoteFile>, range: Range<u64>, validator: String) -> ByteStream {
    let step = usize::try_from(PART).unwrap_or(1 << 22);
    let parts = (range.start..range.end)
        .step_by(step)
        .map(move |start| start..range.end.min(start + PART));
    stream::iter(parts)
        .map(move |part| {
            let reader = Reader::new(file.clone(), part, Some(validator.clone()));
            // A task of its own, so that it goes on while the consumer is busy with earlier parts.
            let task = AbortOnDropHandle::new(tokio::spawn(whole(reader)));
            async move {
                match task.await {
                    Ok(result) => result,
                    Err(error) => Err(SourceError::Remote {
                        url: "a part".to_owned(),
                        reason: error.to_string(),
                        remedy: "run the command again".to_owned(),
                        cause: None,
                    }),
                }
            }
        })
        .buffered(PARALLEL)
        .boxed()
}

async fn whole(mut reader: Reader) -> Result<Bytes, SourceError> {
    let length = usize::try_from(reader.range.end - reader.range.start).unwrap_or_default();
    let mut buffer = BytesMut::with_capacity(length);
    while let Some(bytes) = reader.next().await? {
        buffer.extend_from_slice(&bytes);
    }
    Ok(buffer.freeze())
}

fn pieces(reader: Reader) -> ByteStream {
    stream::try_unfold(
        (reader, VecDeque::new()),
        |(mut reader, mut held)| async move {
            let mut length = 0;
            while length < PIECE {
                match reader.next().await? {
                    Some(bytes) => {
                        length += bytes.len();
                        held.push_back(bytes);
                    }
                    None => break,
                }
            }
            let piece = match held.len() {
                0 => return Ok(None),
                1 => held.pop_front().unwrap_or_default(),
                _ => {
                    let mut joined = BytesMut::with_capacity(length);
                    held.drain(..)
                        .for_each(|bytes: Bytes| joined.extend_from_slice(&bytes));
                    joined.freeze()
                }
            };
            Ok(Some((piece, (reader, held))))
        },
    )
    .into_stream()
    .boxed()
}

/// Reads a range piece by piece over as many requests as it takes.
struct Reader {
    file: Arc<RemoteFile>,
    /// What is still to be read; its start moves.
    range: Range<u64>,
    validator: Option<String>,
    body: Option<(reqwest::Response, u64)>,
    failures: u32,
}

impl Reader {
    fn new(file: Arc<RemoteFile>, range: Range<u64>, validator: Option<String>) -> Self {
        Self {
            file,
            range,
            validator,
            body: None,
            failures: 0,
        }
    }

    /// The next bytes; none at the end of the range.
    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        while self.range.start < self.range.end {
            if self.body.is_none() {
                let answer = self.open().await?;
                let skip = self.range.start.saturating_sub(answer.start);
                self.body = Some((answer.response, skip));
            }
            let Some((response, skip)) = &mut self.body else {
                continue;
            };
            let received = response.chunk().await;
            match received {
                Ok(Some(mut bytes)) => {
                    let dropped = (*skip).min(bytes.len() as u64);
                    *skip -= dropped;
                    bytes = bytes.split_off(usize::try_from(dropped).unwrap_or_default());
                    let wanted = self.range.end - self.range.start;
                    bytes.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
                    if bytes.is_empty() {
                        continue;
                    }
                    self.range.start += bytes.len() as u64;
                    self.failures = 0;
                    return Ok(Some(bytes));
                }
                Ok(None) => self.failed("the connection ended early", None).await?,
                Err(error) => self.failed(&chain(&error.without_url()), None).await?,
            }
        }
        self.body = None;
        Ok(None)
    }

    /// Sends requests until one is answered with content that fits.
    async fn open(&mut self) -> Result<Answer, SourceError> {
        loop {
            match self.file.get(Some(self.range.clone())).await {
                Ok(answer) => {
                    self.check(&answer)?;
                    return Ok(answer);
                }
                Err(Refusal::Final(error)) => return Err(error),
                Err(Refusal::Transient {
                    reason,
                    retry_after,
                }) => self.failed(&reason, retry_after).await?,
            }
        }
    }

    fn check(&self, answer: &Answer) -> Result<(), SourceError> {
        if answer.partial && answer.start != self.range.start {
            return Err(self.file.error(
                format!(
                    "it answered with bytes from {} when asked for bytes from {}",
                    answer.start, self.range.start
                ),
                "its ranges cannot be trusted; download the file with another program".to_owned(),
            ));
        }
        match &self.validator {
            Some(validator) if answer.validator.as_ref() != Some(validator) => {
                Err(SourceError::Changed {
                    path: super::fetch::shown(&self.file.address),
                    what: "its entity tag is another one than before".to_owned(),
                })
            }
            _ => Ok(()),
        }
    }

    /// Counts a failure and waits; gives up after some in a row.
    async fn failed(
        &mut self,
        reason: &str,
        retry_after: Option<std::time::Duration>,
    ) -> Result<(), SourceError> {
        self.body = None;
        self.failures += 1;
        if self.failures >= retry::ATTEMPTS {
            return Err(self.file.error(
                format!(
                    "{} attempts failed, the last one because {reason}",
                    self.failures
                ),
                "check the network and run the command again".to_owned(),
            ));
        }
        tracing::debug!(address = %super::fetch::shown(&self.file.address), reason, "trying again");
        tokio::time::sleep(retry::pause(self.failures + 1, retry_after)).await;
        Ok(())
    }
}
