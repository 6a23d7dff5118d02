//! A layout as one tar: equal layouts give equal bytes.

use futures::stream::{self, BoxStream};
use futures::{StreamExt as _, TryStreamExt as _};

use super::{BLOBS, INDEX, Layout, LayoutError, MARKER, blob::BlobStream, file_error};
use crate::archive;
use crate::content::Part;

impl Layout {
    /// The parts of the tar; files are named by their paths in the layout's directory.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub async fn tar_parts(&self) -> Result<Vec<Part>, LayoutError> {
        let mut paths = vec![INDEX.to_owned(), MARKER.to_owned()];
        paths.extend(
            self.blobs()
                .await?
                .into_iter()
                .map(|digest| format!("{BLOBS}/{}", digest.hex())),
        );
        let mut entries = Vec::with_capacity(paths.len());
        for path in paths {
            let file = self.root().join(&path);
            let metadata = tokio::fs::metadata(&file)
                .await
                .map_err(file_error("read", &file))?;
            entries.push(archive::Entry {
                path: path.clone(),
                size: metadata.len(),
                executable: false,
                content: archive::Content::File(path),
            });
        }
        archive::write(&entries).map_err(|cause| LayoutError::Damaged {
            path: self.root().to_owned(),
            reason: cause.to_string(),
        })
    }

    /// The bytes of the tar, in order. Nothing may write to the layout meanwhile.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub async fn tar(&self) -> Result<BlobStream, LayoutError> {
        let parts = self.tar_parts().await?;
        let layout = self.clone();
        let bytes = stream::iter(parts)
            .then(move |part| {
                let layout = layout.clone();
                async move { layout.part(part).await }
            })
            .try_flatten();
        Ok(bytes.boxed())
    }

    async fn part(
        &self,
        part: Part,
    ) -> Result<BoxStream<'static, Result<bytes::Bytes, LayoutError>>, LayoutError> {
        match part {
            Part::Bytes(bytes) => Ok(stream::once(async move { Ok(bytes) }).boxed()),
            Part::File { path, size } => self.read_file(self.root().join(path), 0..size).await,
        }
    }
}
