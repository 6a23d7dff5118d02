//! Which manifest of what was named, and which files its layers are.

use crate::archive::{ArchiveError, NameKind, Names, check_path};
use crate::content::Encoding;
use crate::oci::{Descriptor, Document, Index, Manifest, Platform, media_type};
use crate::push::Origin;

use super::error::PullError;

const TITLE: &str = "org.opencontainers.image.title";
/// Where artifacts say which file a layer is, in the order in which they are believed.
const PATH_KEYS: [&str; 3] = [TITLE, "org.cncf.model.filepath", "org.cnai.model.filepath"];

/// The manifest that is pulled.
#[derive(Clone, Debug)]
pub struct Selected {
    /// Its bytes.
    pub document: Document,
    /// What they say.
    pub manifest: Manifest,
    /// The document that was named, where that is another: an index.
    pub index: Option<Document>,
}

/// What a layer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Layer {
    /// One file as it is, at this path.
    Raw {
        path: String,
        descriptor: Descriptor,
    },
    /// An archive of files.
    Tar {
        encoding: Encoding,
        descriptor: Descriptor,
    },
}

impl Layer {
    pub(super) const fn descriptor(&self) -> &Descriptor {
        match self {
            Self::Raw { descriptor, .. } | Self::Tar { descriptor, .. } => descriptor,
        }
    }

    /// What people call it.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Raw { path, .. } => path.clone(),
            Self::Tar { descriptor, .. } => {
                path_of(descriptor).unwrap_or_else(|| descriptor.digest.to_string())
            }
        }
    }
}

/// Finds the manifest to pull.
///
/// # Errors
/// When it is not there, or an index has nothing for the platform.
pub async fn select(
    origin: &Origin,
    selector: &str,
    platform: Option<&Platform>,
) -> Result<Selected, PullError> {
    let failed = |cause| PullError::Origin { cause };
    let top = origin.resolve(selector).await.map_err(failed)?;
    let is_index = [media_type::INDEX, media_type::DOCKER_INDEX].contains(&top.media_type.as_str());
    if !is_index {
        let manifest = parse(&top)?;
        return Ok(Selected {
            document: top,
            manifest,
            index: None,
        });
    }
    let index: Index = parse(&top)?;
    let chosen = choose(&index, platform, selector)?;
    let document = origin.document(chosen).await.map_err(failed)?;
    let manifest = parse(&document)?;
    Ok(Selected {
        document,
        manifest,
        index: Some(top),
    })
}

fn parse<T: serde::de::DeserializeOwned>(document: &Document) -> Result<T, PullError> {
    serde_json::from_slice(&document.bytes).map_err(|cause| PullError::NotFiles {
        what: document.digest.to_string(),
        reason: format!("it is no {}: {cause}", document.media_type),
    })
}

/// The platform that was asked for; else the model itself, else this machine's architecture, else the only one.
fn choose<'a>(
    index: &'a Index,
    platform: Option<&Platform>,
    selector: &str,
) -> Result<&'a Descriptor, PullError> {
    let here = Platform {
        architecture: architecture().to_owned(),
        os: "linux".to_owned(),
        variant: None,
    };
    let found = match platform {
        Some(platform) => index
            .manifests
            .iter()
            .find(|manifest| is_for(manifest, platform)),
        None => index
            .manifests
            .iter()
            .find(|manifest| manifest.artifact_type.as_deref() == Some(media_type::MODEL_MANIFEST))
            .or_else(|| {
                index
                    .manifests
                    .iter()
                    .find(|manifest| is_for(manifest, &here))
            })
            .or(match index.manifests.as_slice() {
                [only] => Some(only),
                _ => None,
            }),
    };
    found.ok_or_else(|| PullError::Platform {
        what: selector.to_owned(),
        wanted: show(platform.unwrap_or(&here)),
        present: present(index),
    })
}

fn is_for(manifest: &Descriptor, wanted: &Platform) -> bool {
    manifest.platform.as_ref().is_some_and(|platform| {
        platform.os == wanted.os
            && platform.architecture == wanted.architecture
            && (wanted.variant.is_none() || platform.variant == wanted.variant)
    })
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn show(platform: &Platform) -> String {
    let variant = platform
        .variant
        .as_ref()
        .map(|variant| format!("/{variant}"))
        .unwrap_or_default();
    format!("{}/{}{variant}", platform.os, platform.architecture)
}

fn present(index: &Index) -> String {
    let names: Vec<String> = index
        .manifests
        .iter()
        .map(|manifest| {
            manifest
                .platform
                .as_ref()
                .map_or_else(|| manifest.digest.to_string(), show)
        })
        .collect();
    if names.is_empty() {
        "nothing".to_owned()
    } else {
        names.join(", ")
    }
}

/// The layers of a manifest, as files or archives.
pub(super) fn layers(selected: &Selected) -> Result<Vec<Layer>, PullError> {
    let mut names = Names::default();
    let layers = selected.manifest.layers.iter().map(|descriptor| {
        let layer = classify(descriptor)?;
        if let Layer::Raw { path, .. } = &layer {
            claim(&mut names, path).map_err(|cause| PullError::Archive {
                what: format!("the layer {}", descriptor.digest),
                cause,
            })?;
        }
        Ok(layer)
    });
    layers.collect()
}

fn claim(names: &mut Names, path: &str) -> Result<(), ArchiveError> {
    check_path(path)?;
    names.claim(path, NameKind::File)
}

fn classify(descriptor: &Descriptor) -> Result<Layer, PullError> {
    let descriptor = descriptor.clone();
    if let Some(encoding) = tar_encoding(&descriptor.media_type) {
        return Ok(Layer::Tar {
            encoding,
            descriptor,
        });
    }
    match path_of(&descriptor) {
        Some(path) => Ok(Layer::Raw { path, descriptor }),
        None => Err(PullError::NotFiles {
            what: format!("the layer {}", descriptor.digest),
            reason: format!(
                "its type is {}, which is no archive, and it has no name ({TITLE})",
                descriptor.media_type
            ),
        }),
    }
}

fn path_of(descriptor: &Descriptor) -> Option<String> {
    let annotations = descriptor.annotations.as_ref()?;
    PATH_KEYS
        .iter()
        .find_map(|key| annotations.get(*key))
        .cloned()
}

/// How an archive is compressed, by its type: OCI's, Docker's, ModelPack's and other families' end alike.
fn tar_encoding(kind: &str) -> Option<Encoding> {
    let ends = |suffixes: &[&str]| suffixes.iter().any(|suffix| kind.ends_with(suffix));
    if ends(&[".tar+gzip", ".tar.gzip", ".tar+gz"]) {
        Some(Encoding::Gzip)
    } else if ends(&[".tar+zstd", ".tar.zstd"]) {
        Some(Encoding::Zstd)
    } else if ends(&[".tar"]) {
        Some(Encoding::Plain)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::oci::Annotations;

    fn descriptor(kind: &str, title: Option<&str>) -> Descriptor {
        Descriptor {
            media_type: kind.to_owned(),
            digest: Digest::of(kind.as_bytes()),
            size: 1,
            artifact_type: None,
            platform: None,
            annotations: title
                .map(|title| Annotations::from([(TITLE.to_owned(), title.to_owned())])),
        }
    }

    fn index(manifests: Vec<Descriptor>) -> Index {
        Index {
            schema_version: 2,
            media_type: None,
            artifact_type: None,
            manifests,
            subject: None,
            annotations: None,
        }
    }

    fn platform(architecture: &str) -> Platform {
        Platform {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
            variant: None,
        }
    }

    #[test]
    fn layers_are_told_by_their_types_and_names() {
        let kind = |kind, title| classify(&descriptor(kind, title));
        assert!(matches!(
            kind("application/vnd.docker.image.rootfs.diff.tar.gzip", None),
            Ok(Layer::Tar {
                encoding: Encoding::Gzip,
                ..
            })
        ));
        assert!(matches!(
            kind("application/vnd.cncf.model.weight.v1.tar", Some("a.bin")),
            Ok(Layer::Tar {
                encoding: Encoding::Plain,
                ..
            })
        ));
        assert!(matches!(
            kind("application/vnd.cncf.model.weight.v1.raw", Some("a.bin")),
            Ok(Layer::Raw { path, .. }) if path == "a.bin"
        ));
        assert!(matches!(
            kind("application/octet-stream", None),
            Err(PullError::NotFiles { .. })
        ));
    }

    #[test]
    fn names_that_leave_the_directory_or_clash_are_refused() {
        let selected = |titles: &[&str]| {
            let layers = titles
                .iter()
                .map(|title| descriptor("x/raw", Some(title)))
                .collect();
            let manifest = Manifest {
                schema_version: 2,
                media_type: None,
                artifact_type: None,
                config: descriptor("c", None),
                layers,
                subject: None,
                annotations: None,
            };
            let document = Document::new(media_type::MANIFEST, bytes::Bytes::new());
            Selected {
                document,
                manifest,
                index: None,
            }
        };
        for bad in [
            &["../x"][..],
            &["/etc/passwd"],
            &["a/../../x"],
            &["A", "a"],
            &["a", "a/b"],
        ] {
            assert!(
                matches!(layers(&selected(bad)), Err(PullError::Archive { .. })),
                "{bad:?}"
            );
        }
        assert_eq!(layers(&selected(&["a/b", "a/c"])).unwrap().len(), 2);
    }

    #[test]
    fn the_model_is_preferred_and_a_named_platform_wins() {
        let mut model = descriptor("m", None);
        model.artifact_type = Some(media_type::MODEL_MANIFEST.to_owned());
        let image = |architecture| Descriptor {
            platform: Some(platform(architecture)),
            ..descriptor(architecture, None)
        };
        let dual = index(vec![image("amd64"), image("arm64"), model.clone()]);
        assert_eq!(choose(&dual, None, "x").unwrap(), &model);
        assert_eq!(
            choose(&dual, Some(&platform("arm64")), "x").unwrap(),
            &image("arm64")
        );
        let Err(error) = choose(&dual, Some(&platform("riscv64")), "x") else {
            panic!("found")
        };
        assert!(
            error.to_string().contains("linux/amd64, linux/arm64"),
            "{error}"
        );
        let only = index(vec![image("s390x")]);
        assert_eq!(choose(&only, None, "x").unwrap(), &image("s390x"));
    }
}
