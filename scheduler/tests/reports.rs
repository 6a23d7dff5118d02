//! The status of a Workspace from what is seen of its children.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use kaito_api::conditions;
use kaito_api::workspace::WorkspaceStatus;
use kaito_placement::plan::Blocker;
use kaito_scheduler::shared::Verdict;
use kaito_scheduler::workspace::status::{Observed, derive};
use kaito_snapshot::sizing::{NodeMode, Sizing};

fn observed() -> Observed {
    Observed {
        generation: Some(1),
        tuning: false,
        before: WorkspaceStatus::default(),
        sizing: Ok(Arc::new(Sizing {
            replicas: 1,
            gpus: 1,
            ..Sizing::default()
        })),
        pods: Vec::new(),
        nodes: Vec::new(),
        job: None,
        verdict: None,
        awaited: Vec::new(),
        mode: NodeMode::Auto,
        now: jiff::Timestamp::from_second(1_800_000_000).unwrap(),
    }
}

fn pod(yaml: &str) -> Arc<Pod> {
    Arc::new(serde_saphyr::from_str(yaml).unwrap())
}

fn on_a_ready_node(pod: Arc<Pod>) -> Observed {
    let node: Node = serde_saphyr::from_str(
        "{metadata: {name: gpu-1}, status: {allocatable: {nvidia.com/gpu: '1'}, \
         conditions: [{type: Ready, status: 'True'}]}}",
    )
    .unwrap();
    Observed {
        pods: vec![pod],
        nodes: vec![("gpu-1".to_owned(), Some(Arc::new(node)), None)],
        ..observed()
    }
}

fn condition(status: &WorkspaceStatus, kind: &str) -> (String, String, String) {
    let list = status.conditions.as_ref().unwrap();
    let found = list
        .iter()
        .find(|condition| condition.type_ == kind)
        .unwrap();
    (
        found.status.clone(),
        found.reason.clone(),
        found.message.clone(),
    )
}

#[test]
fn a_ready_pod_on_a_ready_node_makes_everything_true() {
    let running = pod(
        "{metadata: {name: phi-1}, spec: {containers: [], nodeName: gpu-1}, \
         status: {phase: Running, conditions: [{type: Ready, status: 'True'}]}}",
    );
    let status = derive(&on_a_ready_node(running));
    for kind in [
        conditions::PLACED,
        conditions::RESOURCE_READY,
        conditions::INFERENCE_READY,
        conditions::WORKSPACE_READY,
        conditions::WORKSPACE_SUCCEEDED,
    ] {
        assert_eq!(condition(&status, kind).0, "True", "{kind}");
    }
    assert_eq!(status.state.as_deref(), Some("Ready"));
    assert_eq!(status.worker_nodes, Some(vec!["gpu-1".to_owned()]));
}

#[test]
fn a_waiting_workspace_repeats_the_planner_word_for_word() {
    let message = "needs 1 pod × 1 GPU; 3 nodes: 2 have GPU memory 24 < 40 GiB, 1 is cordoned";
    let blocker = Blocker::NoNodeFits {
        excluded: Vec::new(),
        fitting_members: 0,
    };
    let verdict = Verdict::Waiting {
        blocker,
        message: message.to_owned(),
    };
    let status = derive(&Observed {
        verdict: Some(verdict),
        ..observed()
    });
    let (value, reason, text) = condition(&status, conditions::PLACED);
    assert_eq!(
        (value.as_str(), reason.as_str(), text.as_str()),
        ("False", "NoNodeFits", message)
    );
    assert_eq!(condition(&status, conditions::INFERENCE_READY).2, message);
    assert_eq!(status.state.as_deref(), Some("Pending"));
}

#[test]
fn a_failing_image_pull_is_named_before_anything_else() {
    let failing = pod(
        "{metadata: {name: phi-1}, spec: {containers: [], nodeName: gpu-1}, \
         status: {phase: Pending, containerStatuses: [{name: phi, ready: false, restartCount: 0, \
         image: i, imageID: '', state: {waiting: {reason: ImagePullBackOff, message: 401}}}]}}",
    );
    let status = derive(&on_a_ready_node(failing));
    let (value, reason, message) = condition(&status, conditions::INFERENCE_READY);
    assert_eq!(
        (value.as_str(), reason.as_str()),
        ("False", "ImagePullError")
    );
    assert!(message.contains("401"), "{message}");
}

#[test]
fn losing_readiness_is_not_ready_and_not_pending() {
    let running = pod(
        "{metadata: {name: phi-1}, spec: {containers: [], nodeName: gpu-1}, \
         status: {phase: Running, conditions: [{type: Ready, status: 'True'}]}}",
    );
    let before = derive(&on_a_ready_node(running));
    let after = derive(&Observed {
        before,
        ..observed()
    });
    assert_eq!(after.state.as_deref(), Some("NotReady"));
}

#[test]
fn a_workspace_that_cannot_be_sized_says_why() {
    let why = "phi-4 does not fit Standard_NC4as_T4_v3".to_owned();
    let status = derive(&Observed {
        sizing: Err(why.clone()),
        ..observed()
    });
    assert_eq!(condition(&status, conditions::PLACED).2, why);
    assert_eq!(status.plan.unwrap().reason, Some(why));
}

#[test]
fn nothing_changes_when_nothing_changed() {
    let running = pod(
        "{metadata: {name: phi-1}, spec: {containers: [], nodeName: gpu-1}, \
         status: {phase: Running, conditions: [{type: Ready, status: 'True'}]}}",
    );
    let first = derive(&on_a_ready_node(Arc::clone(&running)));
    let mut again = on_a_ready_node(running);
    again.before = first.clone();
    again.now = jiff::Timestamp::from_second(1_800_000_100).unwrap();
    assert_eq!(derive(&again), first);
}

#[test]
fn own_nodes_mode_has_no_claim_condition() {
    let status = derive(&Observed {
        mode: NodeMode::OwnNodes,
        ..observed()
    });
    let list = status.conditions.unwrap();
    assert!(
        list.iter()
            .all(|condition| condition.type_ != conditions::NODE_CLAIM_READY)
    );
}
