//! Which files came out of an archive, and where: a layer whose files are all as they were is not fetched again.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::CacheError;
use super::lines::Lines;
use crate::digest::Digest;
use crate::source::FileIdentity;

/// A file that came out of an archive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtractedFile {
    /// Where, below the directory.
    pub path: PathBuf,
    /// The version of it that was written.
    pub identity: FileIdentity,
}

#[derive(Clone, Serialize, Deserialize)]
struct Line {
    /// The layer, and what was taken out of it.
    key: Digest,
    directory: PathBuf,
    files: Vec<ExtractedFile>,
}

/// Files that came out of archives, by archive and directory.
#[derive(Debug)]
pub struct Extracted {
    lines: Lines,
    known: Mutex<HashMap<(Digest, PathBuf), Vec<ExtractedFile>>>,
}

impl Extracted {
    /// Reads the file; one that is not there is empty.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: &Path) -> Result<Self, CacheError> {
        let mut known = HashMap::new();
        let (lines, count) = Lines::open(path, |line: Line| {
            known.insert((line.key, line.directory), line.files);
        })?;
        if Lines::is_wasteful(count, known.len()) {
            lines.rewrite(known.iter().map(|((key, directory), files)| Line {
                key: *key,
                directory: directory.clone(),
                files: files.clone(),
            }))?;
        }
        Ok(Self {
            lines,
            known: Mutex::new(known),
        })
    }

    /// The files that came out, where all of them are as they were. `key` stands for the layer and for what of it was
    /// taken; `directory` is absolute.
    #[must_use]
    pub fn unchanged(&self, key: Digest, directory: &Path) -> Option<Vec<ExtractedFile>> {
        let files = self
            .known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&(key, directory.to_owned()))?
            .clone();
        let is_unchanged = |file: &ExtractedFile| {
            std::fs::symlink_metadata(directory.join(&file.path))
                .ok()
                .and_then(|found| FileIdentity::of(&found))
                .is_some_and(|identity| identity == file.identity)
        };
        files.iter().all(is_unchanged).then_some(files)
    }

    /// Remembers what came out of a layer.
    ///
    /// # Errors
    /// When the file cannot be written; it is then remembered for this run only.
    pub fn remember(
        &self,
        key: Digest,
        directory: &Path,
        files: Vec<ExtractedFile>,
    ) -> Result<(), CacheError> {
        let line = Line {
            key,
            directory: directory.to_owned(),
            files,
        };
        let known = (line.key, line.directory.clone());
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(known, line.files.clone());
        self.lines.append(&line)
    }
}
