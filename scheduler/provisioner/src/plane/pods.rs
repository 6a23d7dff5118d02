//! What a simulated kubelet makes of a pod at one moment. Pure.
//!
//! The pod's state is a function of the time since the kubelet accepted it: init containers one after the other,
//! then the containers, then, for a job's pod, the end. Transitions that are due together are one status.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus};
use kaito_api::names;

use super::statuses::{facts, refusal, status};
use crate::cloud::simulated::model::later;
use crate::duration::parse_duration;

/// Annotation: exit code of a job pod's containers, for tests of failures.
pub const ANNOTATION_EXIT_CODE: &str = "kaito.sh/simulated-exit-code";

/// Delays of one pod, in real time.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Each init container.
    pub init: SignedDuration,
    /// Created → running and ready.
    pub start: SignedDuration,
    /// Termination signal → stopped.
    pub stop: SignedDuration,
    /// Life of a job's pod.
    pub job: SignedDuration,
}

/// A pod as its kubelet sees it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The pod.
    pub pod: &'a Pod,
    /// Address of its node.
    pub host_ip: &'a str,
    /// Address of the pod.
    pub pod_ip: &'a str,
    /// When the kubelet accepted it.
    pub accepted: Timestamp,
    /// Extended resource that the node has not enough of; the pod is refused.
    pub refused: Option<&'a str>,
    /// Delays.
    pub times: Times,
    /// Now.
    pub now: Timestamp,
}

/// What to do about a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Nothing now.
    Wait,
    /// Write this status.
    Report(Box<PodStatus>),
    /// Remove the pod with grace 0: its containers have stopped.
    Remove,
}

/// What to do, and when to look again.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// What.
    pub action: Action,
    /// When something is due next.
    pub next: Option<Timestamp>,
}

/// How far a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// This many init containers have completed; the next one runs.
    Init(usize),
    /// All init containers are through; containers are being created.
    Creating,
    Running,
    /// A job's containers have ended with this code.
    Ended(i32),
    /// Terminated from outside.
    Killed,
}

/// What to do about a pod now.
#[must_use]
pub fn decide(view: &View<'_>) -> Decision {
    let current = view.pod.status.as_ref();
    let phase = current.and_then(|status| status.phase.as_deref());
    let terminal = matches!(phase, Some("Succeeded" | "Failed"));
    if view.pod.metadata.deletion_timestamp.is_some() {
        return end(view, terminal);
    }
    if terminal {
        return Decision {
            action: Action::Wait,
            next: None,
        };
    }
    if let Some(resource) = view.refused {
        return Decision {
            action: Action::Report(Box::new(refusal(resource))),
            next: None,
        };
    }
    let timeline = timeline(view);
    let reached = timeline.iter().take_while(|(at, _)| *at <= view.now).last();
    let stage = reached.map_or(Stage::Init(0), |(_, stage)| *stage);
    let next = timeline.iter().map(|(at, _)| *at).find(|at| *at > view.now);
    let wanted = status(view, stage);
    if current.is_some_and(|current| facts(current) == facts(&wanted)) {
        return Decision {
            action: Action::Wait,
            next,
        };
    }
    Decision {
        action: Action::Report(Box::new(wanted)),
        next,
    }
}

/// Ends a pod that is being deleted: its containers stop on the signal, at the latest when their grace is over.
fn end(view: &View<'_>, terminal: bool) -> Decision {
    let metadata = &view.pod.metadata;
    let grace = metadata.deletion_grace_period_seconds.unwrap_or(0).max(0);
    let deadline = metadata
        .deletion_timestamp
        .as_ref()
        .map_or(view.now, |time| time.0);
    let begun = deadline
        .checked_sub(SignedDuration::from_secs(grace))
        .unwrap_or(deadline);
    let stopped = later(begun, view.times.stop).min(deadline);
    if !terminal && stopped > view.now {
        return Decision {
            action: Action::Wait,
            next: Some(stopped),
        };
    }
    let watched = metadata
        .finalizers
        .as_ref()
        .is_some_and(|finalizers| !finalizers.is_empty());
    let action = match (watched, terminal) {
        // Somebody counts this pod's result before letting it go.
        (true, false) => Action::Report(Box::new(status(view, Stage::Killed))),
        (true, true) if grace == 0 => Action::Wait,
        _ => Action::Remove,
    };
    Decision { action, next: None }
}

/// When the pod reaches which stage, in order.
fn timeline(view: &View<'_>) -> Vec<(Timestamp, Stage)> {
    let inits = init_containers(view.pod).len();
    let mut at = view.accepted;
    let mut list = Vec::with_capacity(inits + 3);
    for index in 0..inits {
        list.push((at, Stage::Init(index)));
        at = later(at, view.times.init);
    }
    list.push((at, Stage::Creating));
    at = later(at, view.times.start);
    list.push((at, Stage::Running));
    if let Some(life) = life(view) {
        list.push((later(at, life), Stage::Ended(exit_code(view.pod))));
    }
    list
}

/// How long the pod's containers run; `None` is for ever. Only pods of jobs, and pods that say so, end.
fn life(view: &View<'_>) -> Option<SignedDuration> {
    let annotated = annotation(view.pod, names::ANNOTATION_SIMULATED_DURATION);
    let owners = view
        .pod
        .metadata
        .owner_references
        .as_deref()
        .unwrap_or_default();
    let restarts = spec_of(view.pod).and_then(|spec| spec.restart_policy.as_deref());
    let ends = matches!(restarts, Some("Never" | "OnFailure"));
    let job = owners.iter().any(|owner| owner.kind == "Job");
    if !ends || !(job || annotated.is_some()) {
        return None;
    }
    // An unreadable annotation means the default: the pod of a job must end.
    Some(
        annotated
            .and_then(|text| parse_duration(text).ok())
            .unwrap_or(view.times.job),
    )
}

fn exit_code(pod: &Pod) -> i32 {
    annotation(pod, ANNOTATION_EXIT_CODE)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata
        .annotations
        .as_ref()?
        .get(key)
        .map(String::as_str)
}

fn spec_of(pod: &Pod) -> Option<&k8s_openapi::api::core::v1::PodSpec> {
    pod.spec.as_ref()
}

pub(super) fn init_containers(pod: &Pod) -> &[Container] {
    spec_of(pod)
        .and_then(|spec| spec.init_containers.as_deref())
        .unwrap_or_default()
}

pub(super) fn containers(pod: &Pod) -> &[Container] {
    spec_of(pod)
        .map(|spec| spec.containers.as_slice())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::{ContainerState, Node};
    use serde_json::{Value, json};

    use super::super::overcommitment::overcommitted;
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn pod(name: &str, metadata: Value, spec: Value) -> Pod {
        let mut value = json!({
            "metadata": {"namespace": "default", "name": name, "uid": name,
                         "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "main", "image": "i"}]}
        });
        for (section, extra) in [("metadata", metadata), ("spec", spec)] {
            for (key, field) in extra.as_object().into_iter().flatten() {
                value[section][key] = field.clone();
            }
        }
        serde_json::from_value(value).unwrap()
    }

    fn view(pod: &Pod, now: i64) -> View<'_> {
        let seconds = SignedDuration::from_secs;
        View {
            pod,
            host_ip: "127.0.0.1",
            pod_ip: "10.128.0.1",
            accepted: at(100),
            refused: None,
            times: Times {
                init: seconds(3),
                start: seconds(5),
                stop: seconds(2),
                job: seconds(60),
            },
            now: at(now),
        }
    }

    fn report(pod: &mut Pod, now: i64) -> PodStatus {
        let Action::Report(status) = decide(&view(pod, now)).action else {
            panic!("no report at {now}")
        };
        pod.status = Some((*status).clone());
        assert_eq!(
            decide(&view(pod, now)).action,
            Action::Wait,
            "a written status is not written again"
        );
        *status
    }

    fn job() -> Value {
        json!([{"apiVersion": "batch/v1", "kind": "Job", "name": "j", "uid": "j"}])
    }

    #[test]
    fn a_server_pod_is_created_then_runs_ready_for_ever() {
        let mut pod = pod("a", json!({}), json!({"restartPolicy": "Always"}));
        let creating = report(&mut pod, 100);
        assert_eq!(creating.phase.as_deref(), Some("Pending"));
        assert_eq!(decide(&view(&pod, 100)).next, Some(at(105)));
        let running = report(&mut pod, 105);
        assert_eq!(running.phase.as_deref(), Some("Running"));
        assert!(
            running
                .conditions
                .unwrap()
                .iter()
                .all(|condition| condition.status == "True")
        );
        assert_eq!(
            decide(&view(&pod, 999_999)),
            Decision {
                action: Action::Wait,
                next: None
            }
        );
    }

    #[test]
    fn init_containers_complete_in_order_before_the_rest() {
        let inits = json!([{"name": "one", "image": "i"}, {"name": "two", "image": "i"}]);
        let mut pod = pod(
            "a",
            json!({}),
            json!({"initContainers": inits, "restartPolicy": "Always"}),
        );
        let states = |status: &PodStatus| -> Vec<&'static str> {
            let all = status.init_container_statuses.iter().flatten();
            all.map(|container| match container.state.as_ref().unwrap() {
                ContainerState {
                    running: Some(_), ..
                } => "running",
                ContainerState {
                    terminated: Some(_),
                    ..
                } => "done",
                _ => "waiting",
            })
            .collect()
        };
        assert_eq!(states(&report(&mut pod, 100)), ["running", "waiting"]);
        assert_eq!(states(&report(&mut pod, 103)), ["done", "running"]);
        assert_eq!(states(&report(&mut pod, 106)), ["done", "done"]);
        assert_eq!(report(&mut pod, 111).phase.as_deref(), Some("Running"));
    }

    #[test]
    fn what_is_due_together_is_one_status() {
        let mut pod = pod(
            "a",
            json!({"ownerReferences": job()}),
            json!({"restartPolicy": "Never"}),
        );
        assert_eq!(report(&mut pod, 500).phase.as_deref(), Some("Succeeded"));
    }

    #[test]
    fn a_job_pod_runs_as_long_as_its_annotation_says_and_may_fail() {
        let annotations =
            json!({names::ANNOTATION_SIMULATED_DURATION: "10s", ANNOTATION_EXIT_CODE: "2"});
        let metadata = json!({"ownerReferences": job(), "annotations": annotations});
        let mut pod = pod("a", metadata, json!({"restartPolicy": "OnFailure"}));
        assert_eq!(report(&mut pod, 105).phase.as_deref(), Some("Running"));
        assert_eq!(decide(&view(&pod, 105)).next, Some(at(115)));
        let failed = report(&mut pod, 115);
        assert_eq!(failed.phase.as_deref(), Some("Failed"));
        let state = failed.container_statuses.unwrap()[0].state.clone().unwrap();
        assert_eq!(state.terminated.unwrap().exit_code, 2);
    }

    #[test]
    fn deletion_waits_for_the_stop_but_never_longer_than_the_grace() {
        let deleted = |grace: i64, deadline: &str| json!({"deletionTimestamp": deadline, "deletionGracePeriodSeconds": grace});
        let patient = pod("a", deleted(30, "1970-01-01T00:03:30Z"), json!({}));
        assert_eq!(
            decide(&view(&patient, 181)),
            Decision {
                action: Action::Wait,
                next: Some(at(182))
            }
        );
        assert_eq!(decide(&view(&patient, 182)).action, Action::Remove);
        let hasty = pod("a", deleted(1, "1970-01-01T00:03:01Z"), json!({}));
        assert_eq!(decide(&view(&hasty, 181)).action, Action::Remove);
    }

    #[test]
    fn a_pod_that_somebody_counts_fails_before_it_goes() {
        let metadata = json!({
            "deletionTimestamp": "1970-01-01T00:03:30Z", "deletionGracePeriodSeconds": 30,
            "finalizers": ["batch.kubernetes.io/job-tracking"]
        });
        let mut pod = pod("a", metadata, json!({}));
        let Action::Report(status) = decide(&view(&pod, 200)).action else {
            panic!("no report")
        };
        assert_eq!(status.phase.as_deref(), Some("Failed"));
        pod.status = Some(*status);
        assert_eq!(decide(&view(&pod, 200)).action, Action::Remove);
        pod.metadata.deletion_grace_period_seconds = Some(0);
        assert_eq!(
            decide(&view(&pod, 200)).action,
            Action::Wait,
            "removal was asked for already"
        );
    }

    #[test]
    fn a_pod_beyond_the_nodes_gpus_is_refused_and_the_earlier_one_stays() {
        let gpus = json!({"containers": [{"name": "main", "resources": {"limits": {"nvidia.com/gpu": "1"}}}]});
        let (first, second) = (pod("a", json!({}), gpus.clone()), pod("b", json!({}), gpus));
        let all = [Arc::new(first.clone()), Arc::new(second.clone())];
        let node: Node = serde_json::from_value(
            json!({"metadata": {}, "status": {"allocatable": {"nvidia.com/gpu": "1"}}}),
        )
        .unwrap();
        assert_eq!(overcommitted(&first, &node, &all), None);
        assert_eq!(
            overcommitted(&second, &node, &all).as_deref(),
            Some("nvidia.com/gpu")
        );
        let mut refused = view(&second, 100);
        refused.refused = Some("nvidia.com/gpu");
        let Action::Report(status) = decide(&refused).action else {
            panic!("no report")
        };
        assert_eq!(status.reason.as_deref(), Some("OutOfnvidia.com/gpu"));
    }
}
