//! `inspect`: what an image is and holds, from its manifests; with `--remote` also its files and what its weights are made
//! of, from their headers.

use std::str::FromStr as _;

use serde_json::{Value, json};

use super::Context;
use super::failure::{Exit, Failure};
use super::flags::RegistryFlags;
use super::plan::Format;
use super::remote::{self, Image};
use super::shards;
use super::table::{render, row};
use crate::layout::Layout;
use crate::progress::Size;
use crate::pull::Origin;
use crate::registry::Reference;

/// Flags of `inspect`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Image in a registry, or the directory of an OCI layout
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// Read headers in the layers, too: their files, and the tensors of safetensors files
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
        let files = match &origin {
            Origin::Repository(repository) if args.remote => {
                shards::files(repository, image).await?
            }
            _ => Vec::new(),
        };
        manifests.push(describe(&origin, image, &files).await?);
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

async fn describe(
    origin: &Origin,
    image: &Image,
    files: &[Vec<shards::File>],
) -> Result<Value, Failure> {
    let config = origin.document(&image.manifest.config).await?;
    let config: Value = serde_json::from_slice(&config.bytes).unwrap_or(Value::Null);
    let layers = image.manifest.layers.iter().enumerate();
    let layers: Vec<Value> = layers
        .map(|(place, layer)| {
            let mut value = json!({
                "digest": layer.digest, "size": layer.size, "mediaType": layer.media_type,
                "path": remote::file_path(layer),
            });
            if let (Some(files), Some(map)) = (files.get(place), value.as_object_mut()) {
                let files = files.iter().map(shards::File::json).collect();
                map.insert("files".to_owned(), Value::Array(files));
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
        let digest: String = layer["digest"]
            .as_str()
            .unwrap_or_default()
            .chars()
            .take(19)
            .collect();
        let size = |value: &Value| Size(value["size"].as_u64().unwrap_or_default()).to_string();
        let path = |value: &Value| value["path"].as_str().map(str::to_owned);
        let files = layer["files"].as_array().map_or(&[][..], Vec::as_slice);
        match files {
            [file] => rows.push(vec![
                digest,
                size(layer),
                path(file).unwrap_or_default(),
                tensors(file),
            ]),
            _ => {
                let several = || "(several files)".to_owned();
                let named = path(layer).filter(|path| path != ".");
                rows.push(vec![
                    digest,
                    size(layer),
                    named.unwrap_or_else(several),
                    String::new(),
                ]);
            }
        }
        if files.len() > 1 {
            rows.extend(files.iter().map(|file| {
                let path = path(file).unwrap_or_default();
                vec![String::new(), size(file), path, tensors(file)]
            }));
        }
    }
    render(&rows)
}

fn tensors(file: &Value) -> String {
    let tensors = &file["tensors"];
    let Some(count) = tensors["count"].as_u64() else {
        return String::new();
    };
    let types: Vec<String> = tensors["types"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, count)| format!("{count} × {name}"))
        .collect();
    let parameters = tensors["parameters"].as_u64().unwrap_or_default();
    format!("{count}, {parameters} parameters ({})", types.join(", "))
}
