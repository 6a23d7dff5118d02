//! Digests of blobs made of local files, by what the files are: an unchanged tree is pushed again without being read.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::CacheError;
use super::lines::Lines;
use crate::content::{Blob, Encoding, Part};
use crate::digest::{Digest, Hasher};
use crate::source::{FileIdentity, Source};

/// Raised when blobs of the same parts come out differently, as after a change of the compressor's settings.
const RECIPE_VERSION: u8 = 1;

/// What a blob is made of, as one value: equal recipes give equal blobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Recipe(Digest);

/// What is remembered of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The blob's digest.
    pub digest: Digest,
    /// The digest of its content before encoding.
    pub content_digest: Digest,
    /// Size of the blob in bytes.
    pub size: u64,
}

#[derive(Serialize, Deserialize)]
struct Line {
    recipe: Recipe,
    #[serde(flatten)]
    remembered: Remembered,
}

/// Digests of blobs, by recipe.
#[derive(Debug)]
pub struct DigestCache {
    lines: Lines,
    known: Mutex<HashMap<Recipe, Remembered>>,
}

impl Recipe {
    /// The recipe of a blob, or `None` where a part is a file whose version cannot be told without reading it.
    #[must_use]
    pub fn of(blob: &Blob, source: &dyn Source) -> Option<Self> {
        let mut hasher = Hasher::default();
        hasher.update(&[RECIPE_VERSION, encoding_number(blob.encoding)]);
        for part in &blob.parts {
            match part {
                Part::Bytes(bytes) => {
                    hasher.update(b"b");
                    hasher.update(&(bytes.len() as u64).to_le_bytes());
                    hasher.update(bytes);
                }
                Part::File { path, size } => {
                    // Without an inode another file may have the same size and times.
                    let identity = source
                        .identity(path)
                        .filter(|identity| identity.inode != 0)?;
                    hasher.update(b"f");
                    hasher.update(&size.to_le_bytes());
                    hasher.update(&identity_bytes(&identity));
                }
            }
        }
        Some(Self(hasher.finish()))
    }

    /// The recipe of a blob that is one file as it is.
    #[must_use]
    pub fn of_file(identity: &FileIdentity) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(&[RECIPE_VERSION, encoding_number(Encoding::Plain)]);
        hasher.update(b"f");
        hasher.update(&identity.size.to_le_bytes());
        hasher.update(&identity_bytes(identity));
        Self(hasher.finish())
    }
}

impl DigestCache {
    /// Reads the cache file; one that is not there is empty.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: &Path) -> Result<Self, CacheError> {
        let mut known = HashMap::new();
        let (lines, count) = Lines::open(path, |line: Line| {
            known.insert(line.recipe, line.remembered);
        })?;
        if Lines::is_wasteful(count, known.len()) {
            lines.rewrite(known.iter().map(|(recipe, remembered)| Line {
                recipe: *recipe,
                remembered: *remembered,
            }))?;
        }
        Ok(Self {
            lines,
            known: Mutex::new(known),
        })
    }

    /// What is remembered of a recipe.
    #[must_use]
    pub fn get(&self, recipe: Recipe) -> Option<Remembered> {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&recipe)
            .copied()
    }

    /// Remembers a blob.
    ///
    /// # Errors
    /// When the file cannot be written; the blob is then remembered for this run only.
    pub fn remember(&self, recipe: Recipe, remembered: Remembered) -> Result<(), CacheError> {
        let before = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(recipe, remembered);
        if before == Some(remembered) {
            return Ok(());
        }
        self.lines.append(&Line { recipe, remembered })
    }

    /// How many blobs are remembered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

const fn encoding_number(encoding: Encoding) -> u8 {
    match encoding {
        Encoding::Plain => 0,
        Encoding::Zstd => 1,
        Encoding::Gzip => 2,
    }
}

fn identity_bytes(identity: &FileIdentity) -> Vec<u8> {
    let FileIdentity {
        device,
        inode,
        size,
        mtime_ns,
        ctime_ns,
    } = identity;
    [
        device.to_le_bytes().as_slice(),
        &inode.to_le_bytes(),
        &size.to_le_bytes(),
        &mtime_ns.to_le_bytes(),
        &ctime_ns.to_le_bytes(),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use futures::future::BoxFuture;

    use super::*;
    use crate::oci::Annotations;
    use crate::source::{ByteStream, SourceError, Tree};

    struct Fixed(FileIdentity);

    impl Source for Fixed {
        fn list(&self) -> BoxFuture<'_, Result<Tree, SourceError>> {
            Box::pin(async { Ok(Tree::default()) })
        }

        fn read(
            &self,
            path: &str,
            _: Range<u64>,
        ) -> BoxFuture<'_, Result<ByteStream, SourceError>> {
            let what = "is never read here".to_owned();
            let path = path.to_owned();
            Box::pin(async { Err(SourceError::Changed { path, what }) })
        }

        fn identity(&self, _path: &str) -> Option<FileIdentity> {
            Some(self.0)
        }
    }

    const IDENTITY: FileIdentity = FileIdentity {
        device: 1,
        inode: 2,
        size: 3,
        mtime_ns: 4,
        ctime_ns: 5,
    };

    fn blob(encoding: Encoding) -> Blob {
        Blob {
            media_type: "x".into(),
            parts: vec![
                Part::Bytes(bytes::Bytes::from_static(b"header")),
                Part::File {
                    path: "a".into(),
                    size: 3,
                },
            ],
            encoding,
            expected: None,
            annotations: Annotations::new(),
        }
    }

    #[test]
    fn every_part_of_a_files_identity_and_the_encoding_change_the_recipe() {
        let recipe = |identity, encoding| Recipe::of(&blob(encoding), &Fixed(identity)).unwrap();
        let first = recipe(IDENTITY, Encoding::Plain);
        assert_eq!(first, recipe(IDENTITY, Encoding::Plain));
        let others = [
            recipe(
                FileIdentity {
                    device: 9,
                    ..IDENTITY
                },
                Encoding::Plain,
            ),
            recipe(
                FileIdentity {
                    inode: 9,
                    ..IDENTITY
                },
                Encoding::Plain,
            ),
            recipe(
                FileIdentity {
                    size: 9,
                    ..IDENTITY
                },
                Encoding::Plain,
            ),
            recipe(
                FileIdentity {
                    mtime_ns: 9,
                    ..IDENTITY
                },
                Encoding::Plain,
            ),
            recipe(
                FileIdentity {
                    ctime_ns: 9,
                    ..IDENTITY
                },
                Encoding::Plain,
            ),
            recipe(IDENTITY, Encoding::Zstd),
        ];
        for other in others {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn a_file_that_was_pulled_is_known_when_it_is_pushed() {
        let raw = Blob {
            parts: vec![Part::File {
                path: "a".into(),
                size: 3,
            }],
            ..blob(Encoding::Plain)
        };
        assert_eq!(
            Recipe::of(&raw, &Fixed(IDENTITY)),
            Some(Recipe::of_file(&IDENTITY))
        );
    }

    #[test]
    fn digests_outlive_the_run_and_a_torn_line_costs_only_itself() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("digests.jsonl");
        let recipe = Recipe::of(&blob(Encoding::Plain), &Fixed(IDENTITY)).unwrap();
        let digest = Digest::of(b"x");
        let remembered = Remembered {
            digest,
            content_digest: digest,
            size: 9,
        };
        DigestCache::open(&path)
            .unwrap()
            .remember(recipe, remembered)
            .unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..10], b"\n", &whole[..]].concat()).unwrap();
        let cache = DigestCache::open(&path).unwrap();
        assert_eq!((cache.get(recipe), cache.len()), (Some(remembered), 1));
    }
}
