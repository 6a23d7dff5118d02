//! Copies of what is in a registry or a layout: the same documents, byte for byte, and their blobs, mounted where both are
//! in one registry. Layers of a base image take the same way.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures::future::BoxFuture;

use super::blob::Job;
use super::destination::Destination;
use super::documents::place;
use super::error::PushError;
use super::origin::{Origin, OriginSource};
use super::{PushOptions, Pushed, place_all};
use crate::content::{Blob, Encoding, Part};
use crate::digest::Digest;
use crate::oci::{Descriptor, Document, Index, Manifest, media_type};
use crate::progress::Progress;
use crate::source::Source;

/// Copies what `selector` names, with everything below it.
///
/// # Errors
/// When something is not there, is damaged, or the destination refuses.
pub async fn copy(
    origin: &Origin,
    selector: &str,
    destination: &Destination,
    options: &PushOptions,
    progress: Arc<dyn Progress>,
) -> Result<Pushed, PushError> {
    let mut gathered = Gathered::default();
    gathered
        .add(
            origin,
            origin.resolve(selector).await.map_err(origin_error)?,
        )
        .await?;
    let Gathered {
        documents, blobs, ..
    } = gathered;
    let source: Arc<dyn Source> = Arc::new(OriginSource::new(origin.clone()));
    let mut mount_from = options.mount_from.clone();
    mount_from.extend(origin.repository_name(destination));
    let jobs = blobs
        .iter()
        .map(|blob| Job::new(&name(blob), as_blob(blob), Arc::clone(&source), &mount_from))
        .collect();
    let blobs = place_all(jobs, destination, options, &progress).await?;
    let top = place(&documents, destination, &options.tags).await?;
    Ok(Pushed {
        top,
        documents,
        blobs,
        tags: options.tags.clone(),
    })
}

/// Jobs that bring the layers of a base image to the destination.
pub(super) fn base_layers(
    mounts: &[Descriptor],
    options: &PushOptions,
) -> Result<Vec<Job>, PushError> {
    let Some(first) = mounts.first() else {
        return Ok(Vec::new());
    };
    let base = options.base.clone().ok_or(PushError::NoBase {
        digest: first.digest,
    })?;
    let mount_from = vec![base.name().to_owned()];
    let source: Arc<dyn Source> = Arc::new(OriginSource::new(Origin::Repository(base)));
    Ok(mounts
        .iter()
        .map(|layer| {
            Job::new(
                &name(layer),
                as_blob(layer),
                Arc::clone(&source),
                &mount_from,
            )
        })
        .collect())
}

/// Documents and blobs below a document, each once.
#[derive(Default)]
struct Gathered {
    documents: Vec<Document>,
    blobs: Vec<Descriptor>,
    seen: BTreeSet<Digest>,
}

impl Gathered {
    /// Adds a document after everything that it names.
    fn add<'a>(
        &'a mut self,
        origin: &'a Origin,
        document: Document,
    ) -> BoxFuture<'a, Result<(), PushError>> {
        Box::pin(async move {
            if !self.seen.insert(document.digest) {
                return Ok(());
            }
            let is_index = [media_type::INDEX, media_type::DOCKER_INDEX]
                .contains(&document.media_type.as_str());
            if is_index {
                let index: Index = parse(&document)?;
                for descriptor in &index.manifests {
                    self.add(
                        origin,
                        origin.document(descriptor).await.map_err(origin_error)?,
                    )
                    .await?;
                }
            } else {
                let manifest: Manifest = parse(&document)?;
                let blobs = manifest.layers.into_iter().chain([manifest.config]);
                self.blobs
                    .extend(blobs.filter(|blob| self.seen.insert(blob.digest)));
            }
            self.documents.push(document);
            Ok(())
        })
    }
}

fn origin_error(cause: super::origin::OriginError) -> PushError {
    PushError::Origin { cause }
}

fn parse<T: serde::de::DeserializeOwned>(document: &Document) -> Result<T, PushError> {
    serde_json::from_slice(&document.bytes).map_err(|cause| PushError::Unreadable {
        what: document.digest.to_string(),
        reason: format!("it is no {}: {cause}", document.media_type),
    })
}

/// What people call a layer: its file, where it says which.
fn name(descriptor: &Descriptor) -> String {
    let annotations = descriptor.annotations.as_ref();
    let title = |key: &str| {
        annotations
            .and_then(|annotations| annotations.get(key))
            .cloned()
    };
    title("org.opencontainers.image.title")
        .or_else(|| title("org.cncf.model.filepath"))
        .unwrap_or_else(|| descriptor.digest.to_string())
}

/// A blob that exists already: one file, named by its digest.
fn as_blob(descriptor: &Descriptor) -> Blob {
    Blob {
        media_type: descriptor.media_type.clone(),
        parts: vec![Part::File {
            path: descriptor.digest.to_string(),
            size: descriptor.size,
        }],
        encoding: Encoding::Plain,
        expected: Some(descriptor.digest),
        annotations: descriptor.annotations.clone().unwrap_or_default(),
    }
}
