//! Which files krew would install from an archive: `files` of a manifest applied to entry names.
//!
//! Pure: works on names. Paths are slash-separated, as in archives.

use crate::manifest::FileOperation;

/// Writes a path as Go's `filepath.Clean` does: no empty, `.` or inner `..` parts.
pub(crate) fn clean(path: &str) -> String {
    let is_absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if is_absolute => {}
            other => parts.push(other),
        }
    }
    let joined = parts.join("/");
    match (is_absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

/// Paths in the installed tree, in the order of `names`; no `operations` means everything.
///
/// # Errors
///
/// The index of the first operation that matches nothing: krew aborts the installation there.
pub(crate) fn installed(
    operations: Option<&[FileOperation]>,
    names: &[String],
) -> Result<Vec<String>, usize> {
    let Some(operations) = operations else {
        return Ok(names.to_vec());
    };
    let mut installed = Vec::new();
    for (index, operation) in operations.iter().enumerate() {
        let before = installed.len();
        installed.extend(names.iter().filter_map(|name| destination(operation, name)));
        if installed.len() == before {
            return Err(index);
        }
    }
    Ok(installed)
}

/// Where one operation puts the file `name`, if it takes it. A folder is taken with its content.
fn destination(operation: &FileOperation, name: &str) -> Option<String> {
    let from = clean(&operation.from);
    let patterns: Vec<&str> = from.trim_start_matches('/').split('/').collect();
    let parts: Vec<&str> = name.split('/').collect();
    let (head, rest) = parts.split_at_checked(patterns.len())?;
    if !patterns
        .iter()
        .zip(head)
        .all(|(pattern, part)| part_matches(pattern, part))
    {
        return None;
    }
    // An exact path is renamed to `to`; a glob is moved into the folder `to`.
    let is_rename = from == head.join("/") && operation.to != ".";
    let mut path = vec![operation.to.as_str()];
    if !is_rename {
        path.extend(head.last());
    }
    path.extend(rest);
    Some(clean(&path.join("/")))
}

/// Matches one path part against a pattern with `*` and `?`.
fn part_matches(pattern: &str, part: &str) -> bool {
    let mut pattern_chars = pattern.chars();
    match pattern_chars.next() {
        None => part.is_empty(),
        Some('*') => {
            let tail = pattern_chars.as_str();
            part_matches(tail, part)
                || part.char_indices().any(|(at, character)| {
                    part.get(at + character.len_utf8()..)
                        .is_some_and(|remaining| part_matches(tail, remaining))
                })
        }
        Some(wanted) => {
            let mut part_chars = part.chars();
            part_chars
                .next()
                .is_some_and(|found| wanted == '?' || wanted == found)
                && part_matches(pattern_chars.as_str(), part_chars.as_str())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn install(operations: &[(&str, &str)], names: &[&str]) -> Result<Vec<String>, usize> {
        let operations: Vec<FileOperation> = operations
            .iter()
            .map(|(from, to)| FileOperation {
                from: (*from).to_owned(),
                to: (*to).to_owned(),
            })
            .collect();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        installed(Some(&operations), &names)
    }

    #[test]
    fn clean_paths_are_kept_and_others_are_shortened() {
        for (path, expected) in [
            (".", "."),
            ("./", "."),
            ("a/b", "a/b"),
            ("a//b/", "a/b"),
            ("a/./b/../c", "a/c"),
            ("../a", "../a"),
            ("a/../..", ".."),
            ("/../a", "/a"),
        ] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }

    #[test]
    fn without_operations_everything_is_installed() {
        let names = ["a".to_owned(), "b/c".to_owned()];
        assert_eq!(installed(None, &names), Ok(names.to_vec()));
    }

    #[test]
    fn exact_paths_are_renamed_and_globs_are_moved() {
        let names = ["top/kubectl-kaito", "top/LICENSE", "top/docs/a.md"];
        assert_eq!(
            install(&[("top/LICENSE", ".")], &names),
            Ok(vec!["LICENSE".into()])
        );
        assert_eq!(
            install(&[("top/LICENSE", "legal")], &names),
            Ok(vec!["legal".into()])
        );
        assert_eq!(
            install(&[("*/k*-?aito", "bin")], &names),
            Ok(vec!["bin/kubectl-kaito".to_owned()])
        );
        assert_eq!(
            install(&[("top/*", ".")], &names),
            Ok(vec![
                "kubectl-kaito".into(),
                "LICENSE".into(),
                "docs/a.md".into()
            ])
        );
    }

    #[test]
    fn an_operation_that_matches_nothing_is_named() {
        assert_eq!(install(&[("*", "."), ("missing*", ".")], &["a"]), Err(1));
    }
}
