//! The tuning Job: ordered init containers fetch the data and train, the main container pushes the result.
//!
//! That order needs no marker files and no shared process namespace, a training that was cut off goes on where it was, and
//! a failed push is repeated without training again.

use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Container, KeyToPath, PodSpec, PodTemplateSpec, SecretVolumeSource, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kaito_api::workspace::{DataDestination, DataSource, TuningSpec};
use kaito_api::{Workspace, names};
use kaito_snapshot::sizing::Sizing;

use super::supplies::{DATA_FOLDER, Supplies};
use super::weights::{self, Files};
use super::{Context, DataReach, engine, labels, metadata, name, pod};

const DATA_PATH: &str = "/mnt/data";
const RESULTS_PATH: &str = "/mnt/results";
const CREDENTIALS_PATH: &str = "/mnt/credentials";

/// Annotation by which kubectl and the plugin choose the container whose log is shown.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

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
    let annotations = meta.annotations.get_or_insert_default();
    // What users want to read is the training, though its container may be one that comes before the main one.
    annotations.insert(
        DEFAULT_CONTAINER.to_owned(),
        names::TRAINER_CONTAINER.to_owned(),
    );
    if let Some(version) = context.config_version.as_ref() {
        annotations.insert(
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
    let supplies = Supplies::for_tuning(tuning, sizing, context);
    let image_pull_secrets = supplies.pull_secrets();
    let trainer = trainer(tuning, sizing, context, supplies.mounts);
    let mut init: Vec<Container> = fetcher(&input, context).into_iter().collect();
    init.extend(supplies.init);
    let main = match pusher(&output, sizing, context) {
        Some(pusher) => {
            init.push(trainer);
            pusher
        }
        // Results that stay in a volume need no step after training.
        None => trainer,
    };
    let mut volumes = supplies.volumes;
    volumes.extend(own_volumes(input, output));
    PodSpec {
        init_containers: (!init.is_empty()).then_some(init),
        containers: vec![main],
        volumes: Some(volumes),
        image_pull_secrets,
        // A step that fails is repeated in the same pod: the trainer goes on from its last checkpoint, and a push does
        // not train again.
        restart_policy: Some("OnFailure".to_owned()),
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
    if context.data_reach == DataReach::Public {
        // The addresses are the user's, asked for from inside of the cluster.
        args.push("--public-only".to_owned());
    }
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

fn trainer(
    tuning: &TuningSpec,
    sizing: &Sizing,
    context: &Context,
    mut mounts: Vec<VolumeMount>,
) -> Container {
    mounts.push(pod::mount("data", DATA_PATH, true));
    mounts.push(pod::mount("results", RESULTS_PATH, false));
    let method = tuning.method.as_deref().unwrap_or_default();
    let mut args = vec![
        "train".to_owned(),
        format!("--model={}", engine::WEIGHTS_PATH),
        format!("--data={DATA_PATH}"),
        format!("--output={RESULTS_PATH}"),
        format!("--method={}", method.to_ascii_lowercase()),
    ];
    args.extend(preset_flag(sizing));
    if tuning.config.is_some() {
        args.push(format!(
            "--config={}/training_config.yaml",
            engine::CONFIG_PATH
        ));
    }
    Container {
        name: names::TRAINER_CONTAINER.to_owned(),
        image: Some(context.images.trainer.clone()),
        args: Some(args),
        resources: Some(pod::resources(sizing)),
        volume_mounts: Some(mounts),
        security_context: Some(pod::container_security()),
        ..Container::default()
    }
}

/// What an adapter's base is called in its files and in its image.
fn preset_flag(sizing: &Sizing) -> Option<String> {
    let preset = sizing.preset?;
    Some(format!("--preset={}", preset.name))
}

fn pusher(output: &DataDestination, sizing: &Sizing, context: &Context) -> Option<Container> {
    let image = output.image.as_ref()?;
    let mut mounts = vec![pod::mount("results", RESULTS_PATH, true)];
    let mut args = vec![
        "build".to_owned(),
        format!("{RESULTS_PATH}/adapter"),
        "--kind=adapter".to_owned(),
        format!("--tag={image}"),
        "--push".to_owned(),
    ];
    args.extend(preset_flag(sizing));
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

/// Volumes of data, results and credentials.
fn own_volumes(input: DataSource, output: DataDestination) -> Vec<Volume> {
    let named = |name: &str, own: Option<Volume>| match own {
        Some(own) => Volume {
            name: name.to_owned(),
            ..own
        },
        None => pod::empty_dir(name, false),
    };
    let mut volumes = vec![
        named("data", input.volume_source),
        named("results", output.volume_source),
    ];
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
