//! What to do about one claim now, from what is known of it. Pure and total.
//!
//! A live claim goes through launch, registration and initialization; all are looked at every time, so that changes
//! that happen together are written together. A claim that is deleted, or gone, is [terminated](super::terminate).

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kaito_api::conditions::is_true;
use kaito_api::nodeclaim::{INITIALIZED, LAUNCHED, NodeClaimStatus, READY, REGISTERED};
use kaito_api::{NodeClaim, names};
use serde_json::json;

use super::conditions::{self, Moment, Verdict};
use super::ending::{created, due, expiry, overdue, recorded_ending};
use super::initialized::{self, LABEL_INITIALIZED};
use super::step::{Decision, Step};
use super::terminate;
use crate::cloud::simulated::model::later;
use crate::cloud::{Deletion, LaunchError, Machine};

/// How long an intermediate status may wait for the next change, so that both cost one write. Short against every
/// human and every limit; long against the few milliseconds between Launched and Ready of an immediate cloud.
pub const HOLD: SignedDuration = SignedDuration::from_millis(400);

/// Kind of the provider configuration that makes a claim ours.
const NODE_CLASS: (&str, &str) = (names::GROUP, "KaitoNodeClass");

/// How far the request for the claim's machine is, as far as this process knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Progress {
    /// Not asked since the process began.
    #[default]
    Unasked,
    /// Under way.
    Pending {
        /// When to ask again.
        until: Timestamp,
    },
    /// The machine exists.
    Accepted(Box<Machine>),
    /// Refused.
    Refused {
        /// Why.
        error: LaunchError,
        /// When to ask again, unless the refusal is final.
        retry: Timestamp,
    },
}

/// Limits of a claim's life, in real time.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Creation → Launched.
    pub launch: SignedDuration,
    /// Creation → Registered.
    pub registration: SignedDuration,
    /// Registered → Initialized.
    pub initialization: SignedDuration,
    /// When this process began. Time before that counts against no limit: nobody was there to serve the claim.
    pub begun: Timestamp,
}

/// All that a decision may read.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// The claim, absent when it is gone.
    pub claim: Option<&'a NodeClaim>,
    /// Cloud id that the machine has or would have.
    pub provider_id: &'a str,
    /// Nodes with that id.
    pub nodes: &'a [Arc<Node>],
    /// Pods on those nodes; needed only when the claim ends.
    pub pods: &'a [Arc<Pod>],
    /// Launch progress.
    pub progress: &'a Progress,
    /// The cloud's last answer about the machine's end, if asked.
    pub deletion: Option<Deletion>,
    /// Evictions held back, by pod UID.
    pub evict_not_before: &'a BTreeMap<String, Timestamp>,
    /// Since when a status write is held.
    pub held_since: Option<Timestamp>,
    /// Limits.
    pub limits: Limits,
    /// Now.
    pub now: Timestamp,
}

/// Whether a claim is ours: it refers to our kind of provider configuration, or was made for a Workspace.
#[must_use]
pub fn is_ours(claim: &NodeClaim) -> bool {
    let reference = &claim.spec.node_class_ref;
    let labels = claim.metadata.labels.as_ref();
    (reference.group.as_str(), reference.kind.as_str()) == NODE_CLASS
        || labels.is_some_and(|labels| labels.contains_key(names::LABEL_WORKSPACE))
}

/// Whether our finalizer is on the object.
pub(crate) fn has_finalizer(metadata: &kube::api::ObjectMeta) -> bool {
    metadata
        .finalizers
        .iter()
        .flatten()
        .any(|name| name == names::TERMINATION_FINALIZER)
}

/// What to do now.
#[must_use]
pub fn decide(observed: &Observed<'_>) -> Decision {
    match observed.claim {
        Some(claim) if claim.metadata.deletion_timestamp.is_none() => live(observed, claim),
        _ => terminate::terminate(observed),
    }
}

fn live(observed: &Observed<'_>, claim: &NodeClaim) -> Decision {
    if !has_finalizer(&claim.metadata) {
        return Decision::only(vec![Step::AddFinalizer]);
    }
    if let Some(ending) = recorded_ending(observed, claim) {
        return ending.decision();
    }
    if ask_now(observed) {
        return Decision::only(vec![Step::Launch]);
    }
    let status = next_status(observed, claim);
    let list = status.conditions.as_deref().unwrap_or_default();
    if let Some(ending) = overdue(observed, claim, list) {
        return ending.decision();
    }
    let mut decision = Decision::default();
    decision.steps.extend(annotate(observed, claim));
    decision.steps.extend(node_patch(observed, claim, list));
    if claim.status.as_ref() != Some(&status) {
        write_or_hold(observed, status.clone(), &mut decision);
    }
    wake(observed, claim, list, &mut decision);
    decision
}

fn ask_now(observed: &Observed<'_>) -> bool {
    match observed.progress {
        Progress::Unasked => true,
        Progress::Pending { until } => *until <= observed.now,
        Progress::Accepted(_) => false,
        Progress::Refused { error, retry } => !error.is_final() && *retry <= observed.now,
    }
}

/// The status as it should be now.
fn next_status(observed: &Observed<'_>, claim: &NodeClaim) -> NodeClaimStatus {
    let mut status = claim.status.clone().unwrap_or_default();
    let recorded = status.conditions.clone().unwrap_or_default();
    let mut verdicts = Vec::new();
    match observed.progress {
        Progress::Unasked | Progress::Pending { .. } => {}
        Progress::Refused { error, .. } if error.is_final() => {
            verdicts.push((LAUNCHED, Verdict::fails(error.reason(), &error.to_string())));
        }
        Progress::Refused { error, .. } => {
            verdicts.push((
                LAUNCHED,
                Verdict::unknown(error.reason(), &error.to_string()),
            ));
        }
        Progress::Accepted(machine) => {
            verdicts.push((LAUNCHED, Verdict::holds()));
            status.provider_id = Some(machine.provider_id.clone());
            status.capacity = Some(machine.capacity.clone());
            status.allocatable = Some(machine.allocatable.clone());
            join(
                observed,
                claim,
                machine,
                &recorded,
                &mut status,
                &mut verdicts,
            );
        }
    }
    status.conditions = Some(conditions::advance(
        &recorded,
        &verdicts,
        moment(observed, claim),
    ));
    status
}

fn join(
    observed: &Observed<'_>,
    claim: &NodeClaim,
    machine: &Machine,
    recorded: &[Condition],
    status: &mut NodeClaimStatus,
    verdicts: &mut Vec<(&'static str, Verdict)>,
) {
    match observed.nodes {
        [] => {
            let verdict = Verdict::unknown("NodeNotFound", "Node not registered with cluster");
            verdicts.push((REGISTERED, verdict.clone()));
            verdicts.push((INITIALIZED, verdict));
        }
        [node] => {
            verdicts.push((REGISTERED, Verdict::holds()));
            status.node_name.clone_from(&node.metadata.name);
            // Initialization is reached once; what befalls the node later is the node's business.
            if !is_true(recorded, INITIALIZED) {
                let verdict = initialized::verdict(claim, node, machine.gpu_resource.as_deref());
                verdicts.push((INITIALIZED, verdict));
            }
        }
        _ => {
            let verdict = Verdict::fails(
                "MultipleNodesFound",
                "Invariant violated, matched multiple nodes",
            );
            verdicts.push((REGISTERED, verdict));
        }
    }
}

fn moment(observed: &Observed<'_>, claim: &NodeClaim) -> Moment {
    let created = created(claim).unwrap_or(observed.now);
    Moment {
        generation: claim.metadata.generation,
        created,
        now: observed.now,
    }
}

/// Labels and annotations that the machine settles; a label that the claim already has wins.
fn annotate(observed: &Observed<'_>, claim: &NodeClaim) -> Option<Step> {
    let Progress::Accepted(machine) = observed.progress else {
        return None;
    };
    let none = BTreeMap::new();
    let have = claim.metadata.labels.as_ref().unwrap_or(&none);
    let mut labels = machine.labels.clone();
    labels.retain(|key, _| !have.contains_key(key));
    let have = claim.metadata.annotations.as_ref().unwrap_or(&none);
    let mut annotations = machine.annotations.clone();
    annotations.retain(|key, value| have.get(key) != Some(value));
    (!labels.is_empty() || !annotations.is_empty()).then_some(Step::Annotate {
        labels,
        annotations,
    })
}

/// Registration until it is recorded, then the initialized label; one patch at a time, as both carry the version.
fn node_patch(observed: &Observed<'_>, claim: &NodeClaim, list: &[Condition]) -> Option<Step> {
    let ([node], true) = (observed.nodes, is_true(list, REGISTERED)) else {
        return None;
    };
    let name = node.metadata.name.clone()?;
    if !is_true(claim.conditions(), REGISTERED)
        && let Some(patch) = initialized::registration(claim, node)
    {
        return Some(Step::PatchNode { name, patch });
    }
    let labelled = node
        .metadata
        .labels
        .as_ref()
        .is_some_and(|labels| labels.contains_key(LABEL_INITIALIZED));
    if labelled || !is_true(list, INITIALIZED) {
        return None;
    }
    Some(Step::PatchNode {
        name,
        patch: json!({"metadata": {"labels": {LABEL_INITIALIZED: "true"}}}),
    })
}

/// Writes what somebody waits for at once, and lets intermediate states wait for company.
fn write_or_hold(observed: &Observed<'_>, status: NodeClaimStatus, decision: &mut Decision) {
    let list = status.conditions.as_deref().unwrap_or_default();
    let settled =
        is_true(list, READY) || list.iter().any(|c| c.type_ == READY && c.status == "False");
    let until = later(observed.held_since.unwrap_or(observed.now), HOLD);
    if settled || until <= observed.now {
        decision.steps.push(Step::WriteStatus(Box::new(status)));
    } else {
        decision.holds_status = true;
        decision.wake_at(until);
    }
}

fn wake(observed: &Observed<'_>, claim: &NodeClaim, list: &[Condition], decision: &mut Decision) {
    match observed.progress {
        Progress::Pending { until } => decision.wake_at(*until),
        Progress::Refused { error, retry } if !error.is_final() => decision.wake_at(*retry),
        _ => {}
    }
    let times = due(observed, claim, list)
        .map(|(at, _)| at)
        .into_iter()
        .chain(expiry(claim));
    times.for_each(|at| decision.wake_at(at));
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn claim(status: Value) -> NodeClaim {
        serde_json::from_value(json!({
            "apiVersion": "karpenter.sh/v1", "kind": "NodeClaim",
            "metadata": {
                "name": "ws1", "uid": "u", "generation": 1,
                "creationTimestamp": "1970-01-01T00:00:00Z",
                "finalizers": ["karpenter.sh/termination"],
                "labels": {"kaito.sh/workspace": "a"}
            },
            "spec": {
                "nodeClassRef": {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"},
                "requirements": [], "expireAfter": "Never"
            },
            "status": status
        }))
        .unwrap()
    }

    fn node(gpus: &str) -> Arc<Node> {
        Arc::new(
            serde_json::from_value(json!({
                "metadata": {
                    "name": "sim-ws1", "uid": "n", "finalizers": ["karpenter.sh/termination"],
                    "labels": {"kaito.sh/workspace": "a", "karpenter.sh/registered": "true"},
                    "ownerReferences": [
                        {"apiVersion": "karpenter.sh/v1", "kind": "NodeClaim", "name": "ws1", "uid": "u"}]
                },
                "spec": {"providerID": "simulated:///u"},
                "status": {"allocatable": {"nvidia.com/gpu": gpus},
                           "conditions": [{"type": "Ready", "status": "True"}]}
            }))
            .unwrap(),
        )
    }

    fn accepted() -> Progress {
        Progress::Accepted(Box::new(Machine {
            provider_id: "simulated:///u".to_owned(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            capacity: BTreeMap::new(),
            allocatable: BTreeMap::new(),
            gpu_resource: Some("nvidia.com/gpu".to_owned()),
        }))
    }

    static NO_EVICTIONS: BTreeMap<String, Timestamp> = BTreeMap::new();

    fn observed<'a>(
        claim: &'a NodeClaim,
        nodes: &'a [Arc<Node>],
        progress: &'a Progress,
        now: i64,
    ) -> Observed<'a> {
        Observed {
            claim: Some(claim),
            provider_id: "simulated:///u",
            nodes,
            pods: &[],
            progress,
            deletion: None,
            evict_not_before: &NO_EVICTIONS,
            held_since: None,
            limits: Limits {
                launch: SignedDuration::from_secs(100),
                registration: SignedDuration::from_secs(200),
                initialization: SignedDuration::from_secs(50),
                begun: at(0),
            },
            now: at(now),
        }
    }

    fn written(decision: &Decision) -> &NodeClaimStatus {
        let found = decision.steps.iter().find_map(|step| match step {
            Step::WriteStatus(status) => Some(status),
            _ => None,
        });
        found.unwrap_or_else(|| panic!("{decision:?}"))
    }

    #[test]
    fn the_finalizer_comes_before_anything_else() {
        let mut fresh = claim(Value::Null);
        fresh.metadata.finalizers = None;
        let decision = decide(&observed(&fresh, &[], &Progress::Unasked, 1));
        assert_eq!(decision.steps, [Step::AddFinalizer]);
    }

    #[test]
    fn ours_are_claims_of_our_class_or_of_a_workspace() {
        let mut other = claim(Value::Null);
        assert!(is_ours(&other));
        other.metadata.labels = None;
        assert!(is_ours(&other));
        other.spec.node_class_ref.kind = "AKSNodeClass".to_owned();
        assert!(!is_ours(&other));
    }

    #[test]
    fn an_immediate_cloud_costs_one_status_write_that_says_all() {
        let (claim, nodes, progress) = (claim(Value::Null), [node("1")], accepted());
        let decision = decide(&observed(&claim, &nodes, &progress, 1));
        let list = written(&decision).conditions.clone().unwrap();
        assert!(
            list.iter().all(|condition| condition.status == "True"),
            "{list:?}"
        );
        assert_eq!(written(&decision).node_name.as_deref(), Some("sim-ws1"));
        assert!(
            decision
                .steps
                .iter()
                .any(|step| matches!(step, Step::PatchNode { .. }))
        );
    }

    #[test]
    fn an_intermediate_status_waits_for_company_but_not_for_long() {
        let (claim, progress) = (claim(Value::Null), accepted());
        let mut seen = observed(&claim, &[], &progress, 1);
        let held = decide(&seen);
        assert!(held.holds_status && held.steps.is_empty());
        assert_eq!(held.wake, Some(later(at(1), HOLD)));
        seen.held_since = Some(at(0));
        assert_eq!(
            written(&decide(&seen)).provider_id.as_deref(),
            Some("simulated:///u")
        );
    }

    #[test]
    fn a_written_status_is_not_written_again() {
        let (mut claim, nodes, progress) = (claim(Value::Null), [node("1")], accepted());
        let decision = decide(&observed(&claim, &nodes, &progress, 1));
        claim.status = Some(written(&decision).clone());
        let again = decide(&observed(&claim, &nodes, &progress, 900));
        assert!(
            !again
                .steps
                .iter()
                .any(|step| matches!(step, Step::WriteStatus(_))),
            "{again:?}"
        );
        assert!(!again.holds_status);
    }

    #[test]
    fn a_final_refusal_is_recorded_at_once_then_reported_then_ends_the_claim() {
        let error = LaunchError::UnknownInstanceType {
            instance_type: "X".to_owned(),
        };
        let progress = Progress::Refused {
            error,
            retry: at(2),
        };
        let mut claim = claim(Value::Null);
        let decision = decide(&observed(&claim, &[], &progress, 1));
        claim.status = Some(written(&decision).clone());
        let ending = decide(&observed(&claim, &[], &Progress::Unasked, 1));
        let [
            Step::Report { reason, note },
            Step::DeleteClaim { if_absent: None },
        ] = &ending.steps[..]
        else {
            panic!("{ending:?}")
        };
        assert_eq!(reason, "InstanceTypeNotFound");
        assert!(note.contains('X'));
    }

    #[test]
    fn a_passing_failure_is_shown_and_tried_again() {
        let error = LaunchError::CreateFailed {
            instance_type: "X".to_owned(),
        };
        let progress = Progress::Refused {
            error,
            retry: at(5),
        };
        let claim = claim(Value::Null);
        let mut early = observed(&claim, &[], &progress, 1);
        early.held_since = Some(at(0));
        let decision = decide(&early);
        let launched = written(&decision).conditions.clone().unwrap();
        let launched = launched.iter().find(|c| c.type_ == LAUNCHED).unwrap();
        assert_eq!(
            (launched.status.as_str(), launched.reason.as_str()),
            ("Unknown", "LaunchFailed")
        );
        assert_eq!(decision.wake, Some(at(5)));
        assert_eq!(
            decide(&observed(&claim, &[], &progress, 5)).steps,
            [Step::Launch]
        );
    }

    #[test]
    fn each_stage_has_its_limit() {
        let (claim, progress) = (claim(Value::Null), accepted());
        let reason = |observed: &Observed<'_>| match &decide(observed).steps[..] {
            [Step::Report { reason, .. }, Step::DeleteClaim { .. }] => reason.clone(),
            other => panic!("{other:?}"),
        };
        let pending = Progress::Pending { until: at(999) };
        assert_eq!(
            reason(&observed(&claim, &[], &pending, 100)),
            "LaunchTimeout"
        );
        assert_eq!(
            reason(&observed(&claim, &[], &progress, 200)),
            "RegistrationTimeout"
        );
        let nodes = [node("0")];
        let mut registered = claim.clone();
        let mut seen = observed(&claim, &nodes, &progress, 10);
        seen.held_since = Some(at(0));
        registered.status = Some(written(&decide(&seen)).clone());
        assert_eq!(
            reason(&observed(&registered, &nodes, &progress, 60)),
            "InitializationTimeout"
        );
    }

    #[test]
    fn the_time_before_the_process_began_counts_against_no_limit() {
        let claim = claim(Value::Null);
        let pending = Progress::Pending { until: at(999) };
        let mut seen = observed(&claim, &[], &pending, 150);
        seen.limits.begun = at(140);
        assert!(decide(&seen).steps.is_empty());
        seen.limits.begun = at(50);
        assert!(matches!(
            &decide(&seen).steps[..],
            [Step::Report { .. }, Step::DeleteClaim { .. }]
        ));
    }

    #[test]
    fn a_claim_ends_with_its_node_once_the_absence_is_confirmed() {
        let (mut claim, nodes, progress) = (claim(Value::Null), [node("1")], accepted());
        claim.status = Some(written(&decide(&observed(&claim, &nodes, &progress, 1))).clone());
        let gone = decide(&observed(&claim, &[], &progress, 2));
        assert!(
            matches!(&gone.steps[..], [Step::DeleteClaim { if_absent: Some(name) }, Step::Report { .. }] if name == "sim-ws1")
        );
        let mut leaving = Node::clone(&nodes[0]);
        leaving.metadata.deletion_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(2)));
        let decision = decide(&observed(&claim, &[Arc::new(leaving)], &progress, 2));
        assert!(matches!(
            &decision.steps[..],
            [Step::Report { .. }, Step::DeleteClaim { if_absent: None }]
        ));
    }

    #[test]
    fn expiry_counts_from_creation_and_never_means_never() {
        let (mut claim, progress) = (claim(Value::Null), accepted());
        assert_eq!(expiry(&claim), None);
        claim.spec.expire_after = Some("1h".to_owned());
        let decision = decide(&observed(&claim, &[], &progress, 3600));
        assert!(
            matches!(&decision.steps[..], [Step::Report { reason, .. }, _] if reason == "Expired")
        );
    }
}
