//! The pull engine: blobs in parallel, ranges in parallel within a large blob, one hash over each, files renamed into place
//! when they are proven.
//!
//! Nothing that was not verified gets its name: a file under its final name is whole. What is there already with the right
//! digest is not fetched again; what was fetched of a blob before the program was killed is kept.

mod arrived;
mod batch;
mod error;
mod extract;
mod fetch;
mod files;
mod partial;
mod ranges;
mod record;
mod resolve;
mod taking;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use error::PullError;
pub use resolve::{Selected, select};

use crate::cache::Cache;
use crate::digest::Digest;
use crate::oci::{Descriptor, Platform};
use crate::progress::Progress;
pub use crate::push::Origin;

/// How a pull is done.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// Connections at once, over all blobs. Default 4.
    pub streams: usize,
    /// Globs of the files to fetch; empty for all.
    pub include: Vec<String>,
    /// Which image of an index; `None` for the ModelPack manifest where there is one, else for this machine's platform.
    pub platform: Option<Platform>,
    /// Blobs of at least two times this many bytes are fetched in ranges of it. Default 64 MiB.
    pub range: u64,
    /// What is remembered from other runs: digests of files that are there.
    pub cache: Option<Arc<Cache>>,
    /// Files of images are below this directory of the image, which is left out of their names; `None` keeps all names.
    pub strip: Option<String>,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            streams: 4,
            include: Vec::new(),
            platform: None,
            range: 64 << 20,
            cache: None,
            strip: None,
        }
    }
}

/// What a pull did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// The manifest whose files these are.
    pub manifest: Descriptor,
    /// The files, sorted by path.
    pub files: Vec<PulledFile>,
    /// Bytes that were received.
    pub received: u64,
}

/// A file that is there now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PulledFile {
    /// Where, below the directory.
    pub path: PathBuf,
    /// Size in bytes.
    pub size: u64,
    /// Its digest, where the manifest or the archive says or implies it.
    pub digest: Option<Digest>,
    /// Whether it was there before.
    pub present: bool,
}

/// Brings the files of an artifact or image to `directory`.
///
/// # Errors
/// When something is missing or damaged, names files that must not be written, or the disk is full. Files that were
/// finished stay; the next pull goes on.
pub async fn pull(
    origin: &Origin,
    selector: &str,
    directory: &Path,
    options: &PullOptions,
    progress: Arc<dyn Progress>,
) -> Result<Pulled, PullError> {
    let selected = select(origin, selector, options.platform.as_ref()).await?;
    fetch::all(origin, &selected, directory, options, progress).await
}
