//! Where a Workspace lands among the nodes there are: the scheduler's own sizing, snapshot and planner.

pub mod decide;
pub mod show;

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use kaito_api::Workspace;
use kaito_api::workspace::{InferenceSpec, PresetSpec};
use kaito_placement::replay::Recording;
use kube::ResourceExt;

use crate::Context;
use crate::cluster::Cluster;
use crate::error::{Exit, Failure};
use crate::output::format::Format;

use self::decide::Landing;
use super::Args;
use super::objects::{self, Recorded};

/// Who recorded a plan.
const RECORDED_BY: &str = concat!("kubectl-kaito/v", env!("CARGO_PKG_VERSION"));

/// Answers where the Workspaces in question land.
///
/// # Errors
/// Unreadable input, an unreachable cluster, a Workspace that is not there.
pub async fn run(
    args: &Args,
    format: &Format,
    context: &Context,
    now: Timestamp,
) -> Result<Exit, Failure> {
    refuse_offline_flags(args)?;
    let Source {
        mut recorded,
        namespace,
        cluster,
    } = source(args, context).await?;
    let targets = targets(args, &recorded, &namespace).await?;
    if let Some(cluster) = &cluster {
        objects::read_configurations(cluster, &mut recorded, &targets).await;
    }
    for note in &recorded.notes {
        context.printer.note(&format!("note: {note}"))?;
    }
    let decide::Decided {
        landings,
        snapshot,
        plan,
    } = decide::decide(&recorded, &targets, now);
    if let Some(path) = &args.record {
        record(path, &Recording::new(snapshot, plan, RECORDED_BY)).await?;
    }
    show::print(&landings, format, context, now)?;
    let fits = landings.iter().all(Landing::fits);
    Ok(if fits { Exit::Success } else { Exit::Negative })
}

async fn record(path: &Path, recording: &Recording) -> Result<(), Failure> {
    let failure = |error: &dyn std::fmt::Display| {
        Failure::error(format!(
            "the plan was not recorded in {}: {error}",
            path.display()
        ))
    };
    let text = serde_json::to_vec(recording).map_err(|error| failure(&error))?;
    tokio::fs::write(path, text)
        .await
        .map_err(|error| failure(&error))
}

/// Flags of the offline question that a Workspace has no field for would be ignored silently otherwise.
fn refuse_offline_flags(args: &Args) -> Result<(), Failure> {
    let given = [
        ("--nodes", args.nodes.is_some()),
        ("--tensor-parallel", args.tensor_parallel.is_some()),
        ("--pipeline-parallel", args.pipeline_parallel.is_some()),
        ("--data-parallel", args.data_parallel.is_some()),
        (
            "--gpu-memory-utilization",
            args.gpu_memory_utilization.is_some(),
        ),
        ("--kv-dtype=fp8", args.kv_dtype == "fp8"),
        ("--weights-gib", args.weights_gib.is_some()),
        ("--kv-bytes-per-token", args.kv_bytes_per_token.is_some()),
    ];
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(Failure::error(format!(
            "{flag} asks what a model needs; it cannot be used with NAME, -f or --nodes-from, which ask where a \
             Workspace lands"
        ))),
        None => Ok(()),
    }
}

/// Where the objects came from.
struct Source {
    recorded: Recorded,
    namespace: String,
    cluster: Option<Cluster>,
}

async fn source(args: &Args, context: &Context) -> Result<Source, Failure> {
    match args.nodes_from.as_deref() {
        None | Some("cluster") => {
            let cluster = Cluster::connect(context).await?;
            let recorded = objects::from_cluster(&cluster).await?;
            Ok(Source {
                recorded,
                namespace: cluster.namespace().to_owned(),
                cluster: Some(cluster),
            })
        }
        Some(path) => {
            let namespace = context
                .connection
                .namespace
                .clone()
                .filter(|name| !name.is_empty());
            let namespace = namespace.unwrap_or_else(|| "default".to_owned());
            Ok(Source {
                recorded: objects::from_file(path).await?,
                namespace,
                cluster: None,
            })
        }
    }
}

async fn targets(
    args: &Args,
    recorded: &Recorded,
    namespace: &str,
) -> Result<Vec<Arc<Workspace>>, Failure> {
    let mut targets = match (&args.name, &args.filename, &args.model) {
        (Some(name), _, _) => vec![named(recorded, name, namespace)?],
        (None, Some(path), _) => objects::workspaces(path)
            .await?
            .into_iter()
            .map(Arc::new)
            .collect(),
        (None, None, Some(model)) => vec![Arc::new(of_model(model))],
        (None, None, None) => recorded.workspaces.clone(),
    };
    if targets.is_empty() {
        return Err(Failure::error(
            "no Workspace to place: give NAME, -f FILE or --model MODEL",
        ));
    }
    for target in &mut targets {
        let target = Arc::make_mut(target);
        if target.metadata.namespace.is_none() {
            target.metadata.namespace = Some(namespace.to_owned());
        }
        override_fields(target, args);
    }
    Ok(targets)
}

fn named(recorded: &Recorded, name: &str, namespace: &str) -> Result<Arc<Workspace>, Failure> {
    let name = name.rsplit('/').next().unwrap_or(name);
    let found = recorded
        .workspaces
        .iter()
        .find(|item| item.name_any() == name && item.namespace().as_deref() == Some(namespace));
    found.cloned().ok_or_else(|| {
        Failure::verbatim(format!(
            "Error from server (NotFound): workspaces.kaito.sh {name:?} not found"
        ))
    })
}

fn of_model(model: &str) -> Workspace {
    let mut workspace = Workspace::default();
    workspace.metadata.name = Some("plan".to_owned());
    workspace.spec.inference = Some(InferenceSpec {
        preset: Some(PresetSpec {
            name: model.to_owned(),
            ..PresetSpec::default()
        }),
        ..InferenceSpec::default()
    });
    workspace
}

fn override_fields(workspace: &mut Workspace, args: &Args) {
    let resource = &mut workspace.spec.resource;
    if let Some(name) = args.instance_type.first() {
        resource.instance_type = Some(name.clone());
    }
    resource.context_length = args.context_len.or(resource.context_length);
    resource.concurrency = args.concurrency.or(resource.concurrency);
    resource.gpus = args.gpus.or(resource.gpus);
}
