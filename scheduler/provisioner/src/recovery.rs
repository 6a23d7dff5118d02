//! What a restarted process must know about machines that an earlier one launched, read from claims and nodes: the
//! API server is the simulated cloud's memory. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kaito_api::conditions::Status;
use kaito_api::nodeclaim::LAUNCHED;
use kaito_api::{NodeClaim, names};

use crate::cloud::LaunchRequest;
use crate::cloud::simulated::{ANNOTATION_FAULT, Adoption, provider_id};
use crate::lifecycle::conditions::since;
use crate::plane::node::LABEL_NODE_CLAIM;

/// The machine that a claim, a node, or both stand for. A claim without a recorded launch and without a node has
/// none: it is launched anew. A node without a claim still has one, so that ending it ends the machine.
#[must_use]
pub fn adoption(claim: Option<&NodeClaim>, node: Option<&Node>) -> Option<Adoption> {
    let launched = claim.and_then(|claim| since(claim.conditions(), LAUNCHED, Status::True));
    if launched.is_none() && node.is_none() {
        return None;
    }
    let label = |key: &str| {
        let of_node = node.and_then(|node| node.metadata.labels.as_ref()?.get(key));
        let of_claim = claim.and_then(|claim| claim.metadata.labels.as_ref()?.get(key));
        of_node.or(of_claim).cloned()
    };
    let request = claim
        .and_then(LaunchRequest::of)
        .or_else(|| node.and_then(request_of))?;
    let instance_type =
        label(names::LABEL_INSTANCE_TYPE).or_else(|| request.instance_types.first().cloned())?;
    let created =
        |metadata: &kube::api::ObjectMeta| metadata.creation_timestamp.as_ref().map(|time| time.0);
    let launched = launched
        .or_else(|| claim.and_then(|claim| created(&claim.metadata)))
        .or_else(|| node.and_then(|node| created(&node.metadata)))
        .unwrap_or(Timestamp::UNIX_EPOCH);
    let annotations = claim.and_then(|claim| claim.metadata.annotations.as_ref());
    let fault = annotations
        .and_then(|all| all.get(ANNOTATION_FAULT))
        .cloned();
    Some(Adoption {
        request,
        instance_type,
        zone: label(names::LABEL_ZONE).unwrap_or_default(),
        launched,
        fault,
    })
}

/// The request behind a node whose claim is gone, as far as it still matters.
fn request_of(node: &Node) -> Option<LaunchRequest> {
    let labels = node.metadata.labels.clone()?;
    let id = node.spec.as_ref()?.provider_id.as_deref()?;
    Some(LaunchRequest {
        claim: labels.get(LABEL_NODE_CLAIM)?.clone(),
        uid: id.strip_prefix(&provider_id(""))?.to_owned(),
        instance_types: Vec::new(),
        zones: Vec::new(),
        disk_gib: None,
        labels,
        taints: Vec::new(),
        startup_taints: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_without_claim_is_remembered_so_that_it_can_be_ended() {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "sim-ws1", "labels": {
                "kaito.sh/nodeclaim": "ws1", "node.kubernetes.io/instance-type": "Standard_NC24ads_A100_v4",
                "topology.kubernetes.io/zone": "eastus-2"}},
            "spec": {"providerID": "simulated:///u-1"}
        }))
        .unwrap();
        let adoption = adoption(None, Some(&node)).unwrap();
        assert_eq!(
            (adoption.request.uid.as_str(), adoption.zone.as_str()),
            ("u-1", "eastus-2")
        );
    }

    #[test]
    fn a_claim_that_was_never_launched_has_no_machine() {
        let claim: NodeClaim = serde_json::from_value(json!({
            "metadata": {"name": "ws1", "uid": "u"},
            "spec": {"nodeClassRef": {"group": "g", "kind": "k", "name": "n"}, "requirements": []}
        }))
        .unwrap();
        assert_eq!(adoption(Some(&claim), None), None);
    }
}
