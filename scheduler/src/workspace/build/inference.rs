//! Deployment (one node) or StatefulSet (several) of an inference Workspace, for presets and for user templates.

use k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment, StatefulSet,
    StatefulSetSpec,
};
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, EnvVarSource, Lifecycle, LifecycleHandler,
    ObjectFieldSelector, PodSpec, PodTemplateSpec, SleepAction, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kaito_api::catalogue::Runtime;
use kaito_api::workspace::{AccessMode, InferenceSpec};
use kaito_api::{Workspace, names};
use kaito_snapshot::sizing::Sizing;

use super::supplies::{Supplies, adapter_names};
use super::{Context, SERVER_PORT, engine, labels, metadata, name, native, pod, probes, weights};

/// Seconds that a server goes on accepting requests before it is told to stop: kubelet stops it while kube-proxy is
/// still taking its address out of the Service, and whoever connects in between would be refused.
const SECONDS_UNTIL_UNLISTED: i64 = 5;

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
/// Without GPUs the new version is ready before the old one goes, so that no request is lost.
#[must_use]
pub fn deployment(workspace: &Workspace, sizing: &Sizing, template: PodTemplateSpec) -> Deployment {
    let surge = i32::from(sizing.gpus == 0);
    Deployment {
        metadata: metadata(workspace, name(workspace)),
        spec: Some(DeploymentSpec {
            replicas: Some(1),
            selector: selector(workspace),
            template,
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".to_owned()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(surge)),
                    max_unavailable: Some(IntOrString::Int(1 - surge)),
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
    let supplies = Supplies::new(inference, sizing, context);
    let image_pull_secrets = supplies.pull_secrets();
    let Supplies {
        volumes,
        init,
        mounts,
        ..
    } = supplies;
    PodSpec {
        containers: vec![server(workspace, inference, sizing, context, mounts)],
        init_containers: (!init.is_empty()).then_some(init),
        volumes: Some(volumes),
        image_pull_secrets,
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
    mounts: Vec<VolumeMount>,
) -> Container {
    let probes = probes::probes(sizing.weight_bytes);
    // A worker of a multi-node server answers nothing itself; only the leader can be probed, by the front Service.
    let probed = sizing.replicas == 1;
    let container = Container {
        name: name(workspace),
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
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler {
                sleep: Some(SleepAction {
                    seconds: SECONDS_UNTIL_UNLISTED,
                }),
                ..LifecycleHandler::default()
            }),
            ..Lifecycle::default()
        }),
        ..Container::default()
    };
    match sizing.preset.filter(|_| sizing.runtime == Runtime::Native) {
        Some(preset) => native::container(container, workspace, preset, context),
        None => Container {
            image: Some(image(inference, context)),
            command: Some(engine::command(workspace, sizing)),
            env: Some(environment(inference, sizing)),
            ..container
        },
    }
}

/// A private image, which is a whole server, wins over the shipped one.
fn image(inference: &InferenceSpec, context: &Context) -> String {
    let preset = inference.preset.as_ref();
    let private = preset.filter(|preset| preset.access_mode == Some(AccessMode::Private));
    private
        .and_then(|preset| preset.preset_options.as_ref()?.image.clone())
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
        environment.push(weights::hub_token(&secret));
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
