//! Keys of annotations that are written and read. May hold nothing else.

/// Path of a raw layer's file: what `oras` names it by. Never on tar layers.
pub const TITLE: &str = "org.opencontainers.image.title";
/// Time, from the source date only.
pub const CREATED: &str = "org.opencontainers.image.created";
/// Address of the source.
pub const SOURCE: &str = "org.opencontainers.image.source";
/// Commit or version of the source.
pub const REVISION: &str = "org.opencontainers.image.revision";
/// Version of what is packaged.
pub const VERSION: &str = "org.opencontainers.image.version";
/// SPDX expression.
pub const LICENSES: &str = "org.opencontainers.image.licenses";
/// Name of a reference, in the index of a layout.
pub const REFERENCE: &str = "org.opencontainers.image.ref.name";
/// ModelPack: path of a layer's file.
pub const FILE_PATH: &str = "org.cncf.model.filepath";
/// ModelPack: attributes of a layer's file, as JSON.
pub const FILE_METADATA: &str = "org.cncf.model.file.metadata+json";
/// ModelPack: whether a layer's kind was guessed.
pub const UNTESTED: &str = "org.cncf.model.file.mediatype.untested";
/// KAITO: name of the model's preset, for an adapter of its base model's.
pub const PRESET: &str = "sh.kaito.model.name";
/// Where files are in the image's file system, without `/` at the ends; absent where they are at the root.
pub const ROOT: &str = "kaito.sh/root";
/// Byte offset of a file's data in its layer.
pub const DATA_OFFSET: &str = "kaito.sh/data-offset";
/// Parameters, exactly.
pub const PARAMETERS: &str = "kaito.sh/parameters";
/// Context length in tokens.
pub const CONTEXT_LENGTH: &str = "kaito.sh/context-length";
/// Data sets that the model card names, separated by commas.
pub const DATASETS: &str = "kaito.sh/datasets";
/// Name of an adapter's base model.
pub const BASE_MODEL: &str = "kaito.sh/base-model";
/// Digest of the manifest of an adapter's base model.
pub const BASE_MODEL_DIGEST: &str = "kaito.sh/base-model-digest";
/// Rank of an adapter.
pub const ADAPTER_RANK: &str = "kaito.sh/adapter-rank";
/// Alpha of an adapter.
pub const ADAPTER_ALPHA: &str = "kaito.sh/adapter-alpha";
/// PEFT type of an adapter.
pub const ADAPTER_TYPE: &str = "kaito.sh/adapter-type";
/// Modules that an adapter changes, sorted, separated by commas.
pub const ADAPTER_TARGETS: &str = "kaito.sh/adapter-target-modules";
