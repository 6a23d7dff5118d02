//! Why a pod that has a node does not run: the first cause in KAITO's order, under KAITO's reasons.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use kube::ResourceExt;

/// Reason and message, if the pod shows one.
pub(super) fn of(pod: &Pod) -> Option<(&'static str, String)> {
    let status = pod.status.as_ref()?;
    let name = pod.name_any();
    if status.reason.as_deref() == Some("Evicted") {
        let why = status.message.clone().unwrap_or_default();
        return Some(("PodEvicted", format!("pod {name} was evicted: {why}")));
    }
    let containers = status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten());
    let mut found: Vec<(usize, &'static str, String)> = containers
        .filter_map(|container| of_container(&name, container))
        .collect();
    found.sort();
    if let Some((_, reason, message)) = found.into_iter().next() {
        return Some((reason, message));
    }
    unschedulable(pod, &name)
}

fn of_container(pod: &str, container: &ContainerStatus) -> Option<(usize, &'static str, String)> {
    let name = &container.name;
    let last = container
        .last_state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    let now = container
        .state
        .as_ref()
        .and_then(|state| state.terminated.as_ref());
    let killed = |reason: Option<&str>| reason == Some("OOMKilled");
    if killed(last.and_then(|s| s.reason.as_deref()))
        || killed(now.and_then(|s| s.reason.as_deref()))
    {
        let message = format!("container {name} of pod {pod} ran out of memory");
        return Some((0, "ContainerOOMKilled", message));
    }
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let why = waiting.message.clone().unwrap_or_default();
    let (order, reason) = match waiting.reason.as_deref()? {
        "ImagePullBackOff" | "ErrImagePull" | "InvalidImageName" => (1, "ImagePullError"),
        "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
            (2, "ContainerStartError")
        }
        "CrashLoopBackOff" => (3, "ContainerCrashLoopBackOff"),
        _ => return None,
    };
    let code = last.map(last_words).unwrap_or_default();
    Some((
        order,
        reason,
        format!("container {name} of pod {pod}: {why}{code}"),
    ))
}

/// How a container ended: its exit code, and what it left in its termination log.
fn last_words(state: &ContainerStateTerminated) -> String {
    let code = format!(", last exit code {}", state.exit_code);
    match state.message.as_deref().map(str::trim) {
        Some(said) if !said.is_empty() => format!("{code}: {said}"),
        _ => code,
    }
}

/// Kube-scheduler refuses a pod that we released: volumes, affinity or quota that placement does not judge.
fn unschedulable(pod: &Pod, name: &str) -> Option<(&'static str, String)> {
    let list = pod.status.as_ref()?.conditions.as_ref()?;
    let refused = list.iter().find(|condition| {
        condition.type_ == "PodScheduled" && condition.reason.as_deref() == Some("Unschedulable")
    })?;
    let why = refused.message.clone().unwrap_or_default();
    Some(("Unschedulable", format!("pod {name}: {why}")))
}
