//! Finds the Kubernetes binaries that the suites run, or builds them once from pinned Go modules.
//!
//! Looked for in this order: the folder that `KUBEBUILDER_ASSETS` names (any subset may be there), the cache folder
//! (`KAITO_CACHE`, by default `target/kaito-cache`), and last a build from the `go.mod` and `go.sum` in
//! `tests/modules`. A cache entry is keyed by those files and the build's flags, so a new version is a new entry.

mod build;
mod cache;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use kaito_api::names::digest;

pub use cache::{Cache, Error as CacheError};

/// Variable that names a folder of ready binaries, as Kubernetes' own test tools use it.
pub const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";
/// Variable that names the cache folder.
pub const CACHE_VARIABLE: &str = "KAITO_CACHE";

/// A binary that is not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// The key-value store under the API server.
    Etcd,
    /// The API server.
    KubeApiserver,
    /// Garbage collection, Deployments, ServiceAccounts and the rest.
    KubeControllerManager,
    /// Binds pods to nodes.
    KubeScheduler,
    /// The command line that our plugin extends.
    Kubectl,
    /// kubectl's plugin manager.
    Krew,
    /// The reference OCI registry.
    Registry,
    /// A client of registries that is not ours, to check ours against.
    Oras,
    /// Runs pods on a node. Linux only, as all below.
    Kubelet,
    /// Makes Services reachable on a node.
    KubeProxy,
    /// Pulls images and runs containers for kubelet.
    Containerd,
    /// The parent of a pod's containers; containerd starts it.
    ContainerdShim,
    /// containerd's hand tool.
    Ctr,
}

impl Binary {
    /// What a control plane and its user need.
    pub const CONTROL_PLANE: [Self; 5] = [
        Self::Etcd,
        Self::KubeApiserver,
        Self::KubeControllerManager,
        Self::KubeScheduler,
        Self::Kubectl,
    ];

    /// What runs on any machine, without root.
    pub const PORTABLE: [Self; 8] = [
        Self::Etcd,
        Self::KubeApiserver,
        Self::KubeControllerManager,
        Self::KubeScheduler,
        Self::Kubectl,
        Self::Krew,
        Self::Registry,
        Self::Oras,
    ];

    /// What a node needs besides; Linux only.
    pub const NODE: [Self; 5] = [
        Self::Kubelet,
        Self::KubeProxy,
        Self::Containerd,
        Self::ContainerdShim,
        Self::Ctr,
    ];

    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::PORTABLE.into_iter().chain(Self::NODE)
    }

    /// File name of the binary.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::KubeApiserver => "kube-apiserver",
            Self::KubeControllerManager => "kube-controller-manager",
            Self::KubeScheduler => "kube-scheduler",
            Self::Kubectl => "kubectl",
            Self::Krew => "krew",
            Self::Registry => "registry",
            Self::Oras => "oras",
            Self::Kubelet => "kubelet",
            Self::KubeProxy => "kube-proxy",
            Self::Containerd => "containerd",
            Self::ContainerdShim => "containerd-shim-runc-v2",
            Self::Ctr => "ctr",
        }
    }

    /// Folder under `tests/modules` whose `go.mod` pins it.
    const fn module_folder(self) -> &'static str {
        match self {
            Self::Etcd => "etcd",
            Self::Krew => "krew",
            Self::Registry => "registry",
            Self::Oras => "oras",
            Self::Containerd | Self::ContainerdShim | Self::Ctr => "containerd",
            _ => "kubernetes",
        }
    }

    /// Go module whose version is this binary's version.
    const fn module(self) -> &'static str {
        match self {
            Self::Etcd => "go.etcd.io/etcd/server/v3",
            Self::Krew => "sigs.k8s.io/krew",
            Self::Registry => "github.com/distribution/distribution/v3",
            Self::Oras => "oras.land/oras",
            Self::Containerd | Self::ContainerdShim | Self::Ctr => {
                "github.com/containerd/containerd/v2"
            }
            _ => "k8s.io/kubernetes",
        }
    }

    /// Go package of the binary's `main`.
    fn package(self) -> String {
        match self {
            Self::Etcd => self.module().to_owned(),
            _ => format!("{}/cmd/{}", self.module(), self.name()),
        }
    }
}

impl fmt::Display for Binary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Why a binary is not available.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The module files could not be read.
    #[error("cannot read the pinned module of {binary}, {}", path.display())]
    Module {
        /// The binary.
        binary: Binary,
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// `go.mod` does not require the module that the binary comes from.
    #[error("{} does not require {module}, which {binary} is built from", path.display())]
    Unpinned {
        /// The binary.
        binary: Binary,
        /// The module looked for.
        module: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The build or the cache failed.
    #[error("cannot provide {binary}")]
    Cache {
        /// The binary.
        binary: Binary,
        /// What went wrong.
        #[source]
        source: Box<CacheError>,
    },
}

/// Path of a binary, built now if it is nowhere yet. Reports progress on standard error while it builds or waits
/// for another process that does.
///
/// # Errors
/// [`Error`], most often because Go is missing or too old, or because its modules cannot be fetched.
pub fn find_or_build(binary: Binary) -> Result<PathBuf, Error> {
    if let Some(path) = from_assets(binary) {
        return Ok(path);
    }
    let module = Module::read(binary)?;
    Cache::new(&cache_folder())
        .get_or_build(&module.key(), binary.name(), |staging| {
            module.build(binary, staging)
        })
        .map_err(|source| Error::Cache {
            binary,
            source: Box::new(source),
        })
}

/// Makes every build and wait of this process end soon, with [`CacheError::Interrupted`] and its compiler stopped.
/// For a process that was asked to end; there is no way back.
pub fn interrupt() {
    cache::INTERRUPTED.store(true, Ordering::SeqCst);
}

/// The cache folder: `KAITO_CACHE`, or `target/kaito-cache` of this workspace.
#[must_use]
pub fn cache_folder() -> PathBuf {
    match std::env::var_os(CACHE_VARIABLE) {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/kaito-cache"),
    }
}

fn from_assets(binary: Binary) -> Option<PathBuf> {
    let path = PathBuf::from(std::env::var_os(ASSETS_VARIABLE)?).join(binary.name());
    path.is_file().then_some(path)
}

/// A Go module of ours, which pins what one or more binaries are built from.
#[derive(Debug)]
struct Module {
    folder: PathBuf,
    name: &'static str,
    /// With the leading `v`.
    version: String,
    /// Contents of `go.mod` and `go.sum`.
    files: [String; 2],
}

impl Module {
    fn read(binary: Binary) -> Result<Self, Error> {
        let name = binary.module_folder();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("modules")
            .join(name);
        let read = |file: &str| {
            let path = folder.join(file);
            std::fs::read_to_string(&path).map_err(|source| Error::Module {
                binary,
                path,
                source,
            })
        };
        let files = [read("go.mod")?, read("go.sum")?];
        let [manifest, _] = &files;
        let version =
            required_version(manifest, binary.module()).ok_or_else(|| Error::Unpinned {
                binary,
                module: binary.module(),
                path: folder.join("go.mod"),
            })?;
        let version = version.to_owned();
        Ok(Self {
            folder,
            name,
            version,
            files,
        })
    }

    /// Name of the cache entry: for people the module and version, for exactness a hash of all that goes in.
    fn key(&self) -> String {
        let [manifest, sums] = &self.files;
        let hash = digest(
            &[manifest, sums, &build::flags(&self.version).join(" ")],
            10,
        );
        format!("{}-{}-{hash}", self.name, self.version)
    }

    fn build(&self, binary: Binary, staging: &cache::Staging) -> Result<(), CacheError> {
        build::Build {
            name: binary.name(),
            package: &binary.package(),
            folder: &self.folder,
            version: &self.version,
        }
        .run(staging)
    }
}

/// Version that a `go.mod` requires of `module`, in a single-line or a block `require`.
fn required_version<'a>(manifest: &'a str, module: &str) -> Option<&'a str> {
    manifest.lines().find_map(|line| {
        let mut words = line
            .trim()
            .trim_start_matches("require ")
            .split_whitespace();
        let version = (words.next() == Some(module))
            .then(|| words.next())
            .flatten()?;
        version.starts_with('v').then_some(version)
    })
}

#[cfg(test)]
mod tests {
    use super::{Binary, Module, required_version};

    #[test]
    fn every_binary_has_a_pinned_version() {
        for binary in Binary::all() {
            let module = Module::read(binary).unwrap();
            assert!(
                module.version.starts_with('v'),
                "{binary}: {}",
                module.version
            );
            assert!(module.key().contains(&module.version));
        }
    }

    #[test]
    fn a_version_is_read_from_both_forms_of_require_and_not_from_replace() {
        let manifest = "require a.io/x v1.2.3\nrequire (\n\ta.io/y v2.0.0 // indirect\n)\nreplace a.io/z => a.io/z v9.9.9\n";
        assert_eq!(required_version(manifest, "a.io/x"), Some("v1.2.3"));
        assert_eq!(required_version(manifest, "a.io/y"), Some("v2.0.0"));
        assert_eq!(required_version(manifest, "a.io/z"), None);
    }

    #[test]
    fn a_changed_pin_is_another_cache_entry() {
        let module = Module::read(Binary::Krew).unwrap();
        let before = module.key();
        let [manifest, sums] = module.files.clone();
        let changed = Module {
            files: [manifest, format!("{sums}\n")],
            ..module
        };
        assert_ne!(before, changed.key());
    }
}
