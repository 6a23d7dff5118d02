//! Empties bought nodes by moving what runs on them into gaps elsewhere, the cheapest to empty first.
//!
//! Moves go to nodes that are in use already and stay so; never to one that is to be emptied. Only workloads all of
//! whose pods are on the node are moved: nobody's gang is torn apart for tidiness.

use std::collections::{BTreeMap, BTreeSet};

use super::cluster::{Cluster, Site};
use super::{Occupants, Running};
use crate::explain::{counted, price};
use crate::plan::{Consolidation, Move, Plan};
use crate::planner::fit;
use crate::snapshot::{Demand, Resources, Snapshot};

/// Nodes that can be emptied within `occupants.most_moves` moves in all.
pub(super) fn consolidate(
    snapshot: &Snapshot,
    plan: &Plan,
    occupants: &Occupants,
) -> Vec<Consolidation> {
    let mut tidy = Tidy {
        occupants,
        now_seconds: snapshot.now_seconds,
        // A tenant takes part in packing as a demand of its own.
        demands: occupants.running.iter().map(as_demand).collect(),
        cluster: Cluster::after(snapshot, plan, occupants),
        budgets: occupants.budgets.clone(),
        moves_left: occupants.most_moves,
        receivers: BTreeSet::new(),
        emptied: BTreeSet::new(),
    };
    let mut found = Vec::new();
    for position in tidy.candidates() {
        if let Some(moves) = tidy.empty(position) {
            found.extend(tidy.record(snapshot, position, moves));
        }
    }
    found
}

/// The state while nodes are emptied.
struct Tidy<'a> {
    occupants: &'a Occupants,
    now_seconds: i64,
    demands: Vec<Demand>,
    cluster: Cluster<'a>,
    budgets: BTreeMap<String, u64>,
    moves_left: u64,
    receivers: BTreeSet<usize>,
    emptied: BTreeSet<usize>,
}

fn as_demand(running: &Running) -> Demand {
    Demand {
        name: running.name.clone(),
        members: running.members.iter().map(|one| one.pod.clone()).collect(),
        per_member: running.per_member,
        constraints: running.constraints.clone(),
        ..Demand::default()
    }
}

impl Tidy<'_> {
    /// Bought nodes whose tenants may all move, by what moving costs: pods, then GPU-seconds, then the name.
    fn candidates(&self) -> Vec<usize> {
        let mut ranked: Vec<(u64, u64, &str, usize)> = Vec::new();
        for (position, site) in self.cluster.sites.iter().enumerate() {
            if site.slot.claim.is_none() || !self.is_whole_load(site) {
                continue;
            }
            let tenants = || {
                let positions = site.tenants.iter().map(|(tenant, _)| *tenant);
                positions.filter_map(|tenant| self.occupants.running.get(tenant))
            };
            if tenants().any(|one| !self.may_move(one, site)) {
                continue;
            }
            let pods = site.tenants.iter().map(|(_, pods)| pods).sum();
            let lost = tenants()
                .map(|one| one.lost_gpu_seconds(self.now_seconds))
                .fold(0, u64::saturating_add);
            ranked.push((pods, lost, site.slot.name, position));
        }
        ranked.sort_unstable();
        ranked
            .into_iter()
            .map(|(_, _, _, position)| position)
            .collect()
    }

    /// Whether everything that the node's GPUs are used for is known and there is something to move.
    fn is_whole_load(&self, site: &Site<'_>) -> bool {
        let known = self.load(site);
        let used = site.slot.allocatable.saturating_sub(&site.slot.free);
        !site.tenants.is_empty() && known.gpus >= used.gpus
    }

    fn load(&self, site: &Site<'_>) -> Resources {
        let mut load = Resources::default();
        for (tenant, pods) in &site.tenants {
            if let Some(running) = self.occupants.running.get(*tenant) {
                load = load.saturating_add(&running.per_member.times(*pods));
            }
        }
        load
    }

    fn may_move(&self, running: &Running, site: &Site<'_>) -> bool {
        let age = self.now_seconds.saturating_sub(running.started_seconds);
        let least = running
            .minimum_runtime_seconds
            .max(self.occupants.settled_after_seconds);
        running.movable
            && age >= least
            && running.members.iter().all(|one| one.node == site.slot.name)
    }

    /// Finds a place for every pod of a node, or changes nothing.
    fn empty(&mut self, position: usize) -> Option<Vec<Move>> {
        if self.receivers.contains(&position) {
            return None;
        }
        let site = self.cluster.sites.get(position)?.clone();
        let pods: u64 = site.tenants.iter().map(|(_, pods)| pods).sum();
        if pods > self.moves_left {
            return None;
        }
        let budgets = self.pay(&site)?;
        let mut moves = Vec::new();
        let mut trial = self.cluster.sites.clone();
        // The largest first: it has the fewest places to go.
        let mut tenants = site.tenants;
        tenants.sort_by_key(|(tenant, _)| {
            let one = self.demands.get(*tenant);
            let each = one.map(|one| one.per_member.amounts());
            // By name and not by place in the list, so that the order of the input changes nothing.
            (std::cmp::Reverse(each), one.map(|one| one.name.clone()))
        });
        for (tenant, _) in &tenants {
            let demand = self.demands.get(*tenant)?;
            let mut used: BTreeSet<usize> = BTreeSet::new();
            for pod in &demand.members {
                let to = self.place(&trial, demand, position, &used)?;
                let target = trial.get_mut(to)?;
                target.slot.free = target.slot.free.saturating_sub(&demand.per_member);
                used.insert(to);
                moves.push((to, demand.name.clone(), pod.clone()));
            }
        }
        self.budgets = budgets;
        self.moves_left = self.moves_left.saturating_sub(pods);
        self.receivers.extend(moves.iter().map(|(to, _, _)| *to));
        self.emptied.insert(position);
        self.cluster.sites = trial;
        let named = moves.into_iter().filter_map(|(to, workload, pod)| {
            let to = self.cluster.sites.get(to)?.slot.name.to_owned();
            Some(Move { workload, pod, to })
        });
        Some(named.collect())
    }

    /// The budgets after all tenants of a node have moved; nothing if one does not allow it.
    fn pay(&self, site: &Site<'_>) -> Option<BTreeMap<String, u64>> {
        let mut budgets = self.budgets.clone();
        for (tenant, _) in &site.tenants {
            let running = self.occupants.running.get(*tenant)?;
            for budget in &running.budgets {
                let left = budgets.get_mut(budget)?;
                *left = left.checked_sub(running.members.len() as u64)?;
            }
        }
        Some(budgets)
    }

    /// The fullest node that is in use, stays so, and has room.
    fn place(
        &self,
        sites: &[Site<'_>],
        demand: &Demand,
        from: usize,
        used: &BTreeSet<usize>,
    ) -> Option<usize> {
        sites
            .iter()
            .enumerate()
            .filter(|(at, site)| *at != from && !site.tenants.is_empty())
            .filter(|(at, _)| !self.emptied.contains(at))
            .filter(|(at, _)| !(demand.constraints.spread && used.contains(at)))
            .filter(|(_, site)| fit::members_that_fit(&site.slot, demand) > 0)
            .min_by_key(|(at, site)| (site.slot.free.gpus, site.slot.free.memory_bytes, *at))
            .map(|(at, _)| at)
    }

    fn record(
        &self,
        snapshot: &Snapshot,
        position: usize,
        moves: Vec<Move>,
    ) -> Option<Consolidation> {
        let slot = &self.cluster.sites.get(position)?.slot;
        let offers = snapshot.catalogue.iter();
        let each = offers
            .filter(|one| Some(one.name.as_str()) == slot.instance_type)
            .filter_map(|one| one.price_micro_dollars)
            .min();
        let saved = each.map_or_else(String::new, |each| format!(", saves {}", price(Some(each))));
        Some(Consolidation {
            node: slot.name.to_owned(),
            claim: slot.claim?.to_owned(),
            reason: format!(
                "{} find room on nodes in use{saved}",
                counted(moves.len() as u64, "pod")
            ),
            moves,
        })
    }
}
