//! Flags that say what is made, and what they are turned into. Pure.

use std::collections::{BTreeMap, BTreeSet};

use clap::ValueEnum;

use super::flags::Pair;
use crate::plan::{Compression, Kind, LayerForm, Run, Shape};
use crate::source::Tree;
use crate::source::local::Links;

/// Value of `--artifact`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Artifact {
    /// Container images with tar layers.
    #[default]
    Image,
    /// A ModelPack artifact with raw layers.
    Modelpack,
    /// A ModelPack artifact with tar layers.
    ModelpackTar,
    /// An index of images and a ModelPack manifest over the same layers.
    Dual,
}

/// Value of `--kind`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum KindFlag {
    /// An adapter where there is an `adapter_config.json`, else a model.
    #[default]
    Auto,
    /// Model weights.
    Model,
    /// A LoRA adapter.
    Adapter,
    /// A root file system, with its links and empty directories, or a static binary.
    Program,
}

/// Value of `--compression`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum CompressionFlag {
    /// None: layers can be read in parts, and nothing is spent on bytes that hardly shrink.
    #[default]
    None,
    /// zstd for layers of small files.
    Auto,
    /// zstd for all tar layers.
    Zstd,
    /// gzip for all tar layers.
    Gzip,
}

/// What is made.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "What is made")]
pub struct ShapeFlags {
    /// image, modelpack, modelpack-tar or dual
    #[arg(long, visible_alias = "format", value_name = "SHAPE", value_enum, default_value_t = Artifact::Image, hide_possible_values = true)]
    pub artifact: Artifact,
    /// auto, model, adapter or program
    #[arg(long, value_name = "KIND", value_enum, default_value_t = KindFlag::Auto, hide_possible_values = true)]
    pub kind: KindFlag,
    /// Directory of the files in an image [models; data for adapters; / for programs]
    #[arg(long, value_name = "DIR")]
    pub root: Option<String>,
    /// Platform of the image, OS/ARCHITECTURE; several give an index [linux/amd64]
    #[arg(long, value_name = "PLATFORM", value_delimiter = ',')]
    pub platform: Vec<String>,
    /// Image to build on; its layers are mounted, not downloaded
    #[arg(long, value_name = "REF")]
    pub base_image: Option<String>,
    /// none, auto, zstd or gzip
    #[arg(long, value_name = "HOW", value_enum, default_value_t = CompressionFlag::None, hide_possible_values = true)]
    pub compression: CompressionFlag,
    /// Annotation of the manifest, KEY=VALUE; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub annotation: Vec<Pair>,
    /// Label of the image, KEY=VALUE; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub label: Vec<Pair>,
    /// Name of the model, instead of the one that the source has
    #[arg(long, value_name = "NAME")]
    pub model_name: Option<String>,
    /// Version of the model
    #[arg(long, value_name = "VERSION")]
    pub model_version: Option<String>,
    /// KAITO's name of the model's preset (for adapters: of the base model's)
    #[arg(long, value_name = "PRESET")]
    pub preset: Option<String>,
    /// Base model of an adapter, NAME or NAME@sha256:…
    #[arg(long, value_name = "NAME")]
    pub base_model: Option<String>,
    /// Image that the result refers to, for example the base model's; in the same repository
    #[arg(long, value_name = "REF")]
    pub subject: Option<String>,
    /// Make findings errors: pickle, secrets, truncated, missing-shard or all
    #[arg(long, value_name = "KINDS", default_value = "")]
    pub deny: String,
    /// How containers run.
    #[command(flatten)]
    pub run: RunFlags,
}

/// How containers of the image run.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "How containers run")]
pub struct RunFlags {
    /// Program and its first arguments; may be repeated
    #[arg(long, value_name = "WORD", allow_hyphen_values = true)]
    pub entrypoint: Vec<String>,
    /// Argument that users may replace; may be repeated
    #[arg(long = "arg", value_name = "WORD", allow_hyphen_values = true)]
    pub arguments: Vec<String>,
    /// Environment variable, KEY=VALUE; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub env: Vec<Pair>,
    /// User, NAME or UID[:GID]
    #[arg(long, value_name = "USER")]
    pub run_as: Option<String>,
    /// Directory in which the program starts
    #[arg(long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Port that the program listens on, 8080 or 8080/udp; may be repeated
    #[arg(long, value_name = "PORT")]
    pub port: Vec<String>,
}

pub(super) fn kind(flag: KindFlag, tree: &Tree) -> Kind {
    match flag {
        KindFlag::Auto => Kind::of(tree),
        KindFlag::Model => Kind::Model,
        KindFlag::Adapter => Kind::Adapter,
        KindFlag::Program => Kind::Program,
    }
}

/// A root file system keeps its links where it becomes an image; everything else is what its files are.
pub(super) const fn links(flags: &ShapeFlags) -> Links {
    match (flags.kind, flags.artifact) {
        (KindFlag::Program, Artifact::Image) => Links::Keep,
        _ => Links::Follow,
    }
}

pub(super) const fn shape(artifact: Artifact) -> Shape {
    match artifact {
        Artifact::Image => Shape::Image,
        Artifact::Modelpack => Shape::ModelPack(LayerForm::Raw),
        Artifact::ModelpackTar => Shape::ModelPack(LayerForm::Tar),
        Artifact::Dual => Shape::Dual,
    }
}

pub(super) const fn compression(flag: CompressionFlag) -> Compression {
    match flag {
        CompressionFlag::None => Compression::None,
        CompressionFlag::Auto => Compression::Auto(None),
        CompressionFlag::Zstd => Compression::Zstd,
        CompressionFlag::Gzip => Compression::Gzip,
    }
}

pub(super) fn run(flags: &RunFlags) -> Run {
    let port = |port: &String| {
        if port.contains('/') {
            port.clone()
        } else {
            format!("{port}/tcp")
        }
    };
    Run {
        entrypoint: flags.entrypoint.clone(),
        arguments: flags.arguments.clone(),
        environment: map(&flags.env),
        user: flags.run_as.clone(),
        working_directory: flags.workdir.clone(),
        exposed_ports: flags.port.iter().map(port).collect::<BTreeSet<_>>(),
    }
}

pub(super) fn map(pairs: &[Pair]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|pair| (pair.key.clone(), pair.value.clone()))
        .collect()
}
