//! The scheduler's verdict on some Workspaces, in the company of all others. Pure.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kaito_api::Workspace;
use kaito_placement::plan::{Assignment, Blocker, Plan, PlannedNode, Waiting};
use kaito_placement::planner;
use kaito_placement::snapshot::Snapshot;
use kaito_snapshot::cluster::{self, Memory, Objects};
use kaito_snapshot::sizing::{self, NodeMode, Sizing, Surroundings};
use kube::ResourceExt;

use crate::commands::plan::objects::Recorded;
use crate::view::facts::node_of;

/// Where Workspaces land, and the plan that says so.
#[derive(Debug)]
pub struct Decided {
    /// One per Workspace asked for, in their order.
    pub landings: Vec<Landing>,
    /// What the plan was made from.
    pub snapshot: Snapshot,
    /// The plan for everybody.
    pub plan: Plan,
}

/// Where one Workspace lands.
#[derive(Debug)]
pub struct Landing {
    /// `namespace/name`.
    pub workspace: String,
    /// Its size; absent if it has none.
    pub sizing: Option<Arc<Sizing>>,
    /// What happens to it.
    pub decision: Decision,
}

/// What happens to a Workspace.
#[derive(Debug)]
pub enum Decision {
    /// Its pods have nodes already: pod and node.
    Placed(Vec<(String, String)>),
    /// It gets these nodes now.
    Assign(Assignment),
    /// Nodes are bought for it, and it waits for them.
    Buy(Vec<PlannedNode>, Waiting),
    /// It waits.
    Wait(Waiting),
    /// Some of its pods are not there yet, so it is not planned.
    Incomplete,
    /// It cannot run as written.
    Refused(sizing::Error),
}

impl Landing {
    /// Whether it has, gets, or will get its place.
    #[must_use]
    pub const fn fits(&self) -> bool {
        match &self.decision {
            Decision::Placed(_)
            | Decision::Assign(_)
            | Decision::Buy(..)
            | Decision::Incomplete => true,
            Decision::Wait(waiting) => matches!(waiting.blocker, Blocker::NodesLaunching { .. }),
            Decision::Refused(_) => false,
        }
    }
}

/// Decides for `targets`, each in turn taking the place of a Workspace of its name in `recorded`.
#[must_use]
pub fn decide(recorded: &Recorded, targets: &[Arc<Workspace>], now: Timestamp) -> Decided {
    let mut objects = Objects {
        nodes: recorded.nodes.clone(),
        pods: recorded.pods.clone(),
        claims: recorded.claims.clone(),
        ..Objects::default()
    };
    let others = recorded
        .workspaces
        .iter()
        .filter(|item| !targets.iter().any(|target| same(item, target)));
    for workspace in others {
        // One that has no size is not planned by the scheduler either.
        if let Ok(size) = size(recorded, workspace) {
            objects
                .workspaces
                .push((Arc::clone(workspace), Arc::new(size)));
        }
    }
    let sizes: Vec<_> = targets
        .iter()
        .map(|target| size(recorded, target).map(Arc::new))
        .collect();
    for (target, size) in targets.iter().zip(&sizes) {
        if let Ok(size) = size {
            objects
                .workspaces
                .push((Arc::clone(target), Arc::clone(size)));
        }
    }
    let memory = Memory {
        hypothetical: true,
        ..Memory::default()
    };
    let snapshot = cluster::snapshot(&objects, &memory, now.as_second());
    let plan = planner::plan(&snapshot);
    let landings = targets.iter().zip(sizes);
    Decided {
        landings: landings
            .map(|(target, size)| landing(recorded, &plan, target, size))
            .collect(),
        snapshot,
        plan,
    }
}

fn same(one: &Workspace, other: &Workspace) -> bool {
    one.metadata.name == other.metadata.name && one.metadata.namespace == other.metadata.namespace
}

fn size(recorded: &Recorded, workspace: &Workspace) -> Result<Sizing, sizing::Error> {
    let around = Surroundings {
        mode: if recorded.can_buy {
            NodeMode::Auto
        } else {
            NodeMode::OwnNodes
        },
        own_gpus: cluster::own_gpus(workspace, &recorded.nodes),
        has_own_nodes: !cluster::own_nodes(workspace, &recorded.nodes).is_empty(),
        max_model_len: configured_context(recorded, workspace),
    };
    sizing::size(workspace, &around)
}

fn configured_context(recorded: &Recorded, workspace: &Workspace) -> Option<u32> {
    let name = workspace.spec.inference.as_ref()?.config.clone()?;
    let key = (workspace.namespace().unwrap_or_default(), name);
    recorded.context_limits.get(&key).copied()
}

fn landing(
    recorded: &Recorded,
    plan: &Plan,
    target: &Workspace,
    size: Result<Arc<Sizing>, sizing::Error>,
) -> Landing {
    let workspace = format!(
        "{}/{}",
        target.namespace().unwrap_or_default(),
        target.name_any()
    );
    match size {
        Err(error) => Landing {
            workspace,
            sizing: None,
            decision: Decision::Refused(error),
        },
        Ok(size) => {
            let decision = verdict(recorded, plan, target, &workspace);
            Landing {
                workspace,
                sizing: Some(size),
                decision,
            }
        }
    }
}

fn verdict(recorded: &Recorded, plan: &Plan, target: &Workspace, name: &str) -> Decision {
    if let Some(found) = plan.assignments.iter().find(|item| item.demand == name) {
        return Decision::Assign(found.clone());
    }
    if let Some(found) = plan.waiting.iter().find(|item| item.demand == name) {
        let bought: Vec<PlannedNode> = plan
            .purchases
            .iter()
            .filter(|item| {
                item.buyer == name || item.for_demands.iter().any(|demand| demand == name)
            })
            .cloned()
            .collect();
        return match (&found.blocker, bought.is_empty()) {
            (Blocker::NodesLaunching { .. }, false) => Decision::Buy(bought, found.clone()),
            _ => Decision::Wait(found.clone()),
        };
    }
    let placed = placed(recorded, target);
    if placed.is_empty() {
        Decision::Incomplete
    } else {
        Decision::Placed(placed)
    }
}

fn placed(recorded: &Recorded, target: &Workspace) -> Vec<(String, String)> {
    let owned = |pod: &Pod| {
        pod.labels().get(kaito_api::names::LABEL_WORKSPACE) == Some(&target.name_any())
            && pod.namespace() == target.namespace()
    };
    let mut found: Vec<(String, String)> = recorded
        .pods
        .iter()
        .filter(|pod| owned(pod))
        .filter_map(|pod| Some((pod.name_any(), node_of(pod)?)))
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::Node;
    use serde_json::json;

    use super::{Decision, decide};
    use crate::commands::plan::objects::Recorded;

    fn workspace(name: &str, instance_type: Option<&str>) -> Arc<kaito_api::Workspace> {
        Arc::new(
            serde_json::from_value(json!({
                "apiVersion": "kaito.sh/v1beta1", "kind": "Workspace",
                "metadata": {"name": name, "namespace": "default", "uid": name},
                "resource": {"instanceType": instance_type, "labelSelector": {"matchLabels": {"apps": "own"}}},
                "inference": {"preset": {"name": "phi-4"}}}))
            .unwrap(),
        )
    }

    fn node(name: &str, gpus: &str) -> Arc<Node> {
        Arc::new(
            serde_json::from_value(json!({
                "kind": "Node", "metadata": {"name": name, "labels": {"apps": "own",
                    "kubernetes.io/hostname": name, "node.kubernetes.io/instance-type": "Standard_NC24ads_A100_v4",
                    "nvidia.com/gpu.product": "NVIDIA-A100-80GB-PCIe", "nvidia.com/gpu.count": "1",
                    "nvidia.com/gpu.memory": "81920"}},
                "status": {"conditions": [{"type": "Ready", "status": "True"}],
                    "allocatable": {"cpu": "23", "memory": "210Gi", "pods": "110", "nvidia.com/gpu": gpus,
                        "ephemeral-storage": "900Gi"},
                    "capacity": {"nvidia.com/gpu": gpus}}}))
            .unwrap(),
        )
    }

    fn now() -> jiff::Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_free_node_of_the_right_kind_is_taken() {
        let recorded = Recorded {
            nodes: vec![node("n1", "1")],
            can_buy: true,
            ..Recorded::default()
        };
        let found = decide(&recorded, &[workspace("phi", None)], now()).landings;
        let Decision::Assign(assignment) = &found[0].decision else {
            panic!("{:?}", found[0].decision)
        };
        assert_eq!(assignment.members[0].node, "n1");
        assert!(found[0].fits());
    }

    #[test]
    fn a_second_one_is_bought_a_node_or_waits_where_nothing_can_be_bought() {
        let targets = [workspace("a", None), workspace("b", None)];
        let mut recorded = Recorded {
            nodes: vec![node("n1", "1")],
            can_buy: true,
            ..Recorded::default()
        };
        let found = decide(&recorded, &targets, now()).landings;
        let Decision::Buy(bought, _) = &found[1].decision else {
            panic!("{:?}", found[1].decision)
        };
        assert_eq!(bought.len(), 1);
        recorded.can_buy = false;
        let found = decide(&recorded, &targets, now()).landings;
        assert!(
            matches!(found[1].decision, Decision::Wait(_)),
            "{:?}",
            found[1].decision
        );
        assert!(!found[1].fits());
    }

    #[test]
    fn a_model_nobody_knows_is_refused_with_the_reason() {
        let mut target = workspace("x", None);
        let inference = Arc::make_mut(&mut target).spec.inference.as_mut().unwrap();
        inference.preset.as_mut().unwrap().name = "no/such-model".to_owned();
        let found = decide(
            &Recorded {
                can_buy: true,
                ..Recorded::default()
            },
            &[target],
            now(),
        )
        .landings;
        let Decision::Refused(error) = &found[0].decision else {
            panic!("{:?}", found[0].decision)
        };
        assert!(error.to_string().contains("no/such-model"));
    }
}
