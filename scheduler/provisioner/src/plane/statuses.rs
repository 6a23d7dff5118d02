//! The status that a simulated kubelet writes for a pod at a stage of its life. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus, HostIP, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::pods::{Stage, View, containers, init_containers};

/// Exit code of a container that ends by SIGTERM.
const TERMINATED: i32 = 143;

/// The status of a pod that its node has no room for.
pub(super) fn refusal(resource: &str) -> PodStatus {
    PodStatus {
        phase: Some("Failed".to_owned()),
        reason: Some(format!("OutOf{resource}")),
        message: Some(format!(
            "Pod was rejected: Node didn't have enough resource: {resource} (simulated kubelet)"
        )),
        ..PodStatus::default()
    }
}

/// What distinguishes one status from another; times do not.
pub(super) fn facts(status: &PodStatus) -> BTreeMap<String, String> {
    let mut facts = BTreeMap::new();
    let mut fact =
        |key: String, value: Option<String>| facts.insert(key, value.unwrap_or_default());
    fact("phase".to_owned(), status.phase.clone());
    fact("ip".to_owned(), status.pod_ip.clone());
    for container in status
        .init_container_statuses
        .iter()
        .chain(&status.container_statuses)
        .flatten()
    {
        let state = container.state.clone().unwrap_or_default();
        let kind = match (&state.running, &state.terminated, &state.waiting) {
            (Some(_), _, _) => "running".to_owned(),
            (_, Some(terminated), _) => format!("terminated {}", terminated.exit_code),
            (_, _, waiting) => format!(
                "waiting {:?}",
                waiting.as_ref().and_then(|w| w.reason.clone())
            ),
        };
        fact(
            format!("container {}", container.name),
            Some(format!("{kind} {}", container.ready)),
        );
    }
    for kind in ["Initialized", "ContainersReady", "Ready"] {
        let found = status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == kind);
        fact(
            format!("condition {kind}"),
            found.map(|condition| condition.status.clone()),
        );
    }
    facts
}

/// The status of a pod that has come to `stage`.
pub(super) fn status(view: &View<'_>, stage: Stage) -> PodStatus {
    let phase = match stage {
        Stage::Init(_) | Stage::Creating => "Pending",
        Stage::Running => "Running",
        Stage::Ended(0) => "Succeeded",
        Stage::Ended(_) | Stage::Killed => "Failed",
    };
    let inits = init_containers(view.pod).iter().enumerate();
    let inits: Vec<_> = inits
        .map(|(index, container)| init_status(view, stage, index, container))
        .collect();
    PodStatus {
        phase: Some(phase.to_owned()),
        host_ip: Some(view.host_ip.to_owned()),
        host_ips: Some(vec![HostIP {
            ip: view.host_ip.to_owned(),
        }]),
        pod_ip: Some(view.pod_ip.to_owned()),
        pod_ips: Some(vec![PodIP {
            ip: view.pod_ip.to_owned(),
        }]),
        start_time: Some(whole(view.accepted)),
        conditions: Some(pod_conditions(view, stage)),
        init_container_statuses: (!inits.is_empty()).then_some(inits),
        container_statuses: Some(
            containers(view.pod)
                .iter()
                .map(|container| main_status(view, stage, container))
                .collect(),
        ),
        ..PodStatus::default()
    }
}

fn init_status(
    view: &View<'_>,
    stage: Stage,
    index: usize,
    container: &Container,
) -> ContainerStatus {
    let sidecar = container.restart_policy.as_deref() == Some("Always");
    let state = match stage {
        Stage::Init(running) if running < index => waiting("PodInitializing"),
        Stage::Init(running) if running == index => running_since(view),
        Stage::Ended(_) | Stage::Killed if sidecar => terminated(view, 0),
        _ if sidecar => running_since(view),
        _ => terminated(view, 0),
    };
    let ready = state.terminated.is_some() || (sidecar && state.running.is_some());
    container_status(view, container, state, ready)
}

fn main_status(view: &View<'_>, stage: Stage, container: &Container) -> ContainerStatus {
    let initialized = init_containers(view.pod).is_empty();
    let (state, ready) = match stage {
        Stage::Init(_) => (waiting("PodInitializing"), false),
        Stage::Creating if initialized => (waiting("ContainerCreating"), false),
        Stage::Creating => (waiting("PodInitializing"), false),
        Stage::Running => (running_since(view), true),
        Stage::Ended(code) => (terminated(view, code), false),
        Stage::Killed => (terminated(view, TERMINATED), false),
    };
    container_status(view, container, state, ready)
}

fn container_status(
    view: &View<'_>,
    container: &Container,
    state: ContainerState,
    ready: bool,
) -> ContainerStatus {
    let image = container.image.clone().unwrap_or_default();
    let uid = view.pod.metadata.uid.as_deref().unwrap_or_default();
    let begun = state.waiting.is_none();
    ContainerStatus {
        name: container.name.clone(),
        container_id: begun.then(|| format!("simulated://{uid}-{}", container.name)),
        image_id: if begun {
            format!("simulated://{image}")
        } else {
            String::new()
        },
        image,
        ready,
        started: Some(state.running.is_some()),
        restart_count: 0,
        state: Some(state),
        ..ContainerStatus::default()
    }
}

fn waiting(reason: &str) -> ContainerState {
    let waiting = ContainerStateWaiting {
        reason: Some(reason.to_owned()),
        message: None,
    };
    ContainerState {
        waiting: Some(waiting),
        ..ContainerState::default()
    }
}

fn running_since(view: &View<'_>) -> ContainerState {
    let running = ContainerStateRunning {
        started_at: Some(whole(view.now)),
    };
    ContainerState {
        running: Some(running),
        ..ContainerState::default()
    }
}

fn terminated(view: &View<'_>, exit_code: i32) -> ContainerState {
    let reason = if exit_code == 0 { "Completed" } else { "Error" };
    let terminated = ContainerStateTerminated {
        exit_code,
        reason: Some(reason.to_owned()),
        started_at: Some(whole(view.accepted)),
        finished_at: Some(whole(view.now)),
        ..ContainerStateTerminated::default()
    };
    ContainerState {
        terminated: Some(terminated),
        ..ContainerState::default()
    }
}

fn pod_conditions(view: &View<'_>, stage: Stage) -> Vec<PodCondition> {
    let initialized = !matches!(stage, Stage::Init(_));
    let ready = stage == Stage::Running;
    let unready = match stage {
        Stage::Ended(0) => "PodCompleted",
        Stage::Ended(_) | Stage::Killed => "PodFailed",
        _ => "ContainersNotReady",
    };
    let current = view
        .pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let condition = |kind: &str, holds: bool, reason: &str| {
        let status = if holds { "True" } else { "False" };
        let before = current
            .iter()
            .find(|found| found.type_ == kind && found.status == status);
        PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            // Empty rather than absent: the strategic merge would keep an old reason.
            reason: Some(if holds {
                String::new()
            } else {
                reason.to_owned()
            }),
            last_transition_time: before
                .and_then(|found| found.last_transition_time.clone())
                .or_else(|| Some(whole(view.now))),
            ..PodCondition::default()
        }
    };
    vec![
        condition(
            "PodReadyToStartContainers",
            !matches!(stage, Stage::Ended(_) | Stage::Killed),
            unready,
        ),
        condition("Initialized", initialized, "ContainersNotInitialized"),
        condition("ContainersReady", ready, unready),
        condition("Ready", ready, unready),
    ]
}

fn whole(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}
