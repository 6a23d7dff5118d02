//! What one pod asks for and where it stands.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use kaito_api::names;
use kaito_placement::snapshot::{Resources, TaintEffect, Toleration};

use crate::quantity;

/// Where a pod stands with respect to nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stand {
    /// Still behind our gate.
    Gated,
    /// Bound to, or pinned to and released for, this node.
    On(String),
    /// Neither ours nor bound: kube-scheduler will decide.
    Elsewhere,
    /// Succeeded or Failed: it holds nothing.
    Ended,
}

/// Where `pod` stands. A pod of ours whose gate is lifted counts on the node that it is pinned to even before
/// kube-scheduler has bound it.
#[must_use]
pub fn stand(pod: &Pod) -> Stand {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return Stand::Ended;
    }
    let Some(spec) = pod.spec.as_ref() else {
        return Stand::Elsewhere;
    };
    if let Some(node) = spec.node_name.as_ref() {
        return Stand::On(node.clone());
    }
    if is_gated(spec) {
        return Stand::Gated;
    }
    let pinned = spec
        .node_selector
        .as_ref()
        .and_then(|labels| labels.get(names::LABEL_HOSTNAME));
    match pinned {
        Some(host) if is_ours(pod) => Stand::On(host.clone()),
        _ => Stand::Elsewhere,
    }
}

/// Labels that the pod wants of its node, whichever that is: its node selector without a pin.
#[must_use]
pub fn required_labels(spec: &PodSpec) -> BTreeMap<String, String> {
    let mut labels = spec.node_selector.clone().unwrap_or_default();
    labels.remove(names::LABEL_HOSTNAME);
    labels
}

/// Whether our gate is still on the pod.
#[must_use]
pub fn is_gated(spec: &PodSpec) -> bool {
    spec.scheduling_gates
        .iter()
        .flatten()
        .any(|gate| gate.name == names::GATE)
}

/// Name of the Workspace that the pod belongs to, by label.
#[must_use]
pub fn workspace_of(pod: &Pod) -> Option<&str> {
    pod.metadata
        .labels
        .as_ref()?
        .get(names::LABEL_WORKSPACE)
        .map(String::as_str)
}

/// Name of the gang by which a pod without a Workspace asks us for a place, by label.
#[must_use]
pub fn gang_of(pod: &Pod) -> Option<&str> {
    let labels = pod.metadata.labels.as_ref()?;
    if labels.contains_key(names::LABEL_WORKSPACE) {
        return None;
    }
    labels.get(names::LABEL_GANG).map(String::as_str)
}

/// Whether it is us who place the pod: it belongs to a Workspace or asks by label.
#[must_use]
pub fn is_ours(pod: &Pod) -> bool {
    workspace_of(pod).is_some() || gang_of(pod).is_some()
}

/// Whether the pod's Ready condition is True.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    pod.status
        .as_ref()
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|list| {
            list.iter()
                .any(|c| c.type_ == "Ready" && c.status == "True")
        })
}

/// What the pod takes from its node, by Kubernetes' rule: the sum over containers and restartable init containers,
/// or the largest init container if that is more, plus pod overhead. Limits stand in for absent requests.
#[must_use]
pub fn resources(spec: &PodSpec) -> Resources {
    let mut running = Resources::default();
    for container in &spec.containers {
        running = add(running, of_container(container));
    }
    let mut peak = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let needs = of_container(container);
        if container.restart_policy.as_deref() == Some("Always") {
            running = add(running, needs);
        } else {
            peak = largest(peak, needs);
        }
    }
    let mut total = largest(running, peak);
    if let Some(overhead) = spec.overhead.as_ref() {
        total = add(total, of_map(overhead));
    }
    total.pods = 1;
    total
}

fn of_container(container: &Container) -> Resources {
    container
        .resources
        .as_ref()
        .map(of_requirements)
        .unwrap_or_default()
}

fn of_requirements(requirements: &ResourceRequirements) -> Resources {
    let mut merged = requirements.limits.clone().unwrap_or_default();
    merged.extend(requirements.requests.clone().unwrap_or_default());
    of_map(&merged)
}

/// Reads a resource list as Kubernetes writes it.
#[must_use]
pub fn of_map(
    map: &BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>,
) -> Resources {
    let units = |key: &str| map.get(key).map_or(0, quantity::units);
    Resources {
        milli_cpu: map.get("cpu").map_or(0, quantity::milli),
        memory_bytes: units("memory"),
        ephemeral_bytes: units("ephemeral-storage"),
        pods: units("pods"),
        gpus: units(names::RESOURCE_GPU),
    }
}

/// Sum, saturating.
#[must_use]
pub fn add(left: Resources, right: Resources) -> Resources {
    Resources {
        milli_cpu: left.milli_cpu.saturating_add(right.milli_cpu),
        memory_bytes: left.memory_bytes.saturating_add(right.memory_bytes),
        ephemeral_bytes: left.ephemeral_bytes.saturating_add(right.ephemeral_bytes),
        pods: left.pods.saturating_add(right.pods),
        gpus: left.gpus.saturating_add(right.gpus),
    }
}

/// The larger of each amount.
#[must_use]
pub fn largest(left: Resources, right: Resources) -> Resources {
    Resources {
        milli_cpu: left.milli_cpu.max(right.milli_cpu),
        memory_bytes: left.memory_bytes.max(right.memory_bytes),
        ephemeral_bytes: left.ephemeral_bytes.max(right.ephemeral_bytes),
        pods: left.pods.max(right.pods),
        gpus: left.gpus.max(right.gpus),
    }
}

/// The pod's tolerations in the planner's form.
#[must_use]
pub fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    spec.tolerations
        .iter()
        .flatten()
        .map(|toleration| Toleration {
            key: toleration.key.clone().unwrap_or_default(),
            value: match toleration.operator.as_deref() {
                Some("Exists") => None,
                _ => Some(toleration.value.clone().unwrap_or_default()),
            },
            effect: toleration.effect.as_deref().and_then(effect),
        })
        .collect()
}

/// The effect of a taint or toleration; unknown effects are none.
#[must_use]
pub fn effect(text: &str) -> Option<TaintEffect> {
    match text {
        "NoSchedule" => Some(TaintEffect::NoSchedule),
        "PreferNoSchedule" => Some(TaintEffect::PreferNoSchedule),
        "NoExecute" => Some(TaintEffect::NoExecute),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Stand, resources, stand};
    use k8s_openapi::api::core::v1::Pod;

    fn pod(yaml: &str) -> Pod {
        serde_saphyr::from_str(yaml).unwrap()
    }

    #[test]
    fn a_released_pod_counts_on_the_node_it_is_pinned_to() {
        let pinned = pod(
            "{metadata: {labels: {kaito.sh/workspace: phi}}, spec: {containers: [], \
             nodeSelector: {kubernetes.io/hostname: gpu-1}}}",
        );
        assert_eq!(stand(&pinned), Stand::On("gpu-1".into()));
    }

    #[test]
    fn a_gated_pod_is_nowhere_even_if_it_has_a_selector() {
        let gated = pod(
            "{metadata: {labels: {kaito.sh/workspace: phi}}, spec: {containers: [], \
             schedulingGates: [{name: kaito.sh/placement}]}}",
        );
        assert_eq!(stand(&gated), Stand::Gated);
    }

    #[test]
    fn init_containers_count_by_their_peak() {
        let both = pod(
            "{spec: {initContainers: [{name: i, resources: {requests: {cpu: 4}}}], \
             containers: [{name: a, resources: {requests: {cpu: 1}, limits: {nvidia.com/gpu: 2}}}, \
             {name: b, resources: {requests: {cpu: 500m}}}]}}",
        );
        let needs = resources(both.spec.as_ref().unwrap());
        assert_eq!((needs.milli_cpu, needs.gpus, needs.pods), (4_000, 2, 1));
    }
}
