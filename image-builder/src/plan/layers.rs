//! Which files share a layer, and how each layer is encoded. May do no I/O.

use std::collections::BTreeMap;

use serde::Serialize;

use super::files::{Extras, FileKind};
use super::grouping::{Group, groups};
use super::{Compression, Contents, LayerForm, Options, Plan, PlanError, Sample, Shape, key};
use crate::archive::{self, Entry, MTIME};
use crate::content::{Blob, Encoding, Part};
use crate::digest::{Digest, Hasher};
use crate::oci::{Annotations, media_type};
use crate::source::File;

/// A weight layer is compressed only where it shrinks below this part of its size …
const PAYING_RATIO: f64 = 0.85;

/// … and the link carries fewer bytes per second than this: zstd would be the brake on a faster one.
const SLOW_LINK: f64 = 100.0e6;

/// A layer of all documents of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layer {
    /// Its blob, by place in the plan. Equal contents are one blob.
    pub(crate) blob: usize,
    pub(crate) kind: FileKind,
    pub(crate) form: LayerForm,
    pub(crate) encoding: Encoding,
    /// Annotations in a ModelPack manifest.
    pub(crate) annotations: Annotations,
    /// For people.
    pub(crate) name: String,
    /// Paths of its files in the source.
    pub(crate) files: Vec<String>,
}

/// A layer with the blob that it consists of.
pub(crate) struct Draft {
    blob: Blob,
    layer: Layer,
}

/// The value of ModelPack's annotation on a layer's file. Constants stand for what differs from host to host.
#[derive(Serialize)]
struct FileMetadata<'a> {
    name: &'a str,
    mode: u32,
    uid: u32,
    gid: u32,
    size: u64,
    mtime: &'static str,
    typeflag: u8,
}

/// [`MTIME`] as ModelPack writes times.
const MTIME_TEXT: &str = "1980-01-01T00:00:00Z";
const _: () = assert!(MTIME == 315_532_800, "the two must name one time");

/// Puts files into layers: small ones together by kind, large ones alone as long as the layers suffice.
pub(crate) fn arrange(
    files: &[&File],
    extras: Extras<'_>,
    contents: &Contents,
    options: &Options,
) -> Result<Vec<Draft>, PlanError> {
    if options.shape == Shape::ModelPack(LayerForm::Raw) {
        return files.iter().map(|file| raw_layer(file, contents)).collect();
    }
    groups(files, extras, options)?
        .iter()
        .map(|group| tar_layer(group, contents, options))
        .collect()
}

fn raw_layer(file: &File, contents: &Contents) -> Result<Draft, PlanError> {
    let (kind, recognised) = FileKind::of(&file.path);
    let mut annotations = file_annotations(file, recognised)?;
    annotations.insert(key::TITLE.to_owned(), file.path.clone());
    let part = match contents.whole(file) {
        Some(bytes) => Part::Bytes(bytes),
        None => Part::File {
            path: file.path.clone(),
            size: file.size,
        },
    };
    let parts = vec![part];
    let layer = Layer {
        blob: 0,
        kind,
        form: LayerForm::Raw,
        encoding: Encoding::Plain,
        annotations,
        name: file.path.clone(),
        files: vec![file.path.clone()],
    };
    Ok(Draft {
        blob: Blob {
            media_type: model_media_type(&layer),
            expected: file.known_digest.or_else(|| digest_of(&parts)),
            parts,
            encoding: Encoding::Plain,
            annotations: layer.annotations.clone(),
        },
        layer,
    })
}

fn tar_layer(
    group: &Group<'_>,
    contents: &Contents,
    options: &Options,
) -> Result<Draft, PlanError> {
    let artifact = matches!(options.shape, Shape::ModelPack(_));
    let root = if artifact { "" } else { options.image_root() };
    let files = group.files.iter().map(|file| entry(file, root, contents));
    let entries: Vec<Entry> = files.chain(extra_entries(&group.extras, root)).collect();
    let parts = archive::write(&entries).map_err(PlanError::Path)?;
    let encoding = encoding_of(group, options);
    let layer = Layer {
        blob: 0,
        kind: group.kind,
        form: LayerForm::Tar,
        encoding,
        annotations: tar_annotations(group, &parts, encoding)?,
        name: group.name(),
        files: group.files.iter().map(|file| file.path.clone()).collect(),
    };
    let plain = encoding == Encoding::Plain;
    Ok(Draft {
        blob: Blob {
            media_type: if artifact {
                model_media_type(&layer)
            } else {
                image_media_type(encoding).to_owned()
            },
            expected: plain.then(|| digest_of(&parts)).flatten(),
            parts,
            encoding,
            annotations: Annotations::new(),
        },
        layer,
    })
}

fn entry(file: &File, root: &str, contents: &Contents) -> Entry {
    let content = match contents.whole(file) {
        Some(bytes) => archive::Content::Bytes(bytes),
        None => archive::Content::File(file.path.clone()),
    };
    Entry {
        path: below(root, &file.path),
        size: file.size,
        executable: file.executable,
        content,
    }
}

fn below(root: &str, path: &str) -> String {
    if root.is_empty() {
        path.to_owned()
    } else {
        format!("{root}/{path}")
    }
}

fn extra_entries<'a>(extras: &'a Extras<'_>, root: &'a str) -> impl Iterator<Item = Entry> + 'a {
    let entry = |path, content| Entry {
        path,
        size: 0,
        executable: false,
        content,
    };
    let links = extras.links.iter().map(move |link| {
        let path = below(root, &link.path);
        let target = relative(&path, &link.target);
        entry(path, archive::Content::Link(target))
    });
    let directories = extras.empty_directories.iter();
    let directories =
        directories.map(move |path| entry(below(root, path), archive::Content::Directory));
    links.chain(directories)
}

/// The target of a link as seen from its directory. An absolute one means the image's root; written from there it means
/// the same wherever the layer is unpacked, and nobody has to trust it.
fn relative(path: &str, target: &str) -> String {
    let Some(from_root) = target.strip_prefix('/') else {
        return target.to_owned();
    };
    let up = "../".repeat(path.matches('/').count());
    match format!("{up}{}", from_root.trim_start_matches('/')) {
        here if here.is_empty() => ".".to_owned(),
        target => target,
    }
}

fn tar_annotations(
    group: &Group<'_>,
    parts: &[Part],
    encoding: Encoding,
) -> Result<Annotations, PlanError> {
    let [file] = group.files.as_slice() else {
        let recognised = group.files.iter().all(|file| FileKind::of(&file.path).1);
        return Ok(Annotations::from([
            (key::FILE_PATH.to_owned(), ".".to_owned()),
            (key::UNTESTED.to_owned(), (!recognised).to_string()),
        ]));
    };
    let mut annotations = file_annotations(file, FileKind::of(&file.path).1)?;
    if encoding == Encoding::Plain && group.extras.is_empty() {
        let offset = archive::data_offset(parts, file.size);
        annotations.insert(key::DATA_OFFSET.to_owned(), offset.to_string());
    }
    Ok(annotations)
}

fn file_annotations(file: &File, recognised: bool) -> Result<Annotations, PlanError> {
    let metadata = FileMetadata {
        name: super::files::file_name(&file.path),
        mode: if file.executable { 0o755 } else { 0o644 },
        uid: 0,
        gid: 0,
        size: file.size,
        mtime: MTIME_TEXT,
        typeflag: 0,
    };
    let metadata = serde_json::to_string(&metadata).map_err(|cause| PlanError::Json {
        document: "attributes of a file",
        cause,
    })?;
    Ok(Annotations::from([
        (key::FILE_PATH.to_owned(), file.path.clone()),
        (key::FILE_METADATA.to_owned(), metadata),
        (key::UNTESTED.to_owned(), (!recognised).to_string()),
    ]))
}

fn encoding_of(group: &Group<'_>, options: &Options) -> Encoding {
    match (options.compression, group.kind) {
        (Compression::None, _) => Encoding::Plain,
        (Compression::Zstd, _) => Encoding::Zstd,
        (Compression::Gzip, _) => Encoding::Gzip,
        (Compression::Auto(sample), FileKind::Weight) if !sample.is_some_and(pays) => {
            Encoding::Plain
        }
        (Compression::Auto(_), _) => Encoding::Zstd,
    }
}

fn pays(sample: Sample) -> bool {
    sample.ratio < PAYING_RATIO && sample.link_bytes_per_second < SLOW_LINK
}

/// The digest of parts that are all known.
fn digest_of(parts: &[Part]) -> Option<Digest> {
    let mut hasher = Hasher::default();
    for part in parts {
        match part {
            Part::Bytes(bytes) => hasher.update(bytes),
            Part::File { .. } => return None,
        }
    }
    Some(hasher.finish())
}

/// The media type of a layer of an image.
pub(crate) const fn image_media_type(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Plain => media_type::LAYER_TAR,
        Encoding::Zstd => media_type::LAYER_TAR_ZSTD,
        Encoding::Gzip => media_type::LAYER_TAR_GZIP,
    }
}

/// The media type of a layer of a ModelPack artifact.
pub(crate) fn model_media_type(layer: &Layer) -> String {
    let kind = layer.kind.media_type_part();
    let form = match (layer.form, layer.encoding) {
        (LayerForm::Raw, _) => "raw",
        (LayerForm::Tar, Encoding::Plain) => "tar",
        (LayerForm::Tar, Encoding::Zstd) => "tar+zstd",
        (LayerForm::Tar, Encoding::Gzip) => "tar+gzip",
    };
    format!("application/vnd.cncf.model.{kind}.v1.{form}")
}

impl Plan {
    /// Takes layers over; layers of equal content share a blob.
    pub(crate) fn take_layers(&mut self, drafts: Vec<Draft>) {
        let mut known: BTreeMap<(Digest, u64), usize> = BTreeMap::new();
        for Draft { blob, mut layer } in drafts {
            let identity = blob.expected.map(|digest| (digest, blob.content_size()));
            layer.blob = match identity.and_then(|identity| known.get(&identity)) {
                Some(place) => *place,
                None => {
                    let place = self.blobs.len();
                    known.extend(identity.map(|identity| (identity, place)));
                    self.names.push(layer.name.clone());
                    self.blobs.push(blob);
                    place
                }
            };
            self.layers.push(layer);
        }
    }

    /// Paths of the files of a blob, of all layers that share it.
    pub(crate) fn files_of(&self, blob: usize) -> Vec<String> {
        self.layers
            .iter()
            .filter(|layer| layer.blob == blob)
            .flat_map(|layer| layer.files.iter().cloned())
            .collect()
    }
}
