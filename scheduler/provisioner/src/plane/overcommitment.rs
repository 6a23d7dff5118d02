//! Whether a pod finds its node's devices used up, as a kubelet checks on admission. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Node, Pod};

use super::pods::{containers, init_containers};

/// The extended resource that `pod` finds used up on its node, if any. Pods that were accepted before, then older
/// ones, come first; the order ends in the name, so that concurrent decisions agree.
#[must_use]
pub fn overcommitted(pod: &Pod, node: &Node, others: &[std::sync::Arc<Pod>]) -> Option<String> {
    let wanted = extended(pod);
    if wanted.is_empty() {
        return None;
    }
    let mut used: BTreeMap<String, u64> = BTreeMap::new();
    for other in others
        .iter()
        .filter(|other| is_live(other) && rank(other) < rank(pod))
    {
        for (name, count) in extended(other) {
            *used.entry(name).or_default() += count;
        }
    }
    let allocatable = node
        .status
        .as_ref()
        .and_then(|status| status.allocatable.as_ref());
    let free = |name: &str| {
        let all = allocatable
            .and_then(|all| all.get(name))
            .and_then(|quantity| quantity.0.parse::<u64>().ok());
        all.unwrap_or(0)
            .saturating_sub(used.get(name).copied().unwrap_or(0))
    };
    wanted
        .into_iter()
        .find(|(name, count)| *count > free(name))
        .map(|(name, _)| name)
}

fn is_live(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

type Rank<'a> = (bool, Option<Timestamp>, Option<&'a str>, Option<&'a str>);

fn rank(pod: &Pod) -> Rank<'_> {
    let accepted = pod
        .status
        .as_ref()
        .is_some_and(|status| status.start_time.is_some());
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (
        !accepted,
        created,
        pod.metadata.namespace.as_deref(),
        pod.metadata.name.as_deref(),
    )
}

/// Extended resources that the pod needs: the sum over its containers, or the largest init container.
fn extended(pod: &Pod) -> BTreeMap<String, u64> {
    let needs = |container: &Container| -> BTreeMap<String, u64> {
        let resources = container.resources.as_ref();
        let limits = resources.and_then(|resources| resources.limits.as_ref());
        let counted = limits
            .into_iter()
            .flatten()
            .filter(|(name, _)| name.contains('/'));
        counted
            .filter_map(|(name, quantity)| Some((name.clone(), quantity.0.parse().ok()?)))
            .collect()
    };
    let mut all: BTreeMap<String, u64> = BTreeMap::new();
    for (name, count) in containers(pod).iter().flat_map(needs) {
        *all.entry(name).or_default() += count;
    }
    for (name, count) in init_containers(pod).iter().flat_map(needs) {
        let entry = all.entry(name).or_default();
        *entry = count.max(*entry);
    }
    all.retain(|_, count| *count > 0);
    all
}
