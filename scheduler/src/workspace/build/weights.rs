//! How files that travel as images reach a pod: as an image volume, which the node fetches once for all its pods, or
//! through an init container that pulls them into a directory of the pod.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Container, EnvVar, EnvVarSource, ImageVolumeSource, KeyToPath, ProjectedVolumeSource,
    SecretKeySelector, SecretProjection, Volume, VolumeMount, VolumeProjection,
};
use kaito_api::catalogue::Preset;
use kaito_api::workspace::{AccessMode, PresetSpec};

use super::{Context, pod};

/// Where credentials of registries are mounted in containers that pull, one file per secret.
pub const CREDENTIALS_PATH: &str = "/mnt/credentials";
/// Volume of those credentials.
const CREDENTIALS: &str = "pull-credentials";

/// Files of a model's repository on the hub that servers and trainers read.
const HUB_FILES: [&str; 4] = ["*.safetensors", "*.json", "*.jinja", "tokenizer.model"];

/// How images of files reach pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Delivery {
    /// An image volume: Kubernetes 1.35 or newer, and a runtime that mounts images (containerd 2.1 or newer).
    #[default]
    ImageVolume,
    /// An init container that pulls; works on every node.
    Pull,
}

/// Files of an image, wanted below a mount point.
#[derive(Clone, Debug)]
pub struct Files<'a> {
    /// Name of the volume.
    pub volume: &'a str,
    /// Reference of the image.
    pub image: &'a str,
    /// Folder in the image whose content is wanted, without slashes at its ends.
    pub folder: &'a str,
    /// Pull secrets, by name.
    pub secrets: &'a [String],
}

/// What a pod needs for them.
#[derive(Clone, Debug)]
pub struct Delivered {
    /// The volume that holds the files.
    pub volume: Volume,
    /// The init container that fills it, if one is needed.
    pub init: Option<Container>,
    /// Folder of the volume with the wanted content; the volume's root without.
    pub sub_path: Option<String>,
}

/// Brings `files` to a pod in the way that `context` says.
#[must_use]
pub fn deliver(files: &Files<'_>, context: &Context) -> Delivered {
    match context.weights {
        Delivery::ImageVolume => Delivered {
            volume: Volume {
                name: files.volume.to_owned(),
                image: Some(ImageVolumeSource {
                    reference: Some(files.image.to_owned()),
                    pull_policy: Some("IfNotPresent".to_owned()),
                }),
                ..Volume::default()
            },
            init: None,
            sub_path: Some(files.folder.to_owned()),
        },
        Delivery::Pull => Delivered {
            volume: pod::empty_dir(files.volume, false),
            init: Some(puller(files, context)),
            sub_path: None,
        },
    }
}

/// An init container that pulls what a folder of an image holds into a volume.
#[must_use]
pub fn puller(files: &Files<'_>, context: &Context) -> Container {
    let mut args = vec![
        "pull".to_owned(),
        files.image.to_owned(),
        "/target".to_owned(),
        format!("--strip={}", files.folder),
    ];
    let mut mounts = vec![pod::mount(files.volume, "/target", false)];
    if !files.secrets.is_empty() {
        mounts.push(pod::mount(CREDENTIALS, CREDENTIALS_PATH, true));
        let each = files.secrets.iter();
        args.extend(each.map(|name| format!("--registry-config={CREDENTIALS_PATH}/{name}.json")));
    }
    Container {
        name: format!("pull-{}", files.volume),
        image: Some(context.images.tools.clone()),
        args: Some(args),
        volume_mounts: Some(mounts),
        security_context: Some(pod::container_security()),
        ..Container::default()
    }
}

/// An init container that fetches the weights of `preset` from the model hub into a volume, with the token of a secret
/// where the model is gated.
#[must_use]
pub fn hub_fetcher(preset: &Preset, secret: Option<&str>, context: &Context) -> Container {
    let revision = preset.revision.as_deref();
    let revision = revision.map(|commit| format!("@{commit}"));
    let source = format!("hf://{}{}", preset.name, revision.unwrap_or_default());
    let mut args = vec!["fetch".to_owned(), "--output=/target".to_owned()];
    args.extend(HUB_FILES.map(|pattern| format!("--include={pattern}")));
    args.push(source);
    Container {
        name: "fetch-weights".to_owned(),
        image: Some(context.images.tools.clone()),
        args: Some(args),
        env: secret.map(|name| vec![hub_token(name)]),
        volume_mounts: Some(vec![pod::mount("weights", "/target", false)]),
        security_context: Some(pod::container_security()),
        ..Container::default()
    }
}

/// The hub's token, from key `HF_TOKEN` of a secret.
#[must_use]
pub fn hub_token(secret: &str) -> EnvVar {
    EnvVar {
        name: "HF_TOKEN".to_owned(),
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(SecretKeySelector {
                name: secret.to_owned(),
                key: "HF_TOKEN".to_owned(),
                ..SecretKeySelector::default()
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

/// The volume with the credentials of all secrets, for [`puller`]; none without secrets.
#[must_use]
pub fn credentials(secrets: &BTreeSet<String>) -> Option<Volume> {
    if secrets.is_empty() {
        return None;
    }
    let file = |name: &String| VolumeProjection {
        secret: Some(SecretProjection {
            name: name.clone(),
            items: Some(vec![KeyToPath {
                key: ".dockerconfigjson".to_owned(),
                path: format!("{name}.json"),
                ..KeyToPath::default()
            }]),
            optional: None,
        }),
        ..VolumeProjection::default()
    };
    Some(Volume {
        name: CREDENTIALS.to_owned(),
        projected: Some(ProjectedVolumeSource {
            sources: Some(secrets.iter().map(file).collect()),
            ..ProjectedVolumeSource::default()
        }),
        ..Volume::default()
    })
}

/// A mount of what was delivered, read-only.
#[must_use]
pub fn mount(delivered: &Delivered, path: &str) -> VolumeMount {
    VolumeMount {
        sub_path: delivered.sub_path.clone(),
        ..pod::mount(&delivered.volume.name, path, true)
    }
}

/// The image that carries the model's weights, if the Workspace names one, with its pull secrets. A private image
/// (`accessMode: private`) is a whole server and no such image.
#[must_use]
pub fn image_of(preset: Option<&PresetSpec>) -> Option<(&str, &[String])> {
    let preset = preset?;
    if preset.access_mode == Some(AccessMode::Private) {
        return None;
    }
    let options = preset.preset_options.as_ref()?;
    let image = options.image.as_deref().filter(|image| !image.is_empty())?;
    Some((
        image,
        options.image_pull_secrets.as_deref().unwrap_or_default(),
    ))
}
