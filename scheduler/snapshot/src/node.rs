//! Nodes, and claims whose node is still to come, as the planner sees them.

use k8s_openapi::api::core::v1::Node;
use kaito_api::{NodeClaim, catalogue, names, nodeclaim};
use kaito_placement::estimate::Gpus;
use kaito_placement::snapshot::{self, Resources, Taint};

use crate::{pod, quantity, sizing};

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// Taints that Kubernetes takes away by itself once a node is up; they show in availability instead.
const STARTUP_TAINTS: [&str; 4] = [
    "node.kubernetes.io/not-ready",
    "node.kubernetes.io/unreachable",
    "node.cloudprovider.kubernetes.io/uninitialized",
    "karpenter.sh/unregistered",
];

/// Whether the node's Ready condition is True.
#[must_use]
pub fn is_ready(node: &Node) -> bool {
    node.status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|list| {
            list.iter()
                .any(|c| c.type_ == "Ready" && c.status == "True")
        })
}

/// GPUs that the node lets pods use.
#[must_use]
pub fn allocatable_gpus(node: &Node) -> u64 {
    node.status
        .as_ref()
        .and_then(|status| status.allocatable.as_ref())
        .and_then(|map| map.get(names::RESOURCE_GPU))
        .map_or(0, quantity::units)
}

/// The node with nothing used yet. `claim` is the claim that bought it, if any.
#[must_use]
pub fn node(node: &Node, claim: Option<&NodeClaim>) -> snapshot::Node {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    let allocatable = node
        .status
        .as_ref()
        .and_then(|status| status.allocatable.as_ref())
        .map(pod::of_map)
        .unwrap_or_default();
    let reason = unavailable(node, claim);
    let expected = reason.is_none() || reason == Some("starting");
    let instance_type = labels.get(names::LABEL_INSTANCE_TYPE).cloned();
    let gpu_memory_bytes = gpu_memory(&labels, instance_type.as_deref());
    let planned = instance_type.as_deref().and_then(catalogue::instance_type);
    let allocatable = match planned {
        // A bought node that has not shown its GPUs yet is planned with what its type promises.
        Some(info) if claim.is_some() && allocatable.gpus == 0 => {
            sizing::instance_type(info).allocatable
        }
        _ => allocatable,
    };
    snapshot::Node {
        name: node.metadata.name.clone().unwrap_or_default(),
        taints: taints(node),
        instance_type,
        gpu_memory_bytes,
        allocatable,
        used: Resources::default(),
        available: reason.is_none(),
        unavailable_reason: reason.unwrap_or_default().to_owned(),
        expected,
        claim: claim.and_then(|claim| claim.metadata.name.clone()),
        leaving_pods: 0,
        labels,
    }
}

fn unavailable(node: &Node, claim: Option<&NodeClaim>) -> Option<&'static str> {
    if node.metadata.deletion_timestamp.is_some()
        || claim.is_some_and(|claim| claim.metadata.deletion_timestamp.is_some())
    {
        return Some("being removed");
    }
    let spec = node.spec.as_ref();
    if spec.and_then(|spec| spec.unschedulable) == Some(true) {
        return Some("cordoned");
    }
    let starting = spec
        .and_then(|spec| spec.taints.as_ref())
        .is_some_and(|taints| {
            taints
                .iter()
                .any(|taint| STARTUP_TAINTS.contains(&taint.key.as_str()))
        });
    let launching = claim.is_some_and(|claim| {
        !kaito_api::conditions::is_true(claim.conditions(), nodeclaim::INITIALIZED)
    });
    match (is_ready(node), starting, claim.is_some() && launching) {
        (_, _, true) => Some("starting"),
        (false, _, _) => Some("not ready"),
        (true, true, _) => Some("starting"),
        (true, false, false) => None,
    }
}

fn taints(node: &Node) -> Vec<Taint> {
    node.spec
        .iter()
        .filter_map(|spec| spec.taints.as_ref())
        .flatten()
        .filter(|taint| !STARTUP_TAINTS.contains(&taint.key.as_str()))
        .filter(|taint| taint.key != "node.kubernetes.io/unschedulable")
        .filter_map(|taint| {
            Some(Taint {
                key: taint.key.clone(),
                value: taint.value.clone().unwrap_or_default(),
                effect: pod::effect(&taint.effect)?,
            })
        })
        .collect()
}

/// Nominal bytes per GPU: the discovery label in MiB rounded to whole GiB as KAITO does, else the type's figure.
fn gpu_memory(
    labels: &std::collections::BTreeMap<String, String>,
    instance_type: Option<&str>,
) -> u64 {
    let labelled = labels
        .get(names::LABEL_GPU_MEMORY)
        .and_then(|text| text.parse::<u64>().ok())
        .map(|mib| (mib * MIB + GIB / 2) / GIB * GIB);
    labelled
        .or_else(|| {
            instance_type
                .and_then(catalogue::instance_type)
                .map(|info| u64::from(info.gpu_memory_gib) * GIB)
        })
        .unwrap_or(0)
}

/// A claim whose node has not appeared, as the node that is expected of it; `None` when its type is unknown, it is
/// being deleted, or its launch was refused.
#[must_use]
pub fn expected_node(claim: &NodeClaim) -> Option<snapshot::Node> {
    if claim.metadata.deletion_timestamp.is_some() || refusal(claim).is_some() {
        return None;
    }
    let info = catalogue::instance_type(claim.instance_type()?)?;
    let name = claim.metadata.name.clone()?;
    let planned = sizing::instance_type(info);
    Some(snapshot::Node {
        name: name.clone(),
        labels: claim.metadata.labels.clone().unwrap_or_default(),
        taints: claim
            .spec
            .taints
            .iter()
            .flatten()
            .filter_map(|taint| {
                Some(Taint {
                    key: taint.key.clone(),
                    value: taint.value.clone().unwrap_or_default(),
                    effect: pod::effect(&taint.effect)?,
                })
            })
            .collect(),
        instance_type: Some(info.name.clone()),
        gpu_memory_bytes: planned.gpu_memory_bytes,
        allocatable: planned.allocatable,
        used: Resources::default(),
        available: false,
        unavailable_reason: "being launched".to_owned(),
        expected: true,
        claim: Some(name),
        leaving_pods: 0,
    })
}

/// Why the cloud refused the claim for good, if it did: reason and message of its Launched condition when False.
#[must_use]
pub fn refusal(claim: &NodeClaim) -> Option<(&str, &str)> {
    claim
        .conditions()
        .iter()
        .find(|condition| condition.type_ == nodeclaim::LAUNCHED && condition.status == "False")
        .map(|condition| (condition.reason.as_str(), condition.message.as_str()))
}

/// GPU shape of a node as the estimator wants it; `None` without GPUs or known memory.
#[must_use]
pub fn gpus(node: &Node) -> Option<Gpus> {
    let labels = node.metadata.labels.as_ref()?;
    let instance_type = labels.get(names::LABEL_INSTANCE_TYPE).map(String::as_str);
    let info = instance_type.and_then(catalogue::instance_type);
    let memory_bytes = gpu_memory(labels, instance_type);
    let count = u32::try_from(allocatable_gpus(node)).ok()?;
    let model = labels
        .get(names::LABEL_GPU_PRODUCT)
        .cloned()
        .or_else(|| info.map(|info| info.gpu_model.clone()))
        .unwrap_or_default();
    (count > 0 && memory_bytes > 0).then_some(Gpus {
        model,
        count,
        memory_bytes,
    })
}
