//! Configs, manifests and the index over layers whose digests are known. May do no I/O.

use jiff::Timestamp;
use serde::Serialize;

use super::base::{base_for, base_layers, base_mentions, platform_name};
use super::image_config::{self, LayerRecord};
use super::layers::{Layer, image_media_type, model_media_type};
use super::{Kind, MAX_MANIFEST_BYTES, Options, Plan, PlanError, Shape, key, model_config};
use crate::content::MadeBlob;
use crate::digest::Digest;
use crate::oci::{Annotations, Descriptor, Document, Index, Manifest, Platform, media_type};

/// Writes all documents, the top one last.
pub(super) fn write(plan: &Plan, made: &[MadeBlob]) -> Result<Vec<Document>, PlanError> {
    if made.len() != plan.blobs.len() {
        return Err(PlanError::Blobs {
            made: made.len(),
            planned: plan.blobs.len(),
        });
    }
    let layers: Vec<(&Layer, &MadeBlob)> = plan
        .layers
        .iter()
        .filter_map(|layer| Some((layer, made.get(layer.blob)?)))
        .collect();
    let mut documents = Vec::new();
    let mut listed = Vec::new();
    if !matches!(plan.options.shape, Shape::ModelPack(_)) {
        for platform in plan.options.image_platforms() {
            let (config, manifest) = image(plan, &platform, &layers, is_index(&plan.options))?;
            let mut descriptor = manifest.descriptor();
            descriptor.platform = Some(platform);
            listed.push(descriptor);
            documents.extend([config, manifest]);
        }
    }
    if plan.options.shape != Shape::Image {
        let (config, manifest) = model(plan, &layers, is_index(&plan.options))?;
        listed.push(model_mention(&manifest));
        documents.extend([config, manifest]);
    }
    if is_index(&plan.options) {
        documents.push(index(plan, listed)?);
    }
    // Configs of several platforms may be equal; each is uploaded once, before what names it.
    let mut seen = std::collections::BTreeSet::new();
    documents.retain(|document| seen.insert(document.digest));
    Ok(documents)
}

/// Whether several manifests are written.
fn is_index(options: &Options) -> bool {
    match options.shape {
        Shape::Dual => true,
        Shape::Image => options.image_platforms().len() > 1,
        Shape::ModelPack(_) => false,
    }
}

fn image(
    plan: &Plan,
    platform: &Platform,
    layers: &[(&Layer, &MadeBlob)],
    in_index: bool,
) -> Result<(Document, Document), PlanError> {
    let base = base_for(&plan.options, platform)?;
    let records: Vec<LayerRecord> = layers
        .iter()
        .map(|(layer, made)| LayerRecord {
            content_digest: made.content_digest,
            name: layer.name.clone(),
        })
        .collect();
    let config = image_config::write(
        &plan.options,
        platform,
        base,
        &records,
        created(&plan.options).as_deref(),
        plan.default_program.as_deref(),
    )?;
    let config = document(media_type::IMAGE_CONFIG, "image config", &config)?;
    let mut descriptors = base.map(base_mentions).unwrap_or_default();
    descriptors.extend(layers.iter().map(|(layer, made)| Descriptor {
        media_type: image_media_type(layer.encoding).to_owned(),
        annotations: None,
        ..mention(made)
    }));
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.to_owned()),
        artifact_type: None,
        config: config.descriptor(),
        layers: descriptors,
        subject: plan.options.subject.clone().filter(|_| !in_index),
        annotations: some(annotations(plan)),
    };
    let manifest = document(media_type::MANIFEST, "image manifest", &manifest)?;
    Ok((config, manifest))
}

fn model(
    plan: &Plan,
    layers: &[(&Layer, &MadeBlob)],
    in_index: bool,
) -> Result<(Document, Document), PlanError> {
    let digests: Vec<Digest> = layers.iter().map(|(_, made)| made.content_digest).collect();
    let config = model_config::write(plan, digests, created(&plan.options));
    let config = document(media_type::MODEL_CONFIG, "model config", &config)?;
    let descriptors = layers.iter().map(|(layer, made)| Descriptor {
        media_type: model_media_type(layer),
        annotations: some(layer.annotations.clone()),
        ..mention(made)
    });
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.to_owned()),
        artifact_type: Some(media_type::MODEL_MANIFEST.to_owned()),
        config: config.descriptor(),
        layers: descriptors.collect(),
        subject: plan.options.subject.clone().filter(|_| !in_index),
        annotations: some(annotations(plan)),
    };
    let manifest = document(media_type::MANIFEST, "model manifest", &manifest)?;
    Ok((config, manifest))
}

fn index(plan: &Plan, manifests: Vec<Descriptor>) -> Result<Document, PlanError> {
    let index = Index {
        schema_version: 2,
        media_type: Some(media_type::INDEX.to_owned()),
        artifact_type: None,
        manifests,
        subject: plan.options.subject.clone(),
        annotations: some(annotations(plan)),
    };
    document(media_type::INDEX, "index", &index)
}

/// The model manifest in the index: no platform runs it, so none picks it by mistake.
fn model_mention(manifest: &Document) -> Descriptor {
    Descriptor {
        artifact_type: Some(media_type::MODEL_MANIFEST.to_owned()),
        platform: Some(Platform {
            architecture: "unknown".to_owned(),
            os: "unknown".to_owned(),
            variant: None,
        }),
        ..manifest.descriptor()
    }
}

/// A blob by what the registry has of it; type and annotations are the manifest's to give.
fn mention(made: &MadeBlob) -> Descriptor {
    Descriptor {
        media_type: String::new(),
        digest: made.descriptor.digest,
        size: made.descriptor.size,
        artifact_type: None,
        platform: None,
        annotations: None,
    }
}

/// Annotations of manifests and index: what was read, then what the user says.
fn annotations(plan: &Plan) -> Annotations {
    let options = &plan.options;
    let model = &plan.description;
    let root = options.image_root();
    let packed = !matches!(options.shape, Shape::ModelPack(_)) && options.kind != Kind::Program;
    let mut pairs = vec![
        (key::CREATED, created(options)),
        (key::SOURCE, plan.url.clone()),
        (key::REVISION, plan.revision.clone()),
        (key::VERSION, options.version.clone()),
        (
            key::ROOT,
            (packed && !root.is_empty()).then(|| root.to_owned()),
        ),
    ];
    if options.kind != Kind::Program {
        let list = |items: &[String]| (!items.is_empty()).then(|| items.join(","));
        pairs.extend([
            (key::PRESET, options.preset.clone()),
            (key::LICENSES, model.license_expression()),
            (
                key::PARAMETERS,
                model.parameters.map(|count| count.to_string()),
            ),
            (
                key::CONTEXT_LENGTH,
                model.context_length.map(|length| length.to_string()),
            ),
            (key::DATASETS, list(&model.datasets)),
        ]);
    }
    if options.kind == Kind::Adapter {
        pairs.extend(adapter_annotations(plan));
    }
    pairs
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)))
        .chain(options.annotations.clone())
        .collect()
}

fn adapter_annotations(plan: &Plan) -> Vec<(&'static str, Option<String>)> {
    let base = plan.options.base_model.as_ref();
    let adapter = plan.description.adapter.as_ref();
    let named = base.and_then(|base| base.name.clone());
    let targets = adapter.map(|adapter| adapter.target_modules.join(","));
    vec![
        (
            key::BASE_MODEL,
            named
                .or_else(|| adapter?.base_model.clone())
                .or_else(|| plan.description.base_models.first().cloned()),
        ),
        (
            key::BASE_MODEL_DIGEST,
            base.and_then(|base| base.digest)
                .or_else(|| plan.options.subject.as_ref().map(|subject| subject.digest))
                .map(|digest| digest.to_string()),
        ),
        (
            key::ADAPTER_RANK,
            adapter
                .and_then(|adapter| adapter.rank)
                .map(|rank| rank.to_string()),
        ),
        (
            key::ADAPTER_ALPHA,
            adapter.and_then(|adapter| adapter.alpha.clone()),
        ),
        (
            key::ADAPTER_TYPE,
            adapter.and_then(|adapter| adapter.peft_type.clone()),
        ),
        (
            key::ADAPTER_TARGETS,
            targets.filter(|targets| !targets.is_empty()),
        ),
    ]
}

/// The source date as RFC 3339.
fn created(options: &Options) -> Option<String> {
    let seconds = i64::try_from(options.source_date?).ok()?;
    Timestamp::from_second(seconds)
        .ok()
        .map(|time| time.to_string())
}

fn document<T: Serialize>(
    media_type: &str,
    name: &'static str,
    value: &T,
) -> Result<Document, PlanError> {
    Document::from_value(media_type, value).map_err(|cause| PlanError::Json {
        document: name,
        cause,
    })
}

fn some(annotations: Annotations) -> Option<Annotations> {
    (!annotations.is_empty()).then_some(annotations)
}

/// `linux/amd64`, for all images that are written.
pub(super) fn platform_names(options: &Options) -> Vec<String> {
    match options.shape {
        Shape::ModelPack(_) => Vec::new(),
        Shape::Image | Shape::Dual => options
            .image_platforms()
            .iter()
            .map(platform_name)
            .collect(),
    }
}

/// Refuses images that cannot be mounted.
pub(super) fn check_layers(own: usize, options: &Options) -> Result<(), PlanError> {
    let base = base_layers(options)?;
    if matches!(options.shape, Shape::ModelPack(_)) || own + base <= options.max_layers {
        return Ok(());
    }
    Err(PlanError::Layers {
        layers: own + base,
        base,
        limit: options.max_layers,
    })
}

/// Refuses manifests that registries refuse, by writing them over digests of the same length.
pub(super) fn check_limits(plan: &Plan) -> Result<(), PlanError> {
    let made: Vec<MadeBlob> = plan
        .blobs
        .iter()
        .map(|blob| MadeBlob {
            descriptor: Descriptor {
                media_type: blob.media_type.clone(),
                digest: Digest::from_bytes([0; 32]),
                size: blob.content_size(),
                artifact_type: None,
                platform: None,
                annotations: None,
            },
            content_digest: Digest::from_bytes([0; 32]),
        })
        .collect();
    for document in write(plan, &made)? {
        let manifest =
            [media_type::MANIFEST, media_type::INDEX].contains(&document.media_type.as_str());
        if manifest && document.bytes.len() > MAX_MANIFEST_BYTES {
            return Err(PlanError::Manifest {
                bytes: document.bytes.len(),
                layers: plan.layers.len(),
                limit: MAX_MANIFEST_BYTES,
            });
        }
    }
    Ok(())
}
