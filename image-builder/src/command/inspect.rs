//! `inspect`: what an image is and holds, from its manifests; with `--remote` also what its weights are made of, by one
//! ranged request per shard.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use super::Context;
use super::failure::{Exit, Failure};
use super::flags::RegistryFlags;
use super::plan::Format;
use super::remote::{self, Image};
use super::table::{render, row};
use crate::layout::Layout;
use crate::model::safetensors;
use crate::oci::Descriptor;
use crate::progress::Size;
use crate::pull::Origin;
use crate::registry::{Reference, Repository};

/// Bytes of a shard that are asked for: headers of several thousand tensors fit.
const HEADER_BYTES: u64 = 1 << 20;
/// Shards that are asked for at a time.
const READS: usize = 8;

/// Flags of `inspect`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Image in a registry, or the directory of an OCI layout
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// Read the headers of the weights, too: tensors and their types
    #[arg(long)]
    pub(crate) remote: bool,
    /// text or json
    #[arg(short = 'o', long, value_name = "FORMAT", value_enum, default_value_t = Format::Text, hide_possible_values = true)]
    pub(crate) output: Format,
    /// How registries are reached.
    #[command(flatten)]
    pub(crate) registry: RegistryFlags,
}

/// Inspects.
pub(crate) async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let path = std::path::Path::new(&args.reference);
    let (origin, selector) = if path.join("oci-layout").is_file() {
        let layout = Layout::open(path).await?;
        let digest = layout.resolve(None).await?.digest.to_string();
        (Origin::Layout(layout), digest)
    } else {
        let reference = Reference::from_str(&args.reference)?;
        let repository = args.registry.client(context)?.repository(&reference)?;
        (Origin::Repository(repository), reference.selector())
    };
    let top = origin.resolve(&selector).await?;
    let images = remote::images(&origin, &top).await?;
    let mut manifests = Vec::new();
    for image in &images {
        let tensors = match &origin {
            Origin::Repository(repository) if args.remote => tensors(repository, image).await?,
            _ => BTreeMap::new(),
        };
        manifests.push(describe(&origin, image, &tensors).await?);
    }
    let document = json!({
        "name": args.reference, "digest": top.digest, "mediaType": top.media_type, "manifests": manifests,
    });
    match args.output {
        Format::Json => context
            .output
            .data(&serde_json::to_string_pretty(&document)?)?,
        Format::Text => {
            for line in text(&document) {
                context.output.data(&super::failure::harmless(&line))?;
            }
        }
    }
    Ok(Exit::Success)
}

/// What a shard holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tensors {
    count: usize,
    elements: u64,
    /// Tensors by number type.
    types: BTreeMap<String, usize>,
}

/// The headers of the shards of an image, by path.
async fn tensors(
    repository: &Repository,
    image: &Image,
) -> Result<BTreeMap<String, Tensors>, Failure> {
    let shards = image.manifest.layers.iter().filter_map(|layer| {
        let path = remote::file_path(layer).filter(|path| path.ends_with(".safetensors"))?;
        Some((path.to_owned(), layer, remote::data_offset(layer)?))
    });
    futures::stream::iter(shards)
        .map(|(path, layer, offset)| async move { Ok((path, shard(repository, layer, offset).await?)) })
        .buffered(READS)
        .try_collect()
        .await
}

async fn shard(
    repository: &Repository,
    layer: &Descriptor,
    offset: u64,
) -> Result<Tensors, Failure> {
    let first = beginning(repository, layer, offset, HEADER_BYTES).await?;
    let bytes = match safetensors::header_end(&first) {
        Some(end) if end > first.len() as u64 => beginning(repository, layer, offset, end).await?,
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

async fn beginning(
    repository: &Repository,
    layer: &Descriptor,
    offset: u64,
    length: u64,
) -> Result<Bytes, Failure> {
    let range = offset..layer.size.min(offset.saturating_add(length));
    let wanted = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or_default();
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

async fn describe(
    origin: &Origin,
    image: &Image,
    tensors: &BTreeMap<String, Tensors>,
) -> Result<Value, Failure> {
    let config = origin.document(&image.manifest.config).await?;
    let config: Value = serde_json::from_slice(&config.bytes).unwrap_or(Value::Null);
    let layers: Vec<Value> = image
        .manifest
        .layers
        .iter()
        .map(|layer| {
            let path = remote::file_path(layer);
            let mut value = json!({
                "digest": layer.digest, "size": layer.size, "mediaType": layer.media_type, "path": path,
            });
            if let (Some(found), Some(map)) =
                (path.and_then(|path| tensors.get(path)), value.as_object_mut())
            {
                map.insert("tensors".to_owned(), json!({
                    "count": found.count, "parameters": found.elements, "types": found.types,
                }));
            }
            value
        })
        .collect();
    Ok(json!({
        "digest": image.document.digest,
        "artifactType": image.manifest.artifact_type,
        "platform": image.entry.as_ref().and_then(|entry| entry.platform.as_ref()),
        "configType": image.manifest.config.media_type,
        "config": config,
        "annotations": image.manifest.annotations,
        "subject": image.manifest.subject,
        "layers": layers,
    }))
}

fn text(document: &Value) -> Vec<String> {
    let shown = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut lines = vec![
        format!("Name:    {}", shown(&document["name"])),
        format!("Digest:  {}", shown(&document["digest"])),
    ];
    for manifest in document["manifests"].as_array().into_iter().flatten() {
        lines.push(String::new());
        lines.push(format!("Manifest {}", shown(&manifest["digest"])));
        if let Some(platform) = manifest["platform"].as_object() {
            let part = |key: &str| platform.get(key).map(shown).unwrap_or_default();
            lines.push(format!("Platform: {}/{}", part("os"), part("architecture")));
        }
        if let Some(kind) = manifest["artifactType"].as_str() {
            lines.push(format!("Type: {kind}"));
        }
        for (key, value) in manifest["annotations"].as_object().into_iter().flatten() {
            lines.push(format!("{key}: {}", shown(value)));
        }
        if let Some(model) = manifest.pointer("/config/config") {
            lines.push(format!("Model: {model}"));
        }
        lines.extend(layer_lines(&manifest["layers"]));
    }
    lines
}

fn layer_lines(layers: &Value) -> Vec<String> {
    let mut rows = vec![row(["LAYER", "SIZE", "PATH", "TENSORS"])];
    for layer in layers.as_array().into_iter().flatten() {
        let tensors = &layer["tensors"];
        let types: Vec<String> = tensors["types"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, count)| format!("{count} × {name}"))
            .collect();
        let tensors = match tensors["count"].as_u64() {
            Some(count) => {
                let parameters = tensors["parameters"].as_u64().unwrap_or_default();
                format!("{count}, {parameters} parameters ({})", types.join(", "))
            }
            None => String::new(),
        };
        rows.push(vec![
            layer["digest"]
                .as_str()
                .unwrap_or_default()
                .chars()
                .take(19)
                .collect(),
            Size(layer["size"].as_u64().unwrap_or_default()).to_string(),
            layer["path"]
                .as_str()
                .unwrap_or("(several files)")
                .to_owned(),
            tensors,
        ]);
    }
    render(&rows)
}
