//! The link `kubectl_complete-kaito`, which kubectl looks for on `PATH`.
//!
//! It points to the plugin's own entry on `PATH` and not to the file behind it, so that it outlives an upgrade. It never
//! goes to krew's folder: krew refuses to work when a foreign file is left there. Touches nothing but the link.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::completion::LINK;
use crate::environment::Environment;
use crate::error::Failure;

/// Why there is no link, or still one.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The plugin itself is not on `PATH`.
    #[error("kubectl-kaito is not on PATH, so kubectl cannot run it")]
    NoPlugin,
    /// No folder was given, and the usual one is not searched.
    #[error("~/.local/bin is not on PATH; name a folder that is with --dir")]
    NoFolder,
    /// The folder is not searched.
    #[error("{} is not on PATH, where kubectl looks for {LINK}", .0.display())]
    NotOnPath(PathBuf),
    /// The folder is krew's.
    #[error("{} belongs to krew, which allows no other files there; choose another folder with --dir", .0.display())]
    Krews(PathBuf),
    /// Something else has the name.
    #[error("{} is not a link of ours; move it away first", .0.display())]
    Foreign(PathBuf),
    /// A file operation failed.
    #[error("cannot {what} {}", path.display())]
    File {
        /// The operation, as a verb.
        what: &'static str,
        /// Its object.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// As printed.
    pub(super) fn failure(&self) -> Failure {
        match self {
            Self::File { source, .. } => Failure::error(format!("{self}: {source}")),
            _ => Failure::error(self),
        }
    }
}

/// Makes the link, and says where.
pub(super) fn make(dir: Option<&Path>, environment: &Environment) -> Result<String, Error> {
    let plugin = plugin(environment).ok_or(Error::NoPlugin)?;
    let folder = folder(dir, environment)?;
    let path = link_in(&folder);
    take_away(&path)?;
    fs::create_dir_all(&folder).map_err(failed("make", &folder))?;
    place(&plugin, &path).map_err(failed("make", &path))?;
    Ok(format!(
        "{} -> {}\nkubectl 1.26 or newer completes 'kubectl kaito' now, in shells that complete kubectl",
        path.display(),
        plugin.display()
    ))
}

/// Removes the link, and says which.
pub(super) fn remove(dir: Option<&Path>, environment: &Environment) -> Result<String, Error> {
    let path = link_in(&folder(dir, environment)?);
    Ok(if take_away(&path)? {
        format!("{} removed", path.display())
    } else {
        format!("{} is not there", path.display())
    })
}

fn link_in(folder: &Path) -> PathBuf {
    folder.join(format!("{LINK}{}", std::env::consts::EXE_SUFFIX))
}

fn search_path(environment: &Environment) -> impl Iterator<Item = PathBuf> {
    let path = environment.variable("PATH").unwrap_or_default();
    std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .collect::<Vec<_>>()
        .into_iter()
}

/// The plugin's entry on `PATH`, as it is, link or not.
fn plugin(environment: &Environment) -> Option<PathBuf> {
    let name = format!("kubectl-kaito{}", std::env::consts::EXE_SUFFIX);
    search_path(environment)
        .map(|folder| folder.join(&name))
        .find(|file| file.is_file())
}

/// The folder for the link: on `PATH`, and not krew's.
fn folder(dir: Option<&Path>, environment: &Environment) -> Result<PathBuf, Error> {
    let home = environment.home();
    let on_path = |folder: &Path| search_path(environment).any(|one| same(&one, folder));
    let folder = match dir {
        Some(dir) => {
            let dir = std::path::absolute(dir).map_err(failed("find", dir))?;
            if !on_path(&dir) {
                return Err(Error::NotOnPath(dir));
            }
            dir
        }
        None => {
            let usual = home.as_ref().map(|home| home.join(".local/bin"));
            usual
                .filter(|usual| on_path(usual))
                .ok_or(Error::NoFolder)?
        }
    };
    let krew = environment.variable("KREW_ROOT").map(PathBuf::from);
    let krew = krew.or_else(|| home.map(|home| home.join(".krew")));
    if krew.is_some_and(|krew| same(&krew.join("bin"), &folder)) {
        return Err(Error::Krews(folder));
    }
    Ok(folder)
}

/// Whether both names mean the same folder.
fn same(one: &Path, other: &Path) -> bool {
    let plain = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    plain(one) == plain(other)
}

/// Removes a link of ours, also a dangling one; false if there is nothing.
fn take_away(path: &Path) -> Result<bool, Error> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed("look at", path)(error)),
        Ok(found) if is_ours(path, &found) => {}
        Ok(_) => return Err(Error::Foreign(path.to_owned())),
    }
    fs::remove_file(path).map_err(failed("remove", path))?;
    Ok(true)
}

/// A link to the plugin; on Windows, where it is a copy, any file.
fn is_ours(path: &Path, found: &fs::Metadata) -> bool {
    if cfg!(windows) {
        return found.is_file();
    }
    let target = fs::read_link(path).ok();
    target.is_some_and(|target| {
        target
            .file_name()
            .is_some_and(|name| name == "kubectl-kaito")
    })
}

#[cfg(unix)]
fn place(plugin: &Path, path: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(plugin, path)
}

/// Links take rights that few have; a copy has to be made anew after an upgrade.
#[cfg(not(unix))]
fn place(plugin: &Path, path: &Path) -> io::Result<()> {
    fs::copy(plugin, path).map(|_| ())
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { what, path, source }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::{Error, make, remove};
    use crate::environment::Environment;

    /// A home with `bin`, where the plugin is, and perhaps `.local/bin`, both on `PATH`.
    fn environment(home: &Path) -> Environment {
        let (bin, local) = (home.join("bin"), home.join(".local/bin"));
        fs::create_dir_all(&bin).unwrap();
        fs::write(bin.join("kubectl-kaito"), "").unwrap();
        let path = std::env::join_paths([&bin, &local, &home.join(".krew/bin")]).unwrap();
        let variables = [
            ("HOME".to_owned(), home.display().to_string()),
            ("PATH".to_owned(), path.into_string().unwrap()),
        ];
        Environment {
            variables: variables.into(),
            ..Environment::default()
        }
    }

    #[test]
    fn the_link_points_to_the_entry_on_the_path_and_can_be_made_and_removed_twice() {
        let home = tempfile::tempdir().unwrap();
        let environment = environment(home.path());
        let link = home.path().join(".local/bin/kubectl_complete-kaito");
        for _ in 0..2 {
            make(None, &environment).unwrap();
            let target = fs::read_link(&link).unwrap();
            assert_eq!(target, home.path().join("bin/kubectl-kaito"));
        }
        assert!(remove(None, &environment).unwrap().ends_with("removed"));
        assert!(!link.exists());
        assert!(
            remove(None, &environment)
                .unwrap()
                .ends_with("is not there")
        );
    }

    #[test]
    fn a_link_whose_plugin_is_gone_can_be_removed() {
        let home = tempfile::tempdir().unwrap();
        let environment = environment(home.path());
        make(None, &environment).unwrap();
        fs::remove_file(home.path().join("bin/kubectl-kaito")).unwrap();
        assert!(remove(None, &environment).unwrap().ends_with("removed"));
        assert!(matches!(make(None, &environment), Err(Error::NoPlugin)));
    }

    #[test]
    fn krews_folder_and_folders_that_are_not_searched_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let environment = environment(home.path());
        let krew = home.path().join(".krew/bin");
        assert!(matches!(
            make(Some(&krew), &environment),
            Err(Error::Krews(_))
        ));
        let elsewhere = home.path().join("elsewhere");
        let refused = make(Some(&elsewhere), &environment);
        assert!(matches!(refused, Err(Error::NotOnPath(_))));
    }

    #[test]
    fn a_file_of_somebody_else_stays() {
        let home = tempfile::tempdir().unwrap();
        let environment = environment(home.path());
        let bin = home.path().join("bin");
        let file = bin.join("kubectl_complete-kaito");
        fs::write(&file, "theirs").unwrap();
        assert!(matches!(
            make(Some(&bin), &environment),
            Err(Error::Foreign(_))
        ));
        assert_eq!(fs::read_to_string(&file).unwrap(), "theirs");
    }
}
