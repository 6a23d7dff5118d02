//! Who is safe from whom, and the books of budgets and queues that this depends on. Evicts nobody.

use std::collections::{BTreeMap, BTreeSet};

use super::Running;
use super::preempt::Hunt;
use crate::planner::fit::{self, Obstacle};
use crate::snapshot::Demand;

/// Why a workload may not be evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Protection {
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
pub(super) enum Turn {
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

impl Hunt<'_> {
    /// Whether a workload may go for `demand` together with `others`; why not, else.
    pub(super) fn may_evict(
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
    pub(super) fn turn(&mut self, position: usize, demand: &Demand, turn: Turn) {
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

    /// How many workloads each protection keeps on the nodes that the gang could use.
    pub(super) fn refusal(&self, demand: &Demand) -> String {
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
