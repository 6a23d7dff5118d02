//! Chooses what to buy for the members of a gang that fit nowhere.
//!
//! Decides only; ordering is the ledger's business. An offer that the cloud refused is left alone until its time.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::fit::{self, Obstacle};
use super::ledger::{self, Stage};
use crate::snapshot::{Demand, InstanceType, Purchase, Snapshot};

/// What to buy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order<'a> {
    /// The type.
    pub(crate) instance_type: &'a InstanceType,
    /// How many nodes.
    pub(crate) nodes: u64,
    /// How many members one node takes.
    pub(crate) members_per_node: u64,
    /// How many types could have been bought instead, this one included.
    pub(crate) choices: usize,
}

/// Why nothing is bought.
#[derive(Clone, Debug)]
pub(crate) enum Refusal<'a> {
    /// Nothing may be bought for this demand.
    NotWanted,
    /// The catalogue has no type of this name.
    Unknown(&'a str),
    /// No type ever holds a member: how many types each obstacle excludes.
    NothingFits(BTreeMap<Obstacle<'a>, u32>),
    /// All suitable types were refused by the cloud for now; by name, at least one.
    Blocked(Vec<&'a InstanceType>),
}

/// Chooses the type that takes `members` members for the least money.
///
/// Ties go to the cheaper node, then to the greater compute capability, then to the name. A type without a price is
/// only bought when it was asked for by name.
pub(crate) fn choose<'a>(
    snapshot: &'a Snapshot,
    demand: &'a Demand,
    members: u64,
) -> Result<Order<'a>, Refusal<'a>> {
    let offered = offered(snapshot, demand)?;
    let mut excluded = BTreeMap::new();
    let mut suitable = Vec::new();
    for instance_type in offered {
        match judge(snapshot, demand, instance_type) {
            Ok(members_per_node) => suitable.push((instance_type, members_per_node)),
            Err(obstacle) => {
                let count: &mut u32 = excluded.entry(obstacle).or_default();
                *count = count.saturating_add(1);
            }
        }
    }
    if suitable.is_empty() {
        return Err(Refusal::NothingFits(excluded));
    }
    let choices = suitable.len();
    let mut orders: Vec<_> = suitable
        .iter()
        .filter(|(instance_type, _)| !is_blocked(snapshot, instance_type))
        .map(|&(instance_type, members_per_node)| Order {
            instance_type,
            nodes: members.div_ceil(members_per_node),
            members_per_node,
            choices,
        })
        .collect();
    orders.sort_by_key(cost);
    orders
        .first()
        .copied()
        .ok_or_else(|| Refusal::Blocked(by_name(suitable)))
}

/// The types to choose from.
fn offered<'a>(
    snapshot: &'a Snapshot,
    demand: &'a Demand,
) -> Result<Vec<&'a InstanceType>, Refusal<'a>> {
    match (
        &demand.purchase,
        demand.constraints.instance_type.as_deref(),
    ) {
        // Without a name there is nothing that a fixed purchase could mean.
        (Purchase::Never, _) | (Purchase::Fixed, None) => Err(Refusal::NotWanted),
        (Purchase::Fixed, Some(name)) => snapshot
            .catalogue
            .iter()
            .filter(|one| one.name.eq_ignore_ascii_case(name))
            .min_by_key(|one| &one.name)
            .map(|one| vec![one])
            .ok_or(Refusal::Unknown(name)),
        (Purchase::Cheapest, _) => Ok(snapshot.catalogue.iter().collect()),
    }
}

/// How many members a fresh node of this type takes, or why none.
fn judge<'a>(
    snapshot: &'a Snapshot,
    demand: &'a Demand,
    instance_type: &'a InstanceType,
) -> Result<u64, Obstacle<'a>> {
    let slot = ledger::fresh_slot(snapshot, instance_type, Stage::Ordered(0));
    let wanted = demand.constraints.gpu_memory_bytes;
    let by_price = demand.purchase == Purchase::Cheapest;
    if let Some(obstacle) = fit::obstacles(&slot, demand).next() {
        Err(obstacle)
    } else if by_price && wanted > 0 && instance_type.gpu_memory_bytes == 0 {
        Err(Obstacle::GpuMemoryUnknown(wanted))
    } else if by_price && instance_type.price_micro_dollars.is_none() {
        Err(Obstacle::Unpriced)
    } else {
        Ok(fit::room(&slot, demand))
    }
}

fn is_blocked(snapshot: &Snapshot, instance_type: &InstanceType) -> bool {
    instance_type
        .blocked
        .as_ref()
        .is_some_and(|blocked| blocked.until_seconds > snapshot.now_seconds)
}

fn cost<'a>(order: &Order<'a>) -> (u64, u64, Reverse<u32>, &'a str) {
    // Only a type asked for by name has no price, and then it is the only one.
    let price = order.instance_type.price_micro_dollars.unwrap_or(u64::MAX);
    (
        price.saturating_mul(order.nodes),
        price,
        Reverse(order.instance_type.compute_capability),
        &order.instance_type.name,
    )
}

fn by_name(suitable: Vec<(&InstanceType, u64)>) -> Vec<&InstanceType> {
    let mut types: Vec<_> = suitable.into_iter().map(|(one, _)| one).collect();
    types.sort_by_key(|one| &one.name);
    types
}
