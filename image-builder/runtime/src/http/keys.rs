//! Keys that clients have to show, from a file that a Secret is mounted as.

use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};

/// How often the file is read again: a rotated Secret takes effect without a restart.
const REFRESH: Duration = Duration::from_secs(20);

/// Why keys could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("reading the keys of clients from {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    /// The file is empty, which would lock everybody out.
    #[error("{} holds no key; write one key a line", .0.display())]
    Empty(PathBuf),
}

/// Digests of valid keys. Comparing digests byte by byte to the end tells nothing about the keys by its duration.
#[derive(Clone, Debug)]
pub struct Keys(Arc<RwLock<Vec<[u8; 32]>>>);

impl Keys {
    /// Reads a file with one key a line.
    ///
    /// # Errors
    /// [`Error`] if it cannot be read, or holds none.
    pub fn read(path: &Path) -> Result<Self, Error> {
        Ok(Self(Arc::new(RwLock::new(digests(path)?))))
    }

    /// Reads the file again now and then, for as long as the process lives. A file that cannot be read changes nothing.
    pub async fn refresh(self, path: PathBuf) {
        loop {
            tokio::time::sleep(REFRESH).await;
            match digests(&path) {
                Ok(fresh) => {
                    if let Ok(mut keys) = self.0.write() {
                        *keys = fresh;
                    }
                }
                Err(error) => tracing::warn!(%error, "the old keys stay valid"),
            }
        }
    }

    /// Whether a request shows a valid key as `Authorization: Bearer KEY`.
    #[must_use]
    pub fn admit(&self, headers: &HeaderMap) -> bool {
        let shown = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let shown = shown.and_then(|value| value.split_once(' '));
        let Some((scheme, key)) = shown else {
            return false;
        };
        let digest: [u8; 32] = Sha256::digest(key.trim().as_bytes()).into();
        let Ok(keys) = self.0.read() else {
            return false;
        };
        let same = keys
            .iter()
            .fold(false, |same, key| same | equal(key, &digest));
        scheme.eq_ignore_ascii_case("bearer") & same
    }
}

fn equal(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter()
        .zip(b)
        .fold(0, |differences, (a, b)| differences | (a ^ b))
        == 0
}

fn digests(path: &Path) -> Result<Vec<[u8; 32]>, Error> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::Read(path.to_owned(), e))?;
    let keys = text.lines().map(str::trim).filter(|key| !key.is_empty());
    let digests: Vec<[u8; 32]> = keys
        .map(|key| Sha256::digest(key.as_bytes()).into())
        .collect();
    if digests.is_empty() {
        return Err(Error::Empty(path.to_owned()));
    }
    Ok(digests)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listed_key_is_admitted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, "first\n\nsecond\n").unwrap();
        let keys = Keys::read(&path).unwrap();
        let admitted = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            keys.admit(&headers)
        };
        assert!(admitted("Bearer second"));
        assert!(admitted("bearer first"));
        assert!(!admitted("Bearer third"));
        assert!(!admitted("Basic first"));
        assert!(!admitted("first"));
        assert!(!keys.admit(&HeaderMap::new()));
    }

    #[test]
    fn a_file_without_keys_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        std::fs::write(&path, "\n \n").unwrap();
        assert!(matches!(Keys::read(&path), Err(Error::Empty(_))));
    }
}
