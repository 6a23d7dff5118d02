//! What the planner is shown of a cluster.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use kaito_api::{NodeClaim, Workspace};
use kaito_placement::snapshot::{Purchase, Snapshot};
use kaito_snapshot::cluster::{Memory, Objects, snapshot};
use kaito_snapshot::sizing::{Surroundings, size};
use serde::de::DeserializeOwned;

fn object<K: DeserializeOwned>(yaml: &str) -> Arc<K> {
    Arc::new(serde_saphyr::from_str(yaml).unwrap())
}

fn workspace(name: &str, model: &str, instance_type: &str) -> Arc<Workspace> {
    object(&format!(
        "{{apiVersion: kaito.sh/v1beta1, kind: Workspace, \
         metadata: {{name: {name}, namespace: n, uid: uid-{name}}}, \
         resource: {{instanceType: {instance_type}, labelSelector: {{matchLabels: {{apps: {name}}}}}}}, \
         inference: {{preset: {{name: {model}}}}}}}"
    ))
}

fn gated(workspace: &str, name: &str) -> Arc<Pod> {
    object(&format!(
        "{{metadata: {{name: {name}, namespace: n, labels: {{kaito.sh/workspace: {workspace}}}}}, \
         spec: {{schedulingGates: [{{name: kaito.sh/placement}}], containers: [\
         {{name: c, resources: {{limits: {{nvidia.com/gpu: 1}}}}}}]}}}}"
    ))
}

fn node(yaml: &str) -> Arc<Node> {
    object(yaml)
}

const READY: &str = "status: {allocatable: {cpu: 24, memory: 200Gi, pods: 110, nvidia.com/gpu: 2}, \
     conditions: [{type: Ready, status: 'True'}]}";

fn shown(workspaces: &[Arc<Workspace>], rest: Objects, memory: &Memory) -> Snapshot {
    let workspaces = workspaces
        .iter()
        .map(|workspace| {
            let sizing = size(workspace, &Surroundings::default()).unwrap();
            (Arc::clone(workspace), Arc::new(sizing))
        })
        .collect();
    snapshot(&Objects { workspaces, ..rest }, memory, 100)
}

#[test]
fn a_bought_node_is_never_taken_for_somebody_elses_before_its_claim_names_it() {
    let claim: Arc<NodeClaim> = object(
        "{apiVersion: karpenter.sh/v1, kind: NodeClaim, \
         metadata: {name: ws1, labels: {karpenter.sh/nodepool: kaito}}, spec: {\
         nodeClassRef: {group: kaito.sh, kind: KaitoNodeClass, name: default}, requirements: [\
         {key: node.kubernetes.io/instance-type, operator: In, values: [Standard_NC48ads_A100_v4]}]}}",
    );
    let joined = node(&format!(
        "{{metadata: {{name: n1, labels: {{kaito.sh/nodeclaim: ws1}}}}, {READY}}}"
    ));
    let rest = Objects {
        nodes: vec![joined],
        claims: vec![claim],
        ..Objects::default()
    };
    let seen = shown(&[], rest, &Memory::default());
    assert_eq!(seen.nodes.len(), 1, "the claim and its node are one");
    assert_eq!(seen.nodes[0].claim.as_deref(), Some("ws1"));
    assert!(!seen.nodes[0].available && seen.nodes[0].expected);
}

#[test]
fn a_gang_is_shown_only_when_all_its_pods_are_there() {
    let model = workspace(
        "llama",
        "llama-3.3-70b-instruct",
        "Standard_NC48ads_A100_v4",
    );
    let one = Objects {
        pods: vec![gated("llama", "llama-0")],
        ..Objects::default()
    };
    assert!(
        shown(&[Arc::clone(&model)], one, &Memory::default())
            .demands
            .is_empty()
    );
    let both = Objects {
        pods: vec![gated("llama", "llama-1"), gated("llama", "llama-0")],
        ..Objects::default()
    };
    let seen = shown(&[model], both, &Memory::default());
    assert_eq!(seen.demands[0].members, ["llama-0", "llama-1"]);
}

#[test]
fn a_half_released_gang_goes_before_all_others_of_its_priority() {
    let model = workspace(
        "llama",
        "llama-3.3-70b-instruct",
        "Standard_NC48ads_A100_v4",
    );
    let released: Arc<Pod> = object(
        "{metadata: {name: llama-0, namespace: n, labels: {kaito.sh/workspace: llama}}, \
         spec: {nodeSelector: {kubernetes.io/hostname: n1}, containers: []}}",
    );
    let rest = Objects {
        pods: vec![released, gated("llama", "llama-1")],
        ..Objects::default()
    };
    let seen = shown(&[model], rest, &Memory::default());
    assert_eq!(seen.demands[0].priority, 0);
    assert_eq!(seen.demands[0].created_seconds, i64::MIN);
    assert_eq!(seen.demands[0].placed_on, ["n1"]);
}

#[test]
fn a_promise_that_no_object_shows_yet_counts_as_used() {
    let phi = workspace("phi", "phi-4-mini-instruct", "Standard_NC48ads_A100_v4");
    let host = node(&format!(
        "{{metadata: {{name: n1, labels: {{kubernetes.io/hostname: n1}}}}, {READY}}}"
    ));
    let mut memory = Memory::default();
    memory
        .assumed
        .insert(("n".to_owned(), "phi-0".to_owned()), "n1".to_owned());
    let rest = Objects {
        nodes: vec![host],
        pods: vec![gated("phi", "phi-0")],
        ..Objects::default()
    };
    let seen = shown(&[phi], rest, &memory);
    assert!(seen.demands.is_empty());
    assert_eq!(seen.nodes[0].used.gpus, 1);
}

#[test]
fn nothing_is_bought_for_a_rollout_whose_old_pod_is_still_leaving() {
    let phi = workspace("phi", "phi-4-mini-instruct", "Standard_NC24ads_A100_v4");
    let leaving: Arc<Pod> = object(
        "{metadata: {name: old, namespace: n, deletionTimestamp: '2026-01-01T00:00:00Z', \
         labels: {kaito.sh/workspace: phi}}, spec: {nodeName: n1, containers: []}}",
    );
    let rest = Objects {
        pods: vec![leaving, gated("phi", "new")],
        ..Objects::default()
    };
    assert_eq!(
        shown(&[phi], rest, &Memory::default()).demands[0].purchase,
        Purchase::Never
    );
}

#[test]
fn nothing_more_is_bought_when_a_fresh_node_of_its_own_stands_idle() {
    let phi = workspace("phi", "phi-4-mini-instruct", "Standard_NC24ads_A100_v4");
    let claim: Arc<NodeClaim> = object(
        "{apiVersion: karpenter.sh/v1, kind: NodeClaim, metadata: {name: ws1, \
         labels: {karpenter.sh/nodepool: kaito}, annotations: {kaito.sh/buyer-uid: uid-phi}}, \
         spec: {nodeClassRef: {group: kaito.sh, kind: KaitoNodeClass, name: default}, requirements: []}, \
         status: {conditions: [{type: Initialized, status: 'True', reason: Initialized, message: '', \
         lastTransitionTime: '2026-01-01T00:00:00Z'}]}}",
    );
    let mut memory = Memory::default();
    memory.idle_since.insert("ws1".to_owned(), 90);
    let rest = Objects {
        pods: vec![gated("phi", "phi-0")],
        claims: vec![claim],
        ..Objects::default()
    };
    let seen = shown(std::slice::from_ref(&phi), rest.clone(), &memory);
    assert_eq!(seen.demands[0].purchase, Purchase::Never);
    let seen = shown(&[phi], rest, &Memory::default());
    assert_eq!(seen.demands[0].purchase, Purchase::Fixed);
}
