//! Finds the programs of this workspace that cargo has built.
//!
//! Cargo names the binaries of a package only to that package's own tests, so the suites look where cargo puts them:
//! beside the running executable. This module builds nothing.

use std::io;
use std::path::{Path, PathBuf};

/// The supervisor and hand tool of this package.
pub const TESTBED: &str = "kaito-testbed";
/// The scheduler; its `provisioner` mode is the same binary.
pub const SCHEDULER: &str = "kaito-scheduler";
/// The inference server that images carry.
pub const RUNTIME: &str = "kaito-runtime";
/// The kubectl plugin.
pub const PLUGIN: &str = "kubectl-kaito";
/// The builder of images.
pub const IMAGE_BUILDER: &str = "image-builder";

/// Variable that names the folder of the programs, for binaries that were built elsewhere.
pub const VARIABLE: &str = "KAITO_BIN_DIR";

/// Why a program was not found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path of the running executable is unknown.
    #[error(
        "cannot tell where this executable is; set {VARIABLE} to the folder with the built programs"
    )]
    Executable(#[source] io::Error),
    /// It is in none of the usual places.
    #[error(
        "{name} is not built (looked in {}); run `cargo build --workspace` first",
        list(folders)
    )]
    Missing {
        /// The program.
        name: String,
        /// Where it was looked for.
        folders: Vec<PathBuf>,
    },
}

fn list(folders: &[PathBuf]) -> String {
    folders
        .iter()
        .map(|folder| folder.display().to_string())
        .collect::<Vec<_>>()
        .join(", ")
}

/// Path of a program of this workspace, from `KAITO_BIN_DIR` or beside the running executable.
///
/// # Errors
/// [`Error::Missing`] if it has not been built.
pub fn find(name: &str) -> Result<PathBuf, Error> {
    let folders = match std::env::var_os(VARIABLE) {
        Some(folder) => vec![PathBuf::from(folder)],
        // Tests run from `target/debug/deps`, programs from `target/debug`.
        None => {
            let executable = std::env::current_exe().map_err(Error::Executable)?;
            executable
                .ancestors()
                .skip(1)
                .take(2)
                .map(Path::to_owned)
                .collect()
        }
    };
    find_in(name, folders)
}

fn find_in(name: &str, folders: Vec<PathBuf>) -> Result<PathBuf, Error> {
    match folders
        .iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
    {
        Some(path) => Ok(path),
        None => Err(Error::Missing {
            name: name.to_owned(),
            folders,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::{TESTBED, find, find_in};

    #[test]
    fn the_supervisor_is_found_beside_this_test() {
        assert!(find(TESTBED).unwrap().ends_with(TESTBED));
    }

    #[test]
    fn a_missing_program_is_an_error_that_names_it_and_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let error = find_in("no-such-program", vec![folder.path().to_owned()]).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("no-such-program"), "{text}");
        assert!(text.contains("cargo build --workspace"), "{text}");
    }
}
