//! What demand is to be expected: the pods there are now, running and waiting, by kind.
//!
//! The planner ranks nodes for it. Worked out anew from the objects each time, so that a scheduler that starts expects
//! what the one before it did, and a recorded snapshot replays to the same plan. May not count what asks for no GPU and
//! is not ours: a cluster's daemons say nothing about models.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::Pod;
use kaito_placement::snapshot::{Constraints, ExpectedPods, Resources, Toleration};

use crate::cluster::{Objects, SizedWorkspace};
use crate::pod::{self, Stand};

/// What makes pods of one kind, in an order that does not depend on the objects' order.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    each: [u64; 5],
    gpu_memory_bytes: u64,
    instance_type: Option<String>,
    required_labels: BTreeMap<String, String>,
    tolerations: Vec<Toleration>,
}

/// The pods of `objects` by kind.
#[must_use]
pub fn expected(objects: &Objects) -> Vec<ExpectedPods> {
    let sized: HashMap<(&str, &str), SizedWorkspace<'_>> = objects.sized().collect();
    let mut kinds: BTreeMap<Kind, (Resources, u64)> = BTreeMap::new();
    for found in &objects.pods {
        if let Some((kind, each)) = kind(found, &sized) {
            kinds.entry(kind).or_insert((each, 0)).1 += 1;
        }
    }
    kinds
        .into_iter()
        .map(|(kind, (per_member, pods))| ExpectedPods {
            pods,
            per_member,
            constraints: Constraints {
                required_labels: kind.required_labels,
                instance_type: kind.instance_type,
                gpu_memory_bytes: kind.gpu_memory_bytes,
                tolerations: kind.tolerations,
                ..Constraints::default()
            },
        })
        .collect()
}

/// The kind of a pod that counts, and what it takes.
fn kind(
    found: &Pod,
    sized: &HashMap<(&str, &str), SizedWorkspace<'_>>,
) -> Option<(Kind, Resources)> {
    let spec = found.spec.as_ref()?;
    let leaving = found.metadata.deletion_timestamp.is_some();
    let each = pod::resources(spec);
    if leaving || pod::stand(found) == Stand::Ended || (each.gpus == 0 && !pod::is_ours(found)) {
        return None;
    }
    let namespace = found.metadata.namespace.as_deref().unwrap_or_default();
    let workspace = pod::workspace_of(found).and_then(|name| sized.get(&(namespace, name)));
    let sizing = workspace.map(|(_, sizing)| *sizing);
    let kind = Kind {
        each: each.amounts(),
        gpu_memory_bytes: sizing.map_or(0, |sizing| sizing.gpu_memory_bytes),
        instance_type: sizing.and_then(|sizing| sizing.instance_type.clone()),
        required_labels: pod::required_labels(spec),
        tolerations: pod::tolerations(spec),
    };
    Some((kind, each))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Pod;

    use super::expected;
    use crate::cluster::Objects;

    fn pod(name: &str, gpus: u32, extra: &str) -> Arc<Pod> {
        let text = format!(
            "{{metadata: {{namespace: ns, name: {name}}}, spec: {{containers: \
             [{{name: a, resources: {{limits: {{nvidia.com/gpu: {gpus}}}}}}}]{extra}}}}}"
        );
        Arc::new(serde_saphyr::from_str(&text).unwrap())
    }

    fn counts(pods: Vec<Arc<Pod>>) -> Vec<(u64, u64)> {
        let objects = Objects {
            pods,
            ..Objects::default()
        };
        let found = expected(&objects);
        found
            .iter()
            .map(|one| (one.per_member.gpus, one.pods))
            .collect()
    }

    #[test]
    fn pods_are_counted_by_kind_wherever_they_stand() {
        let bound = ", nodeName: gpu-1";
        let pinned = ", nodeSelector: {kubernetes.io/hostname: gpu-2}";
        let pods = vec![pod("a", 1, bound), pod("b", 2, ""), pod("c", 1, pinned)];
        let mut turned = pods.clone();
        turned.reverse();
        assert_eq!(counts(pods), [(1, 2), (2, 1)]);
        assert_eq!(counts(turned), [(1, 2), (2, 1)]);
    }

    #[test]
    fn a_selector_makes_another_kind() {
        let picky = ", nodeSelector: {disk: fast}";
        assert_eq!(
            counts(vec![pod("a", 1, ""), pod("b", 1, picky)]),
            [(1, 1), (1, 1)]
        );
    }

    #[test]
    fn what_has_ended_is_leaving_or_asks_no_gpu_says_nothing() {
        let mut ended = pod("a", 1, "");
        Arc::make_mut(&mut ended).status =
            Some(serde_saphyr::from_str("{phase: Succeeded}").unwrap());
        let mut leaving = pod("b", 1, "");
        Arc::make_mut(&mut leaving).metadata.deletion_timestamp =
            Some(serde_saphyr::from_str("2026-01-01T00:00:00Z").unwrap());
        assert_eq!(counts(vec![ended, leaving, pod("daemon", 0, "")]), []);
    }

    #[test]
    fn a_small_model_of_ours_counts_though_it_asks_no_gpu() {
        let mut small = pod("a", 0, "");
        let meta = &mut Arc::make_mut(&mut small).metadata;
        meta.labels = Some([("kaito.sh/workspace".to_owned(), "small".to_owned())].into());
        assert_eq!(counts(vec![small]), [(0, 1)]);
    }
}
