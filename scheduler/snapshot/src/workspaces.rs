//! Workspaces as demands: which of their pods wait, where these may go, and how urgent they are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kaito_api::{Workspace, names};
use kaito_placement::estimate::Gpus;
use kaito_placement::snapshot::{self, Constraints, Demand, Purchase, TaintEffect};

use crate::claims::bought_in_vain;
use crate::cluster::{Memory, Objects, key_of, node_of};
use crate::pod::{self, Stand};
use crate::sizing::Sizing;
use crate::{gangs, node};

/// The user's selector as plain labels without reserved keys: `matchLabels` and `In` expressions of one value.
#[must_use]
pub fn selector_labels(selector: &LabelSelector) -> BTreeMap<String, String> {
    let mut labels = selector.match_labels.clone().unwrap_or_default();
    for expression in selector.match_expressions.iter().flatten() {
        if let (true, Some([value])) = (expression.operator == "In", expression.values.as_deref()) {
            labels.insert(expression.key.clone(), value.clone());
        }
    }
    labels.retain(|key, _| !names::RESERVED_SELECTOR_KEYS.contains(&key.as_str()));
    labels
}

/// GPU shapes of nodes that match the Workspace's labels and were not bought by us: distinct, by node name.
#[must_use]
pub fn own_gpus(workspace: &Workspace, nodes: &[Arc<Node>]) -> Vec<Gpus> {
    let mut matching = own_nodes(workspace, nodes);
    matching.sort_by(|left, right| left.metadata.name.cmp(&right.metadata.name));
    let mut shapes: Vec<Gpus> = Vec::new();
    for shape in matching
        .into_iter()
        .filter_map(|candidate| node::gpus(candidate))
    {
        if !shapes.contains(&shape) {
            shapes.push(shape);
        }
    }
    shapes
}

/// Nodes that match the Workspace's labels and were not bought by us.
#[must_use]
pub fn own_nodes<'a>(workspace: &Workspace, nodes: &'a [Arc<Node>]) -> Vec<&'a Arc<Node>> {
    let wanted = selector_labels(&workspace.spec.resource.label_selector);
    let matches = |node: &&Arc<Node>| {
        node.metadata.labels.as_ref().is_some_and(|labels| {
            !labels.contains_key(names::LABEL_NODEPOOL)
                && wanted
                    .iter()
                    .all(|(key, value)| labels.get(key) == Some(value))
        })
    };
    nodes.iter().filter(matches).collect()
}

/// Demands of all Workspaces whose pods are there and wait.
pub(crate) fn demands(
    objects: &Objects,
    memory: &Memory,
    by_host: &HashMap<String, String>,
) -> Vec<Demand> {
    let mut by_workspace: HashMap<(&str, &str), Vec<&Arc<Pod>>> = HashMap::new();
    for pod in &objects.pods {
        if let Some(name) = pod::workspace_of(pod) {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            by_workspace.entry((namespace, name)).or_default().push(pod);
        }
    }
    objects
        .workspaces
        .iter()
        .filter(|(workspace, _)| workspace.metadata.deletion_timestamp.is_none())
        .filter_map(|(workspace, sizing)| {
            let namespace = workspace.metadata.namespace.as_deref().unwrap_or_default();
            let name = workspace.metadata.name.as_deref().unwrap_or_default();
            let pods = by_workspace
                .get(&(namespace, name))
                .map(Vec::as_slice)
                .unwrap_or_default();
            let mut demand = demand(workspace, sizing, pods, memory, by_host)?;
            if bought_in_vain(&demand, objects, memory) {
                demand.purchase = Purchase::Never;
            }
            Some(demand)
        })
        .collect()
}

/// The pods of a Workspace, sorted by where they stand.
struct Gang<'a> {
    /// Behind the gate.
    waiting: Vec<&'a Pod>,
    /// Nodes of those that have one.
    placed_on: Vec<String>,
    /// Whether old pods are on their way out.
    leaving: bool,
}

impl<'a> Gang<'a> {
    fn new(pods: &[&'a Arc<Pod>], memory: &Memory, by_host: &HashMap<String, String>) -> Self {
        let (leaving, alive): (Vec<&'a Pod>, Vec<&'a Pod>) = pods
            .iter()
            .map(|pod| -> &'a Pod { pod })
            .partition(|pod| pod.metadata.deletion_timestamp.is_some());
        let placed_on = alive
            .iter()
            .filter_map(|pod| node_of(pod, memory, by_host))
            .collect();
        let mut waiting = alive;
        waiting.retain(|pod| {
            pod::stand(pod) == Stand::Gated && !memory.assumed.contains_key(&key_of(pod))
        });
        Self {
            waiting,
            placed_on,
            leaving: !leaving.is_empty(),
        }
    }

    /// Names of those that wait, by ordinal; invented ones for a Workspace that has no pods, if that is asked for.
    fn members(&self, workspace: &Workspace, sizing: &Sizing, invent: bool) -> Vec<String> {
        let mut members: Vec<String> = self
            .waiting
            .iter()
            .filter_map(|pod| pod.metadata.name.clone())
            .collect();
        if invent && members.is_empty() && self.placed_on.is_empty() && !self.leaving {
            let name = workspace.metadata.name.as_deref().unwrap_or_default();
            members = (0..sizing.replicas)
                .map(|ordinal| format!("{name}-{ordinal}"))
                .collect();
        }
        members.sort_by_key(|name| (name.len(), name.clone()));
        members
    }

    /// Old pods that are going will free their place soon: buying a node for the new ones would waste it.
    fn purchase(&self, sizing: &Sizing) -> Purchase {
        if self.leaving {
            Purchase::Never
        } else {
            sizing.purchase.clone()
        }
    }
}

/// The demand of one Workspace; `None` while its gang is not complete or nothing waits.
fn demand(
    workspace: &Workspace,
    sizing: &Sizing,
    pods: &[&Arc<Pod>],
    memory: &Memory,
    by_host: &HashMap<String, String>,
) -> Option<Demand> {
    let gang = Gang::new(pods, memory, by_host);
    let members = gang.members(workspace, sizing, memory.hypothetical);
    let present = members.len() + gang.placed_on.len();
    if members.is_empty() || present < usize::try_from(sizing.replicas).ok()? {
        return None;
    }
    let example = gang.waiting.first().and_then(|pod| pod.spec.as_ref());
    let meta = &workspace.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let created = meta.creation_timestamp.as_ref();
    Some(Demand {
        name: format!("{namespace}/{}", meta.name.as_deref().unwrap_or_default()),
        uid: meta.uid.clone().unwrap_or_default(),
        priority: priority(workspace, example),
        created_seconds: gangs::seniority(
            &gang.placed_on,
            created.map_or(0, |time| time.0.as_second()),
        ),
        members,
        per_member: example.map_or(sizing.requests, pod::resources),
        constraints: constraints(workspace, sizing, example),
        purchase: gang.purchase(sizing),
        placed_on: gang.placed_on,
    })
}

/// How urgent a Workspace is: what it says itself, else what its pods say, by their priority class.
pub(crate) fn priority(workspace: &Workspace, example: Option<&PodSpec>) -> i32 {
    let scheduling = workspace.spec.scheduling.as_ref();
    let own = scheduling.and_then(|scheduling| scheduling.priority);
    own.or(example.and_then(|spec| spec.priority)).unwrap_or(0)
}

/// Where the pods of a Workspace may go. `example` is one of them, placed or not.
pub(crate) fn constraints(
    workspace: &Workspace,
    sizing: &Sizing,
    example: Option<&PodSpec>,
) -> Constraints {
    Constraints {
        own_node_labels: selector_labels(&workspace.spec.resource.label_selector),
        required_labels: example.map(pod::required_labels).unwrap_or_default(),
        instance_type: sizing.instance_type.clone(),
        gpu_memory_bytes: sizing.gpu_memory_bytes,
        tolerations: example.map_or_else(own_tolerations, pod::tolerations),
        spread: sizing.replicas > 1,
        // A Workspace cannot say yet that it may be interrupted.
        accepts_spot: false,
    }
}

/// Tolerations that every pod of ours carries.
#[must_use]
pub fn own_tolerations() -> Vec<snapshot::Toleration> {
    let exists = |key: &str| snapshot::Toleration {
        key: key.to_owned(),
        value: None,
        effect: Some(TaintEffect::NoSchedule),
    };
    vec![exists(names::RESOURCE_GPU), exists(names::TAINT_SKU)]
}
