//! What a plan is made for: the shape, and everything that its documents will say. May do no I/O.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::Serialize;

use crate::digest::Digest;
use crate::oci::{Annotations, Descriptor, Manifest, Platform};
use crate::source::Tree;

/// Files below this many bytes share a layer in tar shapes, so that the layer limit of overlay file systems is far away.
pub const SMALL_FILE_BYTES: u64 = 1024 * 1024;

/// Layers that an image may have: overlay file systems stop at 127, and container runtimes add some of their own.
pub const MAX_IMAGE_LAYERS: usize = 120;

/// Bytes that a manifest may have: what the strictest registries accept.
pub const MAX_MANIFEST_BYTES: usize = 4 * 1024 * 1024;

/// What is packaged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Model weights with their configuration.
    #[default]
    Model,
    /// A LoRA adapter, or another PEFT adapter.
    Adapter,
    /// A root file system or a static binary.
    Program,
}

/// What is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Container images with tar layers: what image volumes mount.
    #[default]
    Image,
    /// A ModelPack artifact.
    ModelPack(LayerForm),
    /// An index of images and of a ModelPack manifest over the same tar layers.
    Dual,
}

/// How a ModelPack artifact holds its files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LayerForm {
    /// Each file is a layer as it is: the layer's digest is the file's.
    #[default]
    Raw,
    /// Each layer is a tar.
    Tar,
}

/// How layers are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Not at all: read by everything, and seekable.
    #[default]
    None,
    /// zstd for layers of small files; weights only where the sample says that it pays.
    Auto(Option<Sample>),
    /// zstd for all tar layers.
    Zstd,
    /// gzip for all tar layers, for readers that know nothing else.
    Gzip,
}

/// What was found by compressing some of the weights and by watching the link.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// Compressed size over size, of 3 × 4 MiB.
    pub ratio: f64,
    /// What the link is thought to carry, in bytes per second.
    pub link_bytes_per_second: f64,
}

// Samples are measured values that are never NaN; equality serves tests and comparison of options only.
impl Eq for Sample {}

/// How a container that is started from the image runs. Empty values leave what the base image says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Run {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments that a user may replace.
    pub arguments: Vec<String>,
    /// Environment variables, added to those of the base image.
    pub environment: BTreeMap<String, String>,
    /// `USER` or `UID:GID`.
    pub user: Option<String>,
    /// The directory in which it starts.
    pub working_directory: Option<String>,
    /// `8080/tcp`.
    pub exposed_ports: BTreeSet<String>,
}

/// An image to build on, as it was resolved: its layers are mounted or copied, never made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BaseImage {
    /// The reference that was resolved, with its digest where it is known.
    pub reference: String,
    /// One image per platform.
    pub images: Vec<BasePlatform>,
}

/// The image of one platform of a base image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BasePlatform {
    /// The platform.
    pub platform: Platform,
    /// Its manifest.
    pub manifest: Manifest,
    /// The exact bytes of its config.
    pub config: Bytes,
}

/// The model that an adapter was trained for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BaseModel {
    /// Its name; `base_model_name_or_path` of the adapter where this is unset.
    pub name: Option<String>,
    /// Digest of its manifest.
    pub digest: Option<Digest>,
}

/// Everything that a plan depends on besides the files.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// What is packaged.
    pub kind: Kind,
    /// What is written.
    pub shape: Shape,
    /// Where the files are in an image, without leading `/`; unset: `models`, for adapters `data`, for programs the root.
    /// ModelPack artifacts have their files at their root.
    pub root: Option<String>,
    /// Platforms of the images; empty: linux/amd64, for [`Shape::Dual`] linux/arm64 as well.
    pub platforms: Vec<Platform>,
    /// How layers are compressed.
    pub compression: Compression,
    /// Annotations for the top document, over those that are derived.
    pub annotations: Annotations,
    /// Labels of the image configs.
    pub labels: BTreeMap<String, String>,
    /// How containers run.
    pub run: Run,
    /// An image to build on.
    pub base_image: Option<BaseImage>,
    /// The model that an adapter is for.
    pub base_model: Option<BaseModel>,
    /// The manifest that the result refers to: its registry then lists the result as a referrer.
    pub subject: Option<Descriptor>,
    /// KAITO's name of the model's preset, for an adapter of its base model's: kept for KAITO's tools.
    pub preset: Option<String>,
    /// The model's name; unset: derived from the source's address.
    pub name: Option<String>,
    /// The model's version.
    pub version: Option<String>,
    /// Globs of paths to take; empty: all.
    pub include: Vec<String>,
    /// Globs of paths to leave out; they win.
    pub exclude: Vec<String>,
    /// Files below this many bytes share layers in tar shapes.
    pub small_file_bytes: u64,
    /// Layers that an image may have, those of the base image included.
    pub max_layers: usize,
    /// The time that documents carry, in seconds since 1970 (`SOURCE_DATE_EPOCH`); unset: they carry none.
    pub source_date: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            kind: Kind::default(),
            shape: Shape::default(),
            root: None,
            platforms: Vec::new(),
            compression: Compression::default(),
            annotations: Annotations::new(),
            labels: BTreeMap::new(),
            run: Run::default(),
            base_image: None,
            base_model: None,
            subject: None,
            preset: None,
            name: None,
            version: None,
            include: Vec::new(),
            exclude: Vec::new(),
            small_file_bytes: SMALL_FILE_BYTES,
            max_layers: MAX_IMAGE_LAYERS,
            source_date: None,
        }
    }
}

impl Kind {
    /// An adapter where there is an `adapter_config.json`, else a model. Programs are never guessed.
    #[must_use]
    pub fn of(tree: &Tree) -> Self {
        let adapter = tree
            .files
            .iter()
            .any(|file| file.path == "adapter_config.json");
        if adapter { Self::Adapter } else { Self::Model }
    }
}

impl Options {
    /// Where the files are in an image: no `/` at either end, empty for the root itself.
    #[must_use]
    pub fn image_root(&self) -> &str {
        match (&self.root, self.kind) {
            (Some(root), _) => root.trim_matches('/'),
            (None, Kind::Model) => "models",
            (None, Kind::Adapter) => "data",
            (None, Kind::Program) => "",
        }
    }

    /// The platforms of the images.
    #[must_use]
    pub fn image_platforms(&self) -> Vec<Platform> {
        if !self.platforms.is_empty() {
            return self.platforms.clone();
        }
        match self.shape {
            Shape::Dual => vec![linux("amd64"), linux("arm64")],
            Shape::Image | Shape::ModelPack(_) => vec![linux("amd64")],
        }
    }
}

/// Linux on an architecture.
#[must_use]
pub fn linux(architecture: &str) -> Platform {
    Platform {
        architecture: architecture.to_owned(),
        os: "linux".to_owned(),
        variant: None,
    }
}
