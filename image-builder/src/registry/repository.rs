//! One repository: how it is asked, and its blobs as far as they are read.

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use http::header::{ACCEPT, CONTENT_RANGE, ETAG, IF_MATCH, IF_RANGE, RANGE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use hyper::body::Incoming;
use serde::Deserialize;
use std::ops::Range;
use url::Url;

use super::answer::{content_digest, content_length, text};
use super::auth::{Registry, Scope};
use super::client::{Client, transport_error};
use super::error::RegistryError;
use super::retry::retrying;
use super::transport::Call;
use crate::digest::Digest;
use crate::oci::{Descriptor, Document};

/// The bytes of a blob or of a part of it, as they come.
pub type BlobStream = BoxStream<'static, Result<Bytes, RegistryError>>;

/// A repository of a registry. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Repository {
    client: Client,
    host: String,
    name: String,
    base: Url,
}

/// A blob, or a part of it, that is on its way.
pub struct BlobAnswer {
    /// Whether the answer is the part that was asked for; otherwise it is the whole blob.
    pub is_partial: bool,
    /// What tells this version of the blob's storage from others, for further ranges.
    pub etag: Option<String>,
    /// Bytes that will come, where the registry says so.
    pub length: Option<u64>,
    /// The bytes.
    pub stream: BlobStream,
}

impl Repository {
    pub(super) fn new(client: Client, host: &str, name: &str, base: Url) -> Self {
        Self {
            client,
            host: host.to_owned(),
            name: name.to_owned(),
            base,
        }
    }

    /// The registry's host as people write it.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository's name at its registry.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The client that this repository is reached by.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// The size of a blob, in bytes, or `None` where the repository does not have it.
    ///
    /// # Errors
    /// When the registry cannot be asked.
    pub async fn blob_size(&self, digest: Digest) -> Result<Option<u64>, RegistryError> {
        let action = format!("look for the blob {digest} in {}", self.name);
        let url = self.url(&format!("blobs/{digest}"), &action)?;
        let response = self
            .ask(
                &action,
                &[self.pull()],
                || Call::new(Method::HEAD, url.clone()),
                &[404],
            )
            .await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        // A registry that does not say the size cannot be trusted to have all of it: zero differs from every blob but
        // the empty one.
        Ok(Some(content_length(response.headers()).unwrap_or_default()))
    }

    /// Begins to read a blob, or the bytes of `range`; `etag` is that of an earlier answer for the same blob. Nothing is
    /// verified here: the caller hashes what comes.
    ///
    /// # Errors
    /// When the registry refuses or does not have it. A registry whose blob has changed since `etag` answers with the
    /// whole blob or with 412.
    pub async fn read_blob(
        &self,
        digest: Digest,
        range: Option<Range<u64>>,
        etag: Option<&str>,
    ) -> Result<BlobAnswer, RegistryError> {
        let action = format!("read the blob {digest} of {}", self.name);
        let headers = self.range_headers(range.as_ref(), etag, &action)?;
        let url = self.url(&format!("blobs/{digest}"), &action)?;
        let call = || {
            let mut call = Call::new(Method::GET, url.clone());
            call.headers = headers.clone();
            call
        };
        let response = self.ask_once(&action, &[self.pull()], call(), &[]).await?;
        let is_partial = self.check_partial(&response, range.as_ref(), &action)?;
        let headers = response.headers();
        let (etag, length) = (
            text(headers, &ETAG).map(str::to_owned),
            content_length(headers),
        );
        let host = self.host.clone();
        let stream = self
            .client
            .transport()
            .stream(response.into_body())
            .map(move |item| item.map_err(|cause| transport_error(&action, &host, cause)))
            .boxed();
        Ok(BlobAnswer {
            is_partial,
            etag,
            length,
            stream,
        })
    }

    /// Reads a small blob into memory and verifies it.
    ///
    /// # Errors
    /// When it cannot be read, or is not what the descriptor says.
    pub async fn read_document(&self, descriptor: &Descriptor) -> Result<Document, RegistryError> {
        let action = format!("read the blob {} of {}", descriptor.digest, self.name);
        let url = self.url(&format!("blobs/{}", descriptor.digest), &action)?;
        let bytes = retrying(self.client.retry(), || async {
            let call = Call::new(Method::GET, url.clone());
            let response = self.ask_once(&action, &[self.pull()], call, &[]).await?;
            self.collect(&action, response).await
        })
        .await?;
        let document = Document::new(&descriptor.media_type, bytes);
        self.verified(document, Some(descriptor.digest), "a blob")
    }

    /// One page of a list, or `None` for 404.
    pub(super) async fn page(
        &self,
        action: &str,
        url: &Url,
        accept: Option<&'static str>,
    ) -> Result<Option<(HeaderMap, Bytes)>, RegistryError> {
        retrying(self.client.retry(), || async {
            let mut call = Call::new(Method::GET, url.clone());
            if let Some(accept) = accept {
                call = call.header(ACCEPT, HeaderValue::from_static(accept));
            }
            let response = self.ask_once(action, &[self.pull()], call, &[404]).await?;
            if response.status() == StatusCode::NOT_FOUND {
                return Ok(None);
            }
            let headers = response.headers().clone();
            Ok(Some((headers, self.collect(action, response).await?)))
        })
        .await
    }

    /// Sends a request that may be repeated; answers other than success and those in `accepted` are errors.
    pub(super) async fn ask(
        &self,
        action: &str,
        scopes: &[Scope],
        call: impl Fn() -> Call,
        accepted: &[u16],
    ) -> Result<Response<Incoming>, RegistryError> {
        retrying(self.client.retry(), || {
            self.ask_once(action, scopes, call(), accepted)
        })
        .await
    }

    /// Sends a request once.
    pub(super) async fn ask_once(
        &self,
        action: &str,
        scopes: &[Scope],
        call: Call,
        accepted: &[u16],
    ) -> Result<Response<Incoming>, RegistryError> {
        let registry = Registry {
            host: &self.host,
            base: &self.base,
            repository: &self.name,
        };
        let response = self.client.call(action, &registry, scopes, call).await?;
        let status = response.status();
        if status.is_success() || accepted.contains(&status.as_u16()) {
            return Ok(response);
        }
        Err(self.client.refusal(action, &self.host, response).await)
    }

    pub(super) async fn collect(
        &self,
        action: &str,
        response: Response<Incoming>,
    ) -> Result<Bytes, RegistryError> {
        self.client
            .transport()
            .collect(response.into_body())
            .await
            .map_err(|cause| transport_error(action, &self.host, cause))
    }

    pub(super) fn pull(&self) -> Scope {
        Scope::Pull(self.name.clone())
    }

    pub(super) fn push(&self) -> Scope {
        Scope::Push(self.name.clone())
    }

    pub(super) const fn base(&self) -> &Url {
        &self.base
    }

    pub(super) fn url(&self, path: &str, action: &str) -> Result<Url, RegistryError> {
        self.base
            .join(&format!("{}/{path}", self.name))
            .map_err(|_| self.protocol(action, format!("`{path}` makes no address")))
    }

    pub(super) fn protocol(&self, action: &str, what: String) -> RegistryError {
        RegistryError::Protocol {
            action: action.to_owned(),
            host: self.host.clone(),
            what,
        }
    }

    pub(super) fn parse<'a, T: Deserialize<'a>>(
        &self,
        what: &str,
        bytes: &'a [u8],
    ) -> Result<T, RegistryError> {
        serde_json::from_slice(bytes).map_err(|cause| RegistryError::Document {
            what: what.to_owned(),
            host: self.host.clone(),
            cause,
        })
    }

    /// An error where an answer names another digest than what was sent.
    pub(super) fn check_digest(
        &self,
        headers: &HeaderMap,
        expected: Digest,
        what: &str,
    ) -> Result<(), RegistryError> {
        match content_digest(headers) {
            Some(actual) if actual != expected => Err(self.differs(what, expected, actual)),
            _ => Ok(()),
        }
    }

    fn differs(&self, what: &str, expected: Digest, actual: Digest) -> RegistryError {
        RegistryError::Digest {
            what: format!("{what} of {}", self.name),
            host: self.host.clone(),
            expected: Box::new(expected),
            actual: Box::new(actual),
        }
    }

    pub(super) fn verified(
        &self,
        document: Document,
        expected: Option<Digest>,
        what: &str,
    ) -> Result<Document, RegistryError> {
        match expected {
            Some(expected) if expected != document.digest => {
                Err(self.differs(what, expected, document.digest))
            }
            _ => Ok(document),
        }
    }

    pub(super) fn header_value(
        &self,
        text: &str,
        action: &str,
    ) -> Result<HeaderValue, RegistryError> {
        HeaderValue::from_str(text)
            .map_err(|_| self.protocol(action, format!("`{text}` cannot be sent as a header")))
    }

    fn range_headers(
        &self,
        range: Option<&Range<u64>>,
        etag: Option<&str>,
        action: &str,
    ) -> Result<HeaderMap, RegistryError> {
        let mut headers = HeaderMap::new();
        let Some(range) = range else {
            return Ok(headers);
        };
        let text = format!("bytes={}-{}", range.start, range.end.saturating_sub(1));
        headers.insert(RANGE, self.header_value(&text, action)?);
        if let Some(etag) = etag {
            // A weak validator may not be used for ranges.
            let name: HeaderName = if etag.starts_with("W/") {
                IF_MATCH
            } else {
                IF_RANGE
            };
            if name == IF_RANGE {
                headers.insert(name, self.header_value(etag, action)?);
            }
        }
        Ok(headers)
    }

    /// Whether an answer is the part that was asked for. A part of something else is an error: it would be written to the
    /// wrong place.
    fn check_partial(
        &self,
        response: &Response<Incoming>,
        range: Option<&Range<u64>>,
        action: &str,
    ) -> Result<bool, RegistryError> {
        if response.status() != StatusCode::PARTIAL_CONTENT {
            return Ok(false);
        }
        let Some(range) = range else {
            return Err(self.protocol(
                action,
                "it answers with a part, though all was asked for".to_owned(),
            ));
        };
        let got = text(response.headers(), &CONTENT_RANGE).unwrap_or_default();
        let expected = format!("bytes {}-{}/", range.start, range.end.saturating_sub(1));
        if got.starts_with(&expected) {
            return Ok(true);
        }
        Err(self.protocol(
            action,
            format!("it answers with the part `{got}`, not `{expected}…`"),
        ))
    }
}
