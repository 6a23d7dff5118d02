//! Chooses what to buy for the members of a gang that fit nowhere.
//!
//! Decides only; ordering is the ledger's business. An offer that the cloud refused is left alone until its time.
//! This is the choice for one gang alone; [`super::together`] looks at all of them.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::fit::{self, Obstacle};
use super::ledger::{self, Stage};
use crate::snapshot::{CapacityType, Demand, InstanceType, Purchase, Snapshot};

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

/// What can be bought for a demand.
#[derive(Clone, Debug)]
pub(crate) struct Survey<'a> {
    /// Suitable offers with how many members one node takes; at least one.
    pub(crate) suitable: Vec<(&'a InstanceType, u64)>,
    /// Those of them that the cloud did not refuse lately.
    pub(crate) open: Vec<(&'a InstanceType, u64)>,
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

/// Finds what can be bought for a demand at all.
pub(crate) fn survey<'a>(
    snapshot: &'a Snapshot,
    demand: &'a Demand,
) -> Result<Survey<'a>, Refusal<'a>> {
    let mut excluded = BTreeMap::new();
    let mut suitable = Vec::new();
    for instance_type in offered(snapshot, demand)? {
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
    let mut open = suitable.clone();
    open.retain(|(instance_type, _)| !is_blocked(snapshot, instance_type));
    Ok(Survey { suitable, open })
}

/// Chooses the type that takes `members` members for the least money.
///
/// Ties go to the cheaper node, then to the greater compute capability, then to the name, the zone and the terms. A
/// type without a price is only bought when it was asked for by name.
pub(crate) fn pick<'a>(survey: &Survey<'a>, members: u64) -> Result<Order<'a>, Refusal<'a>> {
    let choices = survey.suitable.len();
    survey
        .open
        .iter()
        .map(|&(instance_type, members_per_node)| Order {
            instance_type,
            nodes: members.div_ceil(members_per_node),
            members_per_node,
            choices,
        })
        .min_by_key(cost)
        .ok_or_else(|| Refusal::Blocked(by_name(survey.suitable.clone())))
}

/// [`survey`] and [`pick`].
pub(crate) fn choose<'a>(
    snapshot: &'a Snapshot,
    demand: &'a Demand,
    members: u64,
) -> Result<Order<'a>, Refusal<'a>> {
    pick(&survey(snapshot, demand)?, members)
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
        (Purchase::Fixed, Some(name)) => {
            let named = || {
                let all = snapshot.catalogue.iter();
                all.filter(|one| one.name.eq_ignore_ascii_case(name))
            };
            let first = named().map(|one| &one.name).min();
            first
                .map(|first| named().filter(|one| one.name == *first).collect())
                .ok_or(Refusal::Unknown(name))
        }
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

type Cost<'a> = (u64, Rank<'a>);

fn cost<'a>(order: &Order<'a>) -> Cost<'a> {
    // Only a type asked for by name has no price.
    let price = order.instance_type.price_micro_dollars.unwrap_or(u64::MAX);
    (price.saturating_mul(order.nodes), rank(order.instance_type))
}

/// Price, newness, name, zone and terms.
pub(crate) type Rank<'a> = (u64, Reverse<u32>, &'a str, &'a str, CapacityType);

/// The order in which equally good offers are preferred.
pub(crate) fn rank(offer: &InstanceType) -> Rank<'_> {
    (
        offer.price_micro_dollars.unwrap_or(u64::MAX),
        Reverse(offer.compute_capability),
        &offer.name,
        &offer.zone,
        offer.capacity_type,
    )
}

fn by_name(suitable: Vec<(&InstanceType, u64)>) -> Vec<&InstanceType> {
    let mut types: Vec<_> = suitable.into_iter().map(|(one, _)| one).collect();
    types.sort_by_key(|one| (&one.name, &one.zone, one.capacity_type));
    types
}
