//! From SOURCE and flags to a plan: lists files, reads headers, resolves base images, refuses what `--deny` names.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr as _;
use std::sync::Arc;

use bytes::Bytes;
use clap::ValueEnum;
use futures::{StreamExt as _, TryStreamExt as _};

use super::Context;
use super::failure::{Exit, Failure};
use super::flags::{Pair, RegistryFlags, SourceFlags};
use super::open;
use crate::digest::Digest;
use crate::findings::Deny;
use crate::oci::{Descriptor, Index, Manifest, Platform, media_type};
use crate::plan::{
    self, BaseImage, BaseModel, BasePlatform, Compression, Contents, Kind, LayerForm, Options,
    Plan, Run, Shape,
};
use crate::registry::{Reference, Repository};
use crate::source::{Source, Tree};

/// Headers that are read at a time.
const READS: usize = 8;

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
    /// A root file system or a static binary.
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

/// Everything that commands need to go on.
pub(crate) struct Prepared {
    pub(crate) source: Arc<dyn Source>,
    pub(crate) plan: Plan,
    pub(crate) kind: Kind,
    pub(crate) url: Option<String>,
    pub(crate) revision: Option<String>,
    pub(crate) base: Option<Repository>,
}

/// Where everything comes from.
pub(crate) struct Inputs<'a> {
    pub(crate) source: &'a str,
    pub(crate) files: &'a SourceFlags,
    pub(crate) shape: &'a ShapeFlags,
    pub(crate) registry: &'a RegistryFlags,
}

/// Lists the source, reads what the plan needs to see, and plans.
pub(crate) async fn prepare(inputs: &Inputs<'_>, context: &Context) -> Result<Prepared, Failure> {
    let deny = Deny::from_str(&inputs.shape.deny)?;
    let source = open::source(inputs.source, inputs.files, inputs.registry, context)?;
    let tree = source.list().await?;
    let (options, base) = options(inputs, &tree, context).await?;
    let contents = read_beginnings(source.as_ref(), &tree, &options).await?;
    let plan = plan::plan(&tree, &contents, &options)?;
    refuse_denied(&plan, &deny)?;
    Ok(Prepared {
        source,
        plan,
        kind: options.kind,
        url: tree.url,
        revision: tree.revision,
        base,
    })
}

fn refuse_denied(plan: &Plan, deny: &Deny) -> Result<(), Failure> {
    let denied = deny.denied(&plan.findings);
    if denied.is_empty() {
        return Ok(());
    }
    let head =
        Failure::message("refused, because --deny names what was found").with_exit(Exit::Negative);
    Err(denied.into_iter().fold(head, |failure, finding| {
        failure.with_line(format!(
            "{}: {}: {}",
            finding.kind.name(),
            finding.path,
            finding.reason
        ))
    }))
}

/// Reads headers and small texts, until the plan wants no more.
async fn read_beginnings(
    source: &dyn Source,
    tree: &Tree,
    options: &Options,
) -> Result<Contents, Failure> {
    let mut contents = Contents::default();
    loop {
        let wanted = plan::wanted(tree, &contents, options);
        if wanted.is_empty() {
            return Ok(contents);
        }
        let read: Vec<(String, Bytes)> = futures::stream::iter(wanted)
            .map(|(path, range)| async move {
                let pieces: Vec<Bytes> = source.read(&path, range).await?.try_collect().await?;
                Ok::<_, crate::source::SourceError>((path, Bytes::from(pieces.concat())))
            })
            .buffered(READS)
            .try_collect()
            .await?;
        for (path, bytes) in read {
            contents.add(&path, &bytes);
        }
    }
}

async fn options(
    inputs: &Inputs<'_>,
    tree: &Tree,
    context: &Context,
) -> Result<(Options, Option<Repository>), Failure> {
    let flags = inputs.shape;
    let platforms: Vec<Platform> = flags
        .platform
        .iter()
        .map(|text| platform(text))
        .collect::<Result<_, _>>()?;
    let (base_image, base) = match &flags.base_image {
        Some(text) => {
            let (image, repository) = base_image(text, inputs.registry, context).await?;
            (Some(image), Some(repository))
        }
        None => (None, None),
    };
    let source_date = match context.variable("SOURCE_DATE_EPOCH") {
        Some(text) => Some(text.trim().parse().map_err(|_| {
            Failure::message(format!(
                "SOURCE_DATE_EPOCH is `{text}`, which is no number of seconds since 1970"
            ))
        })?),
        None => None,
    };
    let options = Options {
        kind: kind(flags.kind, tree),
        shape: shape(flags.artifact),
        root: flags.root.clone(),
        platforms,
        compression: compression(flags.compression),
        annotations: map(&flags.annotation),
        labels: map(&flags.label),
        run: run(&flags.run),
        base_image,
        base_model: flags.base_model.as_deref().map(base_model).transpose()?,
        subject: subject(flags.subject.as_deref(), inputs.registry, context).await?,
        preset: flags.preset.clone(),
        name: flags.model_name.clone(),
        version: flags.model_version.clone(),
        include: inputs.files.include.clone(),
        exclude: inputs.files.exclude.clone(),
        source_date,
        ..Options::default()
    };
    Ok((options, base))
}

fn kind(flag: KindFlag, tree: &Tree) -> Kind {
    match flag {
        KindFlag::Auto => Kind::of(tree),
        KindFlag::Model => Kind::Model,
        KindFlag::Adapter => Kind::Adapter,
        KindFlag::Program => Kind::Program,
    }
}

const fn shape(artifact: Artifact) -> Shape {
    match artifact {
        Artifact::Image => Shape::Image,
        Artifact::Modelpack => Shape::ModelPack(LayerForm::Raw),
        Artifact::ModelpackTar => Shape::ModelPack(LayerForm::Tar),
        Artifact::Dual => Shape::Dual,
    }
}

const fn compression(flag: CompressionFlag) -> Compression {
    match flag {
        CompressionFlag::None => Compression::None,
        CompressionFlag::Auto => Compression::Auto(None),
        CompressionFlag::Zstd => Compression::Zstd,
        CompressionFlag::Gzip => Compression::Gzip,
    }
}

fn run(flags: &RunFlags) -> Run {
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

fn map(pairs: &[Pair]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|pair| (pair.key.clone(), pair.value.clone()))
        .collect()
}

/// `linux/arm64` or `linux/arm64/v8`.
pub(crate) fn platform(text: &str) -> Result<Platform, Failure> {
    let mut parts = text.split('/').map(str::to_owned);
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(os), Some(architecture), variant, None)
            if !os.is_empty() && !architecture.is_empty() =>
        {
            Ok(Platform {
                architecture,
                os,
                variant,
            })
        }
        _ => Err(Failure::message(format!(
            "`{text}` is no platform; write OS/ARCHITECTURE, for example linux/amd64"
        ))),
    }
}

fn base_model(text: &str) -> Result<BaseModel, Failure> {
    match text.split_once('@') {
        Some((name, digest)) => Ok(BaseModel {
            name: Some(name.to_owned()),
            digest: Some(digest.parse::<Digest>()?),
        }),
        None => Ok(BaseModel {
            name: Some(text.to_owned()),
            digest: None,
        }),
    }
}

async fn subject(
    text: Option<&str>,
    registry: &RegistryFlags,
    context: &Context,
) -> Result<Option<Descriptor>, Failure> {
    let Some(text) = text else {
        return Ok(None);
    };
    let (repository, reference) = registry.repository(text, context)?;
    let document = repository.manifest(&reference.selector()).await?;
    Ok(Some(document.descriptor()))
}

/// The base image: one manifest and config per platform, no layer.
async fn base_image(
    text: &str,
    registry: &RegistryFlags,
    context: &Context,
) -> Result<(BaseImage, Repository), Failure> {
    let (repository, reference) = registry.repository(text, context)?;
    let top = repository.manifest(&reference.selector()).await?;
    let mut images = Vec::new();
    if matches!(
        top.media_type.as_str(),
        media_type::INDEX | media_type::DOCKER_INDEX
    ) {
        let index: Index = serde_json::from_slice(&top.bytes)?;
        for entry in index.manifests {
            let Some(platform) = entry.platform.filter(|platform| platform.os != "unknown") else {
                continue;
            };
            let document = repository.manifest(&entry.digest.to_string()).await?;
            images.push(base_platform(&repository, &document.bytes, Some(platform)).await?);
        }
    } else {
        images.push(base_platform(&repository, &top.bytes, None).await?);
    }
    let reference = Reference::with_digest(&reference, top.digest).to_string();
    Ok((BaseImage { reference, images }, repository))
}

async fn base_platform(
    repository: &Repository,
    manifest: &[u8],
    platform: Option<Platform>,
) -> Result<BasePlatform, Failure> {
    #[derive(serde::Deserialize)]
    struct Config {
        architecture: Option<String>,
        os: Option<String>,
        variant: Option<String>,
    }
    let manifest: Manifest = serde_json::from_slice(manifest)?;
    let config = repository.read_document(&manifest.config).await?.bytes;
    let platform = match platform {
        Some(platform) => platform,
        None => {
            let read: Config = serde_json::from_slice(&config)?;
            Platform {
                architecture: read.architecture.unwrap_or_else(|| "amd64".to_owned()),
                os: read.os.unwrap_or_else(|| "linux".to_owned()),
                variant: read.variant,
            }
        }
    };
    Ok(BasePlatform {
        platform,
        manifest,
        config,
    })
}
