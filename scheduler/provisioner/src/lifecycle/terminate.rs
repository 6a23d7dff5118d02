//! The end of a claim: its nodes are emptied and deleted, its machine returned and confirmed gone, then the claim is
//! let go. Also serves what remains when the claim itself is gone. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Taint};
use kaito_api::conditions::{self as api_conditions, Status};
use kaito_api::{NodeClaim, names};
use serde_json::json;

use super::decide::{Observed, has_finalizer};
use super::drain::{self, TAINT_DISRUPTED};
use super::initialized::taints;
use super::step::{Decision, Step};
use crate::cloud::Deletion;
use crate::cloud::simulated::model::later;
use crate::duration::parse_duration;

/// Label: load balancers leave the node out.
const LABEL_NO_BALANCER: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
/// Condition: no pod is waited for any more.
const DRAINED: &str = "Drained";
/// A drain that is over within this many seconds is not worth a status write.
const QUIET_DRAIN_SECONDS: i64 = 2;

/// What to do now to end the claim.
#[must_use]
pub fn terminate(observed: &Observed<'_>) -> Decision {
    let begin: Vec<Step> = observed
        .nodes
        .iter()
        .filter_map(|node| begin_node(node))
        .collect();
    if !begin.is_empty() {
        return Decision::only(begin);
    }
    let deadline = observed.claim.and_then(deadline);
    let drain = drain::plan(
        observed.pods,
        observed.evict_not_before,
        deadline,
        observed.now,
    );
    if !drain.waiting.is_empty() {
        let mut decision = drain.decision;
        decision.steps.extend(
            observed
                .claim
                .and_then(|claim| show_drain(claim, observed.now, &mut decision.wake)),
        );
        return decision;
    }
    match observed.deletion {
        Some(Deletion::NotFound) => release(observed),
        Some(Deletion::Accepted { until }) if until > observed.now => Decision {
            wake: Some(until),
            ..Decision::default()
        },
        _ => Decision::only(vec![Step::DeleteMachine {
            provider_id: observed.provider_id.to_owned(),
        }]),
    }
}

/// First deletes a node, then closes it to new pods. Deleting first makes a node that lacks our finalizer go at once
/// and leaves no moment in which it is closed for ever by a crash.
fn begin_node(node: &Node) -> Option<Step> {
    let name = node.metadata.name.clone()?;
    if node.metadata.deletion_timestamp.is_none() {
        return Some(Step::DeleteNode {
            name,
            uid: node.metadata.uid.clone()?,
        });
    }
    if taints(node)
        .iter()
        .any(|taint| taint.key == TAINT_DISRUPTED)
    {
        return None;
    }
    let mut all = taints(node).to_vec();
    all.push(Taint {
        key: TAINT_DISRUPTED.to_owned(),
        effect: "NoSchedule".to_owned(),
        value: None,
        time_added: None,
    });
    let patch = json!({
        "metadata": {
            "resourceVersion": node.metadata.resource_version,
            "labels": {LABEL_NO_BALANCER: "karpenter"},
        },
        "spec": {"taints": all},
    });
    Some(Step::PatchNode { name, patch })
}

/// When the drain must be over, if the claim says so.
fn deadline(claim: &NodeClaim) -> Option<Timestamp> {
    let begun = claim.metadata.deletion_timestamp.as_ref()?.0;
    let grace = parse_duration(claim.spec.termination_grace_period.as_deref()?).ok()?;
    Some(later(begun, grace))
}

/// Says on the claim that it waits for pods, once the drain has lasted long enough to matter.
fn show_drain(claim: &NodeClaim, now: Timestamp, wake: &mut Option<Timestamp>) -> Option<Step> {
    let begun = claim.metadata.deletion_timestamp.as_ref()?.0;
    let show = later(begun, jiff::SignedDuration::from_secs(QUIET_DRAIN_SECONDS));
    if show > now {
        *wake = Some(wake.map_or(show, |wake| wake.min(show)));
        return None;
    }
    let mut status = claim.status.clone().unwrap_or_default();
    let list = status.conditions.get_or_insert_default();
    let message = "pods are leaving the node";
    let generation = claim.metadata.generation;
    api_conditions::set(
        list,
        DRAINED,
        Status::Unknown,
        "Draining",
        message,
        generation,
        now,
    )
    .then(|| Step::WriteStatus(Box::new(status)))
}

/// The machine is gone: let nodes and then the claim go.
fn release(observed: &Observed<'_>) -> Decision {
    let nodes = observed
        .nodes
        .iter()
        .filter(|node| has_finalizer(&node.metadata));
    let steps: Vec<Step> = nodes.filter_map(|node| release_node(node)).collect();
    if !steps.is_empty() || !observed.nodes.is_empty() {
        return Decision::only(steps);
    }
    let claim = observed
        .claim
        .filter(|claim| has_finalizer(&claim.metadata));
    Decision::only(claim.map(|_| Step::RemoveFinalizer).into_iter().collect())
}

fn release_node(node: &Node) -> Option<Step> {
    let name = node.metadata.name.clone()?;
    let mut finalizers = node.metadata.finalizers.clone().unwrap_or_default();
    finalizers.retain(|finalizer| finalizer != names::TERMINATION_FINALIZER);
    let version = &node.metadata.resource_version;
    let patch = json!({"metadata": {"resourceVersion": version, "finalizers": finalizers}});
    Some(Step::PatchNode { name, patch })
}
