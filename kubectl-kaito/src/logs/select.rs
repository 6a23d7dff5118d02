//! Which containers of which pods are read, and in which order.

use std::fmt::Write as _;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::ResourceExt;

/// One container's log.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source {
    /// Pod name.
    pub pod: String,
    /// Pod UID: a pod that is made again under its old name is another source.
    pub uid: String,
    /// Container name.
    pub container: String,
}

impl Source {
    /// What is put before each of its lines with `--prefix`.
    #[must_use]
    pub fn prefix(&self) -> String {
        format!("[pod/{}/{}] ", self.pod, self.container)
    }
}

/// Annotation that names the container which tools should open.
const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Names of the pod's containers: init, then main, then ephemeral, which is also the order they are read in.
#[must_use]
pub fn containers(pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else {
        return Vec::new();
    };
    let init = spec
        .init_containers
        .iter()
        .flatten()
        .map(|container| container.name.clone());
    let main = spec
        .containers
        .iter()
        .map(|container| container.name.clone());
    let late = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .map(|container| container.name.clone());
    init.chain(main).chain(late).collect()
}

/// The container to read when none is named, and the line that tells the user if there was a choice.
#[must_use]
pub fn default_container(pod: &Pod) -> Option<(String, Option<String>)> {
    let spec = pod.spec.as_ref()?;
    let first = spec.containers.first()?.name.clone();
    let wanted = pod.annotations().get(DEFAULT_CONTAINER);
    if let Some(wanted) = wanted.filter(|wanted| containers(pod).contains(*wanted)) {
        return Some((wanted.clone(), None));
    }
    let init: Vec<&str> = spec
        .init_containers
        .iter()
        .flatten()
        .map(|item| item.name.as_str())
        .collect();
    let late: Vec<&str> = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .map(|item| item.name.as_str())
        .collect();
    if spec.containers.len() + init.len() + late.len() == 1 {
        return Some((first, None));
    }
    let mut note = format!("Defaulted container \"{first}\" out of: ");
    let names: Vec<&str> = spec
        .containers
        .iter()
        .map(|item| item.name.as_str())
        .collect();
    note.push_str(&names.join(", "));
    for name in late {
        let _ = write!(note, ", {name} (ephem)");
    }
    for name in init {
        let _ = write!(note, ", {name} (init)");
    }
    Some((first, Some(note)))
}

/// Status of a container of any of the three kinds.
#[must_use]
pub fn container_status<'a>(pod: &'a Pod, container: &str) -> Option<&'a ContainerStatus> {
    let status = pod.status.as_ref()?;
    status
        .init_container_statuses
        .iter()
        .flatten()
        .chain(status.container_statuses.iter().flatten())
        .chain(status.ephemeral_container_statuses.iter().flatten())
        .find(|candidate| candidate.name == container)
}

/// Whether the container has begun to run at least once, so that there is a log to ask for.
#[must_use]
pub fn has_started(pod: &Pod, container: &str) -> bool {
    container_status(pod, container).is_some_and(|status| {
        let state = status.state.as_ref();
        let last = status.last_state.as_ref();
        state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
            || last.is_some_and(|state| state.terminated.is_some())
    })
}

/// Whether the pod will never run again.
#[must_use]
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Sorts the pods of a workload so that the one most worth reading comes first: assigned, running, ready, restarted
/// the least, oldest, then by name.
pub fn order_pods(pods: &mut [Pod]) {
    pods.sort_by_cached_key(|pod| {
        let status = pod.status.as_ref();
        let assigned = pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.node_name.is_some());
        let running = status.and_then(|status| status.phase.as_deref()) == Some("Running");
        let conditions = status
            .and_then(|status| status.conditions.as_deref())
            .unwrap_or_default();
        let ready = conditions
            .iter()
            .any(|item| item.type_ == "Ready" && item.status == "True");
        let restarts: i32 = status
            .and_then(|status| status.container_statuses.as_deref())
            .unwrap_or_default()
            .iter()
            .map(|status| status.restart_count)
            .sum();
        let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (
            !assigned,
            !running,
            !ready,
            restarts,
            created,
            pod.name_any(),
        )
    });
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use kube::ResourceExt;
    use serde_json::json;

    use super::{containers, default_container, has_started, order_pods};

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_first_main_container_is_the_default_and_the_choice_is_told() {
        let pod = pod(json!({"spec": {
            "initContainers": [{"name": "init"}],
            "containers": [{"name": "main"}, {"name": "side"}]}}));
        assert_eq!(containers(&pod), ["init", "main", "side"]);
        let (name, note) = default_container(&pod).unwrap();
        assert_eq!(name, "main");
        assert_eq!(
            note.unwrap(),
            "Defaulted container \"main\" out of: main, side, init (init)"
        );
    }

    #[test]
    fn an_annotation_chooses_the_default_silently_and_a_single_container_needs_no_note() {
        let annotated = pod(json!({
            "metadata": {"annotations": {"kubectl.kubernetes.io/default-container": "side"}},
            "spec": {"containers": [{"name": "main"}, {"name": "side"}]}}));
        assert_eq!(
            default_container(&annotated).unwrap(),
            ("side".to_owned(), None)
        );
        let single = pod(json!({"spec": {"containers": [{"name": "main"}]}}));
        assert_eq!(
            default_container(&single).unwrap(),
            ("main".to_owned(), None)
        );
    }

    #[test]
    fn a_waiting_container_has_a_log_only_if_it_ran_before() {
        let waiting = json!({"name": "main", "image": "i", "imageID": "", "ready": false, "restartCount": 1,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}}});
        let mut ran = waiting.clone();
        ran["lastState"] = json!({"terminated": {"exitCode": 1}});
        let status =
            |item: serde_json::Value| pod(json!({"status": {"containerStatuses": [item]}}));
        assert!(!has_started(&status(waiting), "main"));
        assert!(has_started(&status(ran), "main"));
    }

    #[test]
    fn the_ready_pod_comes_before_the_pending_one() {
        let mut pods = vec![
            pod(json!({"metadata": {"name": "a"}, "status": {"phase": "Pending"}})),
            pod(
                json!({"metadata": {"name": "b"}, "spec": {"containers": [], "nodeName": "n"},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}),
            ),
        ];
        order_pods(&mut pods);
        assert_eq!(pods[0].name_any(), "b");
    }
}
