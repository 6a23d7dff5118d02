//! Uploads of blobs: opened, filled in one of three forms, closed with the digest.
//!
//! The address of an upload is the registry's own affair: it is used as it comes, after every answer the new one.

use http::header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use url::Url;

use super::answer::{CHUNK_MINIMUM, range_end, text};
use super::auth::Scope;
use super::error::RegistryError;
use super::repository::Repository;
use super::transport::{Call, RequestBody};
use crate::digest::Digest;

const BYTES: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// An upload that a registry has opened.
#[derive(Debug)]
pub(crate) struct Upload {
    location: Url,
    /// The smallest part that the registry takes, in bytes; the last may be smaller.
    pub(crate) chunk_minimum: Option<u64>,
}

/// What a registry did about a blob of another repository.
#[derive(Debug)]
pub(crate) enum Mount {
    /// The blob is there now.
    Mounted,
    /// It is not, but an upload was opened for it.
    Opened(Upload),
    /// It is not.
    Refused,
}

/// What a registry did about a part of a blob.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Patched {
    /// It was added.
    Added,
    /// The registry took the blob for complete and stored it under this digest, if it says which.
    Created(Option<Digest>),
}

impl Repository {
    /// Opens an upload. May be repeated: an upload that is never filled goes away by itself.
    pub(crate) async fn open_upload(&self) -> Result<Upload, RegistryError> {
        let action = format!("open an upload in {}", self.name());
        let url = self.url("blobs/uploads/", &action)?;
        let call = || Call::new(Method::POST, url.clone());
        let response = self.ask(&action, &[self.push()], call, &[]).await?;
        self.opened(&url, response.headers(), &action)
    }

    /// Cancels an upload; a failure changes nothing for us.
    pub(crate) async fn cancel_upload(&self, upload: Upload) {
        let action = format!("cancel an upload in {}", self.name());
        let call = Call::new(Method::DELETE, upload.location);
        if let Err(error) = self.ask_once(&action, &[self.push()], call, &[404]).await {
            tracing::debug!(%error, "an upload could not be cancelled");
        }
    }

    /// Asks for a blob of another repository of the same registry.
    pub(crate) async fn mount(&self, digest: Digest, from: &str) -> Result<Mount, RegistryError> {
        let action = format!("mount the blob {digest} of {from} in {}", self.name());
        let mut url = self.url("blobs/uploads/", &action)?;
        url.query_pairs_mut()
            .append_pair("mount", &digest.to_string())
            .append_pair("from", from);
        let scopes = [self.push(), Scope::Pull(from.to_owned())];
        let call = || Call::new(Method::POST, url.clone());
        // Whoever may not read the source may still upload: that is no reason to fail.
        let response = self
            .ask(&action, &scopes, call, &[400, 401, 403, 404, 405])
            .await?;
        match response.status() {
            StatusCode::CREATED => {
                self.check_digest(response.headers(), digest, "a mounted blob")?;
                Ok(Mount::Mounted)
            }
            StatusCode::ACCEPTED => self
                .opened(&url, response.headers(), &action)
                .map(Mount::Opened),
            _ => Ok(Mount::Refused),
        }
    }

    /// Sends the whole of a blob, or the part that begins at `offset`, and checks what the registry says it has.
    /// `end` is asked for after the body was sent: the total length of what the upload must then have.
    pub(crate) async fn patch(
        &self,
        upload: &mut Upload,
        part: Option<std::ops::Range<u64>>,
        body: RequestBody,
        end: impl Fn() -> u64,
    ) -> Result<Patched, RegistryError> {
        let action = format!("upload a blob to {}", self.name());
        let mut call = Call::new(Method::PATCH, upload.location.clone())
            .header(CONTENT_TYPE, BYTES)
            .body(body);
        if let Some(part) = part {
            let range = format!("{}-{}", part.start, part.end.saturating_sub(1));
            let value = HeaderValue::try_from(range)
                .map_err(|_| self.protocol(&action, "a range cannot be written".to_owned()))?;
            call = call.header(CONTENT_RANGE, value);
        }
        let response = self.ask_once(&action, &[self.push()], call, &[]).await?;
        if response.status() == StatusCode::CREATED {
            return Ok(Patched::Created(super::answer::content_digest(
                response.headers(),
            )));
        }
        let (sent, has) = (end(), range_end(response.headers()));
        if has.is_some_and(|last| last + 1 != sent && !(sent == 0 && last == 0)) {
            return Err(RegistryError::WrongRange {
                host: self.host().to_owned(),
                sent,
                has: has.unwrap_or_default(),
            });
        }
        upload.location = self.location(&upload.location, response.headers(), &action)?;
        Ok(Patched::Added)
    }

    /// Bytes that an upload has, where the registry tells.
    pub(crate) async fn upload_length(
        &self,
        upload: &mut Upload,
    ) -> Result<Option<u64>, RegistryError> {
        let action = format!("ask how far an upload to {} is", self.name());
        let call = Call::new(Method::GET, upload.location.clone());
        let response = self.ask_once(&action, &[self.push()], call, &[]).await?;
        if response.headers().contains_key(LOCATION) {
            upload.location = self.location(&upload.location, response.headers(), &action)?;
        }
        Ok(range_end(response.headers()).map(|last| if last == 0 { 0 } else { last + 1 }))
    }

    /// Closes an upload: sends the rest of the blob, or all of it, or nothing, and its digest. The registry verifies it.
    pub(crate) async fn finish_upload(
        &self,
        upload: &Upload,
        digest: Digest,
        body: RequestBody,
    ) -> Result<(), RegistryError> {
        let action = format!("upload the blob {digest} to {}", self.name());
        let mut url = upload.location.clone();
        url.query_pairs_mut()
            .append_pair("digest", &digest.to_string());
        let call = Call::new(Method::PUT, url)
            .header(CONTENT_TYPE, BYTES)
            .body(body);
        let response = self.ask_once(&action, &[self.push()], call, &[]).await?;
        // 202 instead of 201 means that the registry waits for more: nothing was stored.
        if response.status() == StatusCode::ACCEPTED {
            return Err(self.protocol(
                &action,
                "it answers 202 where only 201 means stored".to_owned(),
            ));
        }
        self.check_digest(response.headers(), digest, "an uploaded blob")
    }

    fn opened(
        &self,
        url: &Url,
        headers: &HeaderMap,
        action: &str,
    ) -> Result<Upload, RegistryError> {
        Ok(Upload {
            location: self.location(url, headers, action)?,
            chunk_minimum: text(headers, &CHUNK_MINIMUM).and_then(|text| text.trim().parse().ok()),
        })
    }

    /// The new address of an upload. A registry behind a proxy may name itself without TLS: it is still spoken to with.
    fn location(
        &self,
        from: &Url,
        headers: &HeaderMap,
        action: &str,
    ) -> Result<Url, RegistryError> {
        let location = text(headers, &LOCATION).ok_or_else(|| {
            self.protocol(
                action,
                "its answer names no upload (no Location)".to_owned(),
            )
        })?;
        let mut url = from.join(location).map_err(|_| {
            self.protocol(
                action,
                "its answer names an upload by no address".to_owned(),
            )
        })?;
        let base = self.base();
        if base.scheme() == "https" && url.scheme() == "http" && url.host() == base.host() {
            // Neither can fail: both are special schemes, and the host is there.
            let _ = url.set_scheme("https");
            let _ = url.set_port(base.port());
        }
        if base.scheme() == "https" && url.scheme() != "https" {
            return Err(self.protocol(
                action,
                "it wants the upload to go to an open connection".to_owned(),
            ));
        }
        Ok(url)
    }
}
