//! From a list of files to blobs and documents. May do no I/O: the caller reads what [`wanted`] names, moves the blobs of
//! the [`Plan`], and gets the documents from [`Plan::finish`] once the blobs have digests.
//!
//! ```text
//! loop { wanted(tree, contents, options) → read those ranges into contents }   // until it names nothing
//! plan(tree, contents, options)          → Plan { blobs, mounts, notes, findings }
//! push each blob of plan.blobs, mount each of plan.mounts
//! plan.finish(made)                      → configs, manifests, index; the top document last
//! ```
//!
//! Documents whose media type is a config's are uploaded as blobs, all others as manifests.

mod base;
mod documents;
pub(crate) mod files;
mod grouping;
mod image_config;
pub mod key;
mod layers;
mod model_config;
mod notes;
mod options;
mod wanted;

use serde::Serialize;

pub use options::{
    BaseImage, BaseModel, BasePlatform, Compression, Kind, LayerForm, MAX_IMAGE_LAYERS,
    MAX_MANIFEST_BYTES, Options, Run, SMALL_FILE_BYTES, Sample, Shape, linux,
};
pub use wanted::{Contents, wanted};

use crate::content::{Blob, Encoding, MadeBlob};
use crate::digest::Digest;
use crate::findings::{self, Finding};
use crate::model::{self, Description};
use crate::oci::{Descriptor, Document};
use crate::source::Tree;

/// What will be made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The blobs to make, each content once, in the order in which they should be started. Configs are not among them.
    pub blobs: Vec<Blob>,
    /// A name for each blob, for people: a path, or `N small files`.
    pub names: Vec<String>,
    /// Layers of the base image: to be mounted, or copied where that is refused.
    pub mounts: Vec<Descriptor>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// What was found wrong or dangerous in the files.
    pub findings: Vec<Finding>,
    /// What was read about the model.
    pub description: Description,
    pub(crate) layers: Vec<layers::Layer>,
    pub(crate) default_program: Option<String>,
    pub(crate) options: Options,
    pub(crate) revision: Option<String>,
    pub(crate) url: Option<String>,
}

/// A plan in print: `plan -o json`, `--dry-run`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// What is packaged.
    pub kind: Kind,
    /// What is written.
    pub shape: Shape,
    /// The platforms of the images, `linux/amd64`; empty where no image is written.
    pub platforms: Vec<String>,
    /// Bytes of all blobs before they are encoded.
    pub content_bytes: u64,
    /// The blobs.
    pub blobs: Vec<SummaryBlob>,
    /// Layers that are mounted from the base image.
    pub mounts: Vec<Descriptor>,
    /// What was read about the model.
    pub model: Description,
    /// What a person should know.
    pub notes: Vec<String>,
    /// What was found in the files.
    pub findings: Vec<Finding>,
}

/// A blob in print.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SummaryBlob {
    /// Its name for people.
    pub name: String,
    /// Its media type.
    pub media_type: String,
    /// Bytes before it is encoded.
    pub content_bytes: u64,
    /// `plain`, `zstd`, `gzip`.
    pub encoding: &'static str,
    /// Its digest, where it is known without reading it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The files in it, by their paths in the source.
    pub files: Vec<String>,
}

/// Why no plan can be made, or no documents from it.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// No file is left.
    #[error("nothing to package: {reason}; check the path, --include and --exclude")]
    Empty {
        /// Why there is none.
        reason: &'static str,
    },
    /// A glob that cannot be read.
    #[error("cannot read the glob `{glob}`")]
    Glob {
        /// The glob as given.
        glob: String,
        /// What is wrong with it.
        #[source]
        cause: globset::Error,
    },
    /// A path that must not be in an archive or image.
    #[error("cannot package the files")]
    Path(#[source] crate::archive::ArchiveError),
    /// More layers than a runtime can mount.
    #[error(
        "the image would have {layers} layers, of which the base image has {base}; {limit} can be mounted: use a base image with \
         fewer layers"
    )]
    Layers {
        /// Layers of the image.
        layers: usize,
        /// Layers of the base image among them.
        base: usize,
        /// The limit.
        limit: usize,
    },
    /// A manifest that registries refuse.
    #[error(
        "the manifest would have at least {bytes} bytes for {layers} layers; registries accept {limit}: package as tar \
         (--format image, dual or modelpack-tar), or leave files out with --exclude"
    )]
    Manifest {
        /// Bytes of the manifest.
        bytes: usize,
        /// Its layers.
        layers: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The base image has no image for a platform.
    #[error(
        "the base image {reference} has no image for {platform}; it has {present}: choose with --platform"
    )]
    BasePlatform {
        /// The base image.
        reference: String,
        /// What was asked for.
        platform: String,
        /// What there is.
        present: String,
    },
    /// The config of the base image cannot be extended.
    #[error("cannot extend the config of the base image {reference}: {reason}")]
    BaseConfig {
        /// The base image.
        reference: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The blobs that were made are not those of the plan.
    #[error("cannot write the manifest: {made} blobs were made of {planned} that were planned")]
    Blobs {
        /// How many were made.
        made: usize,
        /// How many were planned.
        planned: usize,
    },
    /// A document that cannot be JSON.
    #[error("cannot write the {document}")]
    Json {
        /// Which document.
        document: &'static str,
        /// Why.
        #[source]
        cause: serde_json::Error,
    },
}

/// Decides what is made of a tree. Pure: equal input gives an equal plan.
///
/// `contents` holds what [`wanted`] asked for; what is missing there is missing in the description, never an error.
///
/// # Errors
/// When nothing is left to package, a path must not be packaged, or a limit of registries or runtimes is broken.
pub fn plan(tree: &Tree, contents: &Contents, options: &Options) -> Result<Plan, PlanError> {
    let (files, extras) = files::select(tree, options)?;
    files::check_names(&files, &extras, options)?;
    let layers = layers::arrange(&files, extras, contents, options)?;
    let description = model::describe(&files, contents);
    let mut plan = Plan {
        blobs: Vec::new(),
        names: Vec::new(),
        mounts: base::mounts(options)?,
        notes: Vec::new(),
        findings: findings::scan(&files, contents),
        default_program: files::only_program(&files, options),
        description,
        layers: Vec::new(),
        options: options.clone(),
        revision: tree.revision.clone(),
        url: tree.url.clone(),
    };
    plan.take_layers(layers);
    plan.notes = notes::write(&plan, &files);
    documents::check_limits(&plan)?;
    Ok(plan)
}

impl Plan {
    /// The documents over the blobs that were made, in upload order, the top one last. `made[i]` is what became of
    /// `blobs[i]`.
    ///
    /// # Errors
    /// When the blobs are not those of the plan, or a base image's config cannot be extended.
    pub fn finish(&self, made: &[MadeBlob]) -> Result<Vec<Document>, PlanError> {
        documents::write(self, made)
    }

    /// The plan in print.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary {
            kind: self.options.kind,
            shape: self.options.shape,
            platforms: documents::platform_names(&self.options),
            content_bytes: self.blobs.iter().map(Blob::content_size).sum(),
            blobs: self
                .blobs
                .iter()
                .zip(&self.names)
                .enumerate()
                .map(|(place, (blob, name))| SummaryBlob {
                    name: name.clone(),
                    media_type: blob.media_type.clone(),
                    content_bytes: blob.content_size(),
                    encoding: encoding_name(blob.encoding),
                    digest: blob.expected,
                    files: self.files_of(place),
                })
                .collect(),
            mounts: self.mounts.clone(),
            model: self.description.clone(),
            notes: self.notes.clone(),
            findings: self.findings.clone(),
        }
    }
}

const fn encoding_name(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Plain => "plain",
        Encoding::Zstd => "zstd",
        Encoding::Gzip => "gzip",
    }
}
