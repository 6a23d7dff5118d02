//! What was read about one Workspace.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Node, NodeCondition, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kaito_api::{NodeClaim, Workspace, names};
use kube::ResourceExt;

use super::training::Training;
use crate::readiness::{self, Verdict};

/// The Workspace and the objects that belong to it, each list sorted by name.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The Workspace.
    pub workspace: Workspace,
    /// Claims bought for it or whose nodes its pods run on.
    pub claims: Vec<NodeClaim>,
    /// Nodes that its pods run on, or that its claims became.
    pub nodes: Vec<Node>,
    /// Its Deployments.
    pub deployments: Vec<Deployment>,
    /// Its StatefulSets.
    pub stateful_sets: Vec<StatefulSet>,
    /// Its Jobs.
    pub jobs: Vec<Job>,
    /// Its pods.
    pub pods: Vec<Pod>,
    /// Its Services.
    pub services: Vec<Service>,
    /// Events about any of these, oldest first.
    pub events: Vec<Event>,
    /// How far the training is, if it is one that runs or ran.
    pub training: Option<Training>,
    /// One line per read that failed.
    pub notes: Vec<String>,
}

impl Facts {
    /// Narrows whole-cluster lists down to what belongs to the Workspace, and sorts.
    #[must_use]
    pub fn narrowed(mut self) -> Self {
        let name = self.workspace.name_any();
        self.deployments.retain(|item| item.name_any() == name);
        self.stateful_sets.retain(|item| item.name_any() == name);
        self.jobs.retain(|item| item.name_any() == name);
        let headless = format!("{name}-headless");
        self.services
            .retain(|item| [&name, &headless].contains(&&item.name_any()));
        self.narrow_claims_and_nodes();
        self.pods.sort_by_key(ResourceExt::name_any);
        self.services.sort_by_key(ResourceExt::name_any);
        self.narrow_events();
        self
    }

    fn narrow_claims_and_nodes(&mut self) {
        let occupied: BTreeSet<String> = self.pods.iter().filter_map(node_of).collect();
        let occupied_claims: BTreeSet<String> = self
            .nodes
            .iter()
            .filter(|node| occupied.contains(&node.name_any()))
            .filter_map(claim_of_node)
            .collect();
        let workspace = &self.workspace;
        self.claims.retain(|claim| {
            let node = claim
                .status
                .as_ref()
                .and_then(|status| status.node_name.as_ref());
            owns(workspace, claim)
                || occupied_claims.contains(&claim.name_any())
                || node.is_some_and(|node| occupied.contains(node))
        });
        let bought: BTreeSet<String> = self.claims.iter().filter_map(node_of_claim).collect();
        self.nodes.retain(|node| {
            occupied.contains(&node.name_any()) || bought.contains(&node.name_any())
        });
        self.claims.sort_by_key(ResourceExt::name_any);
        self.nodes.sort_by_key(ResourceExt::name_any);
    }

    fn narrow_events(&mut self) {
        let known = self.uids();
        let name = self.workspace.name_any();
        let replica_set_prefix = format!("{name}-");
        self.events.retain(|event| {
            let about = &event.involved_object;
            let owned_by_name = about.kind.as_deref() == Some("ReplicaSet")
                && about
                    .name
                    .as_ref()
                    .is_some_and(|about| about.starts_with(&replica_set_prefix));
            about.uid.as_ref().is_some_and(|uid| known.contains(uid)) || owned_by_name
        });
        self.events
            .sort_by_key(|event| (event_time(event), event.name_any()));
    }

    fn uids(&self) -> BTreeSet<String> {
        std::iter::once(self.workspace.uid())
            .chain(self.claims.iter().map(ResourceExt::uid))
            .chain(self.nodes.iter().map(ResourceExt::uid))
            .chain(self.deployments.iter().map(ResourceExt::uid))
            .chain(self.stateful_sets.iter().map(ResourceExt::uid))
            .chain(self.jobs.iter().map(ResourceExt::uid))
            .chain(self.pods.iter().map(ResourceExt::uid))
            .chain(self.services.iter().map(ResourceExt::uid))
            .flatten()
            .collect()
    }

    /// The Workspace's conditions, empty before the first status.
    #[must_use]
    pub fn conditions(&self) -> &[Condition] {
        let status = self.workspace.status.as_ref();
        status
            .and_then(|status| status.conditions.as_deref())
            .unwrap_or_default()
    }

    /// One of the Workspace's conditions.
    #[must_use]
    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions()
            .iter()
            .find(|condition| condition.type_ == kind)
    }

    /// Whether it is a tuning Workspace.
    #[must_use]
    pub fn is_tuning(&self) -> bool {
        self.workspace.spec.tuning.is_some()
    }

    /// What waiting for it will bring.
    #[must_use]
    pub fn readiness(&self) -> Verdict {
        serde_json::to_value(&self.workspace).map_or_else(
            |error| Verdict::Waiting(error.to_string()),
            |object| readiness::judge(&object),
        )
    }

    /// `namespace/name`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!(
            "{}/{}",
            self.workspace.namespace().unwrap_or_default(),
            self.workspace.name_any()
        )
    }
}

/// Whether the claim carries the labels of this Workspace.
fn owns(workspace: &Workspace, claim: &NodeClaim) -> bool {
    let labels = claim.labels();
    labels.get(names::LABEL_WORKSPACE) == Some(&workspace.name_any())
        && labels.get(names::LABEL_WORKSPACE_NAMESPACE) == workspace.namespace().as_ref()
}

/// Name of the claim that a node was bought by.
#[must_use]
pub fn claim_of_node(node: &Node) -> Option<String> {
    let owner = node
        .owner_references()
        .iter()
        .find(|owner| owner.kind == "NodeClaim");
    node.labels()
        .get(names::LABEL_NODECLAIM)
        .cloned()
        .or_else(|| owner.map(|owner| owner.name.clone()))
}

/// Name of the node that a claim became.
#[must_use]
pub fn node_of_claim(claim: &NodeClaim) -> Option<String> {
    claim
        .status
        .as_ref()
        .and_then(|status| status.node_name.clone())
        .filter(|name| !name.is_empty())
}

/// What kubelet says of a node's readiness.
#[must_use]
pub fn readiness_of_node(node: &Node) -> Option<&NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")
}

/// Name of the node that a pod runs on.
#[must_use]
pub fn node_of(pod: &Pod) -> Option<String> {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.clone())
        .filter(|name| !name.is_empty())
}

/// When an event last happened.
#[must_use]
pub fn event_time(event: &Event) -> Option<Timestamp> {
    let series = event
        .series
        .as_ref()
        .and_then(|series| series.last_observed_time.as_ref());
    series
        .map(|time| time.0)
        .or_else(|| event.last_timestamp.as_ref().map(|time| time.0))
        .or_else(|| event.event_time.as_ref().map(|time| time.0))
        .or_else(|| created(event.metadata.creation_timestamp.as_ref()))
}

/// The instant inside an optional API time.
#[must_use]
pub fn created(time: Option<&Time>) -> Option<Timestamp> {
    time.map(|time| time.0)
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::{Value, json};

    use super::Facts;

    /// Facts out of a list of objects of any kinds, as a recorded `kubectl get -o json` has them.
    pub(crate) fn facts(items: &[Value]) -> Facts {
        let mut facts = Facts::default();
        for item in items.iter().cloned() {
            let kind = item["kind"].as_str().unwrap().to_owned();
            match kind.as_str() {
                "Workspace" => facts.workspace = serde_json::from_value(item).unwrap(),
                "NodeClaim" => facts.claims.push(serde_json::from_value(item).unwrap()),
                "Node" => facts.nodes.push(serde_json::from_value(item).unwrap()),
                "Deployment" => facts
                    .deployments
                    .push(serde_json::from_value(item).unwrap()),
                "StatefulSet" => facts
                    .stateful_sets
                    .push(serde_json::from_value(item).unwrap()),
                "Job" => facts.jobs.push(serde_json::from_value(item).unwrap()),
                "Pod" => facts.pods.push(serde_json::from_value(item).unwrap()),
                "Service" => facts.services.push(serde_json::from_value(item).unwrap()),
                "Event" => facts.events.push(serde_json::from_value(item).unwrap()),
                other => panic!("no list for {other}"),
            }
        }
        facts.narrowed()
    }

    /// A document stream of objects, as a test writes them.
    pub(crate) fn yaml(text: &str) -> Facts {
        let items: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
        facts(&items)
    }

    #[test]
    fn only_claims_and_nodes_of_the_workspace_stay_shared_ones_included() {
        let claim = |name: &str, owner: &str| {
            json!({"kind": "NodeClaim", "apiVersion": "karpenter.sh/v1", "metadata": {"name": name,
                "labels": {"kaito.sh/workspace": owner, "kaito.sh/workspacenamespace": "default"}},
                "spec": {"nodeClassRef": {"group": "g", "kind": "k", "name": "n"}, "requirements": []}})
        };
        let node = |name: &str, claim: &str| json!({"kind": "Node", "metadata": {"name": name, "labels": {"kaito.sh/nodeclaim": claim}}});
        let facts = facts(&[
            json!({"kind": "Workspace", "apiVersion": "kaito.sh/v1beta1",
                "metadata": {"name": "phi", "namespace": "default"}, "resource": {"labelSelector": {}}}),
            claim("own", "phi"),
            claim("shared", "other"),
            claim("foreign", "other"),
            node("n-shared", "shared"),
            node("n-foreign", "foreign"),
            json!({"kind": "Pod", "metadata": {"name": "phi-0"}, "spec": {"containers": [], "nodeName": "n-shared"}}),
        ]);
        let claims: Vec<_> = facts
            .claims
            .iter()
            .map(|claim| claim.metadata.name.clone().unwrap())
            .collect();
        assert_eq!(claims, ["own", "shared"]);
        assert_eq!(facts.nodes.len(), 1);
    }
}
