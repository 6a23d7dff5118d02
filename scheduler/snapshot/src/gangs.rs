//! Pods without a Workspace that ask us for a place, as demands.
//!
//! Such a pod carries our gate (`kaito.sh/placement`) and the label `kaito.sh/gang`. With `kaito.sh/gang-size: N` on
//! it, all pods of its namespace with the same gang are placed together once N of them are there; without, each is
//! placed by itself. Nothing is bought for them: whoever wants nodes bought writes a Workspace.
//!
//! May not place what it does not understand: a pod with required affinity or topology spread, or with a volume that
//! may be bound to a zone, stays behind the gate.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kaito_api::names;
use kaito_placement::snapshot::{Constraints, Demand, Purchase, Resources, Toleration};

use crate::cluster::{Key, Memory, Objects, key_of, node_of};
use crate::pod::{self, Stand};

/// What the name of a gang's demand has before the gang's own name; no Workspace's name can have it.
const GANG: &str = "gang:";
/// The same for a pod that is placed by itself.
const ALONE: &str = "pod:";

/// Whether a demand is one of pods without a Workspace. `name` is that of the demand, without the namespace.
#[must_use]
pub fn is_gang(name: &str) -> bool {
    name.starts_with(GANG) || name.starts_with(ALONE)
}

/// Demands of all pods that ask and are complete.
pub(crate) fn demands(
    objects: &Objects,
    memory: &Memory,
    by_host: &HashMap<String, String>,
) -> Vec<Demand> {
    let mut gangs: BTreeMap<(&str, String), Vec<&Pod>> = BTreeMap::new();
    for found in &objects.pods {
        if let Some((name, pod)) = asking(found) {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            gangs.entry((namespace, name)).or_default().push(pod);
        }
    }
    gangs
        .into_iter()
        .filter_map(|((namespace, name), pods)| {
            demand(format!("{namespace}/{name}"), &pods, memory, by_host)
        })
        .collect()
}

/// The pod and the demand that it belongs to, unless it is on its way out.
pub(crate) fn asking(found: &Arc<Pod>) -> Option<(String, &Pod)> {
    let gang = pod::gang_of(found)?;
    if found.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let name = if size(found) > 1 {
        format!("{GANG}{gang}")
    } else {
        format!("{ALONE}{}", found.metadata.name.as_deref()?)
    };
    Some((name, found))
}

/// How many pods make the gang of this one.
fn size(pod: &Pod) -> usize {
    let labels = pod.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(names::LABEL_GANG_SIZE))
        .and_then(|text| text.parse().ok())
        .unwrap_or(1)
}

fn demand(
    name: String,
    pods: &[&Pod],
    memory: &Memory,
    by_host: &HashMap<String, String>,
) -> Option<Demand> {
    let waits =
        |pod: &&&Pod| pod::stand(pod) == Stand::Gated && !memory.assumed.contains_key(&key_of(pod));
    let mut waiting: Vec<&Pod> = pods.iter().filter(waits).copied().collect();
    let wanted = pods.iter().map(|pod| size(pod)).max().unwrap_or(1);
    if waiting.is_empty() || pods.len() < wanted {
        return None;
    }
    waiting.sort_by_key(|pod| {
        let (_, name): Key = key_of(pod);
        (name.len(), name)
    });
    let specs: Vec<&PodSpec> = waiting.iter().filter_map(|pod| pod.spec.as_ref()).collect();
    if !specs.iter().all(|spec| unknown_need(spec).is_none()) {
        return None;
    }
    let placed_on: Vec<String> = pods
        .iter()
        .filter_map(|pod| node_of(pod, memory, by_host))
        .collect();
    let created = |pod: &&Pod| Some(pod.metadata.creation_timestamp.as_ref()?.0.as_second());
    Some(Demand {
        name,
        uid: waiting.first()?.metadata.uid.clone().unwrap_or_default(),
        priority: priority(&specs),
        created_seconds: seniority(
            &placed_on,
            waiting.iter().filter_map(created).min().unwrap_or(0),
        ),
        members: waiting
            .iter()
            .filter_map(|pod| pod.metadata.name.clone())
            .collect(),
        per_member: most_of_each(&specs),
        constraints: Constraints {
            required_labels: all_labels(&specs),
            tolerations: shared_tolerations(&specs),
            ..Constraints::default()
        },
        purchase: Purchase::Never,
        placed_on,
    })
}

/// The highest priority of any member.
pub(crate) fn priority(specs: &[&PodSpec]) -> i32 {
    let own = specs.iter().filter_map(|spec| spec.priority);
    own.max().unwrap_or(0)
}

/// A gang that is there in part, by a crash or because a member was lost, is completed before all others of its
/// priority: half of it is of no use to anybody. Never before those of higher priority: whoever may make pods could
/// then jump the queue with one that runs and one that waits.
pub(crate) const fn seniority(placed_on: &[String], created_seconds: i64) -> i64 {
    if placed_on.is_empty() {
        created_seconds
    } else {
        i64::MIN
    }
}

/// What every member surely fits into: of each resource the most that any of them asks for.
fn most_of_each(specs: &[&PodSpec]) -> Resources {
    let each = specs.iter().map(|spec| pod::resources(spec));
    each.fold(Resources::default(), pod::largest)
}

/// What every member surely accepts: the labels that any of them asks for.
fn all_labels(specs: &[&PodSpec]) -> BTreeMap<String, String> {
    let selectors = specs.iter().filter_map(|spec| spec.node_selector.clone());
    selectors.flatten().collect()
}

/// What every member surely tolerates.
fn shared_tolerations(specs: &[&PodSpec]) -> Vec<Toleration> {
    let mut each = specs.iter().map(|spec| pod::tolerations(spec));
    let first = each.next().unwrap_or_default();
    each.fold(first, |mut kept, other| {
        kept.retain(|toleration| other.contains(toleration));
        kept
    })
}

/// Pods that ask and will not be placed, with what they demand of their node that the planner does not know.
#[must_use]
pub fn not_understood(objects: &Objects) -> Vec<(Key, &'static str)> {
    let found = objects.pods.iter().filter_map(asking);
    found
        .filter(|(_, pod)| pod::stand(pod) == Stand::Gated)
        .filter_map(|(_, pod)| Some((key_of(pod), unknown_need(pod.spec.as_ref()?)?)))
        .collect()
}

/// What a pod demands of its node that the planner does not know; preferences are kube-scheduler's business.
pub(crate) fn unknown_need(spec: &PodSpec) -> Option<&'static str> {
    if has_required_affinity(spec) {
        return Some("required affinity");
    }
    let spread = spec.topology_spread_constraints.iter().flatten();
    if spread
        .into_iter()
        .any(|one| one.when_unsatisfiable == "DoNotSchedule")
    {
        return Some("a topology spread constraint");
    }
    let volumes = spec.volumes.iter().flatten();
    if volumes
        .into_iter()
        .any(|volume| volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some())
    {
        return Some("a volume claim");
    }
    let ports = spec
        .containers
        .iter()
        .filter_map(|one| one.ports.as_ref())
        .flatten();
    if ports.into_iter().any(|port| port.host_port.is_some()) {
        return Some("a host port");
    }
    spec.resource_claims.as_ref().map(|_| "a resource claim")
}

fn has_required_affinity(spec: &PodSpec) -> bool {
    let affinity = spec.affinity.as_ref();
    let nodes = affinity
        .and_then(|all| all.node_affinity.as_ref())
        .is_some_and(|one| {
            one.required_during_scheduling_ignored_during_execution
                .is_some()
        });
    let pods = affinity
        .and_then(|all| all.pod_affinity.as_ref())
        .is_some_and(|one| {
            one.required_during_scheduling_ignored_during_execution
                .is_some()
        });
    let against = affinity
        .and_then(|all| all.pod_anti_affinity.as_ref())
        .is_some_and(|one| {
            one.required_during_scheduling_ignored_during_execution
                .is_some()
        });
    nodes || pods || against
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Pod;
    use kaito_placement::snapshot::Demand;

    use super::{demands, not_understood};
    use crate::cluster::{Memory, Objects};

    fn member(name: &str, extra: &str) -> Arc<Pod> {
        let text = format!(
            "{{metadata: {{namespace: ns, name: {name}, labels: {{kaito.sh/gang: crew, kaito.sh/gang-size: '2'}}}}, \
             spec: {{schedulingGates: [{{name: kaito.sh/placement}}], containers: \
             [{{name: a, resources: {{limits: {{nvidia.com/gpu: 1}}}}}}]{extra}}}}}"
        );
        Arc::new(serde_saphyr::from_str(&text).unwrap())
    }

    fn of(pods: Vec<Arc<Pod>>) -> Vec<Demand> {
        let objects = Objects {
            pods,
            ..Objects::default()
        };
        demands(&objects, &Memory::default(), &HashMap::new())
    }

    #[test]
    fn a_gang_asks_once_it_is_complete() {
        assert_eq!(of(vec![member("a", "")]), []);
        let whole = of(vec![member("b", ""), member("a", "")]);
        assert_eq!(whole[0].name, "ns/gang:crew");
        assert_eq!(whole[0].members, ["a", "b"]);
        assert_eq!(whole[0].per_member.gpus, 1);
    }

    #[test]
    fn a_pod_without_a_size_asks_for_itself() {
        let mut lone = member("a", "");
        let labels = Arc::make_mut(&mut lone).metadata.labels.as_mut().unwrap();
        labels.remove("kaito.sh/gang-size");
        let found = of(vec![lone]);
        assert_eq!(found[0].name, "ns/pod:a");
    }

    #[test]
    fn a_gang_of_which_a_part_runs_is_completed_before_others_of_its_priority() {
        let mut runs = member("a", "");
        let spec = Arc::make_mut(&mut runs).spec.as_mut().unwrap();
        spec.scheduling_gates = None;
        spec.node_name = Some("gpu-1".to_owned());
        let found = of(vec![runs, member("b", "")]);
        assert_eq!(found[0].members, ["b"]);
        assert_eq!(found[0].placed_on, ["gpu-1"]);
        assert_eq!((found[0].priority, found[0].created_seconds), (0, i64::MIN));
    }

    #[test]
    fn members_that_differ_are_planned_with_what_suits_all() {
        let picky = member(
            "b",
            ", nodeSelector: {disk: fast}, tolerations: [{key: t, operator: Exists}]",
        );
        let found = of(vec![member("a", ""), picky]);
        assert_eq!(found[0].constraints.required_labels["disk"], "fast");
        assert_eq!(found[0].constraints.tolerations, []);
    }

    #[test]
    fn what_is_not_understood_stays_behind_the_gate() {
        let volume = ", volumes: [{name: d, persistentVolumeClaim: {claimName: d}}]";
        let pods = vec![member("a", ""), member("b", volume)];
        assert_eq!(of(pods.clone()), []);
        let objects = Objects {
            pods,
            ..Objects::default()
        };
        let b = ("ns".to_owned(), "b".to_owned());
        assert_eq!(not_understood(&objects), [(b, "a volume claim")]);
    }
}
