//! What a server needs besides its container: weights, configuration and adapters, as volumes, init containers and
//! mounts that belong together.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, Container, LocalObjectReference, Volume, VolumeMount,
};
use kaito_api::catalogue::{Preset, Runtime};
use kaito_api::workspace::{AdapterSpec, InferenceSpec, PresetSpec, TuningSpec};
use kaito_snapshot::sizing::Sizing;

use super::weights::{self, Files};
use super::{Context, engine, pod};

/// Folder of an image of weights in which image-builder puts them.
const WEIGHTS_FOLDER: &str = "models";
/// Folder of an image of an adapter or data set, KAITO's convention.
pub const DATA_FOLDER: &str = "data";

/// Volumes, what fills them, and where the server sees them.
#[derive(Clone, Debug, Default)]
pub struct Supplies {
    /// Volumes of the pod.
    pub volumes: Vec<Volume>,
    /// Init containers, in order.
    pub init: Vec<Container>,
    /// Mounts of the server container.
    pub mounts: Vec<VolumeMount>,
    secrets: BTreeSet<String>,
}

impl Supplies {
    /// What `inference` asks for.
    #[must_use]
    pub fn new(inference: &InferenceSpec, sizing: &Sizing, context: &Context) -> Self {
        let mut supplies = Self::default();
        supplies.add(pod::empty_dir("dshm", true), "/dev/shm", false);
        // vLLM fetches from the hub by itself, the native engine does not.
        let native = sizing.preset.filter(|_| sizing.runtime == Runtime::Native);
        supplies.add_weights(inference.preset.as_ref(), native, context);
        if let Some(config) = inference.config.as_ref() {
            supplies.add(config_volume(config), engine::CONFIG_PATH, true);
        }
        for adapter in inference.adapters.iter().flatten() {
            supplies.add_adapter(adapter, context);
        }
        if sizing.runtime == Runtime::Native {
            // Its own file system is read-only.
            supplies.add(pod::empty_dir("tmp", false), "/tmp", false);
        }
        supplies.volumes.extend(credentials(&supplies));
        supplies
    }

    /// What a tuning run asks for besides data and results.
    #[must_use]
    pub fn for_tuning(tuning: &TuningSpec, sizing: &Sizing, context: &Context) -> Self {
        let mut supplies = Self::default();
        supplies.add(pod::empty_dir("dshm", true), "/dev/shm", false);
        supplies.add(pod::empty_dir("tmp", false), "/tmp", false);
        supplies.add_weights(tuning.preset.as_ref(), sizing.preset, context);
        if let Some(config) = tuning.config.as_ref() {
            supplies.add(config_volume(config), engine::CONFIG_PATH, true);
        }
        let data = tuning.input.as_ref();
        let secrets = data.and_then(|input| input.image_pull_secrets.as_ref());
        supplies
            .secrets
            .extend(secrets.into_iter().flatten().cloned());
        supplies
            .volumes
            .extend(weights::credentials(&supplies.secrets));
        supplies
    }

    /// Weights from the image that the Workspace names, else from the hub.
    fn add_weights(
        &mut self,
        asked: Option<&PresetSpec>,
        preset: Option<&Preset>,
        context: &Context,
    ) {
        if let Some((image, secrets)) = weights::image_of(asked) {
            let files = Files {
                volume: "weights",
                image,
                folder: WEIGHTS_FOLDER,
                secrets,
            };
            return self.add_files(&files, engine::WEIGHTS_PATH, context);
        }
        let weights = pod::empty_dir("weights", false);
        self.add(weights, engine::WEIGHTS_PATH, false);
        let options = asked.and_then(|preset| preset.preset_options.as_ref());
        let secret = options.and_then(|options| options.model_access_secret.as_deref());
        let fetcher = preset.map(|preset| weights::hub_fetcher(preset, secret, context));
        self.init.extend(fetcher);
    }

    fn add(&mut self, volume: Volume, path: &str, read_only: bool) {
        self.mounts.push(pod::mount(&volume.name, path, read_only));
        self.volumes.push(volume);
    }

    fn add_files(&mut self, files: &Files<'_>, path: &str, context: &Context) {
        let delivered = weights::deliver(files, context);
        self.mounts.push(weights::mount(&delivered, path));
        self.volumes.push(delivered.volume);
        self.init.extend(delivered.init);
        self.secrets.extend(files.secrets.iter().cloned());
    }

    /// An adapter from the user's own volume, or from an image.
    fn add_adapter(&mut self, adapter: &AdapterSpec, context: &Context) {
        let source = adapter.source.clone().unwrap_or_default();
        let (volume, folder) = adapter_names(adapter);
        let path = format!("{}/{folder}", engine::ADAPTERS_PATH);
        if let Some(own) = source.volume_source {
            let own = Volume {
                name: volume,
                ..own
            };
            return self.add(own, &path, true);
        }
        let files = Files {
            volume: &volume,
            image: source.image.as_deref().unwrap_or_default(),
            folder: DATA_FOLDER,
            secrets: source.image_pull_secrets.as_deref().unwrap_or_default(),
        };
        self.add_files(&files, &path, context);
    }

    /// Pull secrets of the pod: kubelet uses them for image volumes.
    #[must_use]
    pub fn pull_secrets(&self) -> Option<Vec<LocalObjectReference>> {
        let each = self.secrets.iter();
        let references: Vec<_> = each
            .map(|name| LocalObjectReference { name: name.clone() })
            .collect();
        (!references.is_empty()).then_some(references)
    }
}

/// Credentials for the init containers that pull, if there are any.
fn credentials(supplies: &Supplies) -> Option<Volume> {
    let pulls = !supplies.init.is_empty();
    weights::credentials(&supplies.secrets).filter(|_| pulls)
}

fn config_volume(config: &str) -> Volume {
    Volume {
        name: "config".to_owned(),
        config_map: Some(ConfigMapVolumeSource {
            name: config.to_owned(),
            ..ConfigMapVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// Volume name and folder of an adapter. The folder is the name that requests use, so it keeps the user's spelling.
#[must_use]
pub fn adapter_names(adapter: &AdapterSpec) -> (String, String) {
    let source = adapter.source.clone().unwrap_or_default();
    let name = source.name.unwrap_or_default();
    (format!("adapter-{}", pod::label_safe(&name, 50)), name)
}
