//! A cluster's objects as one planner snapshot.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kaito_api::{NodeClaim, Workspace, catalogue, names};
use kaito_placement::estimate::Gpus;
use kaito_placement::snapshot::{
    self, BlockedOffer, Constraints, Demand, Purchase, Snapshot, Taint, TaintEffect,
};

use crate::pod::Stand;
use crate::sizing::Sizing;
use crate::{expectation, gangs, node, pod, sizing};

/// Label keys that name an owner and never count as a wish of the user.
const RESERVED: [&str; 8] = [
    names::LABEL_WORKSPACE,
    names::LABEL_WORKSPACE_NAMESPACE,
    "kaito.sh/ragengine",
    "kaito.sh/ragenginenamespace",
    "karpenter.kaito.sh/workspace-name",
    "karpenter.kaito.sh/workspace-namespace",
    "karpenter.kaito.sh/inferenceset",
    "karpenter.kaito.sh/inferenceset-namespace",
];

/// Namespace and name of a Workspace.
pub type Key = (String, String);

/// What a snapshot is made of.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// Workspaces that have a size, with it.
    pub workspaces: Vec<(Arc<Workspace>, Arc<Sizing>)>,
    /// All nodes.
    pub nodes: Vec<Arc<Node>>,
    /// All pods that are bound or ours.
    pub pods: Vec<Arc<Pod>>,
    /// All claims.
    pub claims: Vec<Arc<NodeClaim>>,
}

/// Memory of the planner's caller that no object shows.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Offers that the cloud refused, by instance type.
    pub blocked: BTreeMap<String, BlockedOffer>,
    /// Claim → since when it has served nobody, seconds since the epoch.
    pub idle_since: BTreeMap<String, i64>,
    /// How long a claim that serves nobody is kept, seconds.
    pub idle_grace_seconds: i64,
    /// Pods that were pinned though the objects do not show it yet: namespace and name → node.
    pub assumed: HashMap<Key, String>,
    /// Whether members are invented for Workspaces that have no pods at all (offline plans).
    pub hypothetical: bool,
}

/// Whether a claim was made by us: it names our pool, or a Workspace.
#[must_use]
pub fn is_ours(claim: &NodeClaim) -> bool {
    claim.metadata.labels.as_ref().is_some_and(|labels| {
        labels
            .get(names::LABEL_NODEPOOL)
            .is_some_and(|pool| pool == names::NODEPOOL)
            || labels.contains_key(names::LABEL_WORKSPACE)
    })
}

/// The user's selector as plain labels without reserved keys: `matchLabels` and `In` expressions of one value.
#[must_use]
pub fn selector_labels(selector: &LabelSelector) -> BTreeMap<String, String> {
    let mut labels = selector.match_labels.clone().unwrap_or_default();
    for expression in selector.match_expressions.iter().flatten() {
        if let (true, Some([value])) = (expression.operator == "In", expression.values.as_deref()) {
            labels.insert(expression.key.clone(), value.clone());
        }
    }
    labels.retain(|key, _| !RESERVED.contains(&key.as_str()));
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

/// Builds the snapshot. `now_seconds` counts since the epoch.
#[must_use]
pub fn snapshot(objects: &Objects, memory: &Memory, now_seconds: i64) -> Snapshot {
    let mut nodes = planner_nodes(objects);
    let usage = usage(objects, memory);
    for node in &mut nodes {
        if let Some(used) = usage.get(&node.name) {
            node.used = *used;
        }
    }
    Snapshot {
        now_seconds,
        nodes,
        demands: demands(objects, memory),
        expected: expectation::expected(objects),
        catalogue: offers(memory),
        purchase_taints: vec![Taint {
            key: names::TAINT_SKU.to_owned(),
            value: "gpu".to_owned(),
            effect: TaintEffect::NoSchedule,
        }],
        purchase_labels: BTreeMap::from([(
            names::LABEL_NODEPOOL.to_owned(),
            names::NODEPOOL.to_owned(),
        )]),
        ordinals_taken: ordinals(&objects.claims),
        idle_grace_seconds: memory.idle_grace_seconds,
        idle_since: memory.idle_since.clone(),
    }
}

/// Nodes with the claims that bought them, and the nodes that open claims promise.
fn planner_nodes(objects: &Objects) -> Vec<snapshot::Node> {
    let claims = ClaimIndex::new(&objects.claims);
    let mut joined: BTreeSet<&str> = BTreeSet::new();
    let mut nodes = Vec::with_capacity(objects.nodes.len() + objects.claims.len());
    for found in &objects.nodes {
        let claim = claims.of(found);
        joined.extend(claim.and_then(|claim| claim.metadata.name.as_deref()));
        nodes.push(node::node(found, claim));
    }
    let coming = objects
        .claims
        .iter()
        .filter(|claim| is_ours(claim))
        .filter(|claim| !joined.contains(claim.metadata.name.as_deref().unwrap_or_default()))
        .filter_map(|claim| node::expected_node(claim));
    nodes.extend(coming);
    nodes
}

/// Our claims, found from the nodes that they became.
#[derive(Debug)]
pub struct ClaimIndex<'a> {
    by_key: HashMap<&'a str, &'a NodeClaim>,
}

impl<'a> ClaimIndex<'a> {
    /// Indexes our claims by name, node name and provider id.
    #[must_use]
    pub fn new(claims: &'a [Arc<NodeClaim>]) -> Self {
        let mut by_key: HashMap<&str, &NodeClaim> = HashMap::new();
        for claim in claims.iter().filter(|claim| is_ours(claim)) {
            let status = claim.status.as_ref();
            let keys = [
                claim.metadata.name.as_deref(),
                status.and_then(|status| status.node_name.as_deref()),
                status.and_then(|status| status.provider_id.as_deref()),
            ];
            by_key.extend(keys.into_iter().flatten().map(|key| (key, claim.as_ref())));
        }
        Self { by_key }
    }

    /// The claim that bought `node`: the node says so by owner or by label, or the claim by name or provider id.
    /// A node shows up before its claim names it, and must not count as somebody else's in between.
    #[must_use]
    pub fn of(&self, node: &Node) -> Option<&'a NodeClaim> {
        let owner = node
            .metadata
            .owner_references
            .iter()
            .flatten()
            .find(|owner| owner.kind == "NodeClaim")
            .map(|owner| owner.name.as_str());
        let labelled = node
            .metadata
            .labels
            .as_ref()
            .and_then(|l| l.get(names::LABEL_NODECLAIM));
        let provider = node
            .spec
            .as_ref()
            .and_then(|spec| spec.provider_id.as_deref());
        [
            owner,
            labelled.map(String::as_str),
            node.metadata.name.as_deref(),
            provider,
        ]
        .into_iter()
        .flatten()
        .find_map(|key| self.by_key.get(key).copied())
    }
}

/// What pods hold, by node name. Pins name a node by its host name label.
fn usage(objects: &Objects, memory: &Memory) -> HashMap<String, snapshot::Resources> {
    let by_host = nodes_by_host(&objects.nodes);
    let mut usage: HashMap<String, snapshot::Resources> = HashMap::new();
    for found in &objects.pods {
        let Some(spec) = found.spec.as_ref() else {
            continue;
        };
        if let Some(name) = node_of(found, memory, &by_host) {
            let sum = usage.entry(name).or_default();
            *sum = pod::add(*sum, pod::resources(spec));
        }
    }
    usage
}

/// Host name label → node name.
#[must_use]
pub fn nodes_by_host(nodes: &[Arc<Node>]) -> HashMap<String, String> {
    nodes
        .iter()
        .filter_map(|node| {
            let name = node.metadata.name.clone()?;
            let host = node
                .metadata
                .labels
                .as_ref()?
                .get(names::LABEL_HOSTNAME)?
                .clone();
            Some((host, name))
        })
        .collect()
}

/// Node that the pod is bound to, pinned to or assumed to go to.
#[must_use]
pub fn node_of(found: &Pod, memory: &Memory, by_host: &HashMap<String, String>) -> Option<String> {
    match pod::stand(found) {
        Stand::On(name) => Some(by_host.get(&name).cloned().unwrap_or(name)),
        Stand::Gated => memory.assumed.get(&key_of(found)).cloned(),
        Stand::Elsewhere | Stand::Ended => None,
    }
}

/// Namespace and name of a pod.
#[must_use]
pub fn key_of(pod: &Pod) -> Key {
    (
        pod.metadata.namespace.clone().unwrap_or_default(),
        pod.metadata.name.clone().unwrap_or_default(),
    )
}

fn demands(objects: &Objects, memory: &Memory) -> Vec<Demand> {
    let mut by_workspace: HashMap<(&str, &str), Vec<&Arc<Pod>>> = HashMap::new();
    for pod in &objects.pods {
        if let Some(name) = pod::workspace_of(pod) {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            by_workspace.entry((namespace, name)).or_default().push(pod);
        }
    }
    let by_host = nodes_by_host(&objects.nodes);
    let of_workspaces = objects
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
            let mut demand = demand(workspace, sizing, pods, memory, &by_host)?;
            if bought_in_vain(&demand, objects, memory) {
                demand.purchase = Purchase::Never;
            }
            Some(demand)
        });
    of_workspaces
        .chain(gangs::demands(objects, memory, &by_host))
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

    /// A gang that a crash left half released is completed before anybody else gets a GPU.
    fn priority(&self, workspace: &Workspace) -> i32 {
        let own = workspace
            .spec
            .scheduling
            .as_ref()
            .and_then(|scheduling| scheduling.priority);
        if self.placed_on.is_empty() {
            own.unwrap_or(0)
        } else {
            i32::MAX
        }
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
        priority: gang.priority(workspace),
        created_seconds: created.map_or(0, |time| time.0.as_second()),
        members,
        per_member: example.map_or(sizing.requests, pod::resources),
        constraints: constraints(workspace, sizing, example),
        purchase: gang.purchase(sizing),
        placed_on: gang.placed_on,
    })
}

/// Whether the demand already has as many fresh, idle nodes of its own as it has members. If it still waits, they do
/// not fit it for a reason that the price list does not know, and more of them would not either.
fn bought_in_vain(demand: &Demand, objects: &Objects, memory: &Memory) -> bool {
    let fresh = objects.claims.iter().filter(|claim| {
        let annotations = claim.metadata.annotations.as_ref();
        let buyer = annotations.and_then(|map| map.get(names::ANNOTATION_BUYER_UID));
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        buyer == Some(&demand.uid)
            && memory.idle_since.contains_key(name)
            && kaito_api::conditions::is_true(claim.conditions(), kaito_api::nodeclaim::INITIALIZED)
    });
    fresh.count() >= demand.members.len()
}

fn constraints(
    workspace: &Workspace,
    sizing: &Sizing,
    example: Option<&k8s_openapi::api::core::v1::PodSpec>,
) -> Constraints {
    let mut required = example
        .and_then(|spec| spec.node_selector.clone())
        .unwrap_or_default();
    required.remove(names::LABEL_HOSTNAME);
    Constraints {
        own_node_labels: selector_labels(&workspace.spec.resource.label_selector),
        required_labels: required,
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

fn offers(memory: &Memory) -> Vec<snapshot::InstanceType> {
    catalogue::instance_types()
        .iter()
        .map(|info| {
            let mut offer = sizing::instance_type(info);
            offer.blocked = memory.blocked.get(&offer.name).cloned();
            offer
        })
        .collect()
}

/// Ordinals that existing claims hold, by buyer.
fn ordinals(claims: &[Arc<NodeClaim>]) -> BTreeMap<String, Vec<u32>> {
    let mut taken: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for claim in claims {
        let Some(annotations) = claim.metadata.annotations.as_ref() else {
            continue;
        };
        let uid = annotations.get(names::ANNOTATION_BUYER_UID);
        let ordinal = annotations.get(names::ANNOTATION_BUYER_ORDINAL);
        if let (Some(uid), Some(Ok(ordinal))) = (uid, ordinal.map(|text| text.parse())) {
            taken.entry(uid.clone()).or_default().push(ordinal);
        }
    }
    for list in taken.values_mut() {
        list.sort_unstable();
    }
    taken
}
