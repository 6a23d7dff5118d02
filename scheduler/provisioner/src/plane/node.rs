//! The Node object of a simulated machine. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec, NodeStatus,
    NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kaito_api::nodeclaim::REGISTERED;
use kaito_api::{NodeClaim, conditions, names};
use kube::api::ObjectMeta;

use crate::cloud::simulated::{Stage, View};
use crate::lifecycle::initialized::{LABEL_REGISTERED, is_ready, owner};

/// Label: the claim that a node belongs to.
pub const LABEL_NODE_CLAIM: &str = "kaito.sh/nodeclaim";

/// Version that simulated kubelets report: the Kubernetes minor that we are tested with, marked as what it is.
const KUBELET_VERSION: &str = "v1.36.3+simulated";

/// Where the simulated kubelets are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Address of every simulated node.
    pub ip: IpAddr,
    /// Port of the log and exec endpoint.
    pub port: u16,
}

/// Name of the node of a claim: a valid label value and host name, the same in every run.
#[must_use]
pub fn name(claim: &str) -> String {
    let plain = format!("sim-{claim}");
    if plain.len() <= 63 {
        return plain;
    }
    // Claim names are DNS names, so every byte is a character.
    let head = claim
        .get(..40)
        .unwrap_or_default()
        .trim_end_matches(['-', '.']);
    format!("sim-{head}-{}", names::digest(&[claim], 9))
}

/// Whether the machine's node may be created: the machine is that far, there is none, the claim still wants it, and
/// it is not one that has joined before and was removed by somebody.
#[must_use]
pub fn may_join(claim: Option<&NodeClaim>, node: Option<&Node>, view: &View) -> bool {
    let wanted = claim.is_some_and(|claim| {
        claim.metadata.deletion_timestamp.is_none()
            && claim.metadata.uid.as_deref() == Some(view.request.uid.as_str())
            && !conditions::is_true(claim.conditions(), REGISTERED)
    });
    wanted && node.is_none() && view.stage >= Stage::Joined
}

/// The node as its kubelet would register it at `now`. It is born complete (finalizer, owner, labels, taints): what
/// registration would add costs no second write. The not-ready taint is the API server's and the
/// controller-manager's business.
#[must_use]
pub fn build(view: &View, address: Address, now: Timestamp) -> Node {
    let request = &view.request;
    let name = name(&request.claim);
    let mut labels = view.machine.labels.clone();
    labels.extend(view.size.gpu_labels());
    labels.extend(request.labels.clone());
    labels.extend(
        [
            (names::LABEL_HOSTNAME, name.as_str()),
            (LABEL_NODE_CLAIM, request.claim.as_str()),
            (LABEL_REGISTERED, "true"),
            (names::LABEL_SIMULATED, "true"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    let taints: Vec<_> = request
        .taints
        .iter()
        .chain(&request.startup_taints)
        .cloned()
        .collect();
    Node {
        metadata: ObjectMeta {
            name: Some(name),
            labels: Some(labels),
            finalizers: Some(vec![names::TERMINATION_FINALIZER.to_owned()]),
            owner_references: Some(vec![owner(&request.claim, &request.uid)]),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec {
            provider_id: Some(view.machine.provider_id.clone()),
            taints: (!taints.is_empty()).then_some(taints),
            ..NodeSpec::default()
        }),
        status: Some(status(view, address, &[], now)),
    }
}

/// The node's status if it differs from what the machine would report, times aside; `None` when it is up to date.
/// A node that is Ready or shows its GPUs does not lose them because a restarted cloud counts its delays anew.
#[must_use]
pub fn status_if_changed(
    node: &Node,
    view: &View,
    address: Address,
    now: Timestamp,
) -> Option<NodeStatus> {
    let current = node.status.clone().unwrap_or_default();
    let mut view = view.clone();
    view.stage = view.stage.max(stage_of(node, &view));
    let wanted = status(
        &view,
        address,
        current.conditions.as_deref().unwrap_or_default(),
        now,
    );
    let facts = |status: &NodeStatus| {
        (
            ready_of(status),
            status.allocatable.clone(),
            status.daemon_endpoints.clone(),
            status.addresses.clone(),
        )
    };
    (facts(&current) != facts(&wanted)).then_some(wanted)
}

/// The status as a heartbeat writes it: the same facts, the time anew.
#[must_use]
pub fn heartbeat(node: &Node, view: &View, address: Address, now: Timestamp) -> NodeStatus {
    let mut view = view.clone();
    view.stage = view.stage.max(stage_of(node, &view));
    let current = node
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    status(&view, address, current, now)
}

fn stage_of(node: &Node, view: &View) -> Stage {
    let allocatable = node
        .status
        .as_ref()
        .and_then(|status| status.allocatable.as_ref());
    let has_gpus = match &view.machine.gpu_resource {
        Some(resource) => {
            allocatable.is_some_and(|all| all.get(resource).is_some_and(|n| n.0 != "0"))
        }
        None => true,
    };
    // A node that the controller-manager has marked Unknown is Ready again as soon as its kubelet speaks.
    match (has_gpus, is_ready(node)) {
        (true, true) => Stage::Complete,
        (_, true) => Stage::Ready,
        (_, false) => Stage::Joined,
    }
}

fn ready_of(status: &NodeStatus) -> Option<String> {
    let found = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "Ready");
    found.map(|condition| condition.status.clone())
}

fn status(view: &View, address: Address, current: &[NodeCondition], now: Timestamp) -> NodeStatus {
    let name = name(&view.request.claim);
    let node_address = |kind: &str, value: String| NodeAddress {
        type_: kind.to_owned(),
        address: value,
    };
    NodeStatus {
        addresses: Some(vec![
            node_address("InternalIP", address.ip.to_string()),
            node_address("Hostname", name),
        ]),
        capacity: Some(shown(view, &view.machine.capacity)),
        allocatable: Some(shown(view, &view.machine.allocatable)),
        conditions: Some(node_conditions(view.stage, current, now)),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint {
                port: i32::from(address.port),
            }),
        }),
        node_info: Some(NodeSystemInfo {
            architecture: "amd64".to_owned(),
            boot_id: format!("simulated-{}", view.request.uid),
            container_runtime_version: "simulated://0".to_owned(),
            kernel_version: "simulated".to_owned(),
            kube_proxy_version: String::new(),
            kubelet_version: KUBELET_VERSION.to_owned(),
            machine_id: format!("simulated-{}", view.request.uid),
            operating_system: "linux".to_owned(),
            os_image: "simulated (no machine)".to_owned(),
            system_uuid: view.request.uid.clone(),
            swap: None,
        }),
        ..NodeStatus::default()
    }
}

/// Resources without the GPUs as long as the device plugin is not up.
fn shown(view: &View, resources: &BTreeMap<String, Quantity>) -> BTreeMap<String, Quantity> {
    let mut all = resources.clone();
    if view.stage < Stage::Complete
        && let Some(resource) = &view.machine.gpu_resource
    {
        all.remove(resource);
    }
    all
}

fn node_conditions(stage: Stage, current: &[NodeCondition], now: Timestamp) -> Vec<NodeCondition> {
    let ready = if stage >= Stage::Ready {
        (
            "Ready",
            "True",
            "KubeletReady",
            "simulated kubelet is posting ready status",
        )
    } else {
        (
            "Ready",
            "False",
            "KubeletNotReady",
            "simulated machine is starting",
        )
    };
    let facts = [
        (
            "MemoryPressure",
            "False",
            "KubeletHasSufficientMemory",
            "simulated",
        ),
        (
            "DiskPressure",
            "False",
            "KubeletHasNoDiskPressure",
            "simulated",
        ),
        (
            "PIDPressure",
            "False",
            "KubeletHasSufficientPID",
            "simulated",
        ),
        ready,
    ];
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    facts
        .map(|(kind, status, reason, message)| {
            let before = current
                .iter()
                .find(|found| found.type_ == kind && found.status == status);
            NodeCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message.to_owned()),
                last_heartbeat_time: Some(now.clone()),
                last_transition_time: before
                    .and_then(|found| found.last_transition_time.clone())
                    .or_else(|| Some(now.clone())),
            }
        })
        .to_vec()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::cloud::LaunchRequest;
    use crate::cloud::simulated::Model;
    use crate::scenario::{Scale, Scenario};

    const ADDRESS: Address = Address {
        ip: IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        port: 10_250,
    };

    fn view_at(second: i64) -> View {
        let claim: NodeClaim = serde_json::from_value(json!({
            "metadata": {"name": "ws1", "uid": "u", "labels": {"karpenter.sh/nodepool": "kaito"}},
            "spec": {
                "nodeClassRef": {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "d"},
                "requirements": [{"key": "node.kubernetes.io/instance-type", "operator": "In",
                                  "values": ["Standard_NC48ads_A100_v4"]}],
                "taints": [{"key": "sku", "value": "gpu", "effect": "NoSchedule"}]
            }
        }))
        .unwrap();
        let scenario =
            Scenario::parse("delays: {launch: 0s, register: 0s, ready: 10s, devicePlugin: 10s}")
                .unwrap();
        let mut model = Model::new(
            Arc::new(scenario),
            Scale {
                factor: NonZeroU32::MIN,
                seed: 0,
            },
        );
        let at = |second| Timestamp::from_second(second).unwrap();
        model
            .create(&LaunchRequest::of(&claim).unwrap(), at(0))
            .unwrap();
        model.view("simulated:///u", at(second)).unwrap()
    }

    fn now() -> Timestamp {
        Timestamp::from_second(50).unwrap()
    }

    #[test]
    fn a_node_is_born_labelled_tainted_owned_and_marked_as_simulated() {
        let node = build(&view_at(0), ADDRESS, now());
        let labels = node.metadata.labels.as_ref().unwrap();
        for (key, value) in [
            ("kubernetes.io/hostname", "sim-ws1"),
            ("kaito.sh/simulated", "true"),
            ("kaito.sh/nodeclaim", "ws1"),
            ("karpenter.sh/nodepool", "kaito"),
            ("karpenter.sh/capacity-type", "on-demand"),
            ("nvidia.com/gpu.count", "2"),
            ("accelerator", "nvidia"),
        ] {
            assert_eq!(labels.get(key).map(String::as_str), Some(value), "{key}");
        }
        let spec = node.spec.as_ref().unwrap();
        assert_eq!(spec.taints.as_ref().unwrap()[0].key, "sku");
        assert_eq!(node.metadata.owner_references.as_ref().unwrap()[0].uid, "u");
        assert!(!is_ready(&node));
    }

    #[test]
    fn status_changes_are_written_once_per_stage() {
        let mut node = build(&view_at(0), ADDRESS, now());
        assert_eq!(status_if_changed(&node, &view_at(9), ADDRESS, now()), None);
        node.status = status_if_changed(&node, &view_at(10), ADDRESS, now());
        assert!(is_ready(&node));
        let allocatable = node.status.as_ref().unwrap().allocatable.clone().unwrap();
        assert!(!allocatable.contains_key("nvidia.com/gpu"));
        node.status = status_if_changed(&node, &view_at(20), ADDRESS, now());
        assert_eq!(
            node.status.as_ref().unwrap().allocatable.as_ref().unwrap()["nvidia.com/gpu"].0,
            "2"
        );
        assert_eq!(status_if_changed(&node, &view_at(99), ADDRESS, now()), None);
    }

    #[test]
    fn a_restarted_cloud_takes_nothing_back_but_moves_the_port() {
        let node = build(&view_at(99), ADDRESS, now());
        assert_eq!(status_if_changed(&node, &view_at(0), ADDRESS, now()), None);
        let moved = Address { port: 1, ..ADDRESS };
        let status = status_if_changed(&node, &view_at(0), moved, now()).unwrap();
        assert_eq!(ready_of(&status).as_deref(), Some("True"));
        assert!(status.allocatable.unwrap().contains_key("nvidia.com/gpu"));
    }

    #[test]
    fn long_claim_names_give_distinct_valid_node_names() {
        let (one, two) = (
            name(&format!("{}-1", "a".repeat(80))),
            name(&format!("{}-2", "a".repeat(80))),
        );
        assert_ne!(one, two);
        assert!(one.len() <= 63);
    }
}
