//! Victims for gangs that wait for want of room, the fewest and cheapest that can be found.
//!
//! One gang after the other, in planning order. Nodes are freed one at a time, always the one where the next member
//! costs least; then everybody who need not go after all is spared, the dearest first. A gang that does not fit even so
//! takes nobody with it.

use std::collections::{BTreeMap, BTreeSet};

use super::cluster::Cluster;
use super::frontier::Frontier;
use super::protection::Turn;
use super::{Occupants, Running};
use crate::plan::{Blocker, EvictionPlan, MemberAssignment, Plan, Preemption, Refusal, Victim};
use crate::planner::class::Likeness;
use crate::planner::fit;
use crate::snapshot::{Demand, Snapshot};

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

/// The state while gangs are served.
pub(super) struct Hunt<'a> {
    pub(super) occupants: &'a Occupants,
    pub(super) now_seconds: i64,
    pub(super) cluster: Cluster<'a>,
    pub(super) gone: BTreeSet<usize>,
    pub(super) budgets: BTreeMap<&'a str, u64>,
    pub(super) surplus: BTreeMap<&'a str, u64>,
    pub(super) changes: Vec<usize>,
    pub(super) frontiers: BTreeMap<(Likeness<'a>, i32, bool), Frontier>,
    /// Why demands of a class and a size were refused, and how many changes there had been: until there are more, the
    /// next of them is refused for the same reason.
    pub(super) refused: BTreeMap<(Likeness<'a>, i32, bool, u64), (usize, String)>,
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
        if self.occupants.yielding.contains(&demand.name) {
            return Err("nobody is evicted: its pods are not to preempt others".to_owned());
        }
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
