//! The bytes of a blob: parallel parts by the library, continued here where a connection breaks for good.

use std::num::NonZero;
use std::ops::Range;

use azure_core::http::StatusCode;
use azure_storage_blob::models::BlobClientDownloadOptions;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};

use super::Listed;
use crate::source::SourceError;
use crate::source::remote::retry;

/// Bytes per part; the library keeps up to twice [`PARALLEL`] of them.
const PART: NonZero<usize> = NonZero::<usize>::MIN.saturating_add((4 << 20) - 1);
/// Parts of one stream under way.
const PARALLEL: NonZero<usize> = NonZero::<usize>::MIN.saturating_add(3);

type Body = stream::BoxStream<'static, azure_core::Result<Bytes>>;

struct Reader {
    blob: Listed,
    range: Range<u64>,
    body: Option<Body>,
    failures: u32,
}

/// The bytes of `range`, read at the version that was listed.
pub(super) fn stream(
    blob: Listed,
    range: Range<u64>,
) -> impl Stream<Item = Result<Bytes, SourceError>> + Send + 'static {
    let reader = Reader {
        blob,
        range,
        body: None,
        failures: 0,
    };
    stream::try_unfold(reader, |mut reader| async move {
        Ok(reader.next().await?.map(|bytes| (bytes, reader)))
    })
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        while self.range.start < self.range.end {
            let received = match &mut self.body {
                Some(body) => body.next().await,
                None => match self.open().await {
                    Ok(body) => {
                        self.body = Some(body);
                        continue;
                    }
                    Err(error) => Some(Err(error)),
                },
            };
            match received {
                Some(Ok(mut bytes)) => {
                    let wanted = self.range.end - self.range.start;
                    bytes.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
                    if bytes.is_empty() {
                        continue;
                    }
                    self.range.start += bytes.len() as u64;
                    self.failures = 0;
                    return Ok(Some(bytes));
                }
                Some(Err(error)) => self.failed(&error).await?,
                None => {
                    let early = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                    self.failed(&early.into()).await?;
                }
            }
        }
        Ok(None)
    }

    async fn open(&mut self) -> azure_core::Result<Body> {
        let options = BlobClientDownloadOptions {
            range: Some(self.range.clone().into()),
            if_match: self.blob.etag.clone(),
            parallel: Some(PARALLEL),
            partition_size: Some(PART),
            ..BlobClientDownloadOptions::default()
        };
        Ok(self.blob.client.download(Some(options)).await?.body.boxed())
    }

    /// Counts a failure and waits; gives up after some in a row, and at once when waiting cannot help.
    async fn failed(&mut self, error: &azure_core::Error) -> Result<(), SourceError> {
        self.body = None;
        self.failures += 1;
        let may_pass = match error.http_status() {
            Some(status) => {
                matches!(
                    status,
                    StatusCode::RequestTimeout | StatusCode::TooManyRequests
                ) || u16::from(status) >= 500
            }
            None => true,
        };
        if !may_pass || self.failures >= retry::ATTEMPTS {
            return Err(failed(&self.blob.shown, error));
        }
        tokio::time::sleep(retry::pause(self.failures + 1, None)).await;
        Ok(())
    }
}

/// What went wrong at `place`, in words that say what to do.
pub(super) fn failed(place: &str, error: &azure_core::Error) -> SourceError {
    let status = error.http_status().map(u16::from);
    if status == Some(412) {
        return SourceError::Changed {
            path: place.to_owned(),
            what: "its entity tag is another one than when it was listed".to_owned(),
        };
    }
    let (reason, remedy) = match status {
        Some(404) => (
            "there is no such container or blob".to_owned(),
            "check the account, the container and the prefix",
        ),
        Some(401 | 403) => (
            format!("access was refused ({})", code(error)),
            "set AZURE_STORAGE_SAS_TOKEN to a signature with read and list permission, or give the identity the role \
             Storage Blob Data Reader",
        ),
        _ => (
            first_line(error),
            "check the network, AZURE_STORAGE_BLOB_ENDPOINT and the credentials (AZURE_STORAGE_SAS_TOKEN or `az login`)",
        ),
    };
    SourceError::Remote {
        url: place.to_owned(),
        reason,
        remedy: remedy.to_owned(),
        cause: None,
    }
}

/// The service's own code for the refusal; its answer as a whole is XML over several lines.
fn code(error: &azure_core::Error) -> String {
    let text = error.to_string();
    let named = text
        .split_once("<Code>")
        .and_then(|(_, rest)| rest.split_once("</Code>"));
    named.map_or_else(|| first_line(error), |(code, _)| code.to_owned())
}

fn first_line(error: &azure_core::Error) -> String {
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}
