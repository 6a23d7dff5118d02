//! From SOURCE and flags to a plan: lists files, reads headers, resolves base images, refuses what `--deny` names.

use std::str::FromStr as _;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};

use super::Context;
use super::failure::{Exit, Failure};
use super::flags::{RegistryFlags, SourceFlags};
use super::open;
use super::shape::{self, ShapeFlags};
use crate::digest::Digest;
use crate::findings::Deny;
use crate::oci::{Descriptor, Index, Manifest, Platform, media_type};
use crate::plan::{self, BaseImage, BaseModel, BasePlatform, Contents, Kind, Options, Plan};
use crate::registry::{Reference, Repository};
use crate::source::{Source, Tree};

/// Headers that are read at a time.
const READS: usize = 8;

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
    let links = shape::links(inputs.shape);
    let source = open::source(inputs.source, links, inputs.files, inputs.registry, context)?;
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
        kind: shape::kind(flags.kind, tree),
        shape: shape::shape(flags.artifact),
        root: flags.root.clone(),
        platforms,
        compression: shape::compression(flags.compression),
        annotations: shape::map(&flags.annotation),
        labels: shape::map(&flags.label),
        run: shape::run(&flags.run),
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
