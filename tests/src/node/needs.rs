//! What a node needs of the machine that this repository cannot build: root, and a few programs.

use std::path::Path;

use nix::unistd::Uid;

use super::image::BUSYBOX;
use super::{CNI_PROGRAMS, CONTAINER_RUNTIME};

/// Debian's names of the packages that have everything.
const PACKAGES: &str =
    "runc containernetworking-plugins iproute2 iptables busybox-static util-linux";

/// What is missing, if anything, with the remedy.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    /// The user is not root.
    #[error("a node needs root: run the tests as root, or leave the suite `node` out")]
    NotRoot,
    /// Programs are missing.
    #[error("a node needs {}; on Debian: apt-get install {PACKAGES}", missing.join(", "))]
    Programs {
        /// Their names.
        missing: Vec<String>,
    },
}

/// Checks that a node can be started here.
///
/// # Errors
/// [`Error`] with everything that is missing.
pub fn check() -> Result<(), Error> {
    if !Uid::effective().is_root() {
        return Err(Error::NotRoot);
    }
    let mut missing = Vec::new();
    for program in ["mount", "ip", "iptables", "nsenter"] {
        if !on_path(program) {
            missing.push(program.to_owned());
        }
    }
    if !Path::new(CONTAINER_RUNTIME).is_file() {
        missing.push(CONTAINER_RUNTIME.to_owned());
    }
    if !is_static(Path::new(BUSYBOX)) {
        missing.push(format!("a static {BUSYBOX}"));
    }
    for plugin in ["loopback", "ptp", "host-local", "portmap"] {
        let found = CNI_PROGRAMS
            .iter()
            .any(|folder| Path::new(folder).join(plugin).is_file());
        if !found {
            missing.push(format!("the CNI plugin {plugin}"));
        }
    }
    if missing.is_empty() {
        Ok(())
    } else {
        Err(Error::Programs { missing })
    }
}

/// Whether the program is there and asks for no loader, which would be missing in an image.
fn is_static(program: &Path) -> bool {
    let Ok(bytes) = std::fs::read(program) else {
        return false;
    };
    let loaders: [&[u8]; 2] = [b"/ld-linux", b"/ld-musl"];
    !loaders
        .iter()
        .any(|loader| bytes.windows(loader.len()).any(|part| part == *loader))
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
