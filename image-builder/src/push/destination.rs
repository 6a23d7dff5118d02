//! Where blobs and documents go: a repository of a registry, or an OCI layout on disk.

use super::error::PushError;
use crate::digest::Digest;
use crate::layout::Layout;
use crate::registry::Repository;

/// Where blobs and documents go.
#[derive(Clone, Debug)]
pub enum Destination {
    /// A repository of a registry.
    Repository(Repository),
    /// A layout on disk.
    Layout(Layout),
}

impl Destination {
    /// Whether a blob is there, whole.
    pub(super) async fn has(&self, digest: Digest, size: u64) -> Result<bool, PushError> {
        let what = format!("the blob {digest}");
        let present = match self {
            Self::Repository(repository) => repository
                .blob_size(digest)
                .await
                .map_err(|cause| PushError::registry(&what, cause))?,
            Self::Layout(layout) => layout
                .has(digest)
                .await
                .map_err(|cause| PushError::layout(&what, cause))?,
        };
        Ok(present == Some(size))
    }
}
