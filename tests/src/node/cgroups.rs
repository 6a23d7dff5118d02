//! A node's own branch of the control group hierarchies, below which kubelet puts everything.
//!
//! Works on both layouts: one hierarchy per controller (cgroup v1) and a single one (cgroup v2). Touches only groups
//! that bear the name it is given.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Makes the group in every hierarchy.
///
/// # Errors
/// The system's, for the first hierarchy that refuses.
pub(super) fn create(name: &str) -> io::Result<()> {
    for root in hierarchies()? {
        match fs::create_dir(root.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Removes the group and all below it, in every hierarchy. Whatever still holds processes stays.
///
/// # Errors
/// The system's, if the hierarchies cannot be listed.
pub(super) fn remove(name: &str) -> io::Result<()> {
    for group in find(name)? {
        remove_branch(&group);
    }
    Ok(())
}

/// The group in every hierarchy where it exists.
///
/// # Errors
/// The system's, if the hierarchies cannot be listed.
pub(super) fn find(name: &str) -> io::Result<Vec<PathBuf>> {
    let groups = hierarchies()?.into_iter().map(|root| root.join(name));
    Ok(groups.filter(|group| group.exists()).collect())
}

fn remove_branch(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_branch(&entry.path());
        }
    }
    // Fails while it is in use, which the caller sees by its still being there.
    let _ = fs::remove_dir(group);
}

/// Where the hierarchies are mounted.
fn hierarchies() -> io::Result<Vec<PathBuf>> {
    Ok(parse(&fs::read_to_string("/proc/self/mountinfo")?))
}

/// Mount points of type `cgroup` or `cgroup2`, each once.
fn parse(mounts: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let kind = right.split(' ').next().unwrap_or_default();
        let point = left.split(' ').nth(4).map(PathBuf::from);
        if let Some(point) = point
            && matches!(kind, "cgroup" | "cgroup2")
            && !found.contains(&point)
        {
            found.push(point);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::parse;

    #[test]
    fn both_kinds_of_hierarchy_are_found_and_nothing_else() {
        let text = "30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            31 30 0:27 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
            32 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let expected = ["/sys/fs/cgroup/cpu", "/sys/fs/cgroup/unified"].map(PathBuf::from);
        assert_eq!(parse(text), expected);
    }
}
