//! What commands read of images in registries: the manifests of a name, and the files that their layers hold.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::TryStreamExt as _;

use super::failure::Failure;
use crate::archive::{EntryKind, Event, Reader, Whiteouts};
use crate::digest::Digest;
use crate::oci::{Descriptor, Document, Index, Manifest, media_type};
use crate::plan::key;
use crate::pull::Origin;
use crate::registry::Repository;

/// Layers of many files that are read to tell them apart: small by construction.
const LARGEST_LISTED: u64 = 64 << 20;

/// A manifest of an image.
pub(crate) struct Image {
    /// How the index names it; none for a top document that is no index.
    pub(crate) entry: Option<Descriptor>,
    /// The document.
    pub(crate) document: Document,
    /// What it says.
    pub(crate) manifest: Manifest,
}

/// Whether a document is an index.
pub(crate) fn is_index(document: &Document) -> bool {
    matches!(
        document.media_type.as_str(),
        media_type::INDEX | media_type::DOCKER_INDEX
    )
}

/// The manifests below a top document, in its order.
pub(crate) async fn images(origin: &Origin, top: &Document) -> Result<Vec<Image>, Failure> {
    if !is_index(top) {
        return Ok(vec![Image {
            entry: None,
            manifest: serde_json::from_slice(&top.bytes)?,
            document: top.clone(),
        }]);
    }
    let index: Index = serde_json::from_slice(&top.bytes)?;
    let mut images = Vec::new();
    for entry in index.manifests {
        let document = origin.document(&entry).await?;
        if is_index(&document) {
            return Err(Failure::message(
                "an index within an index is not read; name the inner one by its digest",
            ));
        }
        images.push(Image {
            manifest: serde_json::from_slice(&document.bytes)?,
            entry: Some(entry),
            document,
        });
    }
    Ok(images)
}

/// The path of the one file that a layer holds.
pub(crate) fn file_path(layer: &Descriptor) -> Option<&str> {
    let annotations = layer.annotations.as_ref()?;
    let path = annotations
        .get(key::FILE_PATH)
        .or_else(|| annotations.get(key::TITLE))?;
    Some(path)
}

/// How many bytes the one file of a layer has, where the layer tells.
pub(crate) fn file_size(layer: &Descriptor) -> Option<u64> {
    let metadata = layer.annotations.as_ref()?.get(key::FILE_METADATA)?;
    let metadata: serde_json::Value = serde_json::from_str(metadata).ok()?;
    metadata.get("size")?.as_u64()
}

/// Where a layer's file begins, in bytes from the layer's begin; none for compressed layers.
pub(crate) fn data_offset(layer: &Descriptor) -> Option<u64> {
    if layer.media_type.contains("zstd") || layer.media_type.contains("gzip") {
        return None;
    }
    let offset = layer
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(key::DATA_OFFSET));
    match offset {
        Some(text) => text.parse().ok(),
        None => (!layer.media_type.contains("tar")).then_some(0),
    }
}

/// The files of a manifest by path, each with what tells its versions apart: the layer's digest where a layer is one
/// file, the content's where it holds several and is small.
pub(crate) async fn files(
    repository: &Repository,
    manifest: &Manifest,
) -> Result<BTreeMap<String, (Digest, u64)>, Failure> {
    let mut files = BTreeMap::new();
    for layer in &manifest.layers {
        match file_path(layer) {
            Some(path) => {
                files.insert(path.to_owned(), (layer.digest, layer.size));
            }
            None if layer.media_type.ends_with("tar") && layer.size <= LARGEST_LISTED => {
                let stream = repository.read_blob(layer.digest, None, None).await?.stream;
                let pieces: Vec<Bytes> = stream.try_collect().await?;
                list(&pieces.concat().into(), &mut files)?;
            }
            None => {
                files.insert(
                    format!("(layer {})", layer.digest),
                    (layer.digest, layer.size),
                );
            }
        }
    }
    Ok(files)
}

/// Adds the files of an archive.
fn list(archive: &Bytes, files: &mut BTreeMap<String, (Digest, u64)>) -> Result<(), Failure> {
    let mut reader = Reader::new(Whiteouts::Refuse);
    let mut open: Option<(String, Vec<u8>)> = None;
    for event in reader.feed(archive.clone())? {
        match event {
            Event::Start(entry) => {
                open = (entry.kind == EntryKind::File).then_some((entry.path, Vec::new()));
            }
            Event::Data(bytes) => {
                if let Some((_, content)) = &mut open {
                    content.extend_from_slice(&bytes);
                }
            }
            Event::End => {
                if let Some((path, bytes)) = open.take() {
                    files.insert(path, (Digest::of(&bytes), bytes.len() as u64));
                }
            }
        }
    }
    Ok(reader.finish()?)
}
