//! The planner's working state: what is still free on every node while demands are served one after the other.
//!
//! Only the planner and the explanations look in here. The ledger decides nothing; it keeps count.

use std::collections::{BTreeMap, BTreeSet};

use crate::plan::{Place, PlannedNode};
use crate::snapshot::{CapacityType, Demand, InstanceType, Node, Resources, Snapshot, Taint};

/// How soon pods can run on a node. The order is the order of preference.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stage {
    /// Now.
    Available,
    /// Ordered earlier and on its way.
    Expected,
    /// Ordered by this plan; the position among its purchases.
    Ordered(usize),
    /// Broken, cordoned, leaving: nothing may be promised on it.
    Absent,
}

/// A node, there or to come, and what is free on it.
#[derive(Clone, Debug)]
pub(crate) struct Slot<'a> {
    /// Node name; of a node ordered by this plan, its instance type.
    pub(crate) name: &'a str,
    /// How soon it can be used.
    pub(crate) stage: Stage,
    /// Why it is absent.
    pub(crate) unavailable_reason: &'a str,
    /// Labels.
    pub(crate) labels: &'a BTreeMap<String, String>,
    /// Taints.
    pub(crate) taints: &'a [Taint],
    /// Instance type, if known.
    pub(crate) instance_type: Option<&'a str>,
    /// Memory per GPU in bytes, 0 if unknown.
    pub(crate) gpu_memory_bytes: u64,
    /// Zone that a node ordered by this plan is bought in; empty if not known. Others carry it as a label.
    pub(crate) zone: &'a str,
    /// Terms on which a node ordered by this plan is bought. Others carry them as a label.
    pub(crate) capacity_type: Option<CapacityType>,
    /// Bought by us, now or earlier.
    pub(crate) bought: bool,
    /// Name of the claim that bought it, once there is one.
    pub(crate) claim: Option<&'a str>,
    /// Pods that leave it; its room is there once they have.
    pub(crate) leaving_pods: u64,
    /// Everything that pods can use.
    pub(crate) allocatable: Resources,
    /// What nobody uses and nobody was promised.
    pub(crate) free: Resources,
    /// Whether pods use its GPUs or this plan has promised a part of it.
    pub(crate) serves: bool,
}

/// A part of a gang and where it goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    /// Position of the slot in the ledger.
    pub(crate) slot: usize,
    /// How many members.
    pub(crate) members: u64,
}

/// All slots, ordered by node name, then those ordered by this plan.
#[derive(Clone, Debug)]
pub(crate) struct Ledger<'a> {
    snapshot: &'a Snapshot,
    slots: Vec<Slot<'a>>,
    purchases: Vec<PlannedNode>,
    ordinals: BTreeMap<&'a str, BTreeSet<u32>>,
    changes: Vec<usize>,
}

impl<'a> Ledger<'a> {
    /// Opens the books for a snapshot.
    pub(crate) fn open(snapshot: &'a Snapshot) -> Self {
        let mut slots: Vec<_> = snapshot.nodes.iter().map(existing_slot).collect();
        slots.sort_by_key(|slot| slot.name);
        let ordinals = snapshot
            .ordinals_taken
            .iter()
            .map(|(uid, taken)| (uid.as_str(), taken.iter().copied().collect()))
            .collect();
        Self {
            snapshot,
            slots,
            purchases: Vec::new(),
            ordinals,
            changes: Vec::new(),
        }
    }

    /// Positions of slots that came or changed since the books were opened, in order; a slot may be named often.
    pub(crate) fn changes(&self) -> &[usize] {
        &self.changes
    }

    /// The nodes ordered so far.
    pub(crate) fn purchases(&self) -> &[PlannedNode] {
        &self.purchases
    }

    /// What the plan is made from.
    pub(crate) fn snapshot(&self) -> &'a Snapshot {
        self.snapshot
    }

    /// All slots; their positions stay the same.
    pub(crate) fn slots(&self) -> &[Slot<'a>] {
        &self.slots
    }

    /// One slot.
    pub(crate) fn slot(&self, position: usize) -> Option<&Slot<'a>> {
        self.slots.get(position)
    }

    /// The slot in the words of a plan.
    pub(crate) fn place(&self, position: usize) -> Option<Place> {
        let slot = self.slots.get(position)?;
        let Stage::Ordered(purchase) = slot.stage else {
            let name = slot.name.to_owned();
            return Some(Place::Node { name });
        };
        let purchase = self.purchases.get(purchase)?;
        Some(Place::Purchase {
            buyer_uid: purchase.buyer_uid.clone(),
            ordinal: purchase.ordinal,
        })
    }

    /// Promises shares to a demand, so that nobody else gets them.
    pub(crate) fn promise(&mut self, demand: &Demand, shares: &[Share]) {
        for share in shares {
            let Some(slot) = self.slots.get_mut(share.slot) else {
                continue;
            };
            self.changes.push(share.slot);
            slot.free = slot
                .free
                .saturating_sub(&demand.per_member.times(share.members));
            slot.serves = true;
            if let Stage::Ordered(position) = slot.stage
                && let Some(purchase) = self.purchases.get_mut(position)
                && !purchase.for_demands.contains(&demand.name)
            {
                purchase.for_demands.push(demand.name.clone());
            }
        }
    }

    /// Orders a node of this type on the demand's account and returns the position of its slot.
    pub(crate) fn order(
        &mut self,
        demand: &'a Demand,
        instance_type: &'a InstanceType,
        reason: &str,
    ) -> usize {
        let ordinal = self.take_ordinal(&demand.uid);
        let stage = Stage::Ordered(self.purchases.len());
        self.purchases.push(PlannedNode {
            buyer: demand.name.clone(),
            buyer_uid: demand.uid.clone(),
            ordinal,
            instance_type: instance_type.name.clone(),
            zone: instance_type.zone.clone(),
            capacity_type: instance_type.capacity_type,
            for_demands: vec![demand.name.clone()],
            reason: reason.to_owned(),
        });
        self.slots
            .push(fresh_slot(self.snapshot, instance_type, stage));
        let position = self.slots.len().saturating_sub(1);
        self.changes.push(position);
        position
    }

    /// Closes the books: the nodes to order.
    pub(crate) fn into_purchases(self) -> Vec<PlannedNode> {
        self.purchases
    }

    fn take_ordinal(&mut self, uid: &'a str) -> u32 {
        let taken = self.ordinals.entry(uid).or_default();
        let free = (0..=u32::MAX)
            .find(|ordinal| !taken.contains(ordinal))
            .unwrap_or(u32::MAX);
        taken.insert(free);
        free
    }
}

fn existing_slot(node: &Node) -> Slot<'_> {
    let stage = match (node.available, node.expected) {
        (true, _) => Stage::Available,
        (false, true) => Stage::Expected,
        (false, false) => Stage::Absent,
    };
    Slot {
        name: &node.name,
        stage,
        unavailable_reason: &node.unavailable_reason,
        labels: &node.labels,
        taints: &node.taints,
        instance_type: node.instance_type.as_deref(),
        gpu_memory_bytes: node.gpu_memory_bytes,
        zone: "",
        capacity_type: None,
        bought: node.claim.is_some(),
        claim: node.claim.as_deref(),
        leaving_pods: node.leaving_pods,
        allocatable: node.allocatable,
        free: node.allocatable.saturating_sub(&node.used),
        serves: node.used.gpus > 0,
    }
}

/// What a node of this type looks like on the day it arrives.
pub(crate) fn fresh_slot<'a>(
    snapshot: &'a Snapshot,
    instance_type: &'a InstanceType,
    stage: Stage,
) -> Slot<'a> {
    Slot {
        name: &instance_type.name,
        stage,
        unavailable_reason: "",
        labels: &snapshot.purchase_labels,
        taints: &snapshot.purchase_taints,
        instance_type: Some(&instance_type.name),
        gpu_memory_bytes: instance_type.gpu_memory_bytes,
        zone: &instance_type.zone,
        capacity_type: Some(instance_type.capacity_type),
        bought: true,
        claim: None,
        leaving_pods: 0,
        allocatable: instance_type.allocatable,
        free: instance_type.allocatable,
        serves: false,
    }
}
