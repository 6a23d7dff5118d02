//! Where blobs and documents come from: a repository of a registry, or an OCI layout on disk.

use std::ops::Range;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::BoxStream;

use super::destination::Destination;
use super::documents::is_manifest;
use crate::digest::Digest;
use crate::layout::{Layout, LayoutError};
use crate::oci::{Descriptor, Document};
use crate::registry::{BlobStream, RegistryError, Repository, retrying};
use crate::source::{ByteStream, Source, SourceError, Tree};

/// The bytes of a blob, in order.
pub(crate) type OriginStream = BoxStream<'static, Result<bytes::Bytes, OriginError>>;

/// Why something could not be read from where it is.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// The registry refused or could not be reached.
    #[error("cannot read {what}")]
    Registry {
        /// What was wanted.
        what: String,
        /// What the registry said.
        #[source]
        cause: RegistryError,
    },
    /// The layout could not be read.
    #[error("cannot read {what}")]
    Layout {
        /// What was wanted.
        what: String,
        /// What went wrong.
        #[source]
        cause: LayoutError,
    },
}

impl OriginError {
    fn registry(what: &str, cause: RegistryError) -> Self {
        Self::Registry {
            what: what.to_owned(),
            cause,
        }
    }

    fn layout(what: &str, cause: LayoutError) -> Self {
        Self::Layout {
            what: what.to_owned(),
            cause,
        }
    }
}

/// Where blobs and documents come from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// A repository of a registry.
    Repository(Repository),
    /// A layout on disk.
    Layout(Layout),
}

impl Origin {
    /// The document that a tag or digest names.
    ///
    /// # Errors
    /// When it is not there or cannot be read.
    pub async fn resolve(&self, selector: &str) -> Result<Document, OriginError> {
        match self {
            Self::Repository(repository) => repository
                .manifest(selector)
                .await
                .map_err(|cause| OriginError::registry(selector, cause)),
            Self::Layout(layout) => {
                let failed = |cause| OriginError::layout(selector, cause);
                let descriptor = layout.resolve(Some(selector)).await.map_err(failed)?;
                layout.document(&descriptor).await.map_err(failed)
            }
        }
    }

    /// A manifest, an index or a config that a descriptor names, verified.
    ///
    /// # Errors
    /// When it is not there or is something else.
    pub async fn document(&self, descriptor: &Descriptor) -> Result<Document, OriginError> {
        let what = descriptor.digest.to_string();
        match self {
            Self::Repository(repository) if is_manifest(&descriptor.media_type) => repository
                .manifest(&what)
                .await
                .map_err(|cause| OriginError::registry(&what, cause)),
            Self::Repository(repository) => repository
                .read_document(descriptor)
                .await
                .map_err(|cause| OriginError::registry(&what, cause)),
            Self::Layout(layout) => layout
                .document(descriptor)
                .await
                .map_err(|cause| OriginError::layout(&what, cause)),
        }
    }

    /// Reads `range` (bytes) of a blob; goes on by itself where a connection is cut. Nothing is verified here.
    pub(crate) async fn read(
        &self,
        digest: Digest,
        range: Range<u64>,
    ) -> Result<OriginStream, OriginError> {
        let what = format!("the blob {digest}");
        match self {
            Self::Repository(repository) => Ok(resuming(repository.clone(), digest, range)
                .map(move |item| item.map_err(|cause| OriginError::registry(&what, cause)))
                .boxed()),
            Self::Layout(layout) => {
                let stream = layout.read(digest, range).await;
                let stream = stream.map_err(|cause| OriginError::layout(&what, cause))?;
                Ok(stream
                    .map(move |item| item.map_err(|cause| OriginError::layout(&what, cause)))
                    .boxed())
            }
        }
    }

    pub(super) fn repository_name(&self, destination: &Destination) -> Vec<String> {
        match (self, destination) {
            (Self::Repository(from), Destination::Repository(to)) if from.host() == to.host() => {
                vec![from.name().to_owned()]
            }
            _ => Vec::new(),
        }
    }
}

/// Blobs of a registry or layout as files that are named by their digests.
pub(super) struct OriginSource(Origin);

impl OriginSource {
    pub(super) const fn new(origin: Origin) -> Self {
        Self(origin)
    }
}

impl Source for OriginSource {
    fn list(&self) -> BoxFuture<'_, Result<Tree, SourceError>> {
        Box::pin(async { Ok(Tree::default()) })
    }

    fn read(
        &self,
        path: &str,
        range: Range<u64>,
    ) -> BoxFuture<'_, Result<ByteStream, SourceError>> {
        let digest = path.parse::<Digest>();
        let path = path.to_owned();
        Box::pin(async move {
            let digest = digest.map_err(|cause| unreadable(&path, cause))?;
            if range.is_empty() {
                return Ok(futures::stream::empty().boxed());
            }
            let stream = self
                .0
                .read(digest, range)
                .await
                .map_err(|cause| unreadable(&path, cause))?;
            Ok(stream
                .map(move |item| item.map_err(|cause| unreadable(&path, cause)))
                .boxed())
        })
    }
}

fn unreadable(what: &str, cause: impl std::error::Error + Send + Sync + 'static) -> SourceError {
    SourceError::Remote {
        url: what.to_owned(),
        reason: cause.to_string(),
        remedy: "see whether it is still there".to_owned(),
        cause: Some(Box::new(cause)),
    }
}

/// A blob of a registry as one stream, which goes on by itself where it was cut.
fn resuming(repository: Repository, digest: Digest, range: Range<u64>) -> BlobStream {
    let state = Resuming {
        repository,
        digest,
        range,
        stream: None,
        failures: 0,
    };
    futures::stream::try_unfold(state, |mut state| async move {
        Ok(state.next().await?.map(|bytes| (bytes, state)))
    })
    .boxed()
}

struct Resuming {
    repository: Repository,
    digest: Digest,
    range: Range<u64>,
    stream: Option<BlobStream>,
    failures: u32,
}

impl Resuming {
    async fn next(&mut self) -> Result<Option<bytes::Bytes>, RegistryError> {
        loop {
            if self.range.is_empty() {
                return Ok(None);
            }
            let mut stream = match self.stream.take() {
                Some(stream) => stream,
                None => open(&self.repository, self.digest, &self.range).await?,
            };
            match stream.next().await {
                Some(Ok(mut bytes)) => {
                    self.failures = 0;
                    let left = self.range.end - self.range.start;
                    bytes.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                    self.range.start += bytes.len() as u64;
                    self.stream = Some(stream);
                    return Ok(Some(bytes));
                }
                Some(Err(error)) => self.pause(error).await?,
                None => return Ok(None),
            }
        }
    }

    async fn pause(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        self.failures += 1;
        match self
            .repository
            .client()
            .retry()
            .wait(self.failures + 1, error.class())
        {
            Some(wait) => {
                tokio::time::sleep(wait).await;
                Ok(())
            }
            None => Err(error),
        }
    }
}

async fn open(
    repository: &Repository,
    digest: Digest,
    range: &Range<u64>,
) -> Result<BlobStream, RegistryError> {
    let answer = retrying(repository.client().retry(), || {
        // Asked for without a range first: some registries serve none, and all serve the whole.
        let range = (range.start > 0).then(|| range.clone());
        repository.read_blob(digest, range, None)
    })
    .await?;
    if answer.is_partial || range.start == 0 {
        return Ok(answer.stream);
    }
    Ok(skip(answer.stream, range.start))
}

/// A stream without its first bytes, for registries that ignore ranges.
fn skip(stream: BlobStream, mut left: u64) -> BlobStream {
    stream
        .map(move |item| {
            item.map(|mut bytes| {
                let now = left.min(bytes.len() as u64);
                left -= now;
                bytes.split_off(usize::try_from(now).unwrap_or(usize::MAX))
            })
        })
        .boxed()
}
