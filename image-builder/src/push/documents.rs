//! Configs, manifests and the index: small, in memory, sent after the blobs that they name.

use bytes::Bytes;

use super::destination::Destination;
use super::error::PushError;
use crate::layout::Layout;
use crate::oci::{Descriptor, Document, Manifest, media_type};
use crate::registry::{Repository, RequestBody, referrer_entry};

/// Whether a document is a manifest or an index; others are blobs.
pub(super) fn is_manifest(kind: &str) -> bool {
    [
        media_type::MANIFEST,
        media_type::INDEX,
        media_type::DOCKER_MANIFEST,
        media_type::DOCKER_INDEX,
    ]
    .contains(&kind)
}

/// Writes the documents in their order and gives the last one its tags.
pub(super) async fn place(
    documents: &[Document],
    destination: &Destination,
    tags: &[String],
) -> Result<Descriptor, PushError> {
    let (top, below) = documents.split_last().ok_or(PushError::Empty)?;
    for document in below {
        match destination {
            Destination::Repository(repository) => place_below(repository, document).await?,
            Destination::Layout(layout) => place_in_layout(layout, document).await?,
        }
    }
    match destination {
        Destination::Repository(repository) => place_top(repository, top, tags).await?,
        Destination::Layout(layout) => {
            place_in_layout(layout, top).await?;
            tag_in_layout(layout, top, tags).await?;
        }
    }
    Ok(top.descriptor())
}

async fn place_below(repository: &Repository, document: &Document) -> Result<(), PushError> {
    if is_manifest(&document.media_type) {
        return place_manifest(repository, document, &document.digest.to_string()).await;
    }
    place_blob(repository, document)
        .await
        .map_err(|cause| PushError::registry(&format!("the config {}", document.digest), cause))
}

/// A small blob that is in memory: looked for, then sent.
async fn place_blob(
    repository: &Repository,
    document: &Document,
) -> Result<(), crate::registry::RegistryError> {
    let size = document.bytes.len() as u64;
    if repository.blob_size(document.digest).await? == Some(size) {
        return Ok(());
    }
    send_small(repository, document.digest, &document.bytes).await
}

/// Sends a blob that is in memory, as often as it takes.
pub(super) async fn send_small(
    repository: &Repository,
    digest: crate::digest::Digest,
    bytes: &Bytes,
) -> Result<(), crate::registry::RegistryError> {
    crate::registry::retrying(repository.client().retry(), || async {
        let upload = repository.open_upload().await?;
        repository
            .finish_upload(&upload, digest, RequestBody::Bytes(bytes.clone()))
            .await
    })
    .await
}

/// A top document without tags is written under its digest; with tags under each, unless a tag names it already.
async fn place_top(
    repository: &Repository,
    document: &Document,
    tags: &[String],
) -> Result<(), PushError> {
    if tags.is_empty() {
        return place_manifest(repository, document, &document.digest.to_string()).await;
    }
    for tag in tags {
        place_manifest(repository, document, tag).await?;
    }
    Ok(())
}

async fn place_manifest(
    repository: &Repository,
    document: &Document,
    selector: &str,
) -> Result<(), PushError> {
    let failed = |cause| PushError::registry(&format!("the manifest {selector}"), cause);
    let present = repository.find_manifest(selector).await.map_err(failed)?;
    if present.is_some_and(|present| present.digest == document.digest) {
        return Ok(());
    }
    let listing = repository
        .put_manifest(selector, document)
        .await
        .map_err(failed)?;
    match subject_of(document) {
        Some((subject, entry)) => {
            repository
                .list_referrer(subject, entry, listing)
                .await
                .map_err(failed)?;
            Ok(())
        }
        None => Ok(()),
    }
}

/// The subject of a manifest that has one, and how it is to be listed there.
fn subject_of(document: &Document) -> Option<(crate::digest::Digest, Descriptor)> {
    let manifest: Manifest = serde_json::from_slice(&document.bytes).ok()?;
    let subject = manifest.subject.as_ref()?.digest;
    Some((subject, referrer_entry(document, &manifest)))
}

async fn place_in_layout(layout: &Layout, document: &Document) -> Result<(), PushError> {
    let failed = |cause| PushError::layout(&format!("the document {}", document.digest), cause);
    layout.put_document(document).await.map_err(failed)
}

async fn tag_in_layout(layout: &Layout, top: &Document, tags: &[String]) -> Result<(), PushError> {
    let failed = |cause| PushError::layout("the index", cause);
    let descriptor = top.descriptor();
    if tags.is_empty() {
        return layout.list_unnamed(&descriptor).await.map_err(failed);
    }
    for tag in tags {
        layout.tag(tag, &descriptor).await.map_err(failed)?;
    }
    Ok(())
}
