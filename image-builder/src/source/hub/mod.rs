//! The Hugging Face hub: `hf://ORG/MODEL[@REVISION]`.
//!
//! The revision is resolved to a commit first and everything is read at that commit. The hub names large files by
//! their sha256, so that blobs which a destination has are known before anything is downloaded. Downloads redirect to
//! a content network: the token stays with the hub.

mod api;
mod explain;

#[cfg(test)]
pub(crate) mod emulated;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use reqwest::{Client, Url};
use secrecy::SecretString;

use super::remote::{RemoteFile, read, shown};
use super::{ByteStream, Source, SourceError, Tree};
use explain::explain;

/// The hub that is asked when nothing else is set.
const ENDPOINT: &str = "https://huggingface.co";

/// A model on the hub, `ORG/MODEL@REVISION`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubReference {
    /// `ORG/MODEL`.
    pub repository: String,
    /// Branch, tag or commit.
    pub revision: String,
}

/// What is no reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a model on the hub; write hf://ORG/MODEL or hf://ORG/MODEL@REVISION")]
pub struct ReferenceError(String);

impl FromStr for HubReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ReferenceError(text.to_owned());
        let name = text.strip_prefix("hf://").unwrap_or(text);
        let (repository, revision) = name.split_once('@').unwrap_or((name, "main"));
        let plain = |part: &str| {
            !part.is_empty()
                && part != ".."
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        let parts: Vec<&str> = repository.split('/').collect();
        let named = (1..=2).contains(&parts.len()) && parts.iter().all(|part| plain(part));
        let revised = !revision.is_empty() && !revision.contains(char::is_whitespace);
        if !named || !revised {
            return Err(error());
        }
        Ok(Self {
            repository: repository.to_owned(),
            revision: revision.to_owned(),
        })
    }
}

/// Where the hub is and who asks.
#[derive(Clone, Debug)]
pub struct HubOptions {
    /// Address of the hub.
    pub endpoint: Url,
    /// Access token, for gated and private models.
    pub token: Option<SecretString>,
}

/// Settings of the hub that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HubOptionsError {
    /// `HF_ENDPOINT` is no address.
    #[error("HF_ENDPOINT is `{0}`, which is not an http or https address")]
    Endpoint(String),
    /// The file with the token cannot be read.
    #[error("cannot read the hub's token from {path}: {cause}")]
    Token {
        /// The file.
        path: String,
        /// What the system answered.
        #[source]
        cause: std::io::Error,
    },
}

impl HubOptions {
    /// The settings that the hub's own clients use: `HF_ENDPOINT`, then a token from `token_file`, `HF_TOKEN`,
    /// `HF_TOKEN_PATH`, `HF_HOME/token` or the user's cache. `variable` looks up environment variables.
    ///
    /// # Errors
    /// An address that is none, or a named file that cannot be read.
    pub fn from_environment(
        variable: &dyn Fn(&str) -> Option<String>,
        token_file: Option<&Path>,
    ) -> Result<Self, HubOptionsError> {
        let address = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = Url::parse(address.trim_end_matches('/'))
            .ok()
            .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
            .ok_or(HubOptionsError::Endpoint(address))?;
        Ok(Self {
            endpoint,
            token: token(variable, token_file)?,
        })
    }
}

fn token(
    variable: &dyn Fn(&str) -> Option<String>,
    token_file: Option<&Path>,
) -> Result<Option<SecretString>, HubOptionsError> {
    if let Some(path) = token_file {
        return read_token(path).map(Some);
    }
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        if let Some(text) = variable(name).filter(|text| !text.trim().is_empty()) {
            return Ok(Some(text.trim().into()));
        }
    }
    if let Some(path) = variable("HF_TOKEN_PATH") {
        return read_token(Path::new(&path)).map(Some);
    }
    let home = variable("HF_HOME").map(PathBuf::from).or_else(|| {
        let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(Path::new(&variable("HOME")?).join(".cache")))?;
        Some(cache.join("huggingface"))
    });
    // The usual place is looked at, not relied on.
    Ok(home.and_then(|home| read_token(&home.join("token")).ok()))
}

fn read_token(path: &Path) -> Result<SecretString, HubOptionsError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.trim().into()),
        Err(cause) => Err(HubOptionsError::Token {
            path: path.display().to_string(),
            cause,
        }),
    }
}

/// A model on the hub as a source.
pub struct HubSource {
    client: Client,
    reference: HubReference,
    options: HubOptions,
    files: RwLock<BTreeMap<String, Arc<RemoteFile>>>,
}

impl HubSource {
    /// The model that `reference` names; nothing is asked before [`Source::list`].
    #[must_use]
    pub fn new(client: Client, reference: HubReference, options: HubOptions) -> Self {
        Self {
            client,
            reference,
            options,
            files: RwLock::default(),
        }
    }

    fn remote(&self, address: Url) -> RemoteFile {
        RemoteFile::new(
            self.client.clone(),
            address,
            self.options.token.clone(),
            explain,
        )
    }

    /// An address below the hub's, each segment encoded.
    fn address<'a>(&self, segments: impl IntoIterator<Item = &'a str>) -> Url {
        let mut url = self.options.endpoint.clone();
        // The endpoint has a host, so it has segments.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    fn file_address(&self, commit: &str, path: &str) -> Url {
        let repository = self.reference.repository.split('/');
        let place = ["resolve", commit].into_iter().chain(path.split('/'));
        self.address(repository.chain(place))
    }

    async fn list_files(&self) -> Result<Tree, SourceError> {
        let commit = api::commit(self).await?;
        let files = api::files(self, &commit).await?;
        let remote = files
            .iter()
            .map(|file| {
                let address = self.file_address(&commit, &file.path);
                (file.path.clone(), Arc::new(self.remote(address)))
            })
            .collect();
        *self.files.write().unwrap_or_else(PoisonError::into_inner) = remote;
        Ok(Tree {
            files,
            revision: Some(commit),
            url: Some(shown(&self.address(self.reference.repository.split('/')))),
            ..Tree::default()
        })
    }
}

impl Source for HubSource {
    fn list(&self) -> BoxFuture<'_, Result<Tree, SourceError>> {
        self.list_files().boxed()
    }

    fn read(
        &self,
        path: &str,
        range: Range<u64>,
    ) -> BoxFuture<'_, Result<ByteStream, SourceError>> {
        let files = self.files.read().unwrap_or_else(PoisonError::into_inner);
        let file = files.get(path).cloned();
        let path = path.to_owned();
        async move {
            match file {
                Some(file) => read(file, range).await,
                None => Err(SourceError::Refused {
                    path,
                    reason: "it was not listed".to_owned(),
                }),
            }
        }
        .boxed()
    }
}
