//! The status of a Workspace from what is seen of its children. Pure after [`observe`], which only reads stores.
//!
//! It reports; it never decides. Messages say what is waited for and what would end the wait.

mod cause;
mod job;
mod resources;

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use kaito_api::workspace::{PlanStatus, WorkspaceStatus};
use kaito_api::{NodeClaim, Workspace, conditions};
use kaito_placement::plan::Blocker;
use kaito_snapshot::cluster::ClaimIndex;
use kaito_snapshot::pod;
use kaito_snapshot::pod::Stand;
use kaito_snapshot::sizing::{NodeMode, Sizing};
use kube::ResourceExt;

use crate::shared::{Shared, Verdict};
use crate::store::Key;
use job::{finished, job_started, tuning_success};
use resources::{Resource, resource};

/// Everything that a status depends on.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Generation that was looked at.
    pub generation: Option<i64>,
    /// Whether it is tuning.
    pub tuning: bool,
    /// The status as it is.
    pub before: WorkspaceStatus,
    /// Size, or why there is none.
    pub sizing: Result<Arc<Sizing>, String>,
    /// Pods that count: not on their way out.
    pub pods: Vec<Arc<Pod>>,
    /// Nodes that the pods are on, with the claims that bought them.
    pub nodes: Vec<(String, Option<Arc<Node>>, Option<NodeClaim>)>,
    /// The tuning Job.
    pub job: Option<Arc<Job>>,
    /// The placement loop's word.
    pub verdict: Option<Verdict>,
    /// Claims that it waits for.
    pub awaited: Vec<Arc<NodeClaim>>,
    /// Where nodes come from.
    pub mode: NodeMode,
    /// Time of looking.
    pub now: jiff::Timestamp,
}

/// Collects what the stores hold about a Workspace.
pub fn observe(
    shared: &Shared,
    key: &Key,
    workspace: &Workspace,
    sizing: &Result<Arc<Sizing>, String>,
) -> Observed {
    let mut pods = shared.pods_of(key);
    pods.retain(|found| found.metadata.deletion_timestamp.is_none());
    pods.sort_by_key(|found| found.name_any());
    let claims = shared.stores.claims.all();
    let index = ClaimIndex::new(&claims);
    let mut names: Vec<String> = pods
        .iter()
        .filter_map(|found| match pod::stand(found) {
            Stand::On(name) => Some(name),
            _ => None,
        })
        .collect();
    names.sort();
    names.dedup();
    let nodes = names
        .into_iter()
        .map(|name| {
            let found = shared.stores.nodes.get(&(String::new(), name.clone()));
            let claim = found.as_deref().and_then(|node| index.of(node)).cloned();
            (name, found, claim)
        })
        .collect();
    let verdict = shared.verdict(key);
    Observed {
        generation: workspace.metadata.generation,
        tuning: workspace.spec.tuning.is_some(),
        before: shared.current_status(workspace),
        sizing: sizing.clone(),
        awaited: awaited(shared, verdict.as_ref()),
        pods,
        nodes,
        job: shared.stores.jobs.get(key),
        verdict,
        mode: shared.config.node_mode,
        now: jiff::Timestamp::now(),
    }
}

fn awaited(shared: &Shared, verdict: Option<&Verdict>) -> Vec<Arc<NodeClaim>> {
    let Some(Verdict::Waiting {
        blocker: Blocker::NodesLaunching { claims, .. },
        ..
    }) = verdict
    else {
        return Vec::new();
    };
    claims
        .iter()
        .filter_map(|name| shared.stores.claims.get(&(String::new(), name.clone())))
        .collect()
}

/// One condition's status, reason and message.
type Word = (conditions::Status, String, String);

fn holds(reason: &str, message: impl Into<String>) -> Word {
    (conditions::Status::True, reason.to_owned(), message.into())
}

fn lacks(reason: &str, message: impl Into<String>) -> Word {
    (conditions::Status::False, reason.to_owned(), message.into())
}

/// The status that `observed` amounts to.
#[must_use]
pub fn derive(observed: &Observed) -> WorkspaceStatus {
    let mut status = observed.before.clone();
    let mut list = status.conditions.take().unwrap_or_default();
    let mut put = |kind: &str, (value, reason, message): &Word| {
        conditions::set(
            &mut list,
            kind,
            *value,
            reason,
            message,
            observed.generation,
            observed.now,
        );
    };
    let finished = finished(observed.job.as_deref());
    let placed = placed(observed);
    let resource = resource(observed, finished.is_some());
    put(conditions::PLACED, &placed);
    if observed.mode == NodeMode::Auto {
        put(conditions::NODE_CLAIM_READY, &resource.claims);
    }
    put(conditions::NODES_READY, &resource.nodes);
    put(conditions::RESOURCE_READY, &resource.both);
    let success = if observed.tuning {
        put(conditions::JOB_STARTED, &job_started(observed, finished));
        tuning_success(observed, finished)
    } else {
        let inference = inference_ready(observed, &resource);
        put(conditions::INFERENCE_READY, &inference);
        match inference.0 {
            conditions::Status::True => holds("workspaceSucceeded", "the model is served"),
            _ => lacks("workspacePending", inference.2),
        }
    };
    put(conditions::WORKSPACE_SUCCEEDED, &success);
    put(conditions::WORKSPACE_READY, &success);
    status.state = Some(state(observed, finished, success.0).to_owned());
    status.conditions = Some(list);
    status.plan = Some(plan(observed, &placed));
    if let Ok(sizing) = &observed.sizing {
        status.target_node_count = i32::try_from(sizing.replicas).ok();
    }
    // A finished run keeps the names of the nodes that it used.
    if finished.is_none() {
        status.worker_nodes = Some(
            observed
                .nodes
                .iter()
                .map(|(name, ..)| name.clone())
                .collect(),
        );
    }
    status
}

fn replicas(observed: &Observed) -> usize {
    observed
        .sizing
        .as_ref()
        .map_or(1, |sizing| usize::try_from(sizing.replicas).unwrap_or(1))
}

fn placed_pods(observed: &Observed) -> usize {
    observed
        .pods
        .iter()
        .filter(|found| matches!(pod::stand(found), Stand::On(_)))
        .count()
}

fn placed(observed: &Observed) -> Word {
    if let Err(why) = &observed.sizing {
        return lacks("CannotBeSized", why.clone());
    }
    if finished(observed.job.as_deref()).is_some() {
        return holds("Finished", "the job has ended and holds no GPU");
    }
    let (placed, wanted) = (placed_pods(observed), replicas(observed));
    if placed >= wanted {
        let reason = match &observed.verdict {
            Some(Verdict::Placed { reason }) => reason.clone(),
            _ => format!("{placed} of {wanted} pods have nodes"),
        };
        return holds("Placed", reason);
    }
    match &observed.verdict {
        Some(Verdict::Waiting { blocker, message }) => {
            lacks(blocker_name(blocker), message.clone())
        }
        _ => lacks(
            "Planning",
            format!("{placed} of {wanted} pods have nodes; planning the rest"),
        ),
    }
}

/// The blocker as a condition reason.
#[must_use]
pub const fn blocker_name(blocker: &Blocker) -> &'static str {
    match blocker {
        Blocker::NodesLaunching {
            claims, ordered: 0, ..
        } if claims.is_empty() => "PodsLeaving",
        Blocker::NodesLaunching { .. } => "NodesLaunching",
        Blocker::NoNodeFits { .. } => "NoNodeFits",
        Blocker::NoInstanceTypeFits { .. } => "NoInstanceTypeFits",
        Blocker::UnknownInstanceType { .. } => "UnknownInstanceType",
        Blocker::OffersBlocked { .. } => "OffersBlocked",
    }
}

fn inference_ready(observed: &Observed, resource: &Resource) -> Word {
    let wanted = replicas(observed);
    let ready = observed
        .pods
        .iter()
        .filter(|found| pod::is_ready(found))
        .count();
    if let Err(why) = &observed.sizing {
        return lacks("WorkspaceInferenceStatusPending", why.clone());
    }
    if let Some((reason, message)) = observed.pods.iter().find_map(|found| cause::of(found)) {
        return lacks(reason, message);
    }
    if ready >= wanted && resource.both.0 == conditions::Status::True {
        return holds(
            "WorkspaceInferenceStatusSuccess",
            format!("{ready} of {wanted} pods are ready"),
        );
    }
    if placed_pods(observed) < wanted {
        let placed = placed(observed);
        return lacks("WorkspaceInferenceStatusPending", placed.2);
    }
    lacks(
        "WorkspaceInferenceStatusPending",
        format!("{ready} of {wanted} pods are ready"),
    )
}

fn state(observed: &Observed, finished: Option<bool>, success: conditions::Status) -> &'static str {
    if observed.tuning {
        let running = !observed.pods.is_empty() && placed_pods(observed) >= replicas(observed);
        return match (finished, running) {
            (Some(true), _) => "Succeeded",
            (Some(false), _) => "Failed",
            (None, true) => "Running",
            (None, false) => "Pending",
        };
    }
    let was_ready = matches!(observed.before.state.as_deref(), Some("Ready" | "NotReady"));
    match (success, was_ready) {
        (conditions::Status::True, _) => "Ready",
        (_, true) => "NotReady",
        (_, false) => "Pending",
    }
}

fn plan(observed: &Observed, placed: &Word) -> PlanStatus {
    let Ok(sizing) = &observed.sizing else {
        return PlanStatus {
            reason: Some(placed.2.clone()),
            ..PlanStatus::default()
        };
    };
    let estimate = sizing.estimate.as_ref();
    let bought = observed.nodes.iter().find_map(|(_, found, _)| {
        let labels = found.as_ref()?.metadata.labels.as_ref()?;
        labels.get(kaito_api::names::LABEL_INSTANCE_TYPE).cloned()
    });
    let mut reason = sizing.explanation.clone();
    for warning in &sizing.warnings {
        reason.push_str("; warning: ");
        reason.push_str(warning);
    }
    PlanStatus {
        instance_type: sizing.instance_type.clone().or(bought),
        replicas: Some(sizing.replicas),
        gpus_per_replica: Some(sizing.gpus),
        tensor_parallel: estimate.map(|estimate| estimate.tensor_parallel),
        pipeline_parallel: estimate.map(|estimate| estimate.pipeline_parallel),
        max_context: estimate.map(|estimate| estimate.max_context),
        reason: Some(reason),
    }
}
