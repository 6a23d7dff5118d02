//! The tuning Job: ordered init containers fetch the data and train, the main container pushes the result.
//!
//! That order needs no marker files and no shared process namespace, a failed training ends the pod, and a failed
//! push is repeated without training again.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, Container, KeyToPath, LocalObjectReference, PodSpec, PodTemplateSpec,
    SecretVolumeSource, Volume,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kaito_api::workspace::{DataDestination, DataSource, TuningSpec};
use kaito_api::{Workspace, names};
use kaito_snapshot::sizing::Sizing;

use super::supplies::DATA_FOLDER;
use super::weights::{self, Files};
use super::{Context, engine, labels, metadata, name, pod};

const DATA_PATH: &str = "/mnt/data";
const RESULTS_PATH: &str = "/mnt/results";
const CREDENTIALS_PATH: &str = "/mnt/credentials";

/// Retries of a pod that failed, for lost nodes and cut pushes.
const BACKOFF_LIMIT: i32 = 3;

/// The Job.
#[must_use]
pub fn job(workspace: &Workspace, tuning: &TuningSpec, sizing: &Sizing, context: &Context) -> Job {
    let mut spec = pod_spec(tuning, sizing, context);
    pod::gate(&mut spec);
    let mut meta = ObjectMeta {
        labels: Some(labels(workspace)),
        ..ObjectMeta::default()
    };
    if let Some(version) = context.config_version.as_ref() {
        meta.annotations.get_or_insert_default().insert(
            names::ANNOTATION_CONTENT_HASH.to_owned(),
            names::digest(&[version], 16),
        );
    }
    Job {
        metadata: metadata(workspace, name(workspace)),
        spec: Some(JobSpec {
            backoff_limit: Some(BACKOFF_LIMIT),
            template: PodTemplateSpec {
                metadata: Some(meta),
                spec: Some(spec),
            },
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}

fn pod_spec(tuning: &TuningSpec, sizing: &Sizing, context: &Context) -> PodSpec {
    let input = tuning.input.clone().unwrap_or_default();
    let output = tuning.output.clone().unwrap_or_default();
    let trainer = trainer(tuning, sizing, context);
    let mut init: Vec<Container> = fetcher(&input, context).into_iter().collect();
    let main = match pusher(&output, context) {
        Some(pusher) => {
            init.push(trainer);
            pusher
        }
        // Results that stay in a volume need no step after training.
        None => trainer,
    };
    PodSpec {
        init_containers: (!init.is_empty()).then_some(init),
        containers: vec![main],
        volumes: Some(volumes(tuning, input, output)),
        image_pull_secrets: tuning
            .input
            .as_ref()
            .and_then(|input| input.image_pull_secrets.as_ref())
            .map(|list| {
                list.iter()
                    .map(|n| LocalObjectReference { name: n.clone() })
                    .collect()
            }),
        restart_policy: Some("Never".to_owned()),
        security_context: Some(pod::security()),
        automount_service_account_token: Some(false),
        ..PodSpec::default()
    }
}

fn fetcher(input: &DataSource, context: &Context) -> Option<Container> {
    if let Some(image) = input.image.as_ref() {
        let files = Files {
            volume: "data",
            image,
            folder: DATA_FOLDER,
            secrets: input.image_pull_secrets.as_deref().unwrap_or_default(),
        };
        return Some(weights::puller(&files, context));
    }
    let urls = input.urls.as_ref()?;
    let mut args = vec!["fetch".to_owned(), format!("--output={DATA_PATH}")];
    args.extend(urls.iter().cloned());
    Some(Container {
        name: "fetch-data".to_owned(),
        image: Some(context.images.tools.clone()),
        args: Some(args),
        volume_mounts: Some(vec![pod::mount("data", DATA_PATH, false)]),
        security_context: Some(pod::container_security()),
        ..Container::default()
    })
}

fn trainer(tuning: &TuningSpec, sizing: &Sizing, context: &Context) -> Container {
    let model = sizing
        .preset
        .map(|preset| preset.name.clone())
        .unwrap_or_default();
    let method = tuning
        .method
        .clone()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let mut mounts = vec![
        pod::mount("dshm", "/dev/shm", false),
        pod::mount("weights", engine::WEIGHTS_PATH, false),
        pod::mount("data", DATA_PATH, true),
        pod::mount("results", RESULTS_PATH, false),
    ];
    if tuning.config.is_some() {
        mounts.push(pod::mount("config", engine::CONFIG_PATH, true));
    }
    Container {
        name: "train".to_owned(),
        image: Some(context.images.engine.clone()),
        command: Some(vec![
            "accelerate".to_owned(),
            "launch".to_owned(),
            format!("--num_processes={}", sizing.gpus.max(1)),
            "/workspace/tfs/fine_tuning.py".to_owned(),
            format!("--pretrained_model_name_or_path={model}"),
            format!("--method={method}"),
        ]),
        resources: Some(pod::resources(sizing)),
        volume_mounts: Some(mounts),
        security_context: Some(pod::container_security()),
        ..Container::default()
    }
}

fn pusher(output: &DataDestination, context: &Context) -> Option<Container> {
    let image = output.image.as_ref()?;
    let mut mounts = vec![pod::mount("results", RESULTS_PATH, true)];
    let mut args = vec![
        "push".to_owned(),
        RESULTS_PATH.to_owned(),
        format!("--tag={image}"),
    ];
    if output.image_push_secret.is_some() {
        mounts.push(pod::mount("credentials", CREDENTIALS_PATH, true));
        args.push(format!("--registry-config={CREDENTIALS_PATH}/config.json"));
    }
    Some(Container {
        name: "push".to_owned(),
        image: Some(context.images.tools.clone()),
        args: Some(args),
        volume_mounts: Some(mounts),
        security_context: Some(pod::container_security()),
        ..Container::default()
    })
}

fn volumes(tuning: &TuningSpec, input: DataSource, output: DataDestination) -> Vec<Volume> {
    let named = |name: &str, own: Option<Volume>| match own {
        Some(own) => Volume {
            name: name.to_owned(),
            ..own
        },
        None => pod::empty_dir(name, false),
    };
    let mut volumes = vec![
        pod::empty_dir("dshm", true),
        pod::empty_dir("weights", false),
        named("data", input.volume_source),
        named("results", output.volume_source),
    ];
    if let Some(config) = tuning.config.as_ref() {
        volumes.push(Volume {
            name: "config".to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: config.clone(),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    if let Some(secret) = output.image_push_secret.filter(|_| output.image.is_some()) {
        volumes.push(Volume {
            name: "credentials".to_owned(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(secret),
                items: Some(vec![KeyToPath {
                    key: ".dockerconfigjson".to_owned(),
                    path: "config.json".to_owned(),
                    ..KeyToPath::default()
                }]),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        });
    }
    volumes
}
