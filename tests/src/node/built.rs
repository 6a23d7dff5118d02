//! Images of our own programs and of files, made by our own image-builder and pushed to the node's registry.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Error, Node, system};
use crate::programs;

/// Where the certificates of authorities are in the images, as programs on Linux expect it.
const AUTHORITIES: &str = "etc/ssl/certs/ca-certificates.crt";

impl Node {
    /// Builds an image with image-builder and pushes it as `name:1`; `arguments` are those of `image-builder build`
    /// besides source, tag and access to the registry. Returns the reference with its digest.
    ///
    /// # Errors
    /// [`Error::Command`] with what image-builder said.
    pub fn build_image<I: IntoIterator<Item: Into<OsString>>>(
        &self,
        source: &Path,
        name: &str,
        arguments: I,
    ) -> Result<String, Error> {
        let mut command = Command::new(programs::find(programs::IMAGE_BUILDER)?);
        command
            .arg("build")
            .arg(source)
            .args(["--push", "--quiet", "--tag"])
            .arg(format!("{}/{name}:1", self.registry.host()))
            .args(arguments.into_iter().map(Into::into));
        self.with_registry(&mut command)?;
        let output = command.output().map_err(system(format!("build {name}")))?;
        if output.status.success() {
            let digest = String::from_utf8_lossy(&output.stdout);
            return Ok(format!("{}/{name}@{}", self.registry.host(), digest.trim()));
        }
        Err(Error::Command {
            what: format!("building {name}"),
            said: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Gives a program of ours the registry's certificate and password.
    ///
    /// # Errors
    /// [`Error::System`] if the password's file cannot be written.
    pub fn with_registry(&self, command: &mut Command) -> Result<(), Error> {
        let config = self.layout.file("docker-config.json");
        fs::write(&config, self.registry.docker_config())
            .map_err(system("write the registry's password"))?;
        command.arg("--registry-config").arg(config);
        if let Some(authority) = self.registry.authority() {
            command.arg("--ca-file").arg(authority);
        }
        Ok(())
    }

    /// Makes and pushes the image of one of our programs: the program as cargo has built it, the libraries that it is
    /// linked with, and the registry's certificate, since some of them talk to it.
    ///
    /// # Errors
    /// [`Error`] if the program is not built, or as [`Node::build_image`].
    pub fn build_program(&self, program: &str) -> Result<String, Error> {
        let root = tempfile::tempdir().map_err(system("make a folder for a program"))?;
        let found = programs::find(program)?;
        let inside = PathBuf::from("usr/bin").join(program);
        copy(&found, &root.path().join(&inside))?;
        for library in libraries(&found)? {
            let path = library.strip_prefix("/").unwrap_or(&library);
            copy(&library, &root.path().join(path))?;
        }
        if let Some(authority) = self.registry.authority() {
            copy(authority, &root.path().join(AUTHORITIES))?;
        }
        let arguments = [
            "--kind=program".to_owned(),
            format!("--entrypoint=/{}", inside.display()),
            "--run-as=65532:65532".to_owned(),
        ];
        self.build_image(root.path(), program, arguments)
    }
}

fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let made = to.parent().map_or(Ok(()), fs::create_dir_all);
    made.and_then(|()| fs::copy(from, to).map(drop))
        .map_err(system(format!("copy {}", from.display())))
}

/// The shared libraries of a program, the loader among them; none for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, Error> {
    let output = Command::new("ldd").arg(program).output();
    let output = output.map_err(system(format!(
        "list the libraries of {}",
        program.display()
    )))?;
    let text = String::from_utf8(output.stdout).map_err(io::Error::other);
    let text = text.map_err(system("read what ldd says"))?;
    let path = |line: &str| {
        let line = line.split_once("=>").map_or(line, |(_, path)| path);
        let word = line.split_whitespace().next()?;
        word.starts_with('/').then(|| PathBuf::from(word))
    };
    Ok(text.lines().filter_map(path).collect())
}
