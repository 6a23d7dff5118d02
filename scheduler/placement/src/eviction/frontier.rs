//! What making room for one more member costs on every node: the next step of a hunt. Looks and compares; evicts nobody.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::cluster::Site;
use super::preempt::Hunt;
use crate::planner::class::Likeness;
use crate::planner::fit;
use crate::snapshot::{Demand, Resources};

/// Pods to evict, then GPU-seconds lost: what freeing a node costs, after the highest priority touched.
pub(super) type Price = (i32, u64, u64);

/// What the next member costs on every node, for one class of demands.
#[derive(Clone, Debug, Default)]
pub(super) struct Frontier {
    queue: BTreeSet<(Price, usize)>,
    by_site: BTreeMap<usize, Price>,
    seen: Option<usize>,
}

/// Whose eviction frees a node for the next member, and what that costs.
pub(super) struct Step {
    pub(super) victims: Vec<usize>,
    pub(super) price: Price,
}

impl<'a> Hunt<'a> {
    /// The cheapest way to room for one more member.
    pub(super) fn next_step(&mut self, demand: &'a Demand) -> Option<Step> {
        let reclaims = self.occupants.reclaiming.contains(&demand.name);
        let key = (Likeness::of(demand), demand.priority, reclaims);
        let mut frontier = self.frontiers.remove(&key).unwrap_or_default();
        let changed: Vec<usize> = match frontier.seen {
            None => (0..self.cluster.sites.len()).collect(),
            Some(seen) => self.changes.get(seen..).unwrap_or_default().to_vec(),
        };
        frontier.seen = Some(self.changes.len());
        for position in changed {
            frontier.update(
                position,
                self.step_on(position, demand).map(|step| step.price),
            );
        }
        let mut found = None;
        // Budgets and shares shrink elsewhere too, so that a price may be out of date: ask again before believing it.
        while let Some((price, position)) = frontier.queue.first().copied() {
            let step = self.step_on(position, demand);
            if let Some(step) = step.filter(|step| step.price == price) {
                found = Some(step);
                break;
            }
            let now = self.step_on(position, demand).map(|step| step.price);
            frontier.update(position, now);
        }
        self.frontiers.insert(key, frontier);
        found
    }

    /// The cheapest tenants of one node whose leaving makes room for one more member there.
    fn step_on(&self, position: usize, demand: &Demand) -> Option<Step> {
        let site = self.cluster.sites.get(position)?;
        let mut slot = site.slot.clone();
        slot.free = slot.allocatable;
        if fit::members_that_fit(&slot, demand) == 0 {
            return None;
        }
        slot.free = site.slot.free;
        let before = fit::members_that_fit(&slot, demand);
        let mut chosen: Vec<(usize, u64)> = Vec::new();
        for (tenant, pods) in &site.tenants {
            if fit::members_that_fit(&slot, demand) > before {
                break;
            }
            if self.may_evict(*tenant, demand, &chosen).is_ok() {
                chosen.push((*tenant, *pods));
                slot.free = self.freed(site, &chosen);
            }
        }
        if fit::members_that_fit(&slot, demand) <= before {
            return None;
        }
        // Those taken early may be needless now that a larger one goes: the dearest is spared first.
        for at in (0..chosen.len()).rev() {
            let mut fewer = chosen.clone();
            fewer.remove(at);
            slot.free = self.freed(site, &fewer);
            if fit::members_that_fit(&slot, demand) > before {
                chosen = fewer;
            }
        }
        Some(self.priced(&chosen))
    }

    fn freed(&self, site: &Site<'_>, chosen: &[(usize, u64)]) -> Resources {
        let mut free = site.slot.free;
        for (tenant, pods) in chosen {
            if let Some(running) = self.occupants.running.get(*tenant) {
                free = free.saturating_add(&running.per_member.times(*pods));
            }
        }
        free.least(&site.slot.allocatable)
    }

    fn priced(&self, chosen: &[(usize, u64)]) -> Step {
        let mut price: Price = (i32::MIN, 0, 0);
        for running in chosen
            .iter()
            .filter_map(|(tenant, _)| self.occupants.running.get(*tenant))
        {
            price.0 = price.0.max(running.priority);
            price.1 = price
                .1
                .saturating_add(running.lost_gpu_seconds(self.now_seconds));
            price.2 = price.2.saturating_add(running.members.len() as u64);
        }
        Step {
            victims: chosen.iter().map(|(tenant, _)| *tenant).collect(),
            price,
        }
    }
}

impl Frontier {
    fn update(&mut self, position: usize, price: Option<Price>) {
        if let Some(before) = self.by_site.remove(&position) {
            self.queue.remove(&(before, position));
        }
        if let Some(price) = price {
            self.queue.insert((price, position));
            self.by_site.insert(position, price);
        }
    }
}
