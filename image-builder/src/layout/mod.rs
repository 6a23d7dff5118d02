//! OCI image layouts: a directory that holds blobs by digest and an index of references. Reads and writes below its own
//! directory only; decides nothing about what is in it.
//!
//! What is there is whole: blobs and the index are written aside and renamed. A program that is killed leaves nothing
//! but files in `.incoming`, which [`Layout::prune`] removes.

mod blob;
mod error;
mod tar;
mod verify;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use blob::{BlobStream, Writer};
pub use error::LayoutError;
pub use verify::Verified;

use crate::digest::Digest;
use crate::oci::{Descriptor, Document, Index};
use crate::plan::{MAX_MANIFEST_BYTES, key};

const INDEX: &str = "index.json";
const MARKER: &str = "oci-layout";
const BLOBS: &str = "blobs/sha256";
const INCOMING: &str = ".incoming";

/// Largest document that is read into memory, in bytes.
const MAX_DOCUMENT_BYTES: u64 = 2 * MAX_MANIFEST_BYTES as u64;

/// A layout on disk. Cheap to clone; all clones may be used at once by one process.
#[derive(Clone, Debug)]
pub struct Layout {
    root: Arc<PathBuf>,
    /// Held while the index is read, changed and replaced.
    index: Arc<tokio::sync::Mutex<()>>,
}

/// The file `oci-layout`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

impl Layout {
    /// Opens the layout at `root`, which is made if it is not there or is an empty directory.
    ///
    /// # Errors
    /// When the directory holds something else, or the file system refuses.
    pub async fn create(root: &Path) -> Result<Self, LayoutError> {
        if is_foreign(root).await? {
            return Err(LayoutError::NotALayout {
                path: root.to_owned(),
                reason: format!("it has no file `{MARKER}`, but others; choose an empty directory"),
            });
        }
        for directory in [BLOBS, INCOMING] {
            let path = root.join(directory);
            tokio::fs::create_dir_all(&path)
                .await
                .map_err(file_error("create", &path))?;
        }
        let layout = Self::at(root);
        if !exists(&root.join(INDEX)).await? {
            layout.write_index(&Index::empty()).await?;
        }
        if !exists(&root.join(MARKER)).await? {
            let marker = Marker {
                image_layout_version: "1.0.0".to_owned(),
            };
            layout.replace(MARKER, &marker).await?;
        }
        Ok(layout)
    }

    /// Opens a layout that is there.
    ///
    /// # Errors
    /// When it is not there, or is of a version that is not known.
    pub async fn open(root: &Path) -> Result<Self, LayoutError> {
        let path = root.join(MARKER);
        let not = |reason: String| LayoutError::NotALayout {
            path: root.to_owned(),
            reason,
        };
        if !exists(&path).await? {
            return Err(not(format!("it has no file `{MARKER}`")));
        }
        let bytes = read_document(&path).await?;
        let marker: Marker = parse(&path, &bytes, "a layout's marker")?;
        if !marker.image_layout_version.starts_with("1.") {
            return Err(not(format!(
                "version {} is not known",
                marker.image_layout_version
            )));
        }
        Ok(Self::at(root))
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The index, with all references.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn index(&self) -> Result<Index, LayoutError> {
        let path = self.root.join(INDEX);
        let bytes = read_document(&path).await?;
        parse(&path, &bytes, "an index")
    }

    /// What a reference names: a tag, a `sha256:` digest of a manifest in the index, or nothing where there is one only.
    ///
    /// # Errors
    /// [`LayoutError::NoReference`] when there is none, or several and none was named.
    pub async fn resolve(&self, reference: Option<&str>) -> Result<Descriptor, LayoutError> {
        let manifests = self.index().await?.manifests;
        let found = match reference {
            Some(reference) => manifests.iter().find(|descriptor| {
                name_of(descriptor) == Some(reference) || descriptor.digest.to_string() == reference
            }),
            None => match manifests.as_slice() {
                [only] => Some(only),
                _ => None,
            },
        };
        found.cloned().ok_or_else(|| LayoutError::NoReference {
            path: self.root.to_path_buf(),
            reference: reference.unwrap_or("(the only one)").to_owned(),
            present: list(&manifests),
        })
    }

    /// Lets a reference name a document, which must be there; the name is taken from what had it.
    ///
    /// # Errors
    /// When the index cannot be read or replaced.
    pub async fn tag(&self, reference: &str, target: &Descriptor) -> Result<(), LayoutError> {
        let _guard = self.index.lock().await;
        let mut index = self.index().await?;
        index
            .manifests
            .retain(|present| name_of(present) != Some(reference));
        let mut named = target.clone();
        named
            .annotations
            .get_or_insert_default()
            .insert(key::REFERENCE.to_owned(), reference.to_owned());
        index.manifests.push(named);
        index.manifests.sort_by(|left, right| {
            (name_of(left), left.digest).cmp(&(name_of(right), right.digest))
        });
        self.write_index(&index).await
    }

    /// Lists a document without a name, as referrers are; does nothing where it is listed.
    ///
    /// # Errors
    /// When the index cannot be read or replaced.
    pub async fn list_unnamed(&self, target: &Descriptor) -> Result<(), LayoutError> {
        let _guard = self.index.lock().await;
        let mut index = self.index().await?;
        if index
            .manifests
            .iter()
            .any(|present| present.digest == target.digest)
        {
            return Ok(());
        }
        index.manifests.push(target.clone());
        index.manifests.sort_by(|left, right| {
            (name_of(left), left.digest).cmp(&(name_of(right), right.digest))
        });
        self.write_index(&index).await
    }

    /// Writes a document under its digest, unless it is there.
    ///
    /// # Errors
    /// When its digest is not that of its bytes, or the file system refuses.
    pub async fn put_document(&self, document: &Document) -> Result<(), LayoutError> {
        if self.has(document.digest).await? == Some(document.bytes.len() as u64) {
            return Ok(());
        }
        let digest = Digest::of(&document.bytes);
        if digest != document.digest {
            return Err(LayoutError::Damaged {
                path: self.blob_path(document.digest),
                reason: format!("the document's digest is {digest}"),
            });
        }
        let mut writer = self.begin().await?;
        writer.write(document.bytes.clone()).await?;
        writer.commit(digest).await
    }

    /// The document that a descriptor names; its bytes are checked against digest and size.
    ///
    /// # Errors
    /// When it is not there, too large, or not what the descriptor says.
    pub async fn document(&self, descriptor: &Descriptor) -> Result<Document, LayoutError> {
        let path = self.blob_path(descriptor.digest);
        let bytes = read_document(&path).await?;
        let document = Document::new(&descriptor.media_type, bytes);
        if document.digest == descriptor.digest && document.bytes.len() as u64 == descriptor.size {
            return Ok(document);
        }
        Err(LayoutError::Damaged {
            path,
            reason: format!(
                "it has {} bytes and the digest {}, not {} bytes",
                document.bytes.len(),
                document.digest,
                descriptor.size
            ),
        })
    }

    fn at(root: &Path) -> Self {
        Self {
            root: Arc::new(root.to_owned()),
            index: Arc::default(),
        }
    }

    async fn write_index(&self, index: &Index) -> Result<(), LayoutError> {
        self.replace(INDEX, index).await
    }

    async fn replace<T: Serialize + Sync>(&self, name: &str, value: &T) -> Result<(), LayoutError> {
        let path = self.root.join(name);
        let bytes = serde_json::to_vec(value).map_err(|cause| LayoutError::Document {
            path: path.clone(),
            what: "JSON",
            cause,
        })?;
        let mut writer = self.begin().await?;
        writer.write(bytes.into()).await?;
        writer.rename(path).await
    }
}

/// Whether a directory holds something, but no layout.
async fn is_foreign(root: &Path) -> Result<bool, LayoutError> {
    if exists(&root.join(MARKER)).await? || !exists(root).await? {
        return Ok(false);
    }
    let mut entries = tokio::fs::read_dir(root)
        .await
        .map_err(file_error("read", root))?;
    while let Some(entry) = entries
        .next_entry()
        .await
        .map_err(file_error("read", root))?
    {
        // What a killed `create` leaves.
        if ![INCOMING, INDEX, "blobs"]
            .iter()
            .any(|name| entry.file_name() == *name)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn exists(path: &Path) -> Result<bool, LayoutError> {
    tokio::fs::try_exists(path)
        .await
        .map_err(file_error("read", path))
}

async fn read_document(path: &Path) -> Result<Bytes, LayoutError> {
    let metadata = tokio::fs::metadata(path)
        .await
        .map_err(file_error("read", path))?;
    if metadata.len() > MAX_DOCUMENT_BYTES {
        return Err(LayoutError::TooLarge {
            path: path.to_owned(),
            size: metadata.len(),
            limit: MAX_DOCUMENT_BYTES,
        });
    }
    let bytes = tokio::fs::read(path)
        .await
        .map_err(file_error("read", path))?;
    Ok(bytes.into())
}

fn parse<'a, T: Deserialize<'a>>(
    path: &Path,
    bytes: &'a [u8],
    what: &'static str,
) -> Result<T, LayoutError> {
    serde_json::from_slice(bytes).map_err(|cause| LayoutError::Document {
        path: path.to_owned(),
        what,
        cause,
    })
}

fn file_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LayoutError {
    let path = path.to_owned();
    move |cause| LayoutError::File {
        action,
        path,
        cause,
    }
}

fn name_of(descriptor: &Descriptor) -> Option<&str> {
    let annotations = descriptor.annotations.as_ref()?;
    annotations.get(key::REFERENCE).map(String::as_str)
}

fn list(manifests: &[Descriptor]) -> String {
    let names: Vec<String> = manifests
        .iter()
        .map(|descriptor| {
            name_of(descriptor).map_or_else(|| descriptor.digest.to_string(), str::to_owned)
        })
        .collect();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}
