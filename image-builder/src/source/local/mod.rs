//! Files of this machine: a directory, one file, or a snapshot of the hub's cache. Reads only; writes nothing.
//!
//! Symbolic links are followed where they end below the root (for the hub's cache: below the repository's folder), so
//! that a linked tree packages like a copied one; any other link is refused. For a root file system they are kept as they
//! are instead, and so are empty directories.

mod platform;
mod read;
mod walk;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use futures::FutureExt as _;
use futures::future::BoxFuture;

use super::select::Selection;
use super::{ByteStream, FileIdentity, Source, SourceError, Tree};
use read::BufferPool;

/// A listed file: where it really is, and which version of it was listed.
#[derive(Clone, Debug)]
struct Entry {
    place: PathBuf,
    identity: FileIdentity,
}

/// The listed files by their relative paths.
type Entries = BTreeMap<String, Entry>;

/// What is done with symbolic links.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Links {
    /// They are followed, and those that leave the directory refused.
    #[default]
    Follow,
    /// They are listed as links, and empty directories as directories: the directory is a root file system.
    Keep,
}

/// A directory or a file as a source.
pub struct LocalSource {
    root: PathBuf,
    selection: Selection,
    links: Links,
    entries: RwLock<Arc<Entries>>,
    buffers: Arc<BufferPool>,
}

impl LocalSource {
    /// The directory or file at `path`; nothing is read before [`Source::list`].
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            root: path.into(),
            selection: Selection::everything(),
            links: Links::Follow,
            entries: RwLock::default(),
            buffers: Arc::default(),
        }
    }

    /// Only what `selection` takes; what it leaves out need not even be fit for packaging.
    #[must_use]
    pub fn selecting(mut self, selection: Selection) -> Self {
        self.selection = selection;
        self
    }

    /// What is done with links.
    #[must_use]
    pub const fn with_links(mut self, links: Links) -> Self {
        self.links = links;
        self
    }

    fn entry(&self, path: &str) -> Option<Entry> {
        let entries = self
            .entries
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        entries.get(path).cloned()
    }
}

impl Source for LocalSource {
    fn list(&self) -> BoxFuture<'_, Result<Tree, SourceError>> {
        async move {
            let (root, selection, links) = (self.root.clone(), self.selection.clone(), self.links);
            let walked = blocking(&self.root, move || walk::walk(&root, selection, links)).await?;
            *self.entries.write().unwrap_or_else(PoisonError::into_inner) =
                Arc::new(walked.entries);
            Ok(walked.tree)
        }
        .boxed()
    }

    fn read(
        &self,
        path: &str,
        range: Range<u64>,
    ) -> BoxFuture<'_, Result<ByteStream, SourceError>> {
        let path = path.to_owned();
        async move {
            let entry = self
                .entry(&path)
                .ok_or_else(|| not_listed(&self.root, &path))?;
            let buffers = self.buffers.clone();
            let opened = blocking(&self.root, move || {
                read::OpenFile::open(path, &entry, buffers)
            })
            .await?;
            Ok(read::stream(Arc::new(opened), range))
        }
        .boxed()
    }

    fn identity(&self, path: &str) -> Option<FileIdentity> {
        self.entry(path).map(|entry| entry.identity)
    }

    fn local_path(&self, path: &str) -> Option<PathBuf> {
        self.entry(path).map(|entry| entry.place)
    }
}

fn not_listed(root: &Path, path: &str) -> SourceError {
    SourceError::File {
        action: "find",
        path: root.join(path).display().to_string(),
        cause: std::io::ErrorKind::NotFound.into(),
    }
}

/// Runs blocking work; `path` names it should the runtime be gone.
async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(SourceError::File {
            action: "read",
            path: path.display().to_string(),
            cause: std::io::Error::other(error),
        }),
    }
}
