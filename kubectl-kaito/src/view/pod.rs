//! One pod in a few words: ready containers, restarts, and the most specific reason for not being ready.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodCondition};
use kube::ResourceExt;

use super::facts::created;

/// What keeps a pod from being ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Waits at the placement gate.
    Gated,
    /// Has no node: kube-scheduler's own words.
    Unschedulable(String),
    /// Its image cannot be pulled.
    Image(String),
    /// A container cannot be started.
    Start(String),
    /// A container ended and is started again and again.
    Crash(String),
    /// The kernel killed a container for memory.
    OutOfMemory(String),
    /// It ended badly for good.
    Failed(String),
    /// It is being created.
    Starting,
    /// It runs and its readiness probe does not pass yet.
    Loading,
    /// It is being deleted.
    Terminating,
}

/// A pod in short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodState {
    /// Ready containers of all, `1/1`.
    pub ready: String,
    /// Restarts of all containers.
    pub restarts: i32,
    /// The word of the STATUS column: Running, Pending, ImagePullBackOff, …
    pub reason: String,
    /// What is wrong, absent for a ready or successfully ended pod.
    pub trouble: Option<Trouble>,
    /// The field of the pod that says so.
    pub field: String,
    /// Since when.
    pub since: Option<Timestamp>,
}

/// Looks at a pod.
#[must_use]
pub fn state(pod: &Pod) -> PodState {
    let statuses = main_statuses(pod);
    let wanted = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
    let ready = statuses.iter().filter(|status| status.ready).count();
    let restarts = statuses.iter().map(|status| status.restart_count).sum();
    let judged = judge(pod);
    PodState {
        ready: format!("{ready}/{wanted}"),
        restarts,
        reason: judged.reason,
        trouble: judged.trouble,
        field: judged.field,
        since: judged.since,
    }
}

struct Judged {
    reason: String,
    trouble: Option<Trouble>,
    field: String,
    since: Option<Timestamp>,
}

fn judge(pod: &Pod) -> Judged {
    let age = created(pod.metadata.creation_timestamp.as_ref());
    let judged =
        |reason: &str, trouble: Option<Trouble>, field: &str, since: Option<Timestamp>| Judged {
            reason: reason.to_owned(),
            trouble,
            field: field.to_owned(),
            since: since.or(age),
        };
    if let Some(at) = created(pod.metadata.deletion_timestamp.as_ref()) {
        let field = "metadata.deletionTimestamp";
        return judged("Terminating", Some(Trouble::Terminating), field, Some(at));
    }
    if let Some(gate) = gate(pod) {
        let trouble = Some(Trouble::Gated);
        return judged(
            "SchedulingGated",
            trouble,
            &format!("spec.schedulingGates[{gate}]"),
            None,
        );
    }
    if let Some(scheduled) = condition(pod, "PodScheduled").filter(|item| item.status == "False") {
        let message = scheduled.message.clone().unwrap_or_default();
        let reason = scheduled.reason.as_deref().unwrap_or("Unschedulable");
        let since = created(scheduled.last_transition_time.as_ref());
        return judged(
            reason,
            Some(Trouble::Unschedulable(message)),
            "status.conditions[PodScheduled]",
            since,
        );
    }
    if let Some(found) = all_statuses(pod).find_map(container_trouble) {
        return Judged {
            since: found.since.or(age),
            ..found
        };
    }
    judge_phase(pod, age)
}

fn judge_phase(pod: &Pod, age: Option<Timestamp>) -> Judged {
    let status = pod.status.as_ref();
    let phase = status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending");
    let ready = condition(pod, "Ready");
    let since = ready
        .and_then(|ready| created(ready.last_transition_time.as_ref()))
        .or(age);
    let (reason, trouble) = match phase {
        "Succeeded" => ("Completed".to_owned(), None),
        "Failed" => {
            let reason = status
                .and_then(|status| status.reason.clone())
                .unwrap_or_else(|| "Error".into());
            let message = status
                .and_then(|status| status.message.clone())
                .unwrap_or_default();
            (reason, Some(Trouble::Failed(message)))
        }
        "Running" if ready.is_some_and(|ready| ready.status == "True") => {
            ("Running".to_owned(), None)
        }
        "Running" => ("Running".to_owned(), Some(Trouble::Loading)),
        _ => (
            waiting_reason(pod).unwrap_or_else(|| phase.to_owned()),
            Some(Trouble::Starting),
        ),
    };
    Judged {
        reason,
        trouble,
        field: "status.phase".to_owned(),
        since,
    }
}

fn gate(pod: &Pod) -> Option<String> {
    let gates = pod.spec.as_ref()?.scheduling_gates.as_ref()?;
    gates.first().map(|gate| gate.name.clone())
}

fn waiting_reason(pod: &Pod) -> Option<String> {
    all_statuses(pod)
        .filter_map(|status| status.state.as_ref()?.waiting.as_ref()?.reason.clone())
        .find(|reason| reason != "PodInitializing")
}

fn container_trouble(status: &ContainerStatus) -> Option<Judged> {
    let field = format!("status.containerStatuses[{}].state", status.name);
    if let Some(waiting) = status
        .state
        .as_ref()
        .and_then(|state| state.waiting.as_ref())
    {
        let reason = waiting.reason.as_deref()?;
        let message = waiting.message.clone().unwrap_or_default();
        let trouble = match reason {
            "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "RegistryUnavailable"
            | "ImageInspectError" => Trouble::Image(message),
            "CreateContainerConfigError"
            | "CreateContainerError"
            | "RunContainerError"
            | "StartError"
            | "ContainerCannotRun" => Trouble::Start(message),
            "CrashLoopBackOff" => crash(status, &message),
            _ => return None,
        };
        let since = ended(status.last_state.as_ref());
        return Some(Judged {
            reason: reason.to_owned(),
            trouble: Some(trouble),
            field,
            since,
        });
    }
    let terminated = status
        .state
        .as_ref()?
        .terminated
        .as_ref()
        .filter(|state| state.exit_code != 0)?;
    let reason = terminated
        .reason
        .clone()
        .unwrap_or_else(|| "Error".to_owned());
    let text = exit_text(
        &status.name,
        terminated.exit_code,
        terminated.message.as_deref(),
    );
    let trouble = if reason == "OOMKilled" {
        Trouble::OutOfMemory(text)
    } else {
        Trouble::Crash(text)
    };
    let since = ended(status.state.as_ref());
    Some(Judged {
        reason,
        trouble: Some(trouble),
        field,
        since,
    })
}

fn crash(status: &ContainerStatus, message: &str) -> Trouble {
    let last = status
        .last_state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    let Some(last) = last else {
        return Trouble::Crash(message.to_owned());
    };
    let text = exit_text(&status.name, last.exit_code, last.message.as_deref());
    let text = format!("{text}, restarted {} times", status.restart_count);
    if last.reason.as_deref() == Some("OOMKilled") {
        Trouble::OutOfMemory(text)
    } else {
        Trouble::Crash(text)
    }
}

fn exit_text(container: &str, code: i32, message: Option<&str>) -> String {
    let message = message
        .map(|text| format!(": {}", text.trim()))
        .unwrap_or_default();
    format!("container {container} ended with exit code {code}{message}")
}

fn ended(state: Option<&ContainerState>) -> Option<Timestamp> {
    state?
        .terminated
        .as_ref()?
        .finished_at
        .as_ref()
        .map(|time| time.0)
}

/// A pod condition.
#[must_use]
pub fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let status = pod.status.as_ref()?;
    status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == kind)
}

/// When a condition of the pod became True, if it is.
#[must_use]
pub fn became(pod: &Pod, kind: &str) -> Option<Timestamp> {
    let found = condition(pod, kind).filter(|condition| condition.status == "True")?;
    created(found.last_transition_time.as_ref())
}

/// When the last of the pod's main containers started, if all have.
#[must_use]
pub fn started(pod: &Pod) -> Option<Timestamp> {
    let wanted = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
    let times: Vec<Timestamp> = main_statuses(pod).iter().filter_map(start_time).collect();
    if times.len() < wanted.max(1) {
        None
    } else {
        times.into_iter().max()
    }
}

/// When the last start of a container of this name began.
#[must_use]
pub fn began(pod: &Pod, container: &str) -> Option<Timestamp> {
    let status = all_statuses(pod).find(|status| status.name == container)?;
    start_time(status)
}

/// When a container of this name ended well.
#[must_use]
pub fn ended_well(pod: &Pod, container: &str) -> Option<Timestamp> {
    let status = all_statuses(pod).find(|status| status.name == container)?;
    let ended_well = status.state.as_ref()?.terminated.as_ref()?.exit_code == 0;
    ended(status.state.as_ref()).filter(|_| ended_well)
}

fn start_time(status: &ContainerStatus) -> Option<Timestamp> {
    let state = status.state.as_ref()?;
    let running = state
        .running
        .as_ref()
        .and_then(|state| created(state.started_at.as_ref()));
    running.or_else(|| created(state.terminated.as_ref()?.started_at.as_ref()))
}

/// When the pod ended, if all its containers have.
#[must_use]
pub fn finished(pod: &Pod) -> Option<Timestamp> {
    main_statuses(pod)
        .iter()
        .map(|status| ended(status.state.as_ref()))
        .max()
        .flatten()
}

/// Whether the pod ran before: one of its containers has been restarted.
#[must_use]
pub fn has_previous_log(pod: &Pod) -> bool {
    all_statuses(pod).any(|status| status.restart_count > 0)
}

/// Name as shown in links.
#[must_use]
pub fn reference(pod: &Pod) -> String {
    format!("Pod/{}", pod.name_any())
}

fn main_statuses(pod: &Pod) -> &[ContainerStatus] {
    pod.status
        .as_ref()
        .and_then(|status| status.container_statuses.as_deref())
        .unwrap_or_default()
}

fn all_statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let init = pod
        .status
        .as_ref()
        .and_then(|status| status.init_container_statuses.as_deref());
    init.unwrap_or_default().iter().chain(main_statuses(pod))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Trouble, state};

    fn judged(value: Value) -> super::PodState {
        state(&serde_json::from_value(value).unwrap())
    }

    #[test]
    fn a_gated_pod_says_so_before_anything_else() {
        let found = judged(json!({"spec": {"containers": [{"name": "main"}],
            "schedulingGates": [{"name": "kaito.sh/placement"}]},
            "status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
                "reason": "SchedulingGated"}]}}));
        assert_eq!(
            (found.reason.as_str(), found.trouble),
            ("SchedulingGated", Some(Trouble::Gated))
        );
        assert_eq!(found.field, "spec.schedulingGates[kaito.sh/placement]");
        assert_eq!(found.ready, "0/1");
    }

    #[test]
    fn a_crash_loop_tells_the_exit_code_and_memory_kills_apart() {
        let pod = |reason: &str| {
            json!({"spec": {"containers": [{"name": "main"}]}, "status": {"phase": "Running",
            "containerStatuses": [{"name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 3,
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
                "lastState": {"terminated": {"exitCode": 137, "reason": reason}}}]}})
        };
        let text = "container main ended with exit code 137, restarted 3 times".to_owned();
        assert_eq!(
            judged(pod("Error")).trouble,
            Some(Trouble::Crash(text.clone()))
        );
        assert_eq!(
            judged(pod("OOMKilled")).trouble,
            Some(Trouble::OutOfMemory(text))
        );
        assert_eq!(judged(pod("Error")).restarts, 3);
    }

    #[test]
    fn a_running_pod_that_is_not_ready_is_loading_and_a_ready_one_has_no_trouble() {
        let pod = |ready: &str| {
            json!({"spec": {"containers": [{"name": "main"}]}, "status": {"phase": "Running",
                "conditions": [{"type": "Ready", "status": ready}]}})
        };
        assert_eq!(judged(pod("False")).trouble, Some(Trouble::Loading));
        assert_eq!(judged(pod("True")).trouble, None);
    }

    #[test]
    fn an_image_that_cannot_be_pulled_carries_the_runtimes_words() {
        let found = judged(
            json!({"spec": {"containers": [{"name": "main"}]}, "status": {"phase": "Pending",
            "containerStatuses": [{"name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                "state": {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}}]}}),
        );
        assert_eq!(found.trouble, Some(Trouble::Image("not found".to_owned())));
        assert_eq!(found.field, "status.containerStatuses[main].state");
    }
}
