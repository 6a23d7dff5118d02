//! Whether a layout is whole: every blob is what its name says, every document has what it mentions.

use std::collections::BTreeSet;
use std::path::Path;

use futures::TryStreamExt as _;

use super::{BLOBS, Layout, LayoutError, file_error, parse};
use crate::digest::{Digest, Hasher};
use crate::oci::{Descriptor, Index, Manifest, media_type};

/// What a check of a layout went through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Blobs that were hashed, documents included.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs among them that nothing mentions.
    pub unused: usize,
}

impl Layout {
    /// Hashes all blobs and follows all documents from the index.
    ///
    /// # Errors
    /// [`LayoutError::Damaged`] for the first blob that differs from its name or is missing.
    pub async fn verify(&self) -> Result<Verified, LayoutError> {
        let mentioned = self.reachable().await?;
        let mut verified = Verified::default();
        for digest in self.blobs().await? {
            verified.bytes += self.verify_blob(digest).await?;
            verified.blobs += 1;
            if !mentioned.contains(&digest) {
                verified.unused += 1;
            }
        }
        Ok(verified)
    }

    /// Digests of the blobs that are there, sorted.
    ///
    /// # Errors
    /// When the directory cannot be read, or holds a file that is not named by a digest.
    pub async fn blobs(&self) -> Result<Vec<Digest>, LayoutError> {
        let directory = self.root().join(BLOBS);
        self.blocking(move || {
            let mut digests = Vec::new();
            for entry in std::fs::read_dir(&directory).map_err(file_error("read", &directory))? {
                let entry = entry.map_err(file_error("read", &directory))?;
                digests.push(digest_of_name(&entry.path())?);
            }
            digests.sort();
            Ok(digests)
        })
        .await
    }

    /// Digests of all that the index leads to; each is there, with the size that is mentioned.
    async fn reachable(&self) -> Result<BTreeSet<Digest>, LayoutError> {
        let mut seen = BTreeSet::new();
        let mut next = self.index().await?.manifests;
        while let Some(descriptor) = next.pop() {
            if !seen.insert(descriptor.digest) {
                continue;
            }
            self.check_size(&descriptor).await?;
            next.extend(self.children(&descriptor).await?);
        }
        Ok(seen)
    }

    async fn check_size(&self, descriptor: &Descriptor) -> Result<(), LayoutError> {
        let found = self.has(descriptor.digest).await?;
        if found == Some(descriptor.size) {
            return Ok(());
        }
        Err(LayoutError::Damaged {
            path: self.blob_path(descriptor.digest),
            reason: match found {
                Some(size) => format!("it has {size} bytes, {} are mentioned", descriptor.size),
                None => "it is missing".to_owned(),
            },
        })
    }

    async fn children(&self, descriptor: &Descriptor) -> Result<Vec<Descriptor>, LayoutError> {
        let path = self.blob_path(descriptor.digest);
        match descriptor.media_type.as_str() {
            media_type::INDEX | media_type::DOCKER_INDEX => {
                let bytes = self.document(descriptor).await?.bytes;
                let index: Index = parse(&path, &bytes, "an index")?;
                Ok(index.manifests)
            }
            media_type::MANIFEST | media_type::DOCKER_MANIFEST => {
                let bytes = self.document(descriptor).await?.bytes;
                let manifest: Manifest = parse(&path, &bytes, "a manifest")?;
                Ok([vec![manifest.config], manifest.layers].concat())
            }
            _ => Ok(Vec::new()),
        }
    }

    async fn verify_blob(&self, digest: Digest) -> Result<u64, LayoutError> {
        let size = self.has(digest).await?.unwrap_or_default();
        let hasher = self
            .read(digest, 0..size)
            .await?
            .try_fold(Hasher::default(), |mut hasher, bytes| async move {
                hasher.update(&bytes);
                Ok(hasher)
            })
            .await?;
        let found = hasher.finish();
        if found == digest {
            return Ok(size);
        }
        Err(LayoutError::Damaged {
            path: self.blob_path(digest),
            reason: format!("its digest is {found}"),
        })
    }
}

fn digest_of_name(path: &Path) -> Result<Digest, LayoutError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!("sha256:{name}")
        .parse()
        .map_err(|_| LayoutError::Damaged {
            path: path.to_owned(),
            reason: "its name is no sha256 digest".to_owned(),
        })
}
