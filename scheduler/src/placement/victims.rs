//! Decides on evictions: looks for victims when somebody waits for room, and for nodes to empty when nobody waits. The
//! choice itself is [`kaito_placement::eviction`]'s; nothing is evicted here.

use std::collections::{BTreeMap, HashMap};

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

/// What bounds the evictions of a round.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<'a> {
    /// Whether pods may be moved.
    pub moves: Moves,
    /// Why the last eviction was refused, if that was a moment ago: nobody is asked again at once, and nothing is held
    /// back for whoever waits.
    pub refused: Option<&'a str>,
}

/// Whether pods may be moved in this round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moves {
    /// The last time is long enough ago.
    Due,
    /// It is not.
    NotYet,
}

/// What a round carries out.
#[derive(Clone, Debug)]
pub struct Decision {
    /// What the plan was made from.
    pub snapshot: Snapshot,
    /// Who goes where, what is bought and given back.
    pub plan: Plan,
    /// Who leaves after that.
    pub evictions: Evictions,
}

/// Whom to evict, and what those who wait are told about it.
#[derive(Clone, Debug, Default)]
pub struct Evictions {
    /// What it was made from, where that is not the plan that is carried out: one in which all pods on their way out
    /// count.
    made_from: Option<(Snapshot, Plan)>,
    evicting: Evicting,
    /// Nobody is asked now.
    on_hold: bool,
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

    /// The evictions to carry out now, with those that they were planned from.
    #[must_use]
    pub fn due(&self) -> Option<&Evicting> {
        let EvictionPlan {
            preemptions,
            consolidations,
            ..
        } = &self.evicting.evictions;
        let none = preemptions.is_empty() && consolidations.is_empty();
        (!none && !self.on_hold).then_some(&self.evicting)
    }
}

impl Decision {
    /// What a recording of its evictions holds, if anybody is evicted.
    #[must_use]
    pub fn recorded(&self) -> Option<(&Snapshot, &Plan, &Evicting)> {
        let evicting = self.evictions.due()?;
        let (snapshot, plan) = match self.evictions.made_from.as_ref() {
            Some((snapshot, plan)) => (snapshot, plan),
            None => (&self.snapshot, &self.plan),
        };
        Some((snapshot, plan, evicting))
    }

    fn of((snapshot, plan): Picture, evictions: Evictions) -> Self {
        Self {
            snapshot,
            plan,
            evictions,
        }
    }
}

/// A snapshot and the plan made from it.
type Picture = (Snapshot, Plan);

/// Decides on evictions after the plan of a round.
#[must_use]
pub fn decide(
    shared: &Shared,
    objects: &Objects,
    memory: &Memory,
    picture: Picture,
    bounds: Bounds<'_>,
) -> Decision {
    let rules = shared.config.evictions;
    let (snapshot, plan) = &picture;
    let highest = highest_waiting(snapshot, plan);
    let at_rest = plan.waiting.is_empty()
        && plan.assignments.is_empty()
        && plan.purchases.is_empty()
        && memory.evicted.is_empty()
        && snapshot.nodes.iter().all(|node| node.leaving_pods == 0);
    let may_move = rules.most_moves > 0 && bounds.moves == Moves::Due && bounds.refused.is_none();
    let lowest = occupants::lowest_priority(objects);
    let below = |highest: &i32| lowest.is_some_and(|lowest| lowest < *highest);
    if let Some(highest) = highest.filter(below)
        && rules.preemption == Allowed::On
    {
        let hunt = Hunt {
            shared,
            objects,
            memory,
            occupants: occupants(shared, objects, memory, snapshot),
            refused: bounds.refused,
        };
        return hunt.preempt(picture, highest);
    }
    if at_rest && may_move {
        let occupants = occupants(shared, objects, memory, snapshot);
        let evictions = evictions(shared, snapshot, plan, occupants, None);
        return Decision::of(picture, evictions);
    }
    Decision::of(picture, Evictions::default())
}

fn lacks_room(waiting: &Waiting) -> bool {
    !matches!(waiting.blocker, Blocker::NodesLaunching { .. })
}

fn occupants(
    shared: &Shared,
    objects: &Objects,
    memory: &Memory,
    snapshot: &Snapshot,
) -> Occupants {
    let budgets = shared.stores.budgets.all();
    let rules = &shared.config.evictions;
    occupants::occupants(objects, &budgets, memory, rules, snapshot.now_seconds)
}

/// The search for victims of one round.
struct Hunt<'a> {
    shared: &'a Shared,
    objects: &'a Objects,
    memory: &'a Memory,
    occupants: Occupants,
    refused: Option<&'a str>,
}

impl Hunt<'_> {
    /// Makes place for those who lack room.
    fn preempt(self, picture: Picture, highest: i32) -> Decision {
        let (snapshot, plan) = &picture;
        let mut running = self.occupants.running.iter();
        if !running.any(|one| one.priority < highest) {
            return Decision::of(picture, Evictions::default());
        }
        if let Some(decision) = self.first(snapshot, plan, highest) {
            return decision;
        }
        self.besides(picture)
    }

    /// The plan without those of lower priority than the first who waits, if that makes place for somebody. What is free
    /// now may be a part of that place, and must not be given away a moment before: not to those either who were evicted
    /// for it when this process was killed halfway.
    fn first(&self, snapshot: &Snapshot, plan: &Plan, highest: i32) -> Option<Decision> {
        let priorities = priorities(snapshot);
        let lower = |demand: &str| priorities.get(demand).is_some_and(|one| *one < highest);
        let given_away = plan.assignments.iter().any(|one| lower(&one.demand));
        if !given_away || self.refused.is_some() {
            return None;
        }
        let mut fewer = snapshot.clone();
        fewer.demands.retain(|one| one.priority >= highest);
        // A node that is idle now may be for one of those who are left out.
        fewer.idle_since.clear();
        let plan = planner::plan(&fewer);
        let occupants = self.occupants.clone();
        let evictions = evictions(self.shared, &fewer, &plan, occupants, None);
        evictions.due()?;
        Some(Decision::of((fewer, plan), evictions))
    }

    /// Evictions beside the whole plan, but not for those who only need to wait until somebody has left who leaves
    /// anyway.
    fn besides(self, picture: Picture) -> Decision {
        let (snapshot, plan) = &picture;
        let all = Memory {
            leaving: Leaving::All,
            ..self.memory.clone()
        };
        let later = cluster::snapshot(self.objects, &all, snapshot.now_seconds);
        if later == *snapshot {
            let found = evictions(self.shared, snapshot, plan, self.occupants, self.refused);
            return Decision::of(picture, found);
        }
        if !plan.assignments.is_empty() {
            // They would be placed elsewhere in that picture. The next round is near.
            return Decision::of(picture, Evictions::default());
        }
        let planned = planner::plan(&later);
        let found = evictions(self.shared, &later, &planned, self.occupants, self.refused);
        let found = Evictions {
            made_from: Some((later, planned)),
            ..found
        };
        Decision::of(picture, found)
    }
}

fn priorities(snapshot: &Snapshot) -> HashMap<&str, i32> {
    let demands = snapshot.demands.iter();
    demands
        .map(|demand| (demand.name.as_str(), demand.priority))
        .collect()
}

/// The highest priority of those who lack room.
fn highest_waiting(snapshot: &Snapshot, plan: &Plan) -> Option<i32> {
    let priorities = priorities(snapshot);
    let waiting = plan.waiting.iter().filter(|one| lacks_room(one));
    waiting
        .filter_map(|one| priorities.get(one.demand.as_str()).copied())
        .max()
}

fn evictions(
    shared: &Shared,
    snapshot: &Snapshot,
    plan: &Plan,
    occupants: Occupants,
    refused: Option<&str>,
) -> Evictions {
    let evictions = eviction::plan(snapshot, plan, &occupants);
    let mut violations = check::check(snapshot, plan);
    violations.extend(check::check_evictions(
        snapshot, plan, &occupants, &evictions,
    ));
    if is_broken(shared, &violations) {
        return Evictions::default();
    }
    Evictions {
        messages: messages(snapshot, plan, &occupants, &evictions, refused),
        evicting: Evicting {
            occupants,
            evictions,
        },
        on_hold: refused.is_some(),
        made_from: None,
    }
}

/// What those who wait are told: who leaves for them, or why nobody of lower priority does.
fn messages(
    snapshot: &Snapshot,
    plan: &Plan,
    occupants: &Occupants,
    evictions: &EvictionPlan,
    refused: Option<&str>,
) -> BTreeMap<String, String> {
    let priorities = priorities(snapshot);
    let lowest = occupants.running.iter().map(|one| one.priority).min();
    let mut also: HashMap<&str, String> = HashMap::new();
    for one in &evictions.preemptions {
        also.insert(&one.demand, who_leaves(one, refused));
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

fn who_leaves(preemption: &Preemption, refused: Option<&str>) -> String {
    let victims = &preemption.victims;
    let pods: usize = victims.iter().map(|one| one.pods.len()).sum();
    let names: Vec<&str> = victims.iter().map(|one| one.workload.as_str()).collect();
    let asked = format!("pods asked to leave for it: {pods} of {}", names.join(", "));
    match refused {
        Some(why) => format!("{asked}; refused so far: {why}"),
        None => asked,
    }
}
