//! What is known about an image when it has been built. Pure.

use crate::digest::Digest;

/// A file that went into the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Material {
    /// Its path in the source, or the name of the layer that holds it.
    pub path: String,
    /// Its size in bytes.
    pub size: u64,
    /// sha256 of its content.
    pub digest: Digest,
}

/// What documents tell. Empty texts and lists are left out of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Name of the model or program.
    pub name: String,
    /// Repository, without registry and tag: the image may be copied elsewhere.
    pub repository: String,
    /// Where the files come from: a public address, or `local files`.
    pub source: String,
    /// Commit that was read.
    pub revision: Option<String>,
    /// Shape of the output: `image`, `modelpack`, `dual`.
    pub artifact: String,
    /// SPDX expressions.
    pub licenses: Vec<String>,
    /// `transformer` and the like.
    pub architecture: Option<String>,
    /// `safetensors`, `gguf`.
    pub format: Option<String>,
    /// Number of parameters as the model's configuration tells it: `7.6B`.
    pub parameters: Option<String>,
    /// Number types: `bfloat16`.
    pub precision: Option<String>,
    /// `awq`, `gptq`.
    pub quantization: Option<String>,
    /// Name of the model that an adapter changes.
    pub base_model: Option<String>,
    /// The files, sorted by path.
    pub materials: Vec<Material>,
}
