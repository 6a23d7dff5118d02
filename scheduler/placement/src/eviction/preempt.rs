//! Victims for gangs that wait for want of room, the fewest and cheapest that can be found.
//!
//! One gang after the other, in planning order. Nodes are freed one at a time, always the one where the next member
//! costs least; then everybody who need not go after all is spared, the dearest first. A gang that does not fit even so
//! takes nobody with it.

use std::collections::{BTreeMap, BTreeSet};

use super::cluster::{Cluster, Site};
use super::{Occupants, Running};
use crate::plan::{Blocker, EvictionPlan, MemberAssignment, Plan, Preemption, Refusal, Victim};
use crate::planner::class::Likeness;
use crate::planner::fit::{self, Obstacle};
use crate::snapshot::{Demand, Resources, Snapshot};

/// Makes place for the gangs that wait in `plan` though nothing can be bought for them.
pub(super) fn preempt(snapshot: &Snapshot, plan: &Plan, occupants: &Occupants) -> EvictionPlan {
    let mut evictions = EvictionPlan::default();
    let demands: BTreeMap<&str, &Demand> = snapshot
        .demands
        .iter()
        .map(|demand| (demand.name.as_str(), demand))
        .collect();
    let mut hunt = Hunt::new(snapshot, plan, occupants);
    let waiting = plan
        .waiting
        .iter()
        .filter(|one| !matches!(one.blocker, Blocker::NodesLaunching { .. }));
    for demand in waiting.filter_map(|one| demands.get(one.demand.as_str())) {
        match hunt.serve(demand) {
            Ok(preemption) => evictions.preemptions.push(preemption),
            Err(reason) => evictions.refusals.push(Refusal {
                demand: demand.name.clone(),
                reason,
            }),
        }
    }
    evictions
}

/// Pods to evict, then GPU-seconds lost: what freeing a node costs, after the highest priority touched.
type Price = (i32, u64, u64);

/// The state while gangs are served.
struct Hunt<'a> {
    occupants: &'a Occupants,
    now_seconds: i64,
    cluster: Cluster<'a>,
    gone: BTreeSet<usize>,
    budgets: BTreeMap<&'a str, u64>,
    surplus: BTreeMap<&'a str, u64>,
    changes: Vec<usize>,
    frontiers: BTreeMap<(Likeness<'a>, i32, bool), Frontier>,
    /// Why demands of a class and a size were refused, and how many changes there had been: until there are more, the
    /// next of them is refused for the same reason.
    refused: BTreeMap<(Likeness<'a>, i32, bool, u64), (usize, String)>,
}

/// What the next member costs on every node, for one class of demands.
#[derive(Clone, Debug, Default)]
struct Frontier {
    queue: BTreeSet<(Price, usize)>,
    by_site: BTreeMap<usize, Price>,
    seen: Option<usize>,
}

/// Whose eviction frees a node for the next member, and what that costs.
struct Step {
    victims: Vec<usize>,
    price: Price,
}

impl<'a> Hunt<'a> {
    fn new(snapshot: &'a Snapshot, plan: &Plan, occupants: &'a Occupants) -> Self {
        let named = |map: &'a BTreeMap<String, u64>| {
            map.iter()
                .map(|(name, count)| (name.as_str(), *count))
                .collect()
        };
        Self {
            occupants,
            now_seconds: snapshot.now_seconds,
            cluster: Cluster::after(snapshot, plan, occupants),
            gone: BTreeSet::new(),
            budgets: named(&occupants.budgets),
            surplus: named(&occupants.surplus_gpus),
            changes: Vec::new(),
            frontiers: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    fn serve(&mut self, demand: &'a Demand) -> Result<Preemption, String> {
        let reclaims = self.occupants.reclaiming.contains(&demand.name);
        let wanted = demand.members.len() as u64;
        let key = (Likeness::of(demand), demand.priority, reclaims, wanted);
        if let Some((seen, reason)) = self.refused.get(&key)
            && *seen == self.changes.len()
        {
            return Err(reason.clone());
        }
        let served = self.try_to_serve(demand);
        if let Err(reason) = &served {
            let known = (self.changes.len(), reason.clone());
            self.refused.insert(key, known);
        }
        served
    }

    fn try_to_serve(&mut self, demand: &'a Demand) -> Result<Preemption, String> {
        let wanted = demand.members.len() as u64;
        let mut victims: Vec<usize> = Vec::new();
        while self.room(demand, wanted) < wanted {
            let Some(step) = self.next_step(demand) else {
                if !victims.is_empty() {
                    self.frontiers.clear();
                }
                for victim in victims.drain(..).rev() {
                    self.turn(victim, demand, Turn::Back);
                }
                return Err(self.refusal(demand));
            };
            for victim in step.victims {
                self.turn(victim, demand, Turn::Out);
                victims.push(victim);
            }
        }
        self.spare(demand, wanted, &mut victims);
        let members = self.seat(demand);
        victims.sort_unstable_by_key(|position| self.rank(*position));
        Ok(self.record(demand, &victims, members))
    }

    fn rank(&self, position: usize) -> (i32, u64, &'a str) {
        self.occupants
            .running
            .get(position)
            .map_or((0, 0, ""), |one| {
                (
                    one.priority,
                    one.lost_gpu_seconds(self.now_seconds),
                    &one.name,
                )
            })
    }

    /// How many members fit as things stand; counting stops at `enough`.
    fn room(&self, demand: &Demand, enough: u64) -> u64 {
        let mut total = 0_u64;
        for site in &self.cluster.sites {
            total = total.saturating_add(fit::members_that_fit(&site.slot, demand));
            if total >= enough {
                break;
            }
        }
        total
    }

    /// The cheapest way to room for one more member.
    fn next_step(&mut self, demand: &'a Demand) -> Option<Step> {
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

    /// Whether a workload may go for `demand` together with `others`; why not, else.
    fn may_evict(
        &self,
        position: usize,
        demand: &Demand,
        others: &[(usize, u64)],
    ) -> Result<(), Protection> {
        let Some(running) = self.occupants.running.get(position) else {
            return Err(Protection::Forbidden);
        };
        let age = self.now_seconds.saturating_sub(running.started_seconds);
        if self.gone.contains(&position) {
            return Err(Protection::Gone);
        }
        if !running.preemptible {
            return Err(Protection::Forbidden);
        }
        if age < running.minimum_runtime_seconds {
            return Err(Protection::Young);
        }
        let others = || {
            let positions = others.iter().map(|(tenant, _)| *tenant);
            positions.filter_map(|tenant| self.occupants.running.get(tenant))
        };
        if running.priority >= demand.priority {
            let reclaims = self.occupants.reclaiming.contains(&demand.name);
            let gpus = |one: &Running| one.per_member.gpus.saturating_mul(one.members.len() as u64);
            let planned: u64 = others()
                .filter(|other| other.queue == running.queue && other.priority >= demand.priority)
                .map(gpus)
                .sum();
            let surplus = self
                .surplus
                .get(running.queue.as_str())
                .copied()
                .unwrap_or(0);
            if !reclaims || planned.saturating_add(gpus(running)) > surplus {
                return Err(Protection::Rank);
            }
        }
        let pods = running.members.len() as u64;
        let within_budget = running.budgets.iter().all(|budget| {
            let planned: u64 = others()
                .filter(|other| other.budgets.contains(budget))
                .map(|other| other.members.len() as u64)
                .sum();
            let left = self.budgets.get(budget.as_str()).copied().unwrap_or(0);
            planned.saturating_add(pods) <= left
        });
        if within_budget {
            Ok(())
        } else {
            Err(Protection::Budget)
        }
    }

    /// Counts a workload out for `demand`, or back in.
    fn turn(&mut self, position: usize, demand: &Demand, turn: Turn) {
        let Some(running) = self.occupants.running.get(position) else {
            return;
        };
        let pods = running.members.len() as u64;
        for (at, count) in self.cluster.spots(running) {
            if let Some(site) = self.cluster.sites.get_mut(at) {
                let share = running.per_member.times(count);
                site.slot.free = match turn {
                    Turn::Out => site.slot.free.saturating_add(&share),
                    Turn::Back => site.slot.free.saturating_sub(&share),
                };
                self.changes.push(at);
            }
        }
        for budget in &running.budgets {
            if let Some(left) = self.budgets.get_mut(budget.as_str()) {
                *left = turn.apply(*left, pods);
            }
        }
        if running.priority >= demand.priority
            && let Some(surplus) = self.surplus.get_mut(running.queue.as_str())
        {
            *surplus = turn.apply(*surplus, running.per_member.gpus.saturating_mul(pods));
        }
        match turn {
            Turn::Out => self.gone.insert(position),
            Turn::Back => self.gone.remove(&position),
        };
    }

    /// Lets everybody stay without whom the gang fits as well; the dearest is asked first.
    fn spare(&mut self, demand: &Demand, wanted: u64, victims: &mut Vec<usize>) {
        victims.sort_unstable_by_key(|position| std::cmp::Reverse(self.rank(*position)));
        let mut needed = Vec::with_capacity(victims.len());
        for victim in victims.drain(..) {
            self.turn(victim, demand, Turn::Back);
            if self.room(demand, wanted) >= wanted {
                // What its budget and its queue allow again may open any node.
                self.frontiers.clear();
                continue;
            }
            self.turn(victim, demand, Turn::Out);
            needed.push(victim);
        }
        *victims = needed;
    }

    /// Seats the members, tightest node first, and keeps the places.
    fn seat(&mut self, demand: &Demand) -> Vec<MemberAssignment> {
        let sites = self.cluster.sites.iter().enumerate();
        let mut open: Vec<(u64, u64, usize, u64)> = sites
            .filter_map(|(position, site)| {
                let room = fit::members_that_fit(&site.slot, demand);
                let left = site.slot.free.saturating_sub(&demand.per_member);
                (room > 0).then_some((left.gpus, left.memory_bytes, position, room))
            })
            .collect();
        open.sort_unstable();
        let mut names = demand.members.iter();
        let mut seated = Vec::with_capacity(demand.members.len());
        for (_, _, position, room) in open {
            let Some(site) = self.cluster.sites.get_mut(position) else {
                continue;
            };
            for member in names
                .by_ref()
                .take(usize::try_from(room).unwrap_or(usize::MAX))
            {
                site.slot.free = site.slot.free.saturating_sub(&demand.per_member);
                seated.push(MemberAssignment {
                    member: member.clone(),
                    node: site.slot.name.to_owned(),
                });
            }
            self.changes.push(position);
            if names.len() == 0 {
                break;
            }
        }
        seated
    }

    fn record(
        &self,
        demand: &Demand,
        victims: &[usize],
        members: Vec<MemberAssignment>,
    ) -> Preemption {
        let running: Vec<&Running> = victims
            .iter()
            .filter_map(|position| self.occupants.running.get(*position))
            .collect();
        let pods: usize = running.iter().map(|one| one.members.len()).sum();
        let lost: u64 = running
            .iter()
            .map(|one| one.lost_gpu_seconds(self.now_seconds))
            .fold(0, u64::saturating_add);
        let reason = format!(
            "{} at priority {}: {} of {} leave, {lost} GPU-seconds of work lost; none of them can be spared",
            crate::explain::needs(demand),
            demand.priority,
            crate::explain::counted(pods as u64, "pod"),
            crate::explain::counted(running.len() as u64, "workload"),
        );
        Preemption {
            demand: demand.name.clone(),
            victims: running.iter().map(|one| victim(one, demand)).collect(),
            members,
            reason,
        }
    }

    /// How many workloads each protection keeps on the nodes that the gang could use.
    fn refusal(&self, demand: &Demand) -> String {
        let mut protected: BTreeMap<Protection, BTreeSet<usize>> = BTreeMap::new();
        let mut usable = 0_u64;
        for site in &self.cluster.sites {
            let forbidden =
                fit::obstacles(&site.slot, demand).any(|one| !matches!(one, Obstacle::TooFull(..)));
            if forbidden {
                continue;
            }
            usable = usable.saturating_add(1);
            for (tenant, _) in &site.tenants {
                if let Err(protection) = self.may_evict(*tenant, demand, &[]) {
                    protected.entry(protection).or_default().insert(*tenant);
                }
            }
        }
        let mut parts = vec![format!(
            "{} on {} that it may use",
            crate::explain::needs(demand),
            crate::explain::counted(usable, "node"),
        )];
        for (protection, workloads) in &protected {
            let count = crate::explain::counted(workloads.len() as u64, "workload");
            parts.push(format!("{count} {}", protection.words()));
        }
        if protected.is_empty() {
            parts.push("too little even if everybody else left".to_owned());
        }
        format!("nobody is evicted: {}", parts.join("; "))
    }
}

/// Why a workload may not be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Protection {
    Rank,
    Forbidden,
    Young,
    Budget,
    Gone,
}

impl Protection {
    const fn words(self) -> &'static str {
        match self {
            Self::Rank => "of equal or higher priority and within the queue's share",
            Self::Forbidden => "not preemptible",
            Self::Young => "younger than the minimum runtime",
            Self::Budget => "held by a disruption budget",
            Self::Gone => "leaving for others already",
        }
    }
}

/// Out of the cluster, or back.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Out,
    Back,
}

impl Turn {
    const fn apply(self, left: u64, by: u64) -> u64 {
        match self {
            Self::Out => left.saturating_sub(by),
            Self::Back => left.saturating_add(by),
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

fn victim(running: &Running, demand: &Demand) -> Victim {
    let reason = if running.priority < demand.priority {
        format!("priority {} < {}", running.priority, demand.priority)
    } else {
        format!("its queue {} holds more than its share", running.queue)
    };
    Victim {
        workload: running.name.clone(),
        pods: running.members.iter().map(|one| one.pod.clone()).collect(),
        reason,
    }
}
