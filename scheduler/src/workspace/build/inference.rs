//! Deployment (one node) or StatefulSet (several) of an inference Workspace, for presets and for user templates.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment, StatefulSet,
    StatefulSetSpec,
};
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, Container, ContainerPort, EnvVar, EnvVarSource, LocalObjectReference,
    ObjectFieldSelector, PodSpec, PodTemplateSpec, SecretKeySelector, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kaito_api::workspace::{AdapterSpec, InferenceSpec};
use kaito_api::{Workspace, names};
use kaito_snapshot::sizing::Sizing;

use super::{Context, SERVER_PORT, engine, labels, metadata, name, pod, probes};

/// The gated pod template: from the preset, or the user's own with what placement needs added.
#[must_use]
pub fn pod_template(workspace: &Workspace, sizing: &Sizing, context: &Context) -> PodTemplateSpec {
    let inference = workspace.spec.inference.clone().unwrap_or_default();
    let mut template = match inference.template.clone() {
        Some(template) => template,
        None => PodTemplateSpec {
            metadata: None,
            spec: Some(preset_pod(workspace, &inference, sizing, context)),
        },
    };
    let meta = template.metadata.get_or_insert_with(ObjectMeta::default);
    meta.labels
        .get_or_insert_default()
        .extend(labels(workspace));
    if let Some(version) = context.config_version.as_ref() {
        meta.annotations.get_or_insert_default().insert(
            names::ANNOTATION_CONTENT_HASH.to_owned(),
            names::digest(&[version], 16),
        );
    }
    pod::gate(template.spec.get_or_insert_default());
    template
}

/// The Deployment. A new version takes the place of the old one's GPUs: a surge would need GPUs that nobody pays for.
#[must_use]
pub fn deployment(workspace: &Workspace, template: PodTemplateSpec) -> Deployment {
    Deployment {
        metadata: metadata(workspace, name(workspace)),
        spec: Some(DeploymentSpec {
            replicas: Some(1),
            selector: selector(workspace),
            template,
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(0)),
                    max_unavailable: Some(IntOrString::Int(1)),
                }),
            }),
            revision_history_limit: Some(1),
            // Waiting for a node is no failure, however long it takes.
            progress_deadline_seconds: Some(i32::MAX),
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    }
}

/// The StatefulSet: stable names for the rendezvous, all pods at once because they wait for each other.
#[must_use]
pub fn stateful_set(
    workspace: &Workspace,
    sizing: &Sizing,
    template: PodTemplateSpec,
) -> StatefulSet {
    StatefulSet {
        metadata: metadata(workspace, name(workspace)),
        spec: Some(StatefulSetSpec {
            replicas: i32::try_from(sizing.replicas).ok(),
            selector: selector(workspace),
            service_name: Some(format!("{}-headless", name(workspace))),
            pod_management_policy: Some("Parallel".to_owned()),
            revision_history_limit: Some(1),
            template,
            ..StatefulSetSpec::default()
        }),
        ..StatefulSet::default()
    }
}

fn selector(workspace: &Workspace) -> LabelSelector {
    LabelSelector {
        match_labels: Some(labels(workspace)),
        ..LabelSelector::default()
    }
}

fn preset_pod(
    workspace: &Workspace,
    inference: &InferenceSpec,
    sizing: &Sizing,
    context: &Context,
) -> PodSpec {
    let adapters = inference.adapters.as_deref().unwrap_or_default();
    let mut volumes = vec![
        pod::empty_dir("dshm", true),
        pod::empty_dir("weights", false),
    ];
    if let Some(config) = inference.config.as_ref() {
        volumes.push(config_volume(config));
    }
    volumes.extend(adapter_volumes(adapters));
    PodSpec {
        containers: vec![server(workspace, inference, sizing, context)],
        init_containers: pullers(adapters, context),
        volumes: Some(volumes),
        image_pull_secrets: pull_secrets(adapters),
        security_context: Some(pod::security()),
        automount_service_account_token: Some(false),
        termination_grace_period_seconds: Some(60),
        ..PodSpec::default()
    }
}

fn server(
    workspace: &Workspace,
    inference: &InferenceSpec,
    sizing: &Sizing,
    context: &Context,
) -> Container {
    let adapters = inference.adapters.as_deref().unwrap_or_default();
    let probes = probes::probes(sizing.weight_bytes);
    // A worker of a multi-node server answers nothing itself; only the leader can be probed, by the front Service.
    let probed = sizing.replicas == 1;
    let mut mounts = vec![
        pod::mount("dshm", "/dev/shm", false),
        pod::mount("weights", engine::WEIGHTS_PATH, false),
    ];
    if inference.config.is_some() {
        mounts.push(pod::mount("config", engine::CONFIG_PATH, true));
    }
    for adapter in adapters {
        let (volume, folder) = adapter_names(adapter);
        let path = format!("{}/{folder}", engine::ADAPTERS_PATH);
        mounts.push(pod::mount(&volume, &path, true));
    }
    Container {
        name: name(workspace),
        image: Some(image(inference, context)),
        command: Some(engine::command(workspace, sizing)),
        env: Some(environment(inference, sizing)),
        ports: Some(vec![ContainerPort {
            name: Some("http".to_owned()),
            container_port: SERVER_PORT,
            ..ContainerPort::default()
        }]),
        resources: Some(pod::resources(sizing)),
        volume_mounts: Some(mounts),
        security_context: Some(pod::container_security()),
        startup_probe: probed.then_some(probes.startup),
        liveness_probe: probed.then_some(probes.liveness),
        readiness_probe: probed.then_some(probes.readiness),
        ..Container::default()
    }
}

/// A private image of the v1alpha1 API wins over the shipped one.
fn image(inference: &InferenceSpec, context: &Context) -> String {
    let options = inference
        .preset
        .as_ref()
        .and_then(|preset| preset.preset_options.as_ref());
    options
        .and_then(|options| options.image.clone())
        .unwrap_or_else(|| context.images.engine.clone())
}

fn environment(inference: &InferenceSpec, sizing: &Sizing) -> Vec<EnvVar> {
    let mut environment = vec![EnvVar {
        name: "HF_HOME".to_owned(),
        value: Some(format!("{}/.cache", engine::WEIGHTS_PATH)),
        ..EnvVar::default()
    }];
    if sizing.replicas > 1 {
        environment.push(EnvVar {
            name: "POD_INDEX".to_owned(),
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector {
                    field_path: "metadata.labels['apps.kubernetes.io/pod-index']".to_owned(),
                    ..ObjectFieldSelector::default()
                }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        });
    }
    let options = inference
        .preset
        .as_ref()
        .and_then(|preset| preset.preset_options.as_ref());
    if let Some(secret) = options.and_then(|options| options.model_access_secret.clone()) {
        environment.push(EnvVar {
            name: "HF_TOKEN".to_owned(),
            value_from: Some(EnvVarSource {
                secret_key_ref: Some(SecretKeySelector {
                    name: secret,
                    key: "HF_TOKEN".to_owned(),
                    ..SecretKeySelector::default()
                }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        });
    }
    for adapter in inference.adapters.iter().flatten() {
        if let (Some(strength), (_, folder)) = (&adapter.strength, adapter_names(adapter)) {
            let key = folder.to_ascii_uppercase().replace('-', "_");
            environment.push(EnvVar {
                name: format!("ADAPTER_STRENGTH_{key}"),
                value: Some(strength.clone()),
                ..EnvVar::default()
            });
        }
    }
    environment
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
fn adapter_names(adapter: &AdapterSpec) -> (String, String) {
    let source = adapter.source.clone().unwrap_or_default();
    let name = source.name.unwrap_or_default();
    (format!("adapter-{}", pod::label_safe(&name, 50)), name)
}

/// One volume per adapter: the user's own, or an empty one that an init container fills from the image.
fn adapter_volumes(adapters: &[AdapterSpec]) -> Vec<Volume> {
    adapters
        .iter()
        .map(|adapter| {
            let (volume, _) = adapter_names(adapter);
            match adapter
                .source
                .as_ref()
                .and_then(|source| source.volume_source.clone())
            {
                Some(own) => Volume {
                    name: volume,
                    ..own
                },
                None => pod::empty_dir(&volume, false),
            }
        })
        .collect()
}

fn pullers(adapters: &[AdapterSpec], context: &Context) -> Option<Vec<Container>> {
    let pullers: Vec<Container> = adapters
        .iter()
        .filter_map(|adapter| {
            let source = adapter.source.as_ref()?;
            let image = source.image.as_ref()?;
            let (volume, folder) = adapter_names(adapter);
            Some(puller(&folder, image, &volume, context))
        })
        .collect();
    (!pullers.is_empty()).then_some(pullers)
}

/// An init container that pulls `/data` of an image into a volume.
#[must_use]
pub fn puller(folder: &str, image: &str, volume: &str, context: &Context) -> Container {
    Container {
        name: format!("pull-{}", pod::label_safe(folder, 50)),
        image: Some(context.images.tools.clone()),
        args: Some(vec![
            "pull".to_owned(),
            image.to_owned(),
            "--include=data/**".to_owned(),
            "--output=/target".to_owned(),
        ]),
        volume_mounts: Some(vec![pod::mount(volume, "/target", false)]),
        security_context: Some(pod::container_security()),
        ..Container::default()
    }
}

fn pull_secrets(adapters: &[AdapterSpec]) -> Option<Vec<LocalObjectReference>> {
    let secrets: BTreeMap<&String, ()> = adapters
        .iter()
        .filter_map(|adapter| adapter.source.as_ref()?.image_pull_secrets.as_ref())
        .flatten()
        .map(|secret| (secret, ()))
        .collect();
    let references: Vec<LocalObjectReference> = secrets
        .into_keys()
        .map(|name| LocalObjectReference { name: name.clone() })
        .collect();
    (!references.is_empty()).then_some(references)
}
