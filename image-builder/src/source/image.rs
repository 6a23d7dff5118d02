//! Files of an artifact in a registry, `oci://REGISTRY/REPOSITORY:TAG`: each raw layer that tells its path is a file.
//!
//! Images with tar layers are copied as they are by `copy`; taking them apart here would need the whole of each layer.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, stream};

use super::{ByteStream, File, Source, SourceError, Tree};
use crate::digest::Digest;
use crate::oci::{Descriptor, Index, Manifest, media_type};
use crate::registry::{BlobStream, RegistryError, Repository};
use crate::source::remote::retry;

/// Annotations that hold the path of a raw layer, the first one first.
const PATHS: [&str; 3] = [
    "org.cncf.model.filepath",
    "org.opencontainers.image.title",
    "org.cnai.model.filepath",
];

/// An artifact with raw layers as a source.
pub struct ImageSource {
    repository: Repository,
    selector: String,
    blobs: RwLock<BTreeMap<String, (Digest, u64)>>,
}

impl ImageSource {
    /// The artifact that `selector` (a tag or digest) names.
    #[must_use]
    pub fn new(repository: Repository, selector: String) -> Self {
        Self {
            repository,
            selector,
            blobs: RwLock::default(),
        }
    }

    async fn manifest(&self) -> Result<Manifest, SourceError> {
        let failed = |cause| self.failed(cause);
        let mut document = self
            .repository
            .manifest(&self.selector)
            .await
            .map_err(failed)?;
        if matches!(
            document.media_type.as_str(),
            media_type::INDEX | media_type::DOCKER_INDEX
        ) {
            let index: Index = self.parsed(&document.bytes)?;
            let artifact = index
                .manifests
                .iter()
                .find(|entry| entry.artifact_type.as_deref() == Some(media_type::MODEL_MANIFEST))
                .ok_or_else(|| self.no_files())?;
            let digest = artifact.digest.to_string();
            document = self.repository.manifest(&digest).await.map_err(failed)?;
        }
        self.parsed(&document.bytes)
    }

    fn parsed<T: serde::de::DeserializeOwned>(&self, bytes: &[u8]) -> Result<T, SourceError> {
        serde_json::from_slice(bytes).map_err(|error| {
            self.remote(
                format!("its manifest cannot be read: {error}"),
                "check the name",
                None,
            )
        })
    }

    async fn list_layers(&self) -> Result<Tree, SourceError> {
        let manifest = self.manifest().await?;
        let mut files = Vec::new();
        let mut blobs = BTreeMap::new();
        for layer in &manifest.layers {
            let path = path(layer).ok_or_else(|| self.no_files())?;
            check(&path)?;
            if blobs
                .insert(path.clone(), (layer.digest, layer.size))
                .is_some()
            {
                return Err(SourceError::Refused {
                    path,
                    reason: "two layers have this path".to_owned(),
                });
            }
            files.push(File {
                path,
                size: layer.size,
                executable: false,
                known_digest: Some(layer.digest),
            });
        }
        files.sort_by(|left, right| left.path.as_bytes().cmp(right.path.as_bytes()));
        *self.blobs.write().unwrap_or_else(PoisonError::into_inner) = blobs;
        Ok(Tree {
            files,
            revision: annotation(&manifest, "org.opencontainers.image.revision"),
            url: annotation(&manifest, "org.opencontainers.image.source"),
            ..Tree::default()
        })
    }

    fn failed(&self, cause: RegistryError) -> SourceError {
        self.remote(
            "the registry did not give it".to_owned(),
            "check the name and the credentials",
            Some(cause),
        )
    }

    fn no_files(&self) -> SourceError {
        self.remote(
            "its layers are not single files".to_owned(),
            "copy the image as it is with the command copy, or pull it and package the directory",
            None,
        )
    }

    fn remote(&self, reason: String, remedy: &str, cause: Option<RegistryError>) -> SourceError {
        SourceError::Remote {
            url: format!(
                "oci://{}/{}:{}",
                self.repository.host(),
                self.repository.name(),
                self.selector
            ),
            reason,
            remedy: remedy.to_owned(),
            cause: cause.map(|cause| Box::new(cause) as _),
        }
    }
}

fn annotation(manifest: &Manifest, key: &str) -> Option<String> {
    manifest.annotations.as_ref()?.get(key).cloned()
}

/// The path of a layer that is one file as it is.
fn path(layer: &Descriptor) -> Option<String> {
    let annotations = layer.annotations.as_ref()?;
    let path = PATHS.iter().find_map(|key| annotations.get(*key))?;
    let is_tar = layer.media_type.contains("tar");
    (!is_tar).then(|| path.clone())
}

fn check(path: &str) -> Result<(), SourceError> {
    let bad = |part: &str| {
        part.is_empty() || part == "." || part == ".." || part.chars().any(char::is_control)
    };
    if path.split('/').any(bad) || path.contains('\\') {
        return Err(SourceError::Refused {
            path: path.to_owned(),
            reason: "the manifest gives a path that leads out of the artifact".to_owned(),
        });
    }
    Ok(())
}

/// Reads a range of a blob over as many requests as it takes.
struct Reader {
    repository: Repository,
    digest: Digest,
    size: u64,
    /// What is still to be read; its start moves.
    range: Range<u64>,
    body: Option<BlobStream>,
    failures: u32,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<Bytes>, SourceError> {
        while self.range.start < self.range.end {
            let received = match &mut self.body {
                Some(body) => body.next().await,
                None => {
                    self.body = Some(self.open().await?);
                    continue;
                }
            };
            match received {
                Some(Ok(mut bytes)) => {
                    let wanted = self.range.end - self.range.start;
                    bytes.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
                    self.range.start += bytes.len() as u64;
                    self.failures = 0;
                    return Ok(Some(bytes));
                }
                Some(Err(cause)) => self.failed(Some(cause)).await?,
                None => self.failed(None).await?,
            }
        }
        Ok(None)
    }

    async fn open(&mut self) -> Result<BlobStream, SourceError> {
        let whole = self.range == (0..self.size);
        let range = (!whole).then(|| self.range.clone());
        let answer = self.repository.read_blob(self.digest, range, None).await;
        let answer =
            answer.map_err(|cause| self.error("the registry did not give it", Some(cause)))?;
        if !whole && !answer.is_partial {
            return Err(self.error("the registry does not serve parts of blobs", None));
        }
        Ok(answer.stream)
    }

    /// Counts a failure and waits; gives up after some in a row.
    async fn failed(&mut self, cause: Option<RegistryError>) -> Result<(), SourceError> {
        self.body = None;
        self.failures += 1;
        if self.failures >= retry::ATTEMPTS {
            return Err(self.error("the connection broke again and again", cause));
        }
        tokio::time::sleep(retry::pause(self.failures + 1, None)).await;
        Ok(())
    }

    fn error(&self, reason: &str, cause: Option<RegistryError>) -> SourceError {
        let (host, name) = (self.repository.host(), self.repository.name());
        SourceError::Remote {
            url: format!("oci://{host}/{name}@{}", self.digest),
            reason: reason.to_owned(),
            remedy: "run the command again, or pull the image and package the directory".to_owned(),
            cause: cause.map(|cause| Box::new(cause) as _),
        }
    }
}

impl Source for ImageSource {
    fn list(&self) -> BoxFuture<'_, Result<Tree, SourceError>> {
        self.list_layers().boxed()
    }

    fn read(
        &self,
        path: &str,
        range: Range<u64>,
    ) -> BoxFuture<'_, Result<ByteStream, SourceError>> {
        let blobs = self.blobs.read().unwrap_or_else(PoisonError::into_inner);
        let blob = blobs.get(path).copied();
        let path = path.to_owned();
        async move {
            let (digest, size) = blob.ok_or_else(|| SourceError::Refused {
                path: path.clone(),
                reason: "it was not listed".to_owned(),
            })?;
            let reader = Reader {
                repository: self.repository.clone(),
                digest,
                size,
                range,
                body: None,
                failures: 0,
            };
            let bytes = stream::try_unfold(reader, |mut reader| async move {
                Ok(reader.next().await?.map(|bytes| (bytes, reader)))
            });
            Ok(bytes.boxed())
        }
        .boxed()
    }
}
