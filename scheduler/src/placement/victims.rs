//! Decides on evictions: looks for victims when somebody waits for room, and for nodes to empty when nobody waits. The
//! choice itself is [`kaito_placement::eviction`]'s; nothing is evicted here.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kaito_placement::check;
use kaito_placement::eviction::{self, Occupants};
use kaito_placement::plan::{Blocker, EvictionPlan, Plan, Preemption, Waiting};
use kaito_placement::planner;
use kaito_placement::replay::Evicting;
use kaito_placement::snapshot::Snapshot;
use kaito_snapshot::cluster::{self, Memory, Objects};
use kaito_snapshot::leaving::Leaving;
use kaito_snapshot::occupants::{self, Preemption as Allowed};

use super::is_broken;
use crate::shared::Shared;

/// Whether pods may be moved in this round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moves {
    /// The last time is long enough ago.
    Due,
    /// It is not.
    NotYet,
}

/// What to evict, and what those who wait are told about it.
#[derive(Clone, Debug, Default)]
pub struct Evictions {
    /// What it was made from: the plan of this round, or one in which all pods on their way out count.
    made_from: Option<(Snapshot, Plan)>,
    evicting: Evicting,
    /// Demand → what it waits for, where that is more than the plan says.
    messages: BTreeMap<String, String>,
}

impl Evictions {
    /// What `waiting` is told.
    #[must_use]
    pub fn message(&self, waiting: &Waiting) -> String {
        let known = self.messages.get(&waiting.demand);
        known.unwrap_or(&waiting.message).clone()
    }

    /// The plan with those that it was made from.
    #[must_use]
    pub const fn evicting(&self) -> &Evicting {
        &self.evicting
    }

    /// What a recording of it holds, if anybody is evicted.
    #[must_use]
    pub fn recorded(&self) -> Option<(&Snapshot, &Plan, &Evicting)> {
        let (snapshot, plan) = self.made_from.as_ref()?;
        let EvictionPlan {
            preemptions,
            consolidations,
            ..
        } = &self.evicting.evictions;
        let none = preemptions.is_empty() && consolidations.is_empty();
        (!none).then_some((snapshot, plan, &self.evicting))
    }
}

/// Decides on evictions after the plan of a round.
#[must_use]
pub fn decide(
    shared: &Shared,
    objects: &Objects,
    picture: &Memory,
    (snapshot, plan): (&Snapshot, &Plan),
    moves: Moves,
) -> Evictions {
    let rules = shared.config.evictions;
    let none = Evictions::default();
    if plan.waiting.iter().any(lacks_room) {
        if rules.preemption == Allowed::Off {
            return none;
        }
        return preempt(shared, objects, picture, snapshot, plan);
    }
    let at_rest = plan.waiting.is_empty()
        && plan.assignments.is_empty()
        && plan.purchases.is_empty()
        && picture.evicted.is_empty()
        && snapshot.nodes.iter().all(|node| node.leaving_pods == 0);
    if rules.most_moves == 0 || moves == Moves::NotYet || !at_rest {
        return none;
    }
    let occupants = occupants(shared, objects, picture, snapshot);
    evictions(shared, (snapshot.clone(), plan.clone()), occupants)
}

fn lacks_room(waiting: &Waiting) -> bool {
    !matches!(waiting.blocker, Blocker::NodesLaunching { .. })
}

fn occupants(
    shared: &Shared,
    objects: &Objects,
    picture: &Memory,
    snapshot: &Snapshot,
) -> Occupants {
    let budgets = shared.stores.budgets.all();
    let rules = &shared.config.evictions;
    occupants::occupants(objects, &budgets, picture, rules, snapshot.now_seconds)
}

/// Makes place for those who lack room, but not for those who only need to wait until somebody has left who leaves
/// anyway.
fn preempt(
    shared: &Shared,
    objects: &Objects,
    picture: &Memory,
    snapshot: &Snapshot,
    plan: &Plan,
) -> Evictions {
    let occupants = occupants(shared, objects, picture, snapshot);
    let wanting: BTreeSet<&str> = plan
        .waiting
        .iter()
        .filter(|one| lacks_room(one))
        .map(|one| one.demand.as_str())
        .collect();
    let wanting = snapshot
        .demands
        .iter()
        .filter(|one| wanting.contains(one.name.as_str()));
    let highest = wanting.map(|one| one.priority).max();
    let is_lower = |priority: i32| highest.is_some_and(|highest| priority < highest);
    if !occupants.running.iter().any(|one| is_lower(one.priority)) {
        return Evictions::default();
    }
    let all = Memory {
        leaving: Leaving::All,
        ..picture.clone()
    };
    let later = cluster::snapshot(objects, &all, snapshot.now_seconds);
    if later == *snapshot {
        return evictions(shared, (later, plan.clone()), occupants);
    }
    if !plan.assignments.is_empty() {
        // They would be placed elsewhere in that picture. The next round is near.
        return Evictions::default();
    }
    let planned = planner::plan(&later);
    evictions(shared, (later, planned), occupants)
}

fn evictions(shared: &Shared, made_from: (Snapshot, Plan), occupants: Occupants) -> Evictions {
    let (snapshot, plan) = &made_from;
    let evictions = eviction::plan(snapshot, plan, &occupants);
    let violations = check::check_evictions(snapshot, plan, &occupants, &evictions);
    if is_broken(shared, &violations) {
        return Evictions::default();
    }
    Evictions {
        messages: messages(snapshot, plan, &occupants, &evictions),
        evicting: Evicting {
            occupants,
            evictions,
        },
        made_from: Some(made_from),
    }
}

/// What those who wait are told: who leaves for them, or why nobody of lower priority does.
fn messages(
    snapshot: &Snapshot,
    plan: &Plan,
    occupants: &Occupants,
    evictions: &EvictionPlan,
) -> BTreeMap<String, String> {
    let priorities: HashMap<&str, i32> = snapshot
        .demands
        .iter()
        .map(|demand| (demand.name.as_str(), demand.priority))
        .collect();
    let lowest = occupants.running.iter().map(|one| one.priority).min();
    let mut also: HashMap<&str, String> = HashMap::new();
    for one in &evictions.preemptions {
        also.insert(&one.demand, who_leaves(one));
    }
    for one in &evictions.refusals {
        // Where all are equal there is nothing to say about evictions.
        let own = priorities.get(one.demand.as_str()).copied();
        if own.zip(lowest).is_some_and(|(own, lowest)| lowest < own) {
            also.insert(&one.demand, one.reason.clone());
        }
    }
    let waiting = plan.waiting.iter().map(|one| {
        let message = match also.get(one.demand.as_str()) {
            Some(also) => format!("{}; {also}", one.message),
            None => one.message.clone(),
        };
        (one.demand.clone(), message)
    });
    waiting.collect()
}

fn who_leaves(preemption: &Preemption) -> String {
    let victims = &preemption.victims;
    let pods: usize = victims.iter().map(|one| one.pods.len()).sum();
    let names: Vec<&str> = victims.iter().map(|one| one.workload.as_str()).collect();
    format!("pods asked to leave for it: {pods} of {}", names.join(", "))
}
