//! What is remembered between runs: digests of files that have not changed, which repositories have which
//! blobs, and which files came out of which archive.
//!
//! Losing it costs time, never correctness: what it says about files is keyed by their identity on disk, what it says about
//! registries is asked again before it is relied on. Lines are appended whole, so several runs may share it.

mod digests;
mod extracted;
mod journal;
mod lines;

use std::path::{Path, PathBuf};

pub use digests::{DigestCache, Recipe, Remembered};
pub use extracted::{Extracted, ExtractedFile};
pub use journal::Journal;

/// Why something cannot be remembered. Callers go on without.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the cache file {}", path.display())]
pub struct CacheError {
    /// `read`, `write`, `create`.
    pub action: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub cause: std::io::Error,
}

/// The directory of the cache: `KAITO_CACHE_DIR`, else `image-builder` in the user's cache directory. `variable` reads the
/// environment. `None` where there is no home.
#[must_use]
pub fn directory(variable: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let set = |name: &str| {
        variable(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let absolute = |path: PathBuf| path.is_absolute().then_some(path);
    set("KAITO_CACHE_DIR").or_else(|| {
        set("XDG_CACHE_HOME")
            .and_then(absolute)
            .or_else(|| {
                set("HOME")
                    .and_then(absolute)
                    .map(|home| home.join(".cache"))
            })
            .map(|cache| cache.join("kaito").join("image-builder"))
    })
}

/// All memories of one directory.
#[derive(Debug)]
pub struct Cache {
    /// Digests of files.
    pub digests: DigestCache,
    /// Blobs of repositories.
    pub journal: Journal,
    /// Files that came out of archives.
    pub extracted: Extracted,
}

impl Cache {
    /// Opens the cache, which is made if it is not there.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(directory: &Path) -> Result<Self, CacheError> {
        std::fs::create_dir_all(directory).map_err(|cause| CacheError {
            action: "create",
            path: directory.to_owned(),
            cause,
        })?;
        Ok(Self {
            digests: DigestCache::open(&directory.join("digests.jsonl"))?,
            journal: Journal::open(&directory.join("journal.jsonl"))?,
            extracted: Extracted::open(&directory.join("extracted.jsonl"))?,
        })
    }
}
