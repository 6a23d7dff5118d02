//! Which repositories have which blobs: where a killed push goes on, and where a blob may be mounted from.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::CacheError;
use super::lines::Lines;
use crate::digest::Digest;

/// Repositories that are remembered per blob: mounting needs one, and the newest are the likeliest to be there still.
const MOST_REPOSITORIES: usize = 4;

#[derive(Clone, Serialize, Deserialize)]
struct Line {
    host: String,
    repository: String,
    digest: Digest,
}

/// Blobs that were seen in repositories, finished or found there.
#[derive(Debug)]
pub struct Journal {
    lines: Lines,
    repositories: Mutex<HashMap<(String, Digest), Vec<String>>>,
}

impl Journal {
    /// Reads the journal; one that is not there is empty.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: &Path) -> Result<Self, CacheError> {
        let mut repositories = HashMap::new();
        let (lines, count) = Lines::open(path, |line: Line| {
            add(&mut repositories, &line);
        })?;
        let useful: usize = repositories.values().map(Vec::len).sum();
        if Lines::is_wasteful(count, useful) {
            lines.rewrite(repositories.iter().flat_map(|((host, digest), names)| {
                names.iter().rev().map(|repository| Line {
                    host: host.clone(),
                    repository: repository.clone(),
                    digest: *digest,
                })
            }))?;
        }
        Ok(Self {
            lines,
            repositories: Mutex::new(repositories),
        })
    }

    /// Repositories of a host that were seen to have a blob, the last one first.
    #[must_use]
    pub fn repositories(&self, host: &str, digest: Digest) -> Vec<String> {
        let repositories = self
            .repositories
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        repositories
            .get(&(host.to_owned(), digest))
            .cloned()
            .unwrap_or_default()
    }

    /// Records that a repository has a blob.
    ///
    /// # Errors
    /// When the file cannot be written; it is then remembered for this run only.
    pub fn record(&self, host: &str, repository: &str, digest: Digest) -> Result<(), CacheError> {
        let line = Line {
            host: host.to_owned(),
            repository: repository.to_owned(),
            digest,
        };
        let is_new = add(
            &mut self
                .repositories
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
            &line,
        );
        if is_new {
            self.lines.append(&line)
        } else {
            Ok(())
        }
    }
}

/// Puts a repository first; false where it was first already.
fn add(repositories: &mut HashMap<(String, Digest), Vec<String>>, line: &Line) -> bool {
    let names = repositories
        .entry((line.host.clone(), line.digest))
        .or_default();
    if names.first() == Some(&line.repository) {
        return false;
    }
    names.retain(|name| *name != line.repository);
    names.insert(0, line.repository.clone());
    names.truncate(MOST_REPOSITORIES);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_outlives_the_run_and_names_the_newest_repository_first() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal.jsonl");
        let digest = Digest::of(b"x");
        let journal = Journal::open(&path).unwrap();
        for repository in ["a", "b", "b", "a", "c"] {
            journal.record("r.io", repository, digest).unwrap();
        }
        assert_eq!(journal.repositories("r.io", digest), ["c", "a", "b"]);
        let journal = Journal::open(&path).unwrap();
        assert_eq!(journal.repositories("r.io", digest), ["c", "a", "b"]);
        assert!(journal.repositories("other.io", digest).is_empty());
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 4);
    }
}
