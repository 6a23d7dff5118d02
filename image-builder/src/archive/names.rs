//! Which paths may be in an archive, and beside one another. May do no I/O.

use std::collections::HashMap;

use super::ArchiveError;

/// Longest path in bytes: what Linux takes.
const MAX_PATH_BYTES: usize = 4096;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameKind {
    /// A regular file.
    File,
    /// A directory; may be named several times.
    Directory,
    /// A symbolic link; nothing may be below it.
    Link,
}

/// The names that were seen. Refuses what cannot be extracted everywhere: two names that differ only in case, a file that
/// is also a directory, a path through a link.
#[derive(Clone, Debug, Default)]
pub struct Names {
    seen: HashMap<String, (String, NameKind)>,
}

impl Names {
    /// Adds a path (as [`check_path`] accepts it) and its parents.
    ///
    /// # Errors
    /// [`ArchiveError::CaseClash`], [`ArchiveError::Twice`], or [`ArchiveError::Link`] for a path through a link.
    pub fn claim(&mut self, path: &str, kind: NameKind) -> Result<(), ArchiveError> {
        for (end, _) in path.match_indices('/') {
            if let Some(parent) = path.get(..end) {
                self.insert(parent, NameKind::Directory, path)?;
            }
        }
        self.insert(path, kind, path)
    }

    /// What a path was claimed as.
    #[must_use]
    pub fn kind(&self, path: &str) -> Option<NameKind> {
        let (original, kind) = self.seen.get(&path.to_lowercase())?;
        (original == path).then_some(*kind)
    }

    /// How many names there are, directories included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    fn insert(&mut self, name: &str, kind: NameKind, path: &str) -> Result<(), ArchiveError> {
        let Some((original, present)) = self.seen.get(&name.to_lowercase()) else {
            self.seen
                .insert(name.to_lowercase(), (name.to_owned(), kind));
            return Ok(());
        };
        if original != name {
            return Err(ArchiveError::CaseClash {
                first: original.clone(),
                second: name.to_owned(),
            });
        }
        match (present, kind) {
            (NameKind::Directory, NameKind::Directory) => Ok(()),
            (NameKind::Link, _) if name != path => Err(ArchiveError::Link {
                path: name.to_owned(),
                target: path.to_owned(),
                reason: "an entry lies below a link",
            }),
            (NameKind::Directory, _) | (_, NameKind::Directory) => Err(ArchiveError::Twice {
                path: name.to_owned(),
                reason: "as a directory and as something else",
            }),
            _ => Err(ArchiveError::Twice {
                path: name.to_owned(),
                reason: "as files",
            }),
        }
    }
}

/// Whether a relative path stays below the directory that it is relative to, on every system.
///
/// # Errors
/// [`ArchiveError::Path`] with the reason.
pub fn check_path(path: &str) -> Result<(), ArchiveError> {
    let refuse = |reason| {
        Err(ArchiveError::Path {
            path: path.to_owned(),
            reason,
        })
    };
    if path.is_empty() {
        return refuse("is empty");
    }
    if path.len() > MAX_PATH_BYTES {
        return refuse("has over 4096 bytes");
    }
    if path.starts_with('/') {
        return refuse("is absolute");
    }
    if path.contains('\\') {
        return refuse("has a backslash, which separates names on Windows");
    }
    if path.chars().any(char::is_control) {
        return refuse("has a control character");
    }
    if path.as_bytes().get(1) == Some(&b':') {
        return refuse("begins with a drive");
    }
    for name in path.split('/') {
        match name {
            "" => return refuse("has an empty name"),
            "." | ".." => return refuse("has `.` or `..` as a name"),
            _ if name.len() > 255 => return refuse("has a name of over 255 bytes"),
            _ => {}
        }
    }
    Ok(())
}

/// Whether a link stays inside an archive. It may go up at its beginning only, and not above the archive: then no other
/// link can lead it out.
///
/// # Errors
/// [`ArchiveError::Link`] with the reason.
pub(super) fn check_link(path: &str, target: &str) -> Result<(), ArchiveError> {
    let refuse = |reason| Err(refuse_link(path, target, reason));
    if target.is_empty() || target.starts_with('/') {
        return refuse("its target is absolute or empty");
    }
    if target.contains('\\') || target.chars().any(char::is_control) {
        return refuse("its target has a backslash or a control character");
    }
    let depth = path.matches('/').count();
    let up = target.split('/').take_while(|name| *name == "..").count();
    if up > depth {
        return refuse("its target is outside");
    }
    if target.split('/').skip(up).any(|name| name == "..") {
        return refuse("its target goes up after going down");
    }
    Ok(())
}

pub(super) fn refuse_link(path: &str, target: &str, reason: &'static str) -> ArchiveError {
    ArchiveError::Link {
        path: path.to_owned(),
        target: target.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_the_directory_or_cannot_exist_everywhere_are_refused() {
        for path in [
            "",
            "/etc/passwd",
            "../x",
            "a/../b",
            "a/./b",
            "a//b",
            "a/",
            "a\\b",
            "C:/x",
            "a\nb",
            "a\0b",
        ] {
            assert!(check_path(path).is_err(), "{path:?}");
        }
        let long = "n".repeat(256);
        assert!(check_path(&long).is_err());
    }

    #[test]
    fn usual_paths_are_accepted() {
        for path in [
            "a",
            "a/b",
            "..a",
            "a..b/...",
            "größe 1/模型.bin",
            "model:latest",
            ".env",
        ] {
            assert_eq!(check_path(path), Ok(()), "{path}");
        }
    }

    #[test]
    fn names_that_differ_only_in_case_clash_in_files_and_in_directories() {
        let mut names = Names::default();
        names.claim("Model/a", NameKind::File).unwrap();
        names.claim("Model/b", NameKind::File).unwrap();
        assert!(matches!(
            names.claim("Model/A", NameKind::File),
            Err(ArchiveError::CaseClash { .. })
        ));
        assert!(matches!(
            names.claim("model/c", NameKind::File),
            Err(ArchiveError::CaseClash { .. })
        ));
        assert!(matches!(
            Names::default().claim("É", NameKind::File).and_then(|()| {
                let mut names = Names::default();
                names.claim("É", NameKind::File)?;
                names.claim("é", NameKind::File)
            }),
            Err(ArchiveError::CaseClash { .. })
        ));
    }

    #[test]
    fn a_name_is_a_file_or_a_directory_but_not_both_and_a_file_only_once() {
        let mut names = Names::default();
        names.claim("a/b", NameKind::File).unwrap();
        assert!(names.claim("a/b/c", NameKind::File).is_err());
        assert!(names.claim("a", NameKind::File).is_err());
        assert!(names.claim("a/b", NameKind::File).is_err());
        assert_eq!(names.claim("a", NameKind::Directory), Ok(()));
        assert_eq!(names.kind("a/b"), Some(NameKind::File));
        assert_eq!(names.len(), 2);
    }

    #[test]
    fn nothing_may_lie_below_a_link() {
        let mut names = Names::default();
        names.claim("link", NameKind::Link).unwrap();
        assert!(matches!(
            names.claim("link/file", NameKind::File),
            Err(ArchiveError::Link { .. })
        ));
    }
}
