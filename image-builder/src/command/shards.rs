//! What the layers of an image in a registry hold, and what their weights are made of: by one ranged request per shard,
//! never a whole layer.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use super::failure::Failure;
use super::remote::{self, Image};
use crate::archive::{EntryKind, Event, Reader, Whiteouts};
use crate::model::safetensors;
use crate::oci::Descriptor;
use crate::registry::Repository;

/// Bytes that are asked for at a time: headers of several thousand tensors fit.
const HEADER_BYTES: u64 = 1 << 20;
/// Layers that are asked for at a time.
const READS: usize = 8;
/// Requests for one layer: shards that share a layer are few, and what a base image holds is not looked for.
const MOST_READS: usize = 32;
/// Entries of archives begin at multiples of this many bytes.
const BLOCK: u64 = 512;

/// A file of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// Its path in the layer.
    path: String,
    /// Bytes.
    size: u64,
    /// What it is made of, for safetensors.
    tensors: Option<Tensors>,
}

/// What a shard holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tensors {
    count: usize,
    elements: u64,
    /// Tensors by number type.
    types: BTreeMap<String, usize>,
}

impl File {
    pub(crate) fn json(&self) -> Value {
        let mut value = json!({"path": self.path, "size": self.size});
        if let (Some(tensors), Some(map)) = (&self.tensors, value.as_object_mut()) {
            let Tensors {
                count,
                elements,
                types,
            } = tensors;
            map.insert(
                "tensors".to_owned(),
                json!({"count": count, "parameters": elements, "types": types}),
            );
        }
        value
    }
}

/// The files of each layer, in the order of the layers. Compressed layers tell nothing without being read whole, so
/// theirs are left out.
pub(crate) async fn files(
    repository: &Repository,
    image: &Image,
) -> Result<Vec<Vec<File>>, Failure> {
    futures::stream::iter(&image.manifest.layers)
        .map(|layer| files_of(repository, layer))
        .buffered(READS)
        .try_collect()
        .await
}

async fn files_of(repository: &Repository, layer: &Descriptor) -> Result<Vec<File>, Failure> {
    let offset = remote::data_offset(layer);
    match (remote::file_path(layer), offset) {
        (Some(path), Some(offset)) if path != "." => {
            let size = remote::file_size(layer).unwrap_or(layer.size - offset.min(layer.size));
            let tensors = if is_shard(path) {
                let first = read(repository, layer, offset, HEADER_BYTES).await?;
                Some(tensors(repository, layer, offset, first).await?)
            } else {
                None
            };
            let path = path.to_owned();
            Ok(vec![File {
                path,
                size,
                tensors,
            }])
        }
        _ if layer.media_type.ends_with("tar") => walk(repository, layer).await,
        _ => Ok(Vec::new()),
    }
}

fn is_shard(path: &str) -> bool {
    path.ends_with(".safetensors")
}

/// The files of an archive: its headers are read, the data between them is passed over.
async fn walk(repository: &Repository, layer: &Descriptor) -> Result<Vec<File>, Failure> {
    let mut files = Vec::new();
    let mut reader = Reader::new(Whiteouts::Keep);
    let mut position = 0;
    for _ in 0..MOST_READS {
        let bytes = read(repository, layer, position, HEADER_BYTES).await?;
        if bytes.is_empty() {
            break;
        }
        position += bytes.len() as u64;
        // Layers of base images may hold what no layer of ours does. They are no errors here, only not listed.
        let Ok(events) = reader.feed(bytes) else {
            break;
        };
        let mut open: Option<Begun> = None;
        for event in events {
            match event {
                Event::Start(entry) => {
                    open = (entry.kind == EntryKind::File).then(|| Begun {
                        path: entry.path,
                        size: entry.size,
                        first: Vec::new(),
                    });
                }
                Event::Data(bytes) => {
                    if let Some(begun) = &mut open {
                        begun.first.extend_from_slice(&bytes);
                    }
                }
                Event::End => {
                    if let Some(begun) = open.take() {
                        files.push(begun.file(repository, layer, position).await?);
                    }
                }
            }
        }
        if let Some(begun) = open {
            let read = begun.first.len() as u64;
            let begin = position - read;
            if read < begun.size {
                position = begin.saturating_add(begun.size.next_multiple_of(BLOCK));
                reader = Reader::new(Whiteouts::Keep);
            }
            files.push(begun.file(repository, layer, begin).await?);
        }
    }
    Ok(files)
}

/// A file of which the first bytes were read, or all.
struct Begun {
    path: String,
    size: u64,
    first: Vec<u8>,
}

impl Begun {
    /// `begin` is where its data begins in the layer; it does not matter when all of it was read.
    async fn file(
        self,
        repository: &Repository,
        layer: &Descriptor,
        begin: u64,
    ) -> Result<File, Failure> {
        let tensors = if is_shard(&self.path) {
            Some(tensors(repository, layer, begin, self.first.into()).await?)
        } else {
            None
        };
        Ok(File {
            path: self.path,
            size: self.size,
            tensors,
        })
    }
}

/// What a shard holds that begins at `offset` of a layer with these bytes.
async fn tensors(
    repository: &Repository,
    layer: &Descriptor,
    offset: u64,
    first: Bytes,
) -> Result<Tensors, Failure> {
    let bytes = match safetensors::header_end(&first) {
        Some(end) if end > first.len() as u64 => read(repository, layer, offset, end).await?,
        _ => first,
    };
    let header = safetensors::parse(&bytes)?;
    let mut tensors = Tensors {
        count: header.tensors.len(),
        ..Tensors::default()
    };
    for tensor in header.tensors.values() {
        tensors.elements = tensors
            .elements
            .saturating_add(tensor.elements().unwrap_or_default());
        *tensors.types.entry(tensor.dtype.clone()).or_default() += 1;
    }
    Ok(tensors)
}

/// At most `length` bytes of a layer from `offset` on; none beyond its end.
async fn read(
    repository: &Repository,
    layer: &Descriptor,
    offset: u64,
    length: u64,
) -> Result<Bytes, Failure> {
    let range = offset..layer.size.min(offset.saturating_add(length));
    if range.is_empty() {
        return Ok(Bytes::new());
    }
    let wanted = usize::try_from(range.end - range.start).unwrap_or_default();
    let answer = repository
        .read_blob(layer.digest, Some(range.clone()), None)
        .await?;
    // A registry that sends everything is read only as far as needed.
    let skipped =
        usize::try_from(if answer.is_partial { 0 } else { range.start }).unwrap_or_default();
    let mut stream = answer.stream;
    let mut bytes = Vec::new();
    while bytes.len() < skipped + wanted {
        match stream.try_next().await? {
            Some(piece) => bytes.extend_from_slice(&piece),
            None => break,
        }
    }
    let mut bytes = Bytes::from(bytes);
    bytes.truncate(skipped + wanted);
    Ok(bytes.split_off(skipped.min(bytes.len())))
}
