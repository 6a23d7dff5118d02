//! Links from machines: NodeClaims that are not ready, nodes that are not usable.

use k8s_openapi::api::core::v1::Node;
use kaito_api::NodeClaim;
use kube::ResourceExt;

use super::{Depth, Link, advice, latest_warning};
use crate::view::facts::{Facts, created, node_of, node_of_claim, readiness_of_node};
use crate::view::phase::claim_stage;

/// Links of claims and nodes.
pub(super) fn links(facts: &Facts) -> Vec<Link> {
    let claims = facts.claims.iter().filter_map(|item| claim(facts, item));
    claims
        .chain(facts.nodes.iter().filter_map(|item| node(facts, item)))
        .collect()
}

fn claim(facts: &Facts, item: &NodeClaim) -> Option<Link> {
    let (stage, condition) = claim_stage(item)?;
    if is_in_use(facts, item) {
        return None;
    }
    let (value, mut message, since) = match condition {
        Some(condition) => (
            format!("{}, {}", condition.status, condition.reason),
            condition.message.clone(),
            Some(condition.last_transition_time.0),
        ),
        None => (
            "<none>".to_owned(),
            String::new(),
            created(item.metadata.creation_timestamp.as_ref()),
        ),
    };
    if message.is_empty() {
        message = latest_warning(facts, item.metadata.uid.as_deref()).unwrap_or_default();
    }
    let reason = condition.map_or("", |condition| condition.reason.as_str());
    Some(Link {
        depth: Depth::Cloud,
        object: format!("NodeClaim/{}", item.name_any()),
        field: format!("status.conditions[{stage}]"),
        unblock: advice::claim(reason, &message).or_else(|| waiting_advice(stage)),
        value,
        message,
        since,
        command: Some(format!("kubectl describe nodeclaim {}", item.name_any())),
    })
}

/// A node that a pod of the Workspace runs on is no obstacle, whatever its claim still waits for.
fn is_in_use(facts: &Facts, item: &NodeClaim) -> bool {
    let node = node_of_claim(item);
    node.is_some() && facts.pods.iter().any(|pod| node_of(pod) == node)
}

fn waiting_advice(stage: &str) -> Option<String> {
    let advice = match stage {
        "Launched" => {
            "the provisioner has not got the machine yet; if this lasts, check that it runs"
        }
        "Registered" => "the machine starts; it has not joined the cluster yet",
        "Initialized" => "the node has joined; its GPUs or start-up taints are not settled yet",
        _ => return None,
    };
    Some(advice.to_owned())
}

fn node(facts: &Facts, item: &Node) -> Option<Link> {
    let name = item.name_any();
    let ready = readiness_of_node(item);
    let command = Some(format!("kubectl describe node {name}"));
    let object = format!("Node/{name}");
    match ready {
        Some(condition) if condition.status == "True" => cordoned(item, object, command),
        Some(condition) => Some(Link {
            depth: Depth::Node,
            object,
            field: "status.conditions[Ready]".to_owned(),
            value: format!(
                "{}, {}",
                condition.status,
                condition.reason.as_deref().unwrap_or_default()
            ),
            message: condition.message.clone().unwrap_or_default(),
            since: created(condition.last_transition_time.as_ref()),
            unblock: Some(
                "repair or delete the node; its pods are then placed elsewhere".to_owned(),
            ),
            command,
        }),
        None => Some(Link {
            depth: Depth::Node,
            object,
            field: "status.conditions".to_owned(),
            value: "<none>".to_owned(),
            message: latest_warning(facts, item.metadata.uid.as_deref()).unwrap_or_default(),
            since: created(item.metadata.creation_timestamp.as_ref()),
            unblock: Some("wait for its kubelet to report".to_owned()),
            command,
        }),
    }
}

/// A cordoned node explains only pods that are still to come, but nothing else in the tree would mention it.
fn cordoned(item: &Node, object: String, command: Option<String>) -> Option<Link> {
    item.spec
        .as_ref()?
        .unschedulable
        .filter(|cordoned| *cordoned)?;
    Some(Link {
        depth: Depth::Node,
        object,
        field: "spec.unschedulable".to_owned(),
        value: "true".to_owned(),
        message: "the node is cordoned: no new pod is sent there".to_owned(),
        since: None,
        unblock: Some(format!("kubectl uncordon {}", item.name_any())),
        command,
    })
}
