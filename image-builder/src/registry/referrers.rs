//! Manifests that refer to others: signatures, bills of materials, adapters of a base model.
//!
//! A registry that knows referrers lists them itself. For others an index under the tag `sha256-HEX` is kept, by reading,
//! adding, writing and reading again: a writer that was overtaken adds its entry once more.

use http::header::{CONTENT_TYPE, ETAG, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderValue, Method};
use tokio::time::Instant;

use super::answer::{FILTERS_APPLIED, next_page, text};
use super::error::{Class, RegistryError};
use super::manifests::SubjectListing;
use super::repository::Repository;
use super::transport::{Call, RequestBody};
use crate::digest::Digest;
use crate::oci::{Descriptor, Document, Index, Manifest, media_type};

/// Rounds of adding an entry to a fallback tag that others write as well.
const MOST_ROUNDS: u32 = 20;

/// How an attached manifest is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// By the registry's own list.
    Listed,
    /// By the index under the fallback tag.
    Tagged,
}

impl Repository {
    /// Manifests that refer to `subject`, of one type or of all; those with equal digests once.
    ///
    /// # Errors
    /// When the registry cannot be asked.
    pub async fn referrers(
        &self,
        subject: Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>, RegistryError> {
        let mut found = match self.listed(subject, artifact_type).await? {
            Some(found) => found,
            None => self
                .fallback(subject)
                .await?
                .map(|(index, _)| index.manifests)
                .unwrap_or_default(),
        };
        if let Some(wanted) = artifact_type {
            found.retain(|descriptor| descriptor.artifact_type.as_deref() == Some(wanted));
        }
        let mut seen = std::collections::BTreeSet::new();
        found.retain(|descriptor| seen.insert(descriptor.digest));
        Ok(found)
    }

    /// Writes a manifest that has a subject, by digest, and makes sure that it can be found from it.
    ///
    /// # Errors
    /// When the registry refuses, the document is no manifest with a subject, or others keep changing the fallback tag.
    pub async fn attach(&self, document: &Document) -> Result<Attached, RegistryError> {
        let manifest: Manifest = self.parse("a manifest to attach", &document.bytes)?;
        let action = format!("attach {} in {}", document.digest, self.name());
        let Some(subject) = &manifest.subject else {
            return Err(self.protocol(&action, "the manifest names no subject".to_owned()));
        };
        let listing = self
            .put_manifest(&document.digest.to_string(), document)
            .await?;
        self.list_referrer(subject.digest, entry(document, &manifest), listing)
            .await
    }

    /// Makes sure that a manifest that was just written can be found from its subject.
    pub(crate) async fn list_referrer(
        &self,
        subject: Digest,
        entry: Descriptor,
        listing: SubjectListing,
    ) -> Result<Attached, RegistryError> {
        if listing == SubjectListing::ByRegistry {
            return Ok(Attached::Listed);
        }
        for round in 0..MOST_ROUNDS {
            if self.add_to_fallback(subject, &entry).await? {
                return Ok(Attached::Tagged);
            }
            let wait = std::time::Duration::from_millis(fastrand::u64(0..=(20 << round.min(6))));
            tokio::time::sleep(wait).await;
        }
        let action = format!("attach {} in {}", entry.digest, self.name());
        Err(self.protocol(
            &action,
            "others kept changing the list of referrers; try again".to_owned(),
        ))
    }

    /// What the registry lists by itself; `None` where it has no such list.
    async fn listed(
        &self,
        subject: Digest,
        artifact_type: Option<&str>,
    ) -> Result<Option<Vec<Descriptor>>, RegistryError> {
        let action = format!("list the referrers of {subject} in {}", self.name());
        let mut url = self.url(&format!("referrers/{subject}"), &action)?;
        if let Some(artifact_type) = artifact_type {
            url.query_pairs_mut()
                .append_pair("artifactType", artifact_type);
        }
        let mut found = Vec::new();
        let mut next = Some(url);
        let mut filtered = false;
        while let Some(url) = next {
            let page = match self.page(&action, &url, Some(media_type::INDEX)).await {
                // Registries that do not know the address answer 404, some 400, 405 or the like.
                Ok(None) => return Ok(None),
                Err(error) if matches!(error.class(), Class::Refused | Class::Form) => {
                    return Ok(None);
                }
                Ok(Some(page)) => page,
                Err(error) => return Err(error),
            };
            let (headers, bytes) = page;
            let Ok(index) = serde_json::from_slice::<Index>(&bytes) else {
                return Ok(None);
            };
            filtered |= headers.contains_key(FILTERS_APPLIED);
            found.extend(index.manifests);
            next = next_page(&headers).and_then(|link| url.join(&link).ok());
        }
        tracing::debug!(count = found.len(), filtered, "referrers were listed");
        Ok(Some(found))
    }

    /// The index under the fallback tag, and what tells its version.
    async fn fallback(
        &self,
        subject: Digest,
    ) -> Result<Option<(Index, Option<String>)>, RegistryError> {
        let tag = fallback_tag(subject);
        let action = format!("read the referrers of {subject} in {}", self.name());
        let url = self.url(&format!("manifests/{tag}"), &action)?;
        let Some((headers, bytes)) = self.page(&action, &url, Some(media_type::INDEX)).await?
        else {
            return Ok(None);
        };
        let index = self.parse("the index of referrers", &bytes)?;
        Ok(Some((index, text(&headers, &ETAG).map(str::to_owned))))
    }

    /// Adds an entry and looks whether it stays; false when it was lost to another writer.
    ///
    /// Without conditions a writer that read before us and writes after us drops our entry. Its reading and writing take
    /// about as long as ours did, so the index is read again after several times that, and once more after that.
    async fn add_to_fallback(
        &self,
        subject: Digest,
        entry: &Descriptor,
    ) -> Result<bool, RegistryError> {
        let begun = Instant::now();
        let (mut index, etag) = match self.fallback(subject).await? {
            Some((index, etag)) => (index, etag),
            None => (Index::empty(), None),
        };
        if !has(&index, entry) {
            index.manifests.push(entry.clone());
            if !self
                .write_fallback(subject, &index, etag.as_deref())
                .await?
            {
                return Ok(false);
            }
        }
        let took = begun.elapsed();
        for _ in 0..2 {
            tokio::time::sleep(took * 2 + took.mul_f64(fastrand::f64())).await;
            if !self
                .fallback(subject)
                .await?
                .is_some_and(|(index, _)| has(&index, entry))
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes the index; false when the registry knows that another version is there by now.
    async fn write_fallback(
        &self,
        subject: Digest,
        index: &Index,
        etag: Option<&str>,
    ) -> Result<bool, RegistryError> {
        let action = format!("write the referrers of {subject} in {}", self.name());
        let url = self.url(&format!("manifests/{}", fallback_tag(subject)), &action)?;
        let document = Document::from_value(media_type::INDEX, index).map_err(|cause| {
            RegistryError::Document {
                what: "an index".to_owned(),
                host: self.host().to_owned(),
                cause,
            }
        })?;
        let condition = match etag.map(HeaderValue::from_str) {
            Some(Ok(etag)) => Some((IF_MATCH, etag)),
            Some(Err(_)) => None,
            None => Some((IF_NONE_MATCH, HeaderValue::from_static("*"))),
        };
        let call = || {
            let call = Call::new(Method::PUT, url.clone())
                .header(CONTENT_TYPE, HeaderValue::from_static(media_type::INDEX))
                .body(RequestBody::Bytes(document.bytes.clone()));
            match &condition {
                Some((name, value)) => call.header(name.clone(), value.clone()),
                None => call,
            }
        };
        let response = self.ask(&action, &[self.push()], call, &[409, 412]).await?;
        Ok(response.status().is_success())
    }
}

/// The tag under which the index of a manifest's referrers is kept.
fn fallback_tag(subject: Digest) -> String {
    format!("sha256-{}", subject.hex())
}

/// What the list of referrers says about a manifest.
pub(crate) fn entry(document: &Document, manifest: &Manifest) -> Descriptor {
    let artifact_type = manifest
        .artifact_type
        .clone()
        .unwrap_or_else(|| manifest.config.media_type.clone());
    Descriptor {
        artifact_type: Some(artifact_type),
        annotations: manifest.annotations.clone(),
        ..document.descriptor()
    }
}

fn has(index: &Index, entry: &Descriptor) -> bool {
    index
        .manifests
        .iter()
        .any(|present| present.digest == entry.digest)
}
