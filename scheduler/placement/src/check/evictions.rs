//! Nobody is evicted who must not or need not be, and everybody who gets or changes a place finds room there.

use std::collections::BTreeMap;

use super::ground::{self, Ground};
use super::{Facts, Violation};
use crate::eviction::{Occupants, Running};
use crate::plan::{Consolidation, EvictionPlan, Place, Plan, Preemption};
use crate::snapshot::{Constraints, Demand, Resources, Snapshot};

/// Everything that is wrong with `evictions` as a sequel to `plan`, which must be sound itself.
#[must_use]
pub fn check_evictions(
    snapshot: &Snapshot,
    plan: &Plan,
    occupants: &Occupants,
    evictions: &EvictionPlan,
) -> Vec<Violation> {
    let facts = Facts::gather(snapshot, plan);
    let mut recount = Recount {
        running: occupants
            .running
            .iter()
            .map(|one| (one.name.as_str(), one))
            .collect(),
        free: free(&facts),
        facts: &facts,
        occupants,
        evicted: BTreeMap::new(),
        reclaimed: BTreeMap::new(),
        violations: Vec::new(),
    };
    for preemption in &evictions.preemptions {
        recount.preemption(preemption);
    }
    for consolidation in &evictions.consolidations {
        recount.consolidation(consolidation, &evictions.consolidations);
    }
    recount.budgets();
    recount.violations
}

/// Signed, so that a debt shows.
type Free = BTreeMap<String, [i128; 5]>;

struct Recount<'a> {
    facts: &'a Facts<'a>,
    occupants: &'a Occupants,
    running: BTreeMap<&'a str, &'a Running>,
    free: Free,
    evicted: BTreeMap<String, &'a Running>,
    reclaimed: BTreeMap<&'a str, u128>,
    violations: Vec<Violation>,
}

fn amounts(of: &Resources) -> [i128; 5] {
    of.amounts().map(i128::from)
}

/// What the plan leaves free on nodes that can be used now.
fn free(facts: &Facts<'_>) -> Free {
    let mut free = Free::new();
    for node in facts.snapshot.nodes.iter().filter(|node| node.available) {
        let (has, used) = (amounts(&node.allocatable), amounts(&node.used));
        let mut left = has;
        for (left, used) in left.iter_mut().zip(used) {
            *left = (*left - used).max(0);
        }
        free.insert(node.name.clone(), left);
    }
    for placed in &facts.placed {
        if let Place::Node { name } = &placed.place
            && let Some(left) = free.get_mut(name)
        {
            add(left, &placed.demand.per_member, -i128::from(placed.members));
        }
    }
    free
}

fn add(amounts_left: &mut [i128; 5], each: &Resources, times: i128) {
    for (left, each) in amounts_left.iter_mut().zip(amounts(each)) {
        *left += each * times;
    }
}

impl<'a> Recount<'a> {
    fn fault(&mut self, who: &str, what: &'static str) {
        self.violations.push(Violation::BadEviction {
            who: who.to_owned(),
            what,
        });
    }

    fn preemption(&mut self, preemption: &'a Preemption) {
        let Some(demand) = self.facts.demands.get(preemption.demand.as_str()).copied() else {
            return self.fault(&preemption.demand, "the beneficiary is not in the snapshot");
        };
        let waits = |one: &crate::plan::Waiting| one.demand == demand.name;
        if !self.facts.plan.waiting.iter().any(waits) {
            self.fault(&demand.name, "the beneficiary does not wait");
        }
        if self.occupants.yielding.contains(&demand.name) {
            self.fault(&demand.name, "the beneficiary is not to preempt others");
        }
        for victim in &preemption.victims {
            self.victim(&victim.workload, &victim.pods, demand);
        }
        self.spareable(preemption, demand);
        let named: Vec<_> = preemption.members.iter().map(|one| &one.member).collect();
        if named != demand.members.iter().collect::<Vec<_>>() {
            self.fault(&demand.name, "the beneficiary is not placed whole");
        }
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for member in &preemption.members {
            *counts.entry(member.node.as_str()).or_default() += 1;
            self.put(
                &demand.name,
                &demand.constraints,
                &demand.per_member,
                &member.node,
            );
        }
        let crowded = |(node, count): (&&str, &u64)| {
            *count > 1 || demand.placed_on.iter().any(|one| one == node)
        };
        if demand.constraints.spread && counts.iter().any(crowded) {
            self.fault(&demand.name, "two members of a spread gang are on one node");
        }
    }

    /// A victim exists, goes whole and once, and may go.
    fn victim(&mut self, name: &str, pods: &[String], demand: &Demand) {
        let Some(running) = self.running.get(name).copied() else {
            return self.fault(name, "the victim does not run");
        };
        if self.evicted.insert(name.to_owned(), running).is_some() {
            return self.fault(name, "the victim is evicted twice");
        }
        let all: Vec<_> = running.members.iter().map(|one| &one.pod).collect();
        if pods.iter().collect::<Vec<_>>() != all {
            self.fault(name, "the victim does not leave whole");
        }
        if !running.preemptible {
            self.fault(name, "it may not be evicted");
        }
        self.is_old_enough(running, 0);
        if running.priority >= demand.priority {
            let gpus = u128::from(running.per_member.gpus) * running.members.len() as u128;
            let reclaimed = self.reclaimed.entry(&running.queue).or_default();
            *reclaimed += gpus;
            let surplus = self.occupants.surplus_gpus.get(&running.queue);
            let beyond = *reclaimed > u128::from(surplus.copied().unwrap_or(0));
            if beyond || !self.occupants.reclaiming.contains(&demand.name) {
                self.fault(
                    name,
                    "the victim is of equal or higher priority and within its share",
                );
            }
        }
        for member in &running.members {
            if let Some(left) = self.free.get_mut(&member.node) {
                add(left, &running.per_member, 1);
            }
        }
    }

    fn is_old_enough(&mut self, running: &Running, least_seconds: i64) {
        let now = self.facts.snapshot.now_seconds;
        let least = least_seconds.max(running.minimum_runtime_seconds);
        if now.saturating_sub(running.started_seconds) < least {
            self.fault(&running.name, "it is younger than its minimum runtime");
        }
    }

    /// With any one victim left in its place the gang must not fit, as things stand at its turn.
    fn spareable(&mut self, preemption: &Preemption, demand: &Demand) {
        let grounds: Vec<(String, &Ground<'_>)> = self
            .facts
            .grounds
            .iter()
            .filter_map(|(place, ground)| match place {
                Place::Node { name } => Some((name.clone(), ground)),
                Place::Purchase { .. } => None,
            })
            .collect();
        let mut rooms: BTreeMap<&str, i128> = BTreeMap::new();
        for (name, ground) in &grounds {
            if let Some(left) = self.free.get(name) {
                rooms.insert(name, room(name, ground, left, demand));
            }
        }
        let total: i128 = rooms.values().sum();
        let mut needless = Vec::new();
        for victim in &preemption.victims {
            let Some(running) = self.running.get(victim.workload.as_str()) else {
                continue;
            };
            let mut without: Free = Free::new();
            for member in &running.members {
                if let Some(left) = self.free.get(&member.node) {
                    let left = without.entry(member.node.clone()).or_insert(*left);
                    add(left, &running.per_member, -1);
                }
            }
            let mut kept = total;
            for (name, left) in &without {
                let place = Place::Node { name: name.clone() };
                if let Some(ground) = self.facts.grounds.get(&place) {
                    kept -= rooms.get(name.as_str()).copied().unwrap_or(0);
                    kept += room(name, ground, left, demand);
                }
            }
            if kept >= demand.members.len() as i128 {
                needless.push(victim.workload.clone());
            }
        }
        for name in needless {
            self.fault(&name, "the victim could be spared");
        }
    }

    /// Everything on the node moves, to nodes that stay.
    fn consolidation(&mut self, consolidation: &'a Consolidation, all: &[Consolidation]) {
        let name = &consolidation.node;
        let claim = self
            .facts
            .nodes
            .get(name.as_str())
            .and_then(|node| node.claim.as_ref());
        if claim != Some(&consolidation.claim) {
            self.fault(name, "the node was not bought by that claim");
        }
        let running: Vec<&'a Running> = self.occupants.running.iter().collect();
        let here: Vec<&Running> = running
            .into_iter()
            .filter(|one| one.members.iter().any(|member| member.node == *name))
            .collect();
        let mut expected: Vec<(&str, &str)> = here
            .iter()
            .flat_map(|one| {
                one.members
                    .iter()
                    .map(|member| (one.name.as_str(), member.pod.as_str()))
            })
            .collect();
        let mut moved: Vec<(&str, &str)> = consolidation
            .moves
            .iter()
            .map(|one| (one.workload.as_str(), one.pod.as_str()))
            .collect();
        expected.sort_unstable();
        moved.sort_unstable();
        if expected != moved {
            self.fault(name, "not all that runs there moves, or more than that");
        }
        for one in here {
            self.evicted.insert(one.name.clone(), one);
            if !one.movable {
                self.fault(&one.name, "it may not be moved");
            }
            self.is_old_enough(one, self.occupants.settled_after_seconds);
        }
        for step in &consolidation.moves {
            if all.iter().any(|one| one.node == step.to) {
                self.fault(&step.pod, "it moves to a node that is to be emptied");
            }
            if let Some(running) = self.running.get(step.workload.as_str()).copied() {
                self.put(
                    &step.pod,
                    &running.constraints,
                    &running.per_member,
                    &step.to,
                );
            }
        }
    }

    /// Somebody comes to a node: allowed there, and with room.
    fn put(&mut self, who: &str, constraints: &Constraints, each: &Resources, node: &str) {
        let place = Place::Node {
            name: node.to_owned(),
        };
        let demand = Demand {
            constraints: constraints.clone(),
            ..Demand::default()
        };
        let allowed = self
            .facts
            .grounds
            .get(&place)
            .is_some_and(|ground| ground::broken_constraint(ground, &demand).is_none());
        let Some(left) = self.free.get_mut(node) else {
            return self.fault(who, "the node cannot be used now");
        };
        add(left, each, -1);
        let short = left
            .iter()
            .zip(amounts(each))
            .any(|(left, each)| each > 0 && *left < 0);
        if short {
            self.fault(who, "there is no room for it");
        }
        if !allowed {
            self.fault(who, "a constraint forbids its new place");
        }
    }

    /// No budget is overdrawn by all evictions together.
    fn budgets(&mut self) {
        let mut spent: BTreeMap<&str, u128> = BTreeMap::new();
        for running in self.evicted.values() {
            for budget in &running.budgets {
                *spent.entry(budget).or_default() += running.members.len() as u128;
            }
        }
        let overdrawn: Vec<String> = spent
            .into_iter()
            .filter(|(budget, spent)| {
                let allowed = self.occupants.budgets.get(*budget).copied().unwrap_or(0);
                *spent > u128::from(allowed)
            })
            .map(|(budget, _)| budget.to_owned())
            .collect();
        for budget in overdrawn {
            self.fault(
                &budget,
                "the disruption budget does not allow so many evictions",
            );
        }
    }
}

fn room(name: &str, ground: &Ground<'_>, left: &[i128; 5], demand: &Demand) -> i128 {
    let spread = demand.constraints.spread;
    let there = spread && demand.placed_on.iter().any(|one| one == name);
    if there || ground::broken_constraint(ground, demand).is_some() {
        return 0;
    }
    let most = if spread { 1 } else { i128::MAX >> 32 };
    left.iter()
        .zip(amounts(&demand.per_member))
        .filter(|(_, each)| *each > 0)
        .map(|(left, each)| (*left).max(0) / each)
        .min()
        .map_or(most, |room| room.min(most))
}
