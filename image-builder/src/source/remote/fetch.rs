//! One file at an address: one request at a time, its redirects, and what its answers mean.
//!
//! The token goes to the address's own host only. Where a redirect led is remembered, since it costs a request to ask
//! again, and forgotten when that place refuses: signed addresses expire.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{
    AUTHORIZATION, CONTENT_RANGE, ETAG, HeaderMap, LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Client, Response, StatusCode, Url};
use secrecy::{ExposeSecret as _, SecretString};

use super::reach::Reach;
use crate::source::SourceError;

/// Redirects that are followed for one request.
const MOST_REDIRECTS: usize = 10;

/// Explains a refusal (status and headers) by a reason and a remedy.
pub(crate) type Explain = fn(StatusCode, &HeaderMap) -> (String, String);

/// A file at an address.
pub(crate) struct RemoteFile {
    pub(crate) client: Client,
    /// Where to ask.
    pub(crate) address: Url,
    /// Sent as bearer token to the address's host.
    pub(crate) token: Option<SecretString>,
    /// Words for refusals.
    pub(crate) explain: Explain,
    /// Which addresses may be asked, those of redirects included.
    pub(crate) reach: Reach,
    /// Where the last redirect led.
    pub(crate) resolved: Mutex<Option<Url>>,
    /// Validator by which ranges may be asked for in parallel; absent until known.
    pub(crate) validator: tokio::sync::OnceCell<Option<String>>,
}

/// An answer with content.
pub(crate) struct Answer {
    pub(crate) response: Response,
    /// Offset in the file at which the content begins.
    pub(crate) start: u64,
    /// The file's size in bytes, where told.
    pub(crate) total: Option<u64>,
    /// Whether the server answered with just the range.
    pub(crate) partial: bool,
    /// A strong entity tag.
    pub(crate) validator: Option<String>,
}

/// Why a request brought nothing.
pub(crate) enum Refusal {
    /// It may go better another time.
    Transient {
        reason: String,
        retry_after: Option<Duration>,
    },
    /// It will not.
    Final(SourceError),
}

impl RemoteFile {
    pub(crate) fn new(
        client: Client,
        address: Url,
        token: Option<SecretString>,
        explain: Explain,
    ) -> Self {
        Self {
            client,
            address,
            token,
            explain,
            reach: Reach::Anywhere,
            resolved: Mutex::default(),
            validator: tokio::sync::OnceCell::new(),
        }
    }

    /// Asks for `range`, or for everything.
    pub(crate) async fn get(&self, range: Option<Range<u64>>) -> Result<Answer, Refusal> {
        let remembered = self.remembered();
        let from_memory = remembered.is_some();
        let url = remembered.unwrap_or_else(|| self.address.clone());
        let response = self.follow(url, range.as_ref()).await?;
        if from_memory && is_expired(response.status()) {
            self.remember(None);
            let again = self.follow(self.address.clone(), range.as_ref()).await?;
            return self.answer(again);
        }
        self.answer(response)
    }

    async fn follow(&self, mut url: Url, range: Option<&Range<u64>>) -> Result<Response, Refusal> {
        for _ in 0..MOST_REDIRECTS {
            let response = self.send(url.clone(), range).await?;
            if !response.status().is_redirection() {
                if url.origin() != self.address.origin() {
                    self.remember(Some(url));
                }
                return Ok(response);
            }
            let target = response
                .headers()
                .get(LOCATION)
                .and_then(|value| value.to_str().ok())
                .and_then(|text| url.join(text).ok())
                .ok_or_else(|| self.refused("a redirect without a usable address"))?;
            if url.scheme() == "https" && target.scheme() != "https" {
                return Err(self.refused("a redirect from https to an unprotected address"));
            }
            url = target;
        }
        Err(self.refused("too many redirects"))
    }

    async fn send(&self, url: Url, range: Option<&Range<u64>>) -> Result<Response, Refusal> {
        self.reach.check(&url).map_err(|error| {
            let remedy = "name an address that everybody can reach".to_owned();
            Refusal::Final(self.error(error.to_string(), remedy))
        })?;
        let own_host = url.origin() == self.address.origin();
        let mut request = self.client.get(url);
        if let Some(range) = range.filter(|range| range.end > range.start) {
            request = request.header(RANGE, format!("bytes={}-{}", range.start, range.end - 1));
        }
        if let Some(token) = self.token.as_ref().filter(|_| own_host) {
            request = request.header(AUTHORIZATION, format!("Bearer {}", token.expose_secret()));
        }
        request.send().await.map_err(|error| Refusal::Transient {
            reason: chain(&error.without_url()),
            retry_after: None,
        })
    }

    fn answer(&self, response: Response) -> Result<Answer, Refusal> {
        let status = response.status();
        let headers = response.headers();
        let validator = strong_tag(headers);
        match status {
            StatusCode::PARTIAL_CONTENT => {
                let (start, total) = content_range(headers)
                    .ok_or_else(|| self.refused("a partial answer that does not say which part"))?;
                Ok(Answer {
                    response,
                    start,
                    total,
                    partial: true,
                    validator,
                })
            }
            StatusCode::OK => Ok(Answer {
                start: 0,
                total: response.content_length(),
                response,
                partial: false,
                validator,
            }),
            _ if is_transient(status) => Err(Refusal::Transient {
                reason: format!("it answered {status}"),
                retry_after: retry_after(headers),
            }),
            _ => {
                let (reason, remedy) = (self.explain)(status, headers);
                Err(Refusal::Final(self.error(reason, remedy)))
            }
        }
    }

    /// The final error of this file.
    pub(crate) fn error(&self, reason: String, remedy: String) -> SourceError {
        SourceError::Remote {
            url: shown(&self.address),
            reason,
            remedy,
            cause: None,
        }
    }

    fn refused(&self, reason: &str) -> Refusal {
        Refusal::Final(self.error(
            format!("it sent {reason}"),
            "check the address and the proxies on the way".to_owned(),
        ))
    }

    fn remembered(&self) -> Option<Url> {
        self.resolved
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn remember(&self, url: Option<Url>) {
        *self.resolved.lock().unwrap_or_else(PoisonError::into_inner) = url;
    }
}

/// An address without credentials, query and fragment: signed queries are credentials.
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.set_fragment(None);
    // Neither can fail for addresses that have a host; those without have no credentials.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.to_string()
}

/// An error and what caused it, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn is_expired(status: StatusCode) -> bool {
    matches!(status.as_u16(), 401 | 403 | 404 | 410)
}

fn is_transient(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429) || status.is_server_error()
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse();
    seconds.ok().map(Duration::from_secs)
}

fn strong_tag(headers: &HeaderMap) -> Option<String> {
    let tag = headers.get(ETAG)?.to_str().ok()?;
    (!tag.starts_with("W/")).then(|| tag.to_owned())
}

/// Start and total of `bytes 0-99/1000`.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let start = range.split_once('-')?.0.trim().parse().ok()?;
    Some((start, total.trim().parse().ok()))
}

/// Words for refusals of servers that are not known better.
pub(crate) fn explain_plainly(status: StatusCode, _: &HeaderMap) -> (String, String) {
    let remedy = match status.as_u16() {
        401 | 403 => "it needs a signed address or credentials in it",
        404 | 410 => "check the address",
        416 => "the file is shorter than was said before; run the command again",
        _ => "try to open the address with another program",
    };
    (format!("it answered {status}"), remedy.to_owned())
}
