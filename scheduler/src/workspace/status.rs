//! The status of a Workspace from what is seen of its children. Pure after [`observe`], which only reads stores.
//!
//! It reports; it never decides. Messages say what is waited for and what would end the wait.

mod cause;

use std::sync::Arc;

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use kaito_api::workspace::{PlanStatus, WorkspaceStatus};
use kaito_api::{NodeClaim, Workspace, conditions, nodeclaim};
use kaito_placement::plan::Blocker;
use kaito_snapshot::cluster::ClaimIndex;
use kaito_snapshot::pod::Stand;
use kaito_snapshot::sizing::{NodeMode, Sizing};
use kaito_snapshot::{node, pod};
use kube::ResourceExt;

use crate::shared::{Shared, Verdict};
use crate::store::Key;

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

/// `Some(true)` when the Job has succeeded, `Some(false)` when it has failed for good.
fn finished(job: Option<&Job>) -> Option<bool> {
    let list = job?.status.as_ref()?.conditions.as_ref()?;
    let has = |kind: &str| list.iter().any(|c| c.type_ == kind && c.status == "True");
    if has("Complete") {
        Some(true)
    } else if has("Failed") {
        Some(false)
    } else {
        None
    }
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
        Blocker::NodesLaunching { .. } => "NodesLaunching",
        Blocker::NoNodeFits { .. } => "NoNodeFits",
        Blocker::NoInstanceTypeFits { .. } => "NoInstanceTypeFits",
        Blocker::UnknownInstanceType { .. } => "UnknownInstanceType",
        Blocker::OffersBlocked { .. } => "OffersBlocked",
    }
}

struct Resource {
    claims: Word,
    nodes: Word,
    both: Word,
}

fn resource(observed: &Observed, finished: bool) -> Resource {
    let claims = if finished {
        holds("NodeClaimsReady", "the job has ended")
    } else {
        claims(observed)
    };
    let nodes = if finished {
        holds("NodesReady", "the job has ended")
    } else {
        nodes(observed)
    };
    let both = match (claims.0, nodes.0, observed.mode) {
        (conditions::Status::True, conditions::Status::True, _)
        | (_, conditions::Status::True, NodeMode::OwnNodes) => {
            holds("workspaceResourceStatusSuccess", "all nodes are ready")
        }
        (conditions::Status::True, ..) | (.., NodeMode::OwnNodes) => {
            lacks(&nodes.1, nodes.2.clone())
        }
        _ => lacks(&claims.1, claims.2.clone()),
    };
    Resource {
        claims,
        nodes,
        both,
    }
}

fn claims(observed: &Observed) -> Word {
    if let Some(waiting) = observed.awaited.iter().find_map(|claim| stage(claim)) {
        return waiting;
    }
    let bought = observed
        .nodes
        .iter()
        .filter_map(|(_, _, claim)| claim.as_ref());
    if let Some(waiting) = bought.clone().find_map(stage) {
        return waiting;
    }
    if placed_pods(observed) >= replicas(observed) {
        return match bought.count() {
            0 => holds(
                "NodeClaimsReady",
                "existing nodes are used; no node had to be bought",
            ),
            count => holds("NodeClaimsReady", format!("{count} node claims are ready")),
        };
    }
    match &observed.verdict {
        Some(Verdict::Waiting { blocker, message }) => {
            lacks(blocker_name(blocker), message.clone())
        }
        _ => lacks("NodeClaimNotReady", "no node has been chosen yet"),
    }
}

/// The earliest stage that a claim has not reached, in the provisioner's words.
fn stage(claim: &NodeClaim) -> Option<Word> {
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    if conditions::is_true(claim.conditions(), nodeclaim::READY) {
        return None;
    }
    let stages = [
        nodeclaim::LAUNCHED,
        nodeclaim::REGISTERED,
        nodeclaim::INITIALIZED,
    ];
    let open = stages.iter().find_map(|stage| {
        claim
            .conditions()
            .iter()
            .find(|c| c.type_ == *stage && c.status != "True")
    });
    Some(match open {
        Some(open) => {
            let reason = if open.reason.is_empty() {
                "NodeClaimNotReady"
            } else {
                open.reason.as_str()
            };
            let message = format!("node claim {name} is not {}: {}", open.type_, open.message);
            lacks(reason, message)
        }
        None => lacks(
            "NodeClaimNotReady",
            format!("node claim {name} was just made"),
        ),
    })
}

fn nodes(observed: &Observed) -> Word {
    let wanted = replicas(observed);
    for (name, found, _) in &observed.nodes {
        let Some(found) = found else {
            return lacks("NodeNotReady", format!("node {name} is gone"));
        };
        if !node::is_ready(found) {
            return lacks("NodeNotReady", format!("node {name} is not ready"));
        }
        let gpus_wanted = observed.sizing.as_ref().is_ok_and(|sizing| sizing.gpus > 0);
        if gpus_wanted && node::allocatable_gpus(found) == 0 {
            return lacks(
                "NodePluginsNotReady",
                format!("node {name} shows no GPU yet"),
            );
        }
    }
    if placed_pods(observed) >= wanted {
        holds(
            "NodesReady",
            format!("{} nodes are ready", observed.nodes.len()),
        )
    } else {
        lacks("NodeNotReady", "pods are waiting for nodes")
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

fn job_started(observed: &Observed, finished: Option<bool>) -> Word {
    match finished {
        Some(true) => return holds("WorkspaceTuningJobStatusStarted", "the job has succeeded"),
        Some(false) => return lacks("WorkspaceTuningJobStatusFailed", job_failure(observed)),
        None => {}
    }
    let active = observed
        .job
        .as_ref()
        .and_then(|job| job.status.as_ref())
        .and_then(|status| status.active)
        .unwrap_or(0);
    if active > 0 && placed_pods(observed) >= replicas(observed) {
        return holds("WorkspaceTuningJobStatusStarted", "the job is running");
    }
    lacks("WorkspaceTuningJobStatusPending", placed(observed).2)
}

fn tuning_success(observed: &Observed, finished: Option<bool>) -> Word {
    match finished {
        Some(true) => holds("workspaceSucceeded", "tuning has succeeded"),
        Some(false) => lacks("workspaceFailed", job_failure(observed)),
        None => lacks("workspacePending", "tuning has not ended"),
    }
}

fn job_failure(observed: &Observed) -> String {
    let list = observed
        .job
        .as_ref()
        .and_then(|job| job.status.as_ref()?.conditions.clone());
    let failed = list
        .unwrap_or_default()
        .into_iter()
        .find(|c| c.type_ == "Failed");
    failed
        .and_then(|c| c.message)
        .unwrap_or_else(|| "the job has failed".to_owned())
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
