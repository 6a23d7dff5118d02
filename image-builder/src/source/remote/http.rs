//! `http(s)://` addresses: each is one file, named by the last part of its path.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use reqwest::{Client, Url};

use super::fetch::{Refusal, RemoteFile, explain_plainly, shown};
use super::reach::Reach;
use super::{parts, retry};
use crate::source::{ByteStream, File, Source, SourceError, Tree};

/// One file behind a plain address.
pub struct HttpSource {
    file: Arc<RemoteFile>,
    path: OnceLock<String>,
}

impl HttpSource {
    /// The file at `address`.
    #[must_use]
    pub fn new(client: Client, address: Url, reach: Reach) -> Self {
        let file = RemoteFile::new(client, address, None, explain_plainly);
        Self {
            file: Arc::new(RemoteFile { reach, ..file }),
            path: OnceLock::new(),
        }
    }

    fn name(&self) -> Result<String, SourceError> {
        let last = self
            .file
            .address
            .path_segments()
            .and_then(|mut segments| segments.next_back())
            .filter(|name| !name.is_empty());
        let name = last.map(percent_decoded).ok_or_else(|| {
            self.file.error(
                "its path does not end in a file name".to_owned(),
                "give the address of a file; directories are not listed over HTTP".to_owned(),
            )
        })?;
        if name.contains(['/', '\\']) || name.chars().any(char::is_control) || name == ".." {
            return Err(SourceError::Refused {
                path: name,
                reason: "the address does not end in a plain file name".to_owned(),
            });
        }
        Ok(name)
    }

    /// The file's size. One byte is asked for: a server that knows ranges tells the size with it, others tell it with
    /// the whole answer, whose body is not read.
    async fn size(&self) -> Result<u64, SourceError> {
        let mut failures = 0;
        loop {
            match self.file.get(Some(0..1)).await {
                Ok(answer) => {
                    return answer.total.ok_or_else(|| {
                        self.file.error(
                            "it does not tell the size of the file".to_owned(),
                            "download the file with another program".to_owned(),
                        )
                    });
                }
                // An empty file has no byte to ask for.
                Err(Refusal::Final(_)) if self.is_empty().await => return Ok(0),
                Err(Refusal::Final(error)) => return Err(error),
                Err(Refusal::Transient {
                    reason,
                    retry_after,
                }) => {
                    failures += 1;
                    if failures >= retry::ATTEMPTS {
                        let remedy = "check the network and the address".to_owned();
                        return Err(self.file.error(reason, remedy));
                    }
                    tokio::time::sleep(retry::pause(failures + 1, retry_after)).await;
                }
            }
        }
    }

    async fn is_empty(&self) -> bool {
        matches!(self.file.get(None).await, Ok(answer) if answer.total == Some(0))
    }
}

impl Source for HttpSource {
    fn list(&self) -> BoxFuture<'_, Result<Tree, SourceError>> {
        async move {
            let path = self.name()?;
            let size = self.size().await?;
            let path = self.path.get_or_init(|| path).clone();
            Ok(Tree {
                files: vec![File {
                    path,
                    size,
                    executable: false,
                    known_digest: None,
                }],
                revision: None,
                url: Some(shown(&self.file.address)),
                ..Tree::default()
            })
        }
        .boxed()
    }

    fn read(
        &self,
        path: &str,
        range: Range<u64>,
    ) -> BoxFuture<'_, Result<ByteStream, SourceError>> {
        let known = self.path.get().is_some_and(|listed| listed == path);
        let path = path.to_owned();
        async move {
            if !known {
                return Err(SourceError::Refused {
                    path,
                    reason: "it was not listed".to_owned(),
                });
            }
            parts::read(self.file.clone(), range).await
        }
        .boxed()
    }
}

/// Decodes `%XX`; what is not UTF-8 afterwards is left as it was.
pub(crate) fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let decoded = (byte == b'%')
            .then(|| {
                let mut ahead = rest.clone();
                let digits = [ahead.next()?, ahead.next()?];
                let value = hex::decode(digits).ok()?.first().copied()?;
                rest = ahead;
                Some(value)
            })
            .flatten();
        bytes.push(decoded.unwrap_or(byte));
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}
