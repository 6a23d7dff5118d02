//! OCI manifests, indexes, descriptors and media types (image-spec 1.1, model-spec 0.0.7). May do no I/O.
//!
//! Types of our own rather than a crate's: a digest is over exact bytes, so maps must be ordered and what is unset must
//! not be written.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// Key and value pairs in the order in which they are written.
pub type Annotations = BTreeMap<String, String>;

/// Media types that are written, and those that are accepted when reading.
pub mod media_type {
    /// An OCI image manifest; ModelPack artifacts use it too.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An OCI image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An OCI image config.
    pub const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A plain tar layer of an image.
    pub const LAYER_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
    /// A gzip-compressed tar layer of an image.
    pub const LAYER_TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// A zstd-compressed tar layer of an image.
    pub const LAYER_TAR_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// The two bytes `{}`.
    pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";
    /// Docker's manifest, read only.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's index, read only.
    pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// `artifactType` of a ModelPack manifest.
    pub const MODEL_MANIFEST: &str = "application/vnd.cncf.model.manifest.v1+json";
    /// Config of a ModelPack manifest.
    pub const MODEL_CONFIG: &str = "application/vnd.cncf.model.config.v1+json";
}

/// What names a blob or a manifest: its type, digest and size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type of what is named.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// The type of artifact that a manifest is, in indexes and referrer lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The platform that a manifest is for, in indexes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Annotations of this mention.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Annotations>,
}

/// The platform of an image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, `unknown`.
    pub architecture: String,
    /// `linux`, `unknown`.
    pub os: String,
    /// `v8` for arm64; absent otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// An image manifest, of an image or an artifact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u8,
    /// [`media_type::MANIFEST`], or Docker's when read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What the artifact is; absent in plain images.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// The manifest that this one refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations of the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Annotations>,
}

/// An index of manifests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u8,
    /// [`media_type::INDEX`], or Docker's when read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What the index is as an artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The manifests.
    pub manifests: Vec<Descriptor>,
    /// The manifest that this index refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Annotations of the index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<Annotations>,
}

impl Index {
    /// An index of nothing.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            schema_version: 2,
            media_type: Some(media_type::INDEX.to_owned()),
            artifact_type: None,
            manifests: Vec::new(),
            subject: None,
            annotations: None,
        }
    }
}

/// A manifest, index or config as it is stored: the digest is over these bytes, so they are kept, never written again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The media type.
    pub media_type: String,
    /// The exact bytes.
    pub bytes: Bytes,
    /// Their digest.
    pub digest: Digest,
}

impl Document {
    /// Bytes as they are, with their digest.
    #[must_use]
    pub fn new(media_type: &str, bytes: Bytes) -> Self {
        let digest = Digest::of(&bytes);
        Self {
            media_type: media_type.to_owned(),
            bytes,
            digest,
        }
    }

    /// The JSON of a value: no white space, fields in declaration order, maps sorted.
    ///
    /// # Errors
    /// When the value cannot be JSON (a map whose keys are not texts).
    pub fn from_value<T: Serialize>(
        media_type: &str,
        value: &T,
    ) -> Result<Self, serde_json::Error> {
        Ok(Self::new(media_type, serde_json::to_vec(value)?.into()))
    }

    /// The descriptor that names this document.
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        Descriptor {
            media_type: self.media_type.clone(),
            digest: self.digest,
            size: self.bytes.len() as u64,
            artifact_type: None,
            platform: None,
            annotations: None,
        }
    }
}
