//! The clients: what each is called with to push and to pull the same files.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use kaito_tests::binaries::{Binary, find_or_build};
use kaito_tests::programs;

use crate::data::Tree;
use crate::measure::Call;
use crate::server::Server;

/// A client.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    kind: Kind,
    program: String,
    /// Where it keeps what it remembers, and layouts.
    folder: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Ours,
    Oras,
    Skopeo,
}

/// All clients that can be had; the others are named on stderr.
pub(crate) fn all(folder: &Path) -> anyhow::Result<Vec<Client>> {
    let ours = programs::find(programs::IMAGE_BUILDER)?;
    let oras = find_or_build(Binary::Oras)?;
    let client = |kind, program: PathBuf, name: &str| Client {
        kind,
        program: program.display().to_string(),
        folder: folder.join(format!("client-{name}")),
    };
    let mut clients = vec![
        client(Kind::Ours, ours, "ours"),
        client(Kind::Oras, oras, "oras"),
    ];
    match installed("skopeo", "skopeo") {
        Some(program) => clients.push(client(Kind::Skopeo, program, "skopeo")),
        None => eprintln!("skopeo is left out: it is not installed and cannot be installed here"),
    }
    Ok(clients)
}

/// A program on `PATH`, from Debian's package if need be and allowed.
pub(crate) fn installed(program: &str, package: &str) -> Option<PathBuf> {
    let find = || {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path)
            .map(|folder| folder.join(program))
            .find(|file| file.is_file())
    };
    find().or_else(|| {
        let status = Command::new("apt-get")
            .args(["install", "-qy", "--no-install-recommends", package])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .status();
        status
            .is_ok_and(|status| status.success())
            .then(find)
            .flatten()
    })
}

impl Client {
    /// How it is called in the table.
    pub(crate) const fn name(&self) -> &'static str {
        match self.kind {
            Kind::Ours => "image-builder",
            Kind::Oras => "oras",
            Kind::Skopeo => "skopeo",
        }
    }

    /// Whether it makes images of files; skopeo copies only.
    pub(crate) fn builds(&self) -> bool {
        self.kind != Kind::Skopeo
    }

    fn call(&self, words: impl IntoIterator<Item = String>) -> Call {
        let variables = vec![(
            "KAITO_CACHE_DIR".to_owned(),
            self.folder.join("cache").display().to_string(),
        )];
        Call {
            words: std::iter::once(self.program.clone()).chain(words).collect(),
            variables,
        }
    }

    fn layout(&self) -> PathBuf {
        self.folder.join("layout")
    }

    /// What is not measured: skopeo needs a layout to copy from.
    pub(crate) fn prepare(&self, tree: &Tree) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.folder)?;
        if self.kind != Kind::Skopeo {
            return Ok(());
        }
        let status = Command::new(programs::find(programs::IMAGE_BUILDER)?)
            .args([
                "build",
                "--artifact",
                "modelpack",
                "-q",
                "-t",
                "local/tree:v1",
                "-o",
            ])
            .arg(format!("type=oci,dest={}", self.layout().display()))
            .arg(&tree.folder)
            .stdout(std::process::Stdio::null())
            .status()?;
        ensure!(status.success(), "cannot make a layout for skopeo");
        Ok(())
    }

    pub(crate) fn push(&self, server: &Server, tree: &Tree) -> Call {
        let name = format!("{}/bench/tree:v1", server.host());
        let words = match self.kind {
            Kind::Ours => {
                let folder = tree.folder.display().to_string();
                strings([
                    "build",
                    "--artifact",
                    "modelpack",
                    "--push",
                    "-q",
                    "-t",
                    &name,
                    &folder,
                ])
            }
            Kind::Oras => {
                let mut words = strings(["push", "--plain-http", "--no-tty", &name]);
                words.extend(
                    tree.names
                        .iter()
                        .map(|name| format!("{name}:application/vnd.cncf.model.weight.v1.raw")),
                );
                words
            }
            Kind::Skopeo => strings([
                "copy",
                "--preserve-digests",
                "--dest-tls-verify=false",
                &format!("oci:{}:v1", self.layout().display()),
                &format!("docker://{name}"),
            ]),
        };
        self.call(words)
    }

    pub(crate) fn push_adapter(&self, server: &Server, tree: &Tree) -> Call {
        let name = format!("{}/bench/adapter:v1", server.host());
        let words = match self.kind {
            Kind::Ours => {
                let folder = tree.folder.display().to_string();
                strings(["build", "--push", "-q", "-t", &name, &folder])
            }
            Kind::Oras | Kind::Skopeo => {
                let mut words = strings(["push", "--plain-http", "--no-tty", &name]);
                words.extend(tree.names.iter().cloned());
                words
            }
        };
        self.call(words)
    }

    pub(crate) fn pull(&self, server: &Server, target: &Path) -> Call {
        let name = format!("{}/bench/tree:v1", server.host());
        let target = target.display().to_string();
        let words = match self.kind {
            Kind::Ours => strings(["pull", "-q", &name, &target]),
            Kind::Oras => strings(["pull", "--plain-http", "--no-tty", "-o", &target, &name]),
            Kind::Skopeo => strings([
                "copy",
                "--src-tls-verify=false",
                &format!("docker://{name}"),
                &format!("dir:{target}"),
            ]),
        };
        self.call(words)
    }

    /// Whether a pull brought everything.
    pub(crate) fn check_pulled(&self, target: &Path, tree: &Tree) -> anyhow::Result<()> {
        let mut bytes = 0;
        for entry in std::fs::read_dir(target).context("the pull wrote nothing")? {
            bytes += entry?.metadata()?.len();
        }
        ensure!(
            bytes >= tree.bytes,
            "{} pulled {bytes} of {} bytes",
            self.name(),
            tree.bytes
        );
        Ok(())
    }

    pub(crate) fn clean_up(&self) -> anyhow::Result<()> {
        if self.folder.exists() {
            std::fs::remove_dir_all(&self.folder)?;
        }
        Ok(())
    }
}

fn strings<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    words.into_iter().map(str::to_owned).collect()
}
