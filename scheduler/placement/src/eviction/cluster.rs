//! What is free on every node after the plan, and who could leave it. Keeps count; decides nothing.

use std::collections::{BTreeMap, HashMap};

use super::{Occupants, Running};
use crate::plan::{Place, Plan};
use crate::planner::ledger::{Ledger, Slot, Stage};
use crate::snapshot::{Demand, Resources, Snapshot};

/// A node with those who run on it.
#[derive(Clone, Debug)]
pub(super) struct Site<'a> {
    /// The node; what the plan promised on it is taken off its free amounts.
    pub(super) slot: Slot<'a>,
    /// Positions of workloads with how many pods they have here; cheapest to evict first.
    pub(super) tenants: Vec<(usize, u64)>,
}

/// All nodes that can be used now, by name.
#[derive(Clone, Debug)]
pub(super) struct Cluster<'a> {
    pub(super) sites: Vec<Site<'a>>,
    by_name: HashMap<&'a str, usize>,
}

impl<'a> Cluster<'a> {
    /// The cluster as it stands once `plan` is carried out.
    pub(super) fn after(snapshot: &'a Snapshot, plan: &Plan, occupants: &'a Occupants) -> Self {
        let ledger = Ledger::open(snapshot);
        let available = ledger.slots().iter();
        let mut sites: Vec<Site<'a>> = available
            .filter(|slot| slot.stage == Stage::Available)
            .map(|slot| Site {
                slot: slot.clone(),
                tenants: Vec::new(),
            })
            .collect();
        let by_name = (0..)
            .zip(&sites)
            .map(|(position, site)| (site.slot.name, position))
            .collect();
        for (node, resources, members) in promised(snapshot, plan) {
            let found: Option<&usize> = HashMap::get(&by_name, node);
            if let Some(site) = found.and_then(|at| sites.get_mut(*at)) {
                site.slot.free = site.slot.free.saturating_sub(&resources.times(members));
                site.slot.serves = true;
            }
        }
        let mut cluster = Self { sites, by_name };
        cluster.settle(snapshot.now_seconds, occupants);
        cluster
    }

    /// Position of a node.
    pub(super) fn position(&self, node: &str) -> Option<usize> {
        self.by_name.get(node).copied()
    }

    /// By node, how many pods of a workload are on it.
    pub(super) fn spots(&self, running: &Running) -> BTreeMap<usize, u64> {
        let mut spots = BTreeMap::new();
        for member in &running.members {
            if let Some(position) = self.position(&member.node) {
                let count: &mut u64 = spots.entry(position).or_default();
                *count = count.saturating_add(1);
            }
        }
        spots
    }

    fn settle(&mut self, now_seconds: i64, occupants: &Occupants) {
        let mut order: Vec<(i32, u64, &str, usize)> = (0..)
            .zip(&occupants.running)
            .map(|(position, one)| {
                let lost = one.lost_gpu_seconds(now_seconds);
                (one.priority, lost, one.name.as_str(), position)
            })
            .collect();
        order.sort_unstable();
        for (_, _, _, position) in order {
            let Some(running) = occupants.running.get(position) else {
                continue;
            };
            for (site, pods) in self.spots(running) {
                if let Some(site) = self.sites.get_mut(site) {
                    site.tenants.push((position, pods));
                }
            }
        }
    }
}

/// Node, what each member gets, members.
fn promised<'p>(
    snapshot: &'p Snapshot,
    plan: &'p Plan,
) -> impl Iterator<Item = (&'p str, Resources, u64)> {
    let demands: HashMap<&str, &Demand> = snapshot
        .demands
        .iter()
        .map(|demand| (demand.name.as_str(), demand))
        .collect();
    let assigned = plan.assignments.iter().flat_map(|assignment| {
        let members = assignment.members.iter();
        members.map(move |member| (assignment.demand.as_str(), member.node.as_str(), 1))
    });
    let held = plan.holds.iter().filter_map(|hold| match &hold.place {
        Place::Node { name } => Some((hold.demand.as_str(), name.as_str(), hold.members)),
        Place::Purchase { .. } => None,
    });
    assigned
        .chain(held)
        .filter_map(move |(demand, node, members)| {
            Some((node, demands.get(demand)?.per_member, members))
        })
}
