//! Blobs of a layout: written aside and renamed, read in ranges. Blocking file operations run on the runtime's threads
//! for them, so that no copy of a chunk is made.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};

use super::{BLOBS, INCOMING, Layout, LayoutError, file_error};
use crate::digest::Digest;

/// Bytes that are read at a time.
const READ_BYTES: u64 = 1024 * 1024;

/// Tells apart the files that one process writes at once.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// A blob in the making. Dropped without [`Writer::commit`], it leaves nothing.
#[derive(Debug)]
pub struct Writer {
    layout: Layout,
    file: Arc<File>,
    path: PathBuf,
    length: u64,
    kept: bool,
}

/// The bytes of a blob, in order.
pub type BlobStream = BoxStream<'static, Result<Bytes, LayoutError>>;

impl Layout {
    /// Where a blob is, or would be.
    #[must_use]
    pub fn blob_path(&self, digest: Digest) -> PathBuf {
        self.root().join(BLOBS).join(digest.hex())
    }

    /// Size in bytes of a blob that is there.
    ///
    /// # Errors
    /// When the file system refuses to tell.
    pub async fn has(&self, digest: Digest) -> Result<Option<u64>, LayoutError> {
        let path = self.blob_path(digest);
        match tokio::fs::metadata(&path).await {
            Ok(metadata) if metadata.is_file() => Ok(Some(metadata.len())),
            Ok(_) => Ok(None),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(file_error("read", &path)(cause)),
        }
    }

    /// Begins a blob whose digest need not be known yet.
    ///
    /// # Errors
    /// When no file can be made.
    pub async fn begin(&self) -> Result<Writer, LayoutError> {
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{count}", std::process::id());
        let path = self.root().join(INCOMING).join(name);
        let created = path.clone();
        let file = self
            .blocking(move || {
                if let Some(parent) = created.parent() {
                    std::fs::create_dir_all(parent).map_err(file_error("create", parent))?;
                }
                File::create(&created).map_err(file_error("create", &created))
            })
            .await?;
        Ok(Writer {
            layout: self.clone(),
            file: Arc::new(file),
            path,
            length: 0,
            kept: false,
        })
    }

    /// Reads `range` (bytes) of a blob; the stream ends with an error where the blob is shorter.
    ///
    /// # Errors
    /// When the blob is not there.
    pub async fn read(&self, digest: Digest, range: Range<u64>) -> Result<BlobStream, LayoutError> {
        self.read_file(self.blob_path(digest), range).await
    }

    /// Removes what killed programs left. Nothing may write to the layout meanwhile. Returns the bytes that were freed.
    ///
    /// # Errors
    /// When the file system refuses.
    pub async fn prune(&self) -> Result<u64, LayoutError> {
        let incoming = self.root().join(INCOMING);
        self.blocking(move || {
            let mut freed = 0;
            let entries = match std::fs::read_dir(&incoming) {
                Ok(entries) => entries,
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(0),
                Err(cause) => return Err(file_error("read", &incoming)(cause)),
            };
            for entry in entries {
                let path = entry.map_err(file_error("read", &incoming))?.path();
                let size = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
                std::fs::remove_file(&path).map_err(file_error("remove", &path))?;
                freed += size;
            }
            Ok(freed)
        })
        .await
    }

    pub(super) async fn read_file(
        &self,
        path: PathBuf,
        range: Range<u64>,
    ) -> Result<BlobStream, LayoutError> {
        let opened = path.clone();
        let file = self
            .blocking(move || {
                let mut file = File::open(&opened).map_err(file_error("open", &opened))?;
                file.seek(SeekFrom::Start(range.start))
                    .map_err(file_error("read", &opened))?;
                Ok(file)
            })
            .await?;
        let start = (
            self.clone(),
            file,
            path,
            range.end.saturating_sub(range.start),
        );
        let chunks = stream::try_unfold(start, |(layout, file, path, left)| async move {
            if left == 0 {
                return Ok(None);
            }
            let opened = path.clone();
            let (file, bytes) = layout
                .blocking(move || read_chunk(file, &opened, left))
                .await?;
            let left = left.saturating_sub(bytes.len() as u64);
            Ok(Some((bytes, (layout, file, path, left))))
        });
        Ok(chunks.boxed())
    }

    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, LayoutError> + Send + 'static,
    ) -> Result<T, LayoutError> {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(_) => Err(LayoutError::Cancelled {
                path: self.root().to_owned(),
            }),
        }
    }
}

fn read_chunk(mut file: File, path: &Path, left: u64) -> Result<(File, Bytes), LayoutError> {
    let size = usize::try_from(left.min(READ_BYTES)).unwrap_or(usize::MAX);
    let mut bytes = BytesMut::zeroed(size);
    file.read_exact(&mut bytes)
        .map_err(file_error("read", path))?;
    Ok((file, bytes.freeze()))
}

impl Writer {
    /// Adds the next bytes.
    ///
    /// # Errors
    /// When the file system refuses; the blob is then lost.
    pub async fn write(&mut self, bytes: Bytes) -> Result<(), LayoutError> {
        let file = Arc::clone(&self.file);
        let path = self.path.clone();
        self.length += bytes.len() as u64;
        self.layout
            .blocking(move || {
                (&*file)
                    .write_all(&bytes)
                    .map_err(file_error("write", &path))
            })
            .await
    }

    /// Bytes written so far.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Gives the blob its name. The caller has hashed what it wrote: the bytes are not read a second time.
    ///
    /// # Errors
    /// When the file system refuses.
    pub async fn commit(self, digest: Digest) -> Result<(), LayoutError> {
        let target = self.layout.blob_path(digest);
        self.rename(target).await
    }

    pub(super) async fn rename(mut self, target: PathBuf) -> Result<(), LayoutError> {
        let from = self.path.clone();
        self.layout
            .blocking(move || std::fs::rename(&from, &target).map_err(file_error("write", &target)))
            .await?;
        self.kept = true;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.kept {
            // There is nobody to tell, and the next prune tries again.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
