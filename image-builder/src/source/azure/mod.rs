//! Azure Blob Storage: `azblob://ACCOUNT/CONTAINER[/PREFIX]`.
//!
//! The service keeps no sha256, so nothing is known beforehand; each blob is read at the entity tag that was listed.

mod credential;
mod read;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use azure_core::credentials::TokenCredential;
use azure_core::http::{ClientOptions, Etag, Transport};
use azure_storage_blob::models::BlobContainerClientListBlobsOptions;
use azure_storage_blob::{
    BlobClient, BlobClientOptions, BlobContainerClient, BlobContainerClientOptions,
};
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _};
use reqwest::{Client, Url};
use secrecy::{ExposeSecret as _, SecretString};

use super::remote::shown;
use super::{ByteStream, File, Source, SourceError, Tree};

pub use credential::{AzureError, AzureOptions};

/// Blobs below a prefix of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AzureReference {
    /// The storage account.
    pub account: String,
    /// The container.
    pub container: String,
    /// What names of blobs begin with; a `/` at its end is implied. Empty for the whole container.
    pub prefix: String,
}

/// What is no reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is not a place in Azure Blob Storage; write azblob://ACCOUNT/CONTAINER or azblob://ACCOUNT/CONTAINER/PREFIX"
)]
pub struct ReferenceError(String);

impl FromStr for AzureReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.strip_prefix("azblob://").unwrap_or(text);
        let mut parts = name.splitn(3, '/');
        let mut part = || parts.next().unwrap_or_default().to_owned();
        let (account, container, prefix) = (part(), part(), part());
        let plain = |name: &str, marks: &[u8]| {
            !name.is_empty()
                && name.bytes().all(|byte| {
                    byte.is_ascii_lowercase() || byte.is_ascii_digit() || marks.contains(&byte)
                })
        };
        if !plain(&account, b"") || !plain(&container, b"-$") {
            return Err(ReferenceError(text.to_owned()));
        }
        Ok(Self {
            account,
            container,
            prefix: prefix.trim_end_matches('/').to_owned(),
        })
    }
}

/// A blob that was listed.
#[derive(Clone)]
struct Listed {
    client: Arc<BlobClient>,
    etag: Option<Etag>,
    shown: String,
}

/// Blobs as a source.
pub struct AzureSource {
    client: Client,
    reference: AzureReference,
    endpoint: Url,
    sas: Option<SecretString>,
    credential: Option<Arc<dyn TokenCredential>>,
    blobs: RwLock<BTreeMap<String, Listed>>,
}

impl AzureSource {
    /// The blobs that `reference` names; nothing is asked before [`Source::list`].
    ///
    /// # Errors
    /// When there are no credentials for the account.
    pub fn new(
        client: Client,
        reference: AzureReference,
        options: AzureOptions,
    ) -> Result<Self, AzureError> {
        let endpoint = options.endpoint(&reference.account)?;
        let credential = options.credential(&endpoint)?;
        Ok(Self {
            client,
            reference,
            endpoint,
            sas: options.sas,
            credential,
            blobs: RwLock::default(),
        })
    }

    /// Address of the container, or of a blob in it, with the signature that allows it.
    fn address(&self, blob: Option<&str>) -> Url {
        let mut url = self.endpoint.clone();
        // Storage endpoints have a host, so they have segments.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push(&self.reference.container);
            path.extend(blob.into_iter().flat_map(|name| name.split('/')));
        }
        if let Some(sas) = &self.sas {
            url.set_query(Some(sas.expose_secret().trim_start_matches('?')));
        }
        url
    }

    fn client_options(&self) -> ClientOptions {
        ClientOptions {
            transport: Some(Transport::new(Arc::new(self.client.clone()))),
            ..ClientOptions::default()
        }
    }

    fn container(&self) -> azure_core::Result<BlobContainerClient> {
        let options = BlobContainerClientOptions {
            client_options: self.client_options(),
            ..BlobContainerClientOptions::default()
        };
        BlobContainerClient::new(self.address(None), self.credential.clone(), Some(options))
    }

    fn blob(&self, name: &str, etag: Option<Etag>) -> azure_core::Result<Listed> {
        let options = BlobClientOptions {
            client_options: self.client_options(),
            ..BlobClientOptions::default()
        };
        let address = self.address(Some(name));
        Ok(Listed {
            shown: shown(&address),
            client: Arc::new(BlobClient::new(
                address,
                self.credential.clone(),
                Some(options),
            )?),
            etag,
        })
    }

    async fn list_blobs(&self) -> Result<Tree, SourceError> {
        let place = shown(&self.address(None));
        let failed = |error: azure_core::Error| read::failed(&place, &error);
        let prefix = match self.reference.prefix.as_str() {
            "" => None,
            prefix => Some(format!("{prefix}/")),
        };
        let options = BlobContainerClientListBlobsOptions {
            prefix: prefix.clone(),
            ..BlobContainerClientListBlobsOptions::default()
        };
        let container = self.container().map_err(failed)?;
        let mut pager = container.list_blobs(Some(options)).map_err(failed)?;
        let (mut files, mut blobs) = (Vec::new(), BTreeMap::new());
        while let Some(item) = pager.try_next().await.map_err(failed)? {
            let (Some(name), Some(properties)) = (item.name, item.properties) else {
                continue;
            };
            let size = properties.content_length.unwrap_or_default();
            let path = relative(&name, prefix.as_deref())?;
            // Accounts with directories list them as empty blobs.
            let Some(path) = path.filter(|path| size > 0 || !path.ends_with('/')) else {
                continue;
            };
            blobs.insert(
                path.clone(),
                self.blob(&name, properties.etag).map_err(failed)?,
            );
            files.push(File {
                path,
                size,
                executable: false,
                known_digest: None,
            });
        }
        files.sort_by(|left, right| left.path.as_bytes().cmp(right.path.as_bytes()));
        drop_directories(&mut files);
        *self.blobs.write().unwrap_or_else(PoisonError::into_inner) = blobs;
        Ok(Tree {
            files,
            revision: None,
            url: Some(shown(&self.address(
                prefix.as_deref().map(|text| text.trim_end_matches('/')),
            ))),
            ..Tree::default()
        })
    }
}

/// Empty blobs that other blobs lie below are marks of directories.
fn drop_directories(files: &mut Vec<File>) {
    let parents: std::collections::BTreeSet<String> = files
        .iter()
        .flat_map(|file| {
            file.path
                .match_indices('/')
                .filter_map(|(at, _)| file.path.get(..at).map(str::to_owned))
        })
        .collect();
    files.retain(|file| file.size > 0 || !parents.contains(&file.path));
}

/// The path of a blob below the prefix; none for the prefix itself.
fn relative(name: &str, prefix: Option<&str>) -> Result<Option<String>, SourceError> {
    let path = prefix.map_or(Some(name), |prefix| name.strip_prefix(prefix));
    let Some(path) = path.filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let bad = |part: &str| {
        part.is_empty() || part == "." || part == ".." || part.chars().any(char::is_control)
    };
    let checked = path.strip_suffix('/').unwrap_or(path);
    if checked.split('/').any(bad) || path.contains('\\') {
        return Err(SourceError::Refused {
            path: name.to_owned(),
            reason: "the blob's name is not a relative path".to_owned(),
        });
    }
    Ok(Some(path.to_owned()))
}

impl Source for AzureSource {
    fn list(&self) -> BoxFuture<'_, Result<Tree, SourceError>> {
        self.list_blobs().boxed()
    }

    fn read(
        &self,
        path: &str,
        range: Range<u64>,
    ) -> BoxFuture<'_, Result<ByteStream, SourceError>> {
        let blobs = self.blobs.read().unwrap_or_else(PoisonError::into_inner);
        let blob = blobs.get(path).cloned();
        let path = path.to_owned();
        async move {
            match blob {
                Some(blob) => Ok(read::stream(blob, range).boxed()),
                None => Err(SourceError::Refused {
                    path,
                    reason: "it was not listed".to_owned(),
                }),
            }
        }
        .boxed()
    }
}
