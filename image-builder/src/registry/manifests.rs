//! Manifests and tags of a repository.

use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde::Deserialize;

use super::answer::{SUBJECT, content_digest, content_length, next_page, text};
use super::auth::Scope;
use super::error::RegistryError;
use super::repository::Repository;
use super::retry::retrying;
use super::transport::{Call, RequestBody};
use crate::digest::Digest;
use crate::oci::{Descriptor, Document, media_type};

/// All manifests that can be read.
const ACCEPTED: [&str; 4] = [
    media_type::INDEX,
    media_type::MANIFEST,
    media_type::DOCKER_INDEX,
    media_type::DOCKER_MANIFEST,
];

/// What became of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectListing {
    /// The registry lists the manifest as a referrer of its subject.
    ByRegistry,
    /// It does not say so: the fallback tag is to be kept.
    NotByRegistry,
}

impl Repository {
    /// The manifest or index that a tag or digest names, verified where a digest is known.
    ///
    /// # Errors
    /// When the registry does not have it, or sends something else.
    pub async fn manifest(&self, selector: &str) -> Result<Document, RegistryError> {
        let action = format!("read the manifest {}:{selector}", self.name());
        let url = self.url(&format!("manifests/{selector}"), &action)?;
        let (headers, bytes) = retrying(self.client().retry(), || async {
            let call = Call::new(Method::GET, url.clone()).header(ACCEPT, accept());
            let response = self.ask_once(&action, &[self.pull()], call, &[]).await?;
            let headers = response.headers().clone();
            Ok((headers, self.collect(&action, response).await?))
        })
        .await?;
        let document = Document::new(&manifest_type(&headers, &bytes), bytes);
        let expected = selector.parse().ok().or_else(|| content_digest(&headers));
        self.verified(document, expected, "a manifest")
    }

    /// The descriptor of the manifest that a tag or digest names, or `None` where there is none.
    ///
    /// # Errors
    /// When the registry cannot be asked.
    pub async fn find_manifest(&self, selector: &str) -> Result<Option<Descriptor>, RegistryError> {
        let action = format!("look for the manifest {}:{selector}", self.name());
        let url = self.url(&format!("manifests/{selector}"), &action)?;
        let call = || Call::new(Method::HEAD, url.clone()).header(ACCEPT, accept());
        let response = self.ask(&action, &[self.pull()], call, &[404]).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let headers = response.headers();
        match (content_digest(headers), content_length(headers)) {
            (Some(digest), Some(size)) => Ok(Some(Descriptor {
                media_type: manifest_type(headers, &[]),
                digest,
                size,
                artifact_type: None,
                platform: None,
                annotations: None,
            })),
            // Registries may leave these out of answers to HEAD.
            _ => Ok(Some(self.manifest(selector).await?.descriptor())),
        }
    }

    /// Writes a manifest under a tag or under its digest.
    ///
    /// # Errors
    /// When the registry refuses it, or says that it stored something else.
    pub async fn put_manifest(
        &self,
        selector: &str,
        document: &Document,
    ) -> Result<SubjectListing, RegistryError> {
        let action = format!("write the manifest {}:{selector}", self.name());
        let url = self.url(&format!("manifests/{selector}"), &action)?;
        let media_type = self.header_value(&document.media_type, &action)?;
        let call = || {
            Call::new(Method::PUT, url.clone())
                .header(CONTENT_TYPE, media_type.clone())
                .body(RequestBody::Bytes(document.bytes.clone()))
        };
        let response = self.ask(&action, &[self.push()], call, &[]).await?;
        self.check_digest(response.headers(), document.digest, "a manifest")?;
        let listed = response.headers().contains_key(SUBJECT);
        Ok(if listed {
            SubjectListing::ByRegistry
        } else {
            SubjectListing::NotByRegistry
        })
    }

    /// Deletes a manifest and the tags that name it. Missing is as good as deleted.
    ///
    /// # Errors
    /// When the registry refuses, as many do.
    pub async fn delete_manifest(&self, digest: Digest) -> Result<(), RegistryError> {
        let action = format!("delete the manifest {}@{digest}", self.name());
        let url = self.url(&format!("manifests/{digest}"), &action)?;
        let scopes = [Scope::Delete(self.name().to_owned())];
        self.ask(
            &action,
            &scopes,
            || Call::new(Method::DELETE, url.clone()),
            &[404],
        )
        .await?;
        Ok(())
    }

    /// All tags, in the registry's order; empty where the repository does not exist.
    ///
    /// # Errors
    /// When the registry cannot be asked.
    pub async fn tags(&self) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let action = format!("list the tags of {}", self.name());
        let mut tags = Vec::new();
        let mut next = Some(self.url("tags/list", &action)?);
        while let Some(url) = next {
            let Some((headers, bytes)) = self.page(&action, &url, None).await? else {
                break;
            };
            let page: Page = self.parse("the list of tags", &bytes)?;
            tags.extend(page.tags.unwrap_or_default());
            next = next_page(&headers).and_then(|link| url.join(&link).ok());
        }
        Ok(tags)
    }
}

fn accept() -> HeaderValue {
    HeaderValue::try_from(ACCEPTED.join(", ")).unwrap_or_else(|_| HeaderValue::from_static("*/*"))
}

/// The type of a manifest: what the answer says, else what the document says.
fn manifest_type(headers: &HeaderMap, bytes: &[u8]) -> String {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: Option<String>,
    }
    let said = text(headers, &CONTENT_TYPE)
        .and_then(|value| value.split(';').next())
        .map(str::trim);
    match said {
        Some(said) if ACCEPTED.contains(&said) => said.to_owned(),
        said => serde_json::from_slice::<Typed>(bytes)
            .ok()
            .and_then(|typed| typed.media_type)
            .or_else(|| said.map(str::to_owned))
            .unwrap_or_else(|| media_type::MANIFEST.to_owned()),
    }
}
