//! Emptying a node before its machine is returned: which pods are evicted now, and whether any is still waited for.
//! Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, Toleration};
use kaito_api::names;

use super::step::{Decision, PodRef, Step};
use crate::cloud::simulated::model::later;

/// Taint: the node is being emptied.
pub(crate) const TAINT_DISRUPTED: &str = "karpenter.sh/disrupted";

/// A pod that is still there this long after its deletion deadline is not waited for: its kubelet is dead.
const STUCK_AFTER: SignedDuration = SignedDuration::from_mins(1);

/// What the drain of one claim's nodes needs next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Drain {
    /// Evictions and deletions, and when to look again.
    pub decision: Decision,
    /// Names of the pods that are still waited for.
    pub waiting: Vec<String>,
}

/// Plans the drain of `pods` (all pods of the nodes). `not_before` holds back repeated evictions, by pod UID;
/// `deadline` overrides budgets and grace.
#[must_use]
pub fn plan(
    pods: &[Arc<Pod>],
    not_before: &BTreeMap<String, Timestamp>,
    deadline: Option<Timestamp>,
    now: Timestamp,
) -> Drain {
    let mut drain = Drain::default();
    let waited: Vec<&Pod> = pods
        .iter()
        .map(AsRef::as_ref)
        .filter(|pod| is_waited_for(pod, now))
        .collect();
    drain.waiting = waited
        .iter()
        .filter_map(|pod| pod.metadata.name.clone())
        .collect();
    let Some(tier) = waited.iter().map(|pod| tier(pod)).min() else {
        return drain;
    };
    for pod in waited.into_iter().filter(|pod| self::tier(pod) == tier) {
        plan_pod(pod, not_before, deadline, now, &mut drain.decision);
    }
    drain
}

fn plan_pod(
    pod: &Pod,
    not_before: &BTreeMap<String, Timestamp>,
    deadline: Option<Timestamp>,
    now: Timestamp,
    decision: &mut Decision,
) {
    let Some(reference) = reference(pod) else {
        return;
    };
    if let Some(leaving) = &pod.metadata.deletion_timestamp {
        decision.wake_at(later(leaving.0, STUCK_AFTER));
        return;
    }
    if let Some(deadline) = deadline {
        let grace = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.termination_grace_period_seconds)
            .unwrap_or(30);
        let begin = deadline
            .checked_sub(SignedDuration::from_secs(grace.max(0)))
            .unwrap_or(deadline);
        if now >= begin {
            let left = deadline.duration_since(now).as_secs().max(1);
            let grace_seconds = u32::try_from(left).unwrap_or(u32::MAX);
            decision.steps.push(Step::DeletePod {
                pod: reference,
                grace_seconds,
            });
            return;
        }
        decision.wake_at(begin);
    }
    let annotations = pod.metadata.annotations.as_ref();
    if annotations
        .and_then(|all| all.get(names::ANNOTATION_DO_NOT_DISRUPT))
        .is_some_and(|v| v == "true")
    {
        return;
    }
    match not_before.get(&reference.uid) {
        Some(at) if *at > now => decision.wake_at(*at),
        _ => decision.steps.push(Step::Evict(reference)),
    }
}

/// A pod as steps name it; `None` before the API server has completed it.
pub(crate) fn reference(pod: &Pod) -> Option<PodRef> {
    let metadata = &pod.metadata;
    Some(PodRef {
        namespace: metadata.namespace.clone()?,
        name: metadata.name.clone()?,
        uid: metadata.uid.clone()?,
    })
}

fn is_waited_for(pod: &Pod, now: Timestamp) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let annotations = pod.metadata.annotations.as_ref();
    let mirror = annotations.is_some_and(|all| all.contains_key("kubernetes.io/config.mirror"));
    let stuck = pod
        .metadata
        .deletion_timestamp
        .as_ref()
        .is_some_and(|leaving| later(leaving.0, STUCK_AFTER) <= now);
    let tolerations = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.tolerations.as_deref())
        .unwrap_or_default();
    !matches!(phase, Some("Succeeded" | "Failed"))
        && !mirror
        && !stuck
        && !tolerations.iter().any(tolerates_disruption)
}

fn tolerates_disruption(toleration: &Toleration) -> bool {
    let key = toleration.key.as_deref().unwrap_or_default();
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let operator = toleration.operator.as_deref().unwrap_or("Equal");
    let value = toleration.value.as_deref().unwrap_or_default();
    let key_fits = key == TAINT_DISRUPTED || (key.is_empty() && operator == "Exists");
    key_fits
        && (effect.is_empty() || effect == "NoSchedule")
        && (operator == "Exists" || value.is_empty())
}

/// Order of leaving: what serves users first, what the node needs last.
fn tier(pod: &Pod) -> u8 {
    let class = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.priority_class_name.as_deref());
    let critical = matches!(
        class,
        Some("system-cluster-critical" | "system-node-critical")
    );
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    let daemon = owners.iter().any(|owner| owner.kind == "DaemonSet");
    u8::from(critical) * 2 + u8::from(daemon)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn pod(name: &str, extra: Value) -> Arc<Pod> {
        let mut value = json!({
            "metadata": {"namespace": "default", "name": name, "uid": format!("uid-{name}")},
            "spec": {"containers": [], "terminationGracePeriodSeconds": 30},
            "status": {"phase": "Running"}
        });
        merge(&mut value, extra);
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn merge(into: &mut Value, from: Value) {
        match (into, from) {
            (Value::Object(into), Value::Object(from)) => {
                for (key, value) in from {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
            (into, from) => *into = from,
        }
    }

    fn evicted(drain: &Drain) -> Vec<&str> {
        let names = drain.decision.steps.iter().map(|step| match step {
            Step::Evict(pod) | Step::DeletePod { pod, .. } => pod.name.as_str(),
            other => panic!("{other:?}"),
        });
        names.collect()
    }

    #[test]
    fn workloads_leave_before_daemons_and_critical_pods() {
        let daemon = json!({"metadata": {"ownerReferences": [
            {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d"}]}});
        let pods = [
            pod(
                "critical",
                json!({"spec": {"priorityClassName": "system-node-critical"}}),
            ),
            pod("daemon", daemon),
            pod("a", json!({})),
        ];
        assert_eq!(evicted(&plan(&pods, &BTreeMap::new(), None, at(0))), ["a"]);
        assert_eq!(
            evicted(&plan(&pods[..2], &BTreeMap::new(), None, at(0))),
            ["daemon"]
        );
        assert_eq!(
            evicted(&plan(&pods[..1], &BTreeMap::new(), None, at(0))),
            ["critical"]
        );
    }

    #[test]
    fn terminal_mirror_tolerating_and_stuck_pods_are_not_waited_for() {
        let pods = [
            pod("done", json!({"status": {"phase": "Succeeded"}})),
            pod(
                "mirror",
                json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}}),
            ),
            pod(
                "tolerant",
                json!({"spec": {"tolerations": [{"operator": "Exists"}]}}),
            ),
            pod(
                "stuck",
                json!({"metadata": {"deletionTimestamp": "1970-01-01T00:00:10Z"}}),
            ),
        ];
        assert_eq!(
            plan(&pods, &BTreeMap::new(), None, at(100)),
            Drain::default()
        );
    }

    #[test]
    fn protected_pods_are_waited_for_but_not_evicted() {
        let pods = [pod(
            "a",
            json!({"metadata": {"annotations": {"karpenter.sh/do-not-disrupt": "true"}}}),
        )];
        let drain = plan(&pods, &BTreeMap::new(), None, at(0));
        assert!(drain.decision.steps.is_empty());
        assert_eq!(drain.waiting, ["a"]);
    }

    #[test]
    fn a_refused_eviction_waits_for_its_next_try() {
        let pods = [pod("a", json!({}))];
        let later = BTreeMap::from([("uid-a".to_owned(), at(5))]);
        let drain = plan(&pods, &later, None, at(0));
        assert_eq!(
            (evicted(&drain), drain.decision.wake),
            (vec![], Some(at(5)))
        );
        assert_eq!(evicted(&plan(&pods, &later, None, at(5))), ["a"]);
    }

    #[test]
    fn near_the_deadline_pods_are_deleted_whatever_protects_them() {
        let pods = [pod(
            "a",
            json!({"metadata": {"annotations": {"karpenter.sh/do-not-disrupt": "true"}}}),
        )];
        let before = plan(&pods, &BTreeMap::new(), Some(at(100)), at(60));
        assert_eq!(
            (evicted(&before), before.decision.wake),
            (vec![], Some(at(70)))
        );
        let near = plan(&pods, &BTreeMap::new(), Some(at(100)), at(80));
        assert!(matches!(
            near.decision.steps[..],
            [Step::DeletePod {
                grace_seconds: 20,
                ..
            }]
        ));
    }
}
