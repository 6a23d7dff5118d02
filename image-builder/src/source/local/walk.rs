//! Lists a directory: which files there are, where links lead, what must not be packaged.

use std::fs::{self, Metadata};
use std::io;
use std::path::{Path, PathBuf};

use super::{Entries, Entry, Links, platform};
use crate::digest::Digest;
use crate::source::select::Selection;
use crate::source::{File, Link, SourceError, Tree};

/// Directories that tools leave beside a model and that are never part of it.
const LEFT_BY_TOOLS: [&str; 2] = [".git", ".cache/huggingface"];

/// What was found.
pub(super) struct Walked {
    pub(super) tree: Tree,
    pub(super) entries: Entries,
}

/// Lists the directory or file at `root`.
pub(super) fn walk(root: &Path, selection: Selection, links: Links) -> Result<Walked, SourceError> {
    let canonical = fs::canonicalize(root).map_err(|cause| failed("list", root, cause))?;
    let metadata = fs::metadata(&canonical).map_err(|cause| failed("list", root, cause))?;
    if !metadata.is_dir() {
        return single_file(&canonical, &metadata);
    }
    let snapshot = Snapshot::of(&canonical);
    let mut walk = Walk {
        boundary: snapshot
            .as_ref()
            .map_or_else(|| canonical.clone(), |found| found.repository.clone()),
        selection,
        links,
        tree: Tree {
            revision: snapshot.as_ref().map(|found| found.revision.clone()),
            url: snapshot.map(|found| found.url),
            ..Tree::default()
        },
        entries: Entries::new(),
    };
    walk.directory(&canonical, "", &mut vec![canonical.clone()])?;
    Ok(walk.end())
}

fn single_file(place: &Path, metadata: &Metadata) -> Result<Walked, SourceError> {
    let name = place.file_name().unwrap_or_default();
    let path = checked_name(name, place)?;
    let mut walk = Walk {
        boundary: place.to_owned(),
        selection: Selection::everything(),
        links: Links::Follow,
        tree: Tree::default(),
        entries: Entries::new(),
    };
    walk.file(path, place.to_owned(), metadata, None)?;
    Ok(walk.end())
}

struct Walk {
    /// Links may lead anywhere below this directory.
    boundary: PathBuf,
    selection: Selection,
    links: Links,
    tree: Tree,
    entries: Entries,
}

impl Walk {
    fn end(mut self) -> Walked {
        let tree = &mut self.tree;
        tree.files
            .sort_by(|left, right| left.path.as_bytes().cmp(right.path.as_bytes()));
        tree.links
            .sort_by(|left, right| left.path.as_bytes().cmp(right.path.as_bytes()));
        tree.empty_directories.sort();
        Walked {
            tree: self.tree,
            entries: self.entries,
        }
    }

    /// Lists `directory`, whose path in the tree is `prefix`. `above` holds the real directories on the way down, to
    /// recognise a link that leads back up.
    fn directory(
        &mut self,
        directory: &Path,
        prefix: &str,
        above: &mut Vec<PathBuf>,
    ) -> Result<(), SourceError> {
        let listing = fs::read_dir(directory).map_err(|cause| failed("list", directory, cause))?;
        let mut is_empty = true;
        for entry in listing {
            is_empty = false;
            let entry = entry.map_err(|cause| failed("list", directory, cause))?;
            let name = checked_name(&entry.file_name(), &entry.path())?;
            let path = if prefix.is_empty() {
                name
            } else {
                format!("{prefix}/{name}")
            };
            self.entry(path, entry.path(), above)?;
        }
        let is_kept = self.links == Links::Keep && !prefix.is_empty();
        if is_empty && is_kept && self.selection.takes(prefix) {
            self.tree.empty_directories.push(prefix.to_owned());
        }
        Ok(())
    }

    fn entry(
        &mut self,
        path: String,
        place: PathBuf,
        above: &mut Vec<PathBuf>,
    ) -> Result<(), SourceError> {
        let kind = fs::symlink_metadata(&place).map_err(|cause| failed("read", &place, cause))?;
        let is_link = kind.file_type().is_symlink();
        if is_link && self.links == Links::Keep {
            return self.link(path, &place);
        }
        let place = if is_link {
            match self.link_target(&path, &place) {
                Err(_) if !self.selection.takes(&path) => return Ok(()),
                target => target?,
            }
        } else {
            place
        };
        let metadata = if is_link {
            fs::metadata(&place).map_err(|cause| failed("read", &place, cause))?
        } else {
            kind
        };
        if !metadata.is_dir() {
            let known = if is_link {
                digest_in_name(&place)
            } else {
                None
            };
            return self.file(path, place, &metadata, known);
        }
        if LEFT_BY_TOOLS.contains(&path.as_str()) {
            return Ok(());
        }
        if above.contains(&place) {
            return Err(refused(
                path,
                "the link leads to a directory that contains it",
            ));
        }
        above.push(place.clone());
        self.directory(&place, &path, above)?;
        above.pop();
        Ok(())
    }

    /// Keeps a link as it is. Where it leads is judged by whoever packages it: there it leads elsewhere than here.
    fn link(&mut self, path: String, place: &Path) -> Result<(), SourceError> {
        if !self.selection.takes(&path) {
            return Ok(());
        }
        let target = fs::read_link(place).map_err(|cause| failed("read", place, cause))?;
        match target.into_os_string().into_string() {
            Ok(target) => self.tree.links.push(Link { path, target }),
            Err(_) => return Err(refused(path, "its target is not UTF-8")),
        }
        Ok(())
    }

    fn link_target(&self, path: &str, place: &Path) -> Result<PathBuf, SourceError> {
        let target = fs::canonicalize(place).map_err(|cause| match cause.kind() {
            io::ErrorKind::NotFound => refused(path.to_owned(), "the link leads nowhere"),
            _ => failed("read", place, cause),
        })?;
        if target.starts_with(&self.boundary) {
            return Ok(target);
        }
        Err(refused(
            path.to_owned(),
            "the link leads out of the directory; copy the file into it, or leave it out with --exclude",
        ))
    }

    fn file(
        &mut self,
        path: String,
        place: PathBuf,
        metadata: &Metadata,
        known_digest: Option<Digest>,
    ) -> Result<(), SourceError> {
        if !self.selection.takes(&path) {
            return Ok(());
        }
        if !metadata.is_file() {
            return Err(refused(path, "it is a device, a pipe or a socket"));
        }
        self.tree.files.push(File {
            path: path.clone(),
            size: metadata.len(),
            executable: platform::executable(metadata),
            known_digest,
        });
        let identity = platform::identity(metadata);
        self.entries.insert(path, Entry { place, identity });
        Ok(())
    }
}

/// A snapshot in the hub's cache: `models--ORG--NAME/snapshots/COMMIT`, whose files are links into `blobs`.
struct Snapshot {
    repository: PathBuf,
    revision: String,
    url: String,
}

impl Snapshot {
    fn of(root: &Path) -> Option<Self> {
        let revision = root.file_name()?.to_str()?;
        let snapshots = root.parent()?;
        let repository = snapshots.parent()?;
        let name = repository
            .file_name()?
            .to_str()?
            .strip_prefix("models--")?
            .replace("--", "/");
        let is_commit = revision.len() == 40
            && revision
                .bytes()
                .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        (snapshots.file_name()? == "snapshots" && is_commit).then(|| Self {
            repository: repository.to_owned(),
            revision: revision.to_owned(),
            url: format!("https://huggingface.co/{name}"),
        })
    }
}

/// The hub's cache names large files by their sha256.
fn digest_in_name(place: &Path) -> Option<Digest> {
    if place.parent()?.file_name()? != "blobs" {
        return None;
    }
    format!("sha256:{}", place.file_name()?.to_str()?)
        .parse()
        .ok()
}

fn checked_name(name: &std::ffi::OsStr, place: &Path) -> Result<String, SourceError> {
    let shown = || place.display().to_string();
    let name = name
        .to_str()
        .ok_or_else(|| refused(shown(), "its name is not UTF-8"))?;
    if name.chars().any(char::is_control) {
        return Err(refused(shown(), "its name has control characters"));
    }
    Ok(name.to_owned())
}

fn refused(path: String, reason: &str) -> SourceError {
    SourceError::Refused {
        path,
        reason: reason.to_owned(),
    }
}

fn failed(action: &'static str, path: &Path, cause: io::Error) -> SourceError {
    SourceError::File {
        action,
        path: path.display().to_string(),
        cause,
    }
}
