//! The ways to buy that ours is compared with, and what nobody can beat.

use kaito_placement::plan::Plan;
use kaito_placement::snapshot::{Demand, InstanceType, Resources, Snapshot};
use std::cmp::Reverse;

/// Whether a Workspace can run on a type.
pub(crate) fn suits(demand: &Demand, offer: &InstanceType) -> bool {
    offer.gpu_memory_bytes >= demand.constraints.gpu_memory_bytes
        && offer.allocatable.holds(&demand.per_member) > 0
}

fn price(offer: &InstanceType) -> u64 {
    offer.price_micro_dollars.unwrap_or(u64::MAX)
}

fn cheapest<'a>(demand: &Demand, snapshot: &'a Snapshot) -> Option<&'a InstanceType> {
    let types = snapshot.catalogue.iter();
    types
        .filter(|offer| suits(demand, offer))
        .min_by_key(|offer| (price(offer), &offer.name))
}

/// Micro-dollars per hour of a plan.
pub(crate) fn cost(snapshot: &Snapshot, plan: &Plan) -> u64 {
    let bought = plan.purchases.iter().filter_map(|one| {
        let mut types = snapshot.catalogue.iter();
        types.find(|offer| offer.name == one.instance_type)
    });
    bought.map(price).sum()
}

/// Every Workspace on a node of its own, of the cheapest type that holds it.
pub(crate) fn one_per_node(snapshot: &Snapshot) -> u64 {
    let demands = snapshot.demands.iter();
    demands
        .filter_map(|demand| cheapest(demand, snapshot))
        .map(price)
        .sum()
}

/// Workspaces by falling price of their cheapest type, each on the first node with room, else on a new one of its
/// cheapest type.
pub(crate) fn first_fit_decreasing(snapshot: &Snapshot) -> u64 {
    let mut sorted: Vec<(&Demand, &InstanceType)> = snapshot
        .demands
        .iter()
        .filter_map(|demand| Some((demand, cheapest(demand, snapshot)?)))
        .collect();
    sorted.sort_by_key(|(demand, offer)| {
        let each = demand.per_member;
        (
            Reverse((price(offer), each.gpus, each.milli_cpu, each.memory_bytes)),
            &demand.name,
        )
    });
    let mut nodes: Vec<(&InstanceType, Resources)> = Vec::new();
    for (demand, offer) in sorted {
        let room = nodes
            .iter_mut()
            .find(|(node, free)| suits(demand, node) && free.holds(&demand.per_member) > 0);
        match room {
            Some((_, free)) => *free = free.saturating_sub(&demand.per_member),
            None => nodes.push((offer, offer.allocatable.saturating_sub(&demand.per_member))),
        }
    }
    nodes.iter().map(|(offer, _)| price(offer)).sum()
}

/// Micro-dollars per hour below which nobody can hold everything.
///
/// A node's contents use at most all of each resource, so for any weights of sum one they use at most all of the weighted
/// mean, and its price covers what they are charged by it. Charging every pod at the type where it pays least can only
/// lower the sum.
pub(crate) fn bound(snapshot: &Snapshot) -> u64 {
    let mut best = 0.0_f64;
    for gpu in 0..=10 {
        for cpu in 0..=10 - gpu {
            let weights = [gpu, cpu, 10 - gpu - cpu].map(|tenths| f64::from(tenths) / 10.0);
            let charged = snapshot.demands.iter().map(|demand| {
                let offers = snapshot
                    .catalogue
                    .iter()
                    .filter(|offer| suits(demand, offer));
                offers
                    .map(|offer| charge(demand, offer, &weights))
                    .fold(f64::INFINITY, f64::min)
            });
            best = best.max(charged.sum());
        }
    }
    best as u64
}

fn charge(demand: &Demand, offer: &InstanceType, weights: &[f64; 3]) -> f64 {
    let (need, has) = (demand.per_member, offer.allocatable);
    let share = |need: u64, has: u64| need as f64 / has.max(1) as f64;
    let shares = [
        share(need.gpus, has.gpus),
        share(need.milli_cpu, has.milli_cpu),
        share(need.memory_bytes, has.memory_bytes),
    ];
    let size: f64 = shares
        .iter()
        .zip(weights)
        .map(|(share, weight)| share * weight)
        .sum();
    price(offer) as f64 * size
}
