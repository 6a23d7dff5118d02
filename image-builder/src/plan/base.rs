//! The base image of a plan: which of its images goes below ours, and what its layers are called. May do no I/O.

use std::collections::BTreeMap;

use super::{BasePlatform, Options, PlanError, Shape};
use crate::digest::Digest;
use crate::oci::{Descriptor, Platform, media_type};

/// Media types of Docker's layers, which are OCI's by other names.
const DOCKER_LAYERS: [(&str, &str); 2] = [
    (
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        media_type::LAYER_TAR_GZIP,
    ),
    (
        "application/vnd.docker.image.rootfs.diff.tar",
        media_type::LAYER_TAR,
    ),
];

/// Layers of the base images of all platforms, each once.
pub(super) fn mounts(options: &Options) -> Result<Vec<Descriptor>, PlanError> {
    let mut mounts: BTreeMap<Digest, Descriptor> = BTreeMap::new();
    for base in bases(options)? {
        for layer in base_mentions(base) {
            mounts.entry(layer.digest).or_insert(layer);
        }
    }
    Ok(mounts.into_values().collect())
}

/// Layers of the base image, for the platform that has most.
pub(super) fn base_layers(options: &Options) -> Result<usize, PlanError> {
    let counts = bases(options)?
        .into_iter()
        .map(|base| base.manifest.layers.len());
    Ok(counts.max().unwrap_or_default())
}

fn bases(options: &Options) -> Result<Vec<&BasePlatform>, PlanError> {
    if matches!(options.shape, Shape::ModelPack(_)) {
        return Ok(Vec::new());
    }
    let mut bases = Vec::new();
    for platform in options.image_platforms() {
        bases.extend(base_for(options, &platform)?);
    }
    Ok(bases)
}

/// The base image for a platform, if there is a base.
pub(super) fn base_for<'a>(
    options: &'a Options,
    platform: &Platform,
) -> Result<Option<&'a BasePlatform>, PlanError> {
    let Some(base) = &options.base_image else {
        return Ok(None);
    };
    let found = base
        .images
        .iter()
        .find(|image| same_platform(&image.platform, platform));
    if found.is_some() {
        return Ok(found);
    }
    let present: Vec<String> = base
        .images
        .iter()
        .map(|image| platform_name(&image.platform))
        .collect();
    Err(PlanError::BasePlatform {
        reference: base.reference.clone(),
        platform: platform_name(platform),
        present: if present.is_empty() {
            "none".to_owned()
        } else {
            present.join(", ")
        },
    })
}

/// Equal but for a variant that only one of them names: arm64 is v8 wherever nothing else is said.
fn same_platform(left: &Platform, right: &Platform) -> bool {
    let variants = match (&left.variant, &right.variant) {
        (Some(left), Some(right)) => left == right,
        _ => true,
    };
    left.os == right.os && left.architecture == right.architecture && variants
}

/// The layers of a base image, by OCI's names.
pub(super) fn base_mentions(base: &BasePlatform) -> Vec<Descriptor> {
    let mentions = base.manifest.layers.iter().map(|layer| {
        let mut layer = layer.clone();
        if let Some((_, name)) = DOCKER_LAYERS
            .iter()
            .find(|(docker, _)| *docker == layer.media_type)
        {
            layer.media_type = (*name).to_owned();
        }
        layer
    });
    mentions.collect()
}

/// `linux/amd64`, with the variant where there is one.
pub(super) fn platform_name(platform: &Platform) -> String {
    let variant = platform.variant.iter().map(|variant| format!("/{variant}"));
    format!("{}/{}", platform.os, platform.architecture) + &variant.collect::<String>()
}
