//! Files under their final names: whether they are there, and how they get there. Follows no link below the directory.

use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::PullError;
use crate::cache::{Cache, Recipe, Remembered};
use crate::digest::{Digest, Hasher};
use crate::oci::Descriptor;
use crate::source::FileIdentity;

/// Bytes that are read at a time.
const CHUNK: usize = 256 << 10;

/// Makes a directory and its parents.
pub(super) fn create_directory(path: &Path) -> Result<(), PullError> {
    fs::create_dir_all(path).map_err(|cause| PullError::file("create", path, cause))
}

/// Makes sure that the directories of `path` below `directory` are directories: a link there would lead out.
pub(super) fn check_parents(directory: &Path, path: &str) -> Result<(), PullError> {
    let mut parent = directory.to_owned();
    let mut names = path.split('/').peekable();
    while let Some(name) = names.next() {
        if names.peek().is_none() {
            return Ok(());
        }
        parent.push(name);
        match fs::symlink_metadata(&parent) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => {
                return Err(PullError::InTheWay {
                    path: parent,
                    reason: "a directory is to be there, but something else is",
                });
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(cause) => return Err(PullError::file("read", &parent, cause)),
        }
    }
    Ok(())
}

/// Whether a file is there with this content.
pub(super) async fn is_there(
    target: &Path,
    descriptor: &Descriptor,
    cache: Option<&Arc<Cache>>,
) -> Result<bool, PullError> {
    let found = match fs::symlink_metadata(target) {
        Ok(found) if found.is_file() => found,
        Ok(found) if found.is_dir() => {
            return Err(PullError::InTheWay {
                path: target.to_owned(),
                reason: "a file is to be there, but a directory is",
            });
        }
        // A link is replaced, whatever it leads to.
        Ok(_) => return Ok(false),
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(cause) => return Err(PullError::file("read", target, cause)),
    };
    if found.len() != descriptor.size {
        return Ok(false);
    }
    if let (Some(cache), Some(identity)) = (cache, FileIdentity::of(&found))
        && let Some(known) = cache.digests.get(Recipe::of_file(&identity))
    {
        return Ok(known.digest == descriptor.digest);
    }
    let path = target.to_owned();
    let digest = tokio::task::spawn_blocking(move || digest_of(&path))
        .await
        .map_err(|_| PullError::Writer {
            what: target.display().to_string(),
        })??;
    if digest == descriptor.digest {
        remember(target, digest, cache);
    }
    Ok(digest == descriptor.digest)
}

/// Keeps a file's digest for the next pull or push. A cache that cannot be written is only slower.
pub(super) fn remember(path: &Path, digest: Digest, cache: Option<&Arc<Cache>>) {
    let Some(cache) = cache else { return };
    let identity = fs::symlink_metadata(path)
        .ok()
        .and_then(|found| FileIdentity::of(&found));
    let Some(identity) = identity else { return };
    let remembered = Remembered {
        digest,
        content_digest: digest,
        size: identity.size,
    };
    if let Err(error) = cache
        .digests
        .remember(Recipe::of_file(&identity), remembered)
    {
        tracing::warn!(%error, "the next pull will read more than it needs to");
    }
}

fn digest_of(path: &Path) -> Result<Digest, PullError> {
    let failed = |cause| PullError::file("read", path, cause);
    let mut file = fs::File::open(path).map_err(failed)?;
    let mut hasher = Hasher::default();
    hash_rest(&mut file, &mut hasher).map_err(failed)?;
    Ok(hasher.finish())
}

/// Adds all bytes from where the file is.
pub(super) fn hash_rest(file: &mut fs::File, hasher: &mut Hasher) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(()),
            Ok(read) => hasher.update(chunk.get(..read).unwrap_or_default()),
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
}

/// Gives a whole file its final name.
pub(super) fn rename(from: &Path, target: &Path) -> Result<(), PullError> {
    if let Some(parent) = target.parent() {
        create_directory(parent)?;
    }
    fs::rename(from, target).map_err(|cause| PullError::file("rename", target, cause))
}

/// Copies a whole file, aside first.
pub(super) fn copy(from: &Path, aside: &PathBuf, target: &Path) -> Result<(), PullError> {
    fs::copy(from, aside).map_err(|cause| PullError::file("write", aside, cause))?;
    rename(aside, target)
}
