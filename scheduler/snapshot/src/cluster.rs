//! A cluster's objects as one planner snapshot.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use kaito_api::{NodeClaim, Workspace, catalogue, names};
use kaito_placement::snapshot::{
    self, BlockedOffer, Demand, Resources, Snapshot, Taint, TaintEffect,
};

use crate::claims::ordinals;
pub use crate::claims::{ClaimIndex, is_ours};
use crate::leaving::{self, Leaving};
use crate::pod::Stand;
use crate::sizing::Sizing;
pub use crate::workspaces::{own_gpus, own_nodes, own_tolerations, selector_labels};
use crate::{expectation, gangs, node, pod, sizing, workspaces};

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

/// A Workspace with its size.
pub(crate) type SizedWorkspace<'a> = (&'a Workspace, &'a Sizing);

impl Objects {
    /// The Workspaces by namespace and name.
    pub(crate) fn sized(&self) -> impl Iterator<Item = ((&str, &str), SizedWorkspace<'_>)> {
        self.workspaces.iter().map(|(workspace, sizing)| {
            let meta = &workspace.metadata;
            let namespace = meta.namespace.as_deref().unwrap_or_default();
            let name = meta.name.as_deref().unwrap_or_default();
            ((namespace, name), (workspace.as_ref(), sizing.as_ref()))
        })
    }
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
    /// Pods that were evicted though the objects do not show it yet: namespace and name → UID.
    pub evicted: HashMap<Key, String>,
    /// Nodes that are being emptied to be given back: nobody is sent to them.
    pub emptying: BTreeSet<String>,
    /// Which pods on their way out count as gone soon.
    pub leaving: Leaving,
    /// Whether members are invented for Workspaces that have no pods at all (offline plans).
    pub hypothetical: bool,
}

/// Builds the snapshot. `now_seconds` counts since the epoch.
#[must_use]
pub fn snapshot(objects: &Objects, memory: &Memory, now_seconds: i64) -> Snapshot {
    let mut nodes = planner_nodes(objects);
    let usage = usage(objects, memory, now_seconds);
    for node in &mut nodes {
        let held = usage.get(&node.name).copied().unwrap_or_default();
        occupy(node, &held, memory.emptying.contains(&node.name));
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

/// What the pods of a node hold.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    /// By those that stay.
    staying: Resources,
    /// By those that leave.
    leaving: Resources,
    /// How many leave.
    leaving_pods: u64,
}

/// Puts on a node what its pods hold. One that pods are leaving is as one on its way: what is free on it, now and then,
/// is promised in the order of demands, and nobody is sent there before it can be used. So the first in order keeps
/// what was freed for it, piece by piece on many nodes, and the evicted do not come back meanwhile; there is nothing
/// to remember that could be lost with this process.
fn occupy(node: &mut snapshot::Node, held: &Held, emptying: bool) {
    node.used = held.staying;
    if held.leaving_pods > 0 && node.available && !emptying {
        node.leaving_pods = held.leaving_pods;
        node.available = false;
        node.expected = true;
        "left by pods".clone_into(&mut node.unavailable_reason);
        return;
    }
    node.used = node.used.saturating_add(&held.leaving);
    if emptying && node.available {
        node.available = false;
        node.expected = false;
        "being emptied".clone_into(&mut node.unavailable_reason);
    }
}

/// What pods hold, by node name. Pins name a node by its host name label.
fn usage(objects: &Objects, memory: &Memory, now_seconds: i64) -> HashMap<String, Held> {
    let by_host = nodes_by_host(&objects.nodes);
    let mut usage: HashMap<String, Held> = HashMap::new();
    for found in &objects.pods {
        let Some(spec) = found.spec.as_ref() else {
            continue;
        };
        if let Some(name) = node_of(found, memory, &by_host) {
            let held = usage.entry(name).or_default();
            let sum = if leaving::leaves(found, memory, now_seconds) {
                held.leaving_pods = held.leaving_pods.saturating_add(1);
                &mut held.leaving
            } else {
                &mut held.staying
            };
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
    let by_host = nodes_by_host(&objects.nodes);
    let mut demands = workspaces::demands(objects, memory, &by_host);
    demands.extend(gangs::demands(objects, memory, &by_host));
    demands
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
