//! The CPU trainer's image, and files over HTTP for it to be trained on.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{ADDRESS, Error, Node, start, system};
use crate::binaries;
use crate::supervise::{Launch, Supervised};

/// Port of the file server.
const PORT: u16 = 8099;
/// What the image's environment says besides; the trainer's README explains it.
const ENVIRONMENT: [&str; 5] = [
    "PATH=/usr/bin",
    "PYTHONPATH=/opt/trainer/site",
    "HOME=/tmp",
    "HF_HUB_OFFLINE=1",
    "OMP_WAIT_POLICY=PASSIVE",
];

/// The trainer's sources in this repository.
#[must_use]
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../image-builder/trainer")
}

/// A trainer's root file system, as its build script makes it. Removed with its folder; the files are the cache's.
#[derive(Debug)]
pub struct Trainer {
    _folder: tempfile::TempDir,
    root: PathBuf,
}

impl Trainer {
    /// Takes it from the cache; the first time it is built there, which takes minutes and wants Debian's servers and
    /// PyPI.
    ///
    /// # Errors
    /// [`Error::Command`] with what the build script said.
    pub fn provide() -> Result<Self, Error> {
        let cache = binaries::cache_folder();
        let made = std::fs::create_dir_all(&cache);
        made.map_err(system(format!("make {}", cache.display())))?;
        // In the cache, so that files can be shared.
        let folder = tempfile::Builder::new()
            .prefix(".trainer-")
            .tempdir_in(&cache)
            .map_err(system("make a folder for the trainer"))?;
        let root = folder.path().join("root");
        let mut build = Command::new(sources().join("build/cached"));
        build.arg(&root).env(binaries::CACHE_VARIABLE, &cache);
        start::succeed(&mut build, "building the trainer's root file system")?;
        Ok(Self {
            _folder: folder,
            root,
        })
    }

    /// The root file system. Must not be written to.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A command in the root file system, as a restricted pod would run it; `mount` appears as `/mnt`.
    #[must_use]
    pub fn command(&self, mount: &Path) -> Command {
        let mut command = Command::new(sources().join("tests/inside"));
        command
            .args([&self.root, mount])
            .args(["python3", "-m", "kaito_trainer"]);
        command
    }
}

/// A web server on the node with the files of a folder; ends when it is dropped.
#[derive(Debug)]
pub struct Files {
    _server: Supervised,
}

impl Files {
    /// Address of a file, as pods reach it.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        format!("http://{ADDRESS}:{PORT}/{name}")
    }
}

impl Node {
    /// Builds and pushes the trainer's image.
    ///
    /// # Errors
    /// As [`Node::build_image`].
    pub fn build_trainer(&self, trainer: &Trainer) -> Result<String, Error> {
        let words = [
            "--kind=program",
            "--artifact=image",
            "--compression=zstd",
            "--entrypoint=python3",
            "--entrypoint=-m",
            "--entrypoint=kaito_trainer",
            "--run-as=65532:65532",
        ];
        let words = words.into_iter().map(str::to_owned);
        let environment = ENVIRONMENT.map(|each| format!("--env={each}"));
        self.build_image(trainer.root(), "kaito-trainer", words.chain(environment))
    }

    /// Serves the files of `folder` from the node's own address. One at a time.
    ///
    /// # Errors
    /// [`Error::Run`] if the server cannot be started.
    pub fn serve_files(&self, folder: &Path) -> Result<Files, Error> {
        let log = self.layout.log("files");
        let launch = Launch::new("files", Path::new(super::image::BUSYBOX), &log)
            .with(["httpd", "-f", "-p"])
            .with([format!("{ADDRESS}:{PORT}")])
            .with(["-h"])
            .with([folder.as_os_str()]);
        Ok(Files {
            _server: start::spawn(&launch, None)?,
        })
    }
}
