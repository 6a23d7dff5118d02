//! When a registered node counts as initialized, and what registration makes of a node. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kaito_api::{NodeClaim, names};
use serde_json::{Value, json};

use super::conditions::Verdict;

/// Label: the node belongs to a claim.
pub(crate) const LABEL_REGISTERED: &str = "karpenter.sh/registered";
/// Label: the node has passed initialization.
pub(crate) const LABEL_INITIALIZED: &str = "karpenter.sh/initialized";
/// Taint: nothing runs here before registration.
pub(crate) const TAINT_UNREGISTERED: &str = "karpenter.sh/unregistered";
/// Label: leave the node's taints alone.
const LABEL_KEEP_TAINTS: &str = "karpenter.sh/do-not-sync-taints";

/// Taints that go by themselves while a node comes up, by key and effect.
const EPHEMERAL: [(&str, &str); 5] = [
    ("node.kubernetes.io/not-ready", "NoSchedule"),
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoSchedule"),
    (
        "node.cloudprovider.kubernetes.io/uninitialized",
        "NoSchedule",
    ),
    (TAINT_UNREGISTERED, "NoExecute"),
];

/// Whether the node is Ready.
#[must_use]
pub fn is_ready(node: &Node) -> bool {
    let status = node.status.as_ref();
    let conditions = status
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    conditions
        .iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Taints of a node.
pub(crate) fn taints(node: &Node) -> &[Taint] {
    node.spec
        .as_ref()
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default()
}

/// Whether the one node of a claim is initialized; `gpu_resource` is what the machine is known to have.
#[must_use]
pub fn verdict(claim: &NodeClaim, node: &Node, gpu_resource: Option<&str>) -> Verdict {
    if !is_ready(node) {
        return Verdict::unknown("NodeNotReady", "Node status is NotReady");
    }
    let startup = claim.spec.startup_taints.as_deref().unwrap_or_default();
    let same = |a: &Taint, b: &Taint| a.key == b.key && a.effect == b.effect;
    if let Some(taint) = startup
        .iter()
        .find(|taint| taints(node).iter().any(|found| same(found, taint)))
    {
        return blocked_by("StartupTaintsExist", "Startup taint", taint);
    }
    let ephemeral = |taint: &&Taint| {
        EPHEMERAL.contains(&(taint.key.as_str(), taint.effect.as_str()))
            || taint.key.starts_with("readiness.k8s.io/")
    };
    if let Some(taint) = taints(node).iter().find(ephemeral) {
        return blocked_by("KnownEphemeralTaintsExist", "Taint", taint);
    }
    match missing_resource(claim, node, gpu_resource) {
        Some(resource) => {
            let message = format!("Resource \"{resource}\" is not in the node's allocatable");
            Verdict::unknown("ResourceNotRegistered", &message)
        }
        None => Verdict::holds(),
    }
}

fn blocked_by(reason: &'static str, what: &str, taint: &Taint) -> Verdict {
    Verdict::unknown(
        reason,
        &format!("{what} \"{}:{}\" still exists", taint.key, taint.effect),
    )
}

/// The first resource that should be on the node and is not. `storage` is a request that no node reports.
fn missing_resource(claim: &NodeClaim, node: &Node, gpu_resource: Option<&str>) -> Option<String> {
    let none = BTreeMap::new();
    let allocatable = node
        .status
        .as_ref()
        .and_then(|status| status.allocatable.as_ref())
        .unwrap_or(&none);
    let requests = claim
        .spec
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref());
    let wanted = requests
        .into_iter()
        .flatten()
        .filter(|(name, quantity)| name.as_str() != "storage" && !is_zero(quantity))
        .map(|(name, _)| name.as_str());
    let mut all = wanted.chain(gpu_resource);
    all.find(|name| allocatable.get(*name).is_none_or(is_zero))
        .map(str::to_owned)
}

fn is_zero(quantity: &Quantity) -> bool {
    !quantity.0.chars().any(|c| ('1'..='9').contains(&c))
}

/// The owner reference of a claim's node.
pub(crate) fn owner(claim_name: &str, claim_uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: "karpenter.sh/v1".to_owned(),
        kind: "NodeClaim".to_owned(),
        name: claim_name.to_owned(),
        uid: claim_uid.to_owned(),
        block_owner_deletion: Some(true),
        controller: None,
    }
}

/// What registration must still change on the node, as a merge patch; `None` when nothing.
#[must_use]
pub fn registration(claim: &NodeClaim, node: &Node) -> Option<Value> {
    let (metadata, spec) = (metadata_patch(claim, node), taints_patch(claim, node));
    if metadata.is_none() && spec.is_none() {
        return None;
    }
    let mut metadata = metadata.unwrap_or_else(|| json!({}));
    if let Some(fields) = metadata.as_object_mut() {
        // The lists are replaced whole, so the patch must not meet a newer node.
        fields.insert(
            "resourceVersion".to_owned(),
            json!(node.metadata.resource_version),
        );
    }
    let mut patch = json!({ "metadata": metadata });
    if let (Some(taints), Some(fields)) = (spec, patch.as_object_mut()) {
        fields.insert("spec".to_owned(), json!({ "taints": taints }));
    }
    Some(patch)
}

fn metadata_patch(claim: &NodeClaim, node: &Node) -> Option<Value> {
    let none = BTreeMap::new();
    let have = node.metadata.labels.as_ref().unwrap_or(&none);
    let mut labels = claim.metadata.labels.clone().unwrap_or_default();
    labels.insert(LABEL_REGISTERED.to_owned(), "true".to_owned());
    labels.retain(|key, value| have.get(key) != Some(value));
    let mut finalizers = node.metadata.finalizers.clone().unwrap_or_default();
    let finalizer_missing = !finalizers
        .iter()
        .any(|name| name == names::TERMINATION_FINALIZER);
    let mut owners = node.metadata.owner_references.clone().unwrap_or_default();
    let uid = claim.metadata.uid.as_deref().unwrap_or_default();
    let owner_missing = !owners.iter().any(|found| found.uid == uid);
    if labels.is_empty() && !finalizer_missing && !owner_missing {
        return None;
    }
    if finalizer_missing {
        finalizers.push(names::TERMINATION_FINALIZER.to_owned());
    }
    if owner_missing {
        owners.push(owner(
            claim.metadata.name.as_deref().unwrap_or_default(),
            uid,
        ));
    }
    Some(json!({ "labels": labels, "finalizers": finalizers, "ownerReferences": owners }))
}

fn taints_patch(claim: &NodeClaim, node: &Node) -> Option<Vec<Taint>> {
    let keep = node
        .metadata
        .labels
        .as_ref()
        .and_then(|labels| labels.get(LABEL_KEEP_TAINTS));
    if keep.is_some_and(|value| value == "true") {
        return None;
    }
    let have = taints(node);
    let mut wanted: Vec<Taint> = have
        .iter()
        .filter(|taint| taint.key != TAINT_UNREGISTERED)
        .cloned()
        .collect();
    let registered = node
        .metadata
        .labels
        .as_ref()
        .is_some_and(|labels| labels.contains_key(LABEL_REGISTERED));
    // Startup taints are removed by others: they are put on once, before the node carries the registered label.
    let startup = if registered {
        None
    } else {
        claim.spec.startup_taints.as_ref()
    };
    for taint in claim.spec.taints.iter().chain(startup).flatten() {
        if !wanted
            .iter()
            .any(|found| found.key == taint.key && found.effect == taint.effect)
        {
            wanted.push(taint.clone());
        }
    }
    (wanted != have).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use kaito_api::conditions::Status;
    use serde_json::json;

    use super::*;

    fn claim() -> NodeClaim {
        serde_json::from_value(json!({
            "metadata": {"name": "ws1", "uid": "u", "labels": {"kaito.sh/workspace": "a"}},
            "spec": {
                "nodeClassRef": {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "default"},
                "requirements": [],
                "resources": {"requests": {"storage": "1024Gi"}},
                "taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}],
                "startupTaints": [{"key": "boot", "effect": "NoSchedule"}]
            }
        }))
        .unwrap()
    }

    fn node(ready: &str, gpus: &str, taints: Value) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "resourceVersion": "5"},
            "spec": {"taints": taints},
            "status": {"allocatable": {"nvidia.com/gpu": gpus},
                       "conditions": [{"type": "Ready", "status": ready}]}
        }))
        .unwrap()
    }

    #[test]
    fn every_blocker_has_its_reason_and_storage_is_none() {
        let not_ready = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]);
        for (node, reason) in [
            (node("False", "1", json!([])), "NodeNotReady"),
            (
                node(
                    "True",
                    "1",
                    json!([{"key": "boot", "effect": "NoSchedule"}]),
                ),
                "StartupTaintsExist",
            ),
            (node("True", "1", not_ready), "KnownEphemeralTaintsExist"),
            (node("True", "0", json!([])), "ResourceNotRegistered"),
        ] {
            assert_eq!(
                verdict(&claim(), &node, Some("nvidia.com/gpu")).reason,
                reason
            );
        }
        let done = verdict(
            &claim(),
            &node("True", "1", json!([])),
            Some("nvidia.com/gpu"),
        );
        assert_eq!(done.status, Status::True);
    }

    #[test]
    fn registration_adds_what_is_missing_in_one_guarded_patch_and_then_nothing() {
        let unregistered = json!([{"key": "karpenter.sh/unregistered", "effect": "NoExecute"}]);
        let mut node = node("True", "1", unregistered);
        let patch = registration(&claim(), &node).unwrap();
        assert_eq!(patch["metadata"]["resourceVersion"], "5");
        assert_eq!(
            patch["metadata"]["labels"]["karpenter.sh/registered"],
            "true"
        );
        assert_eq!(
            patch["metadata"]["finalizers"],
            json!(["karpenter.sh/termination"])
        );
        let keys: Vec<&str> = patch["spec"]["taints"]
            .as_array()
            .unwrap()
            .iter()
            .map(|t| t["key"].as_str().unwrap())
            .collect();
        assert_eq!(keys, ["sku", "boot"]);
        node.metadata.labels = serde_json::from_value(patch["metadata"]["labels"].clone()).unwrap();
        node.metadata.finalizers =
            serde_json::from_value(patch["metadata"]["finalizers"].clone()).unwrap();
        node.metadata.owner_references =
            serde_json::from_value(patch["metadata"]["ownerReferences"].clone()).unwrap();
        node.spec.as_mut().unwrap().taints = Some(claim().spec.taints.unwrap());
        assert_eq!(
            registration(&claim(), &node),
            None,
            "a removed startup taint stays removed"
        );
    }
}
