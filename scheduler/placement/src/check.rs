//! Finds what is wrong with a plan.
//!
//! Shares no code with the planner: it recounts everything from the snapshot and the plan alone, so that a mistake in
//! the planner's bookkeeping cannot hide here too. It judges plans and never mends them. Used by tests, and open to
//! whoever wants to look at a plan before acting on it.

mod evictions;
mod gangs;
mod ground;
mod money;

use std::collections::{BTreeMap, BTreeSet};

use crate::plan::{Place, Plan};
use crate::snapshot::{Demand, Node, Snapshot};
pub use evictions::check_evictions;
use ground::Ground;

/// One thing that is wrong with a plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A demand of the snapshot is neither assigned nor waiting, or more than once.
    #[error("demand {demand} is decided {times} times, not once")]
    NotDecidedOnce {
        /// The demand.
        demand: String,
        /// How often it is.
        times: usize,
    },
    /// The plan speaks of a demand that the snapshot does not have.
    #[error("demand {demand} is not in the snapshot")]
    UnknownDemand {
        /// The name.
        demand: String,
    },
    /// A gang is not placed whole.
    #[error("gang {demand} is not whole: {what}")]
    HalfGang {
        /// The demand.
        demand: String,
        /// What is missing or too much.
        what: String,
    },
    /// Something is placed where nothing may be.
    #[error("{demand} is placed on {place}, which {what}")]
    NoSuchPlace {
        /// The demand.
        demand: String,
        /// The node or purchase.
        place: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A constraint of a demand does not hold where it is placed.
    #[error("{demand} is placed on {place} against its {constraint}")]
    ConstraintBroken {
        /// The demand.
        demand: String,
        /// The node or purchase.
        place: String,
        /// Which constraint.
        constraint: &'static str,
    },
    /// More is promised than there is.
    #[error("{place} has too little {resource} for what is promised on it")]
    OverCommitted {
        /// The node or purchase.
        place: String,
        /// The resource.
        resource: &'static str,
    },
    /// A gang waits although it would fit.
    #[error("gang {demand} waits although all its members would fit on nodes there")]
    PlaceMissed {
        /// The demand.
        demand: String,
    },
    /// A purchase that must not be made so.
    #[error("purchase {ordinal} of {buyer}: {what}")]
    BadPurchase {
        /// The buyer.
        buyer: String,
        /// Its ordinal.
        ordinal: u32,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A claim that must not be given back.
    #[error("release of claim {claim}: {what}")]
    BadRelease {
        /// The claim.
        claim: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Somebody is evicted or moved who should not be, or to where it should not.
    #[error("eviction of or for {who}: {what}")]
    BadEviction {
        /// Workload, pod, node, budget or beneficiary.
        who: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A blocker that is not true.
    #[error("blocker of {demand}: {what}")]
    FalseBlocker {
        /// The demand.
        demand: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The plan would be looked at again too late, or at once.
    #[error("next change at {next_change_seconds:?} s, expected {expected:?} s")]
    WrongNextChange {
        /// What the plan says.
        next_change_seconds: Option<i64>,
        /// What follows from the snapshot.
        expected: Option<i64>,
    },
}

/// Everything that is wrong with `plan` as an answer to `snapshot`; empty for a sound plan.
#[must_use]
pub fn check(snapshot: &Snapshot, plan: &Plan) -> Vec<Violation> {
    let facts = Facts::gather(snapshot, plan);
    [
        gangs::decided_once(&facts),
        gangs::whole(&facts),
        ground::constraints(&facts),
        ground::commitments(&facts),
        gangs::blockers(&facts),
        ground::missed_places(&facts),
        money::purchases(&facts),
        money::releases(&facts),
        money::next_change(&facts),
    ]
    .concat()
}

/// Some members of one demand on one place.
struct Placed<'a> {
    demand: &'a Demand,
    place: Place,
    members: u64,
    /// Assigned now, or held for later.
    now: bool,
}

/// The snapshot and the plan by name.
struct Facts<'a> {
    snapshot: &'a Snapshot,
    plan: &'a Plan,
    demands: BTreeMap<&'a str, &'a Demand>,
    nodes: BTreeMap<&'a str, &'a Node>,
    grounds: BTreeMap<Place, Ground<'a>>,
    placed: Vec<Placed<'a>>,
    /// By demand: its positions in `placed`.
    placed_by_demand: BTreeMap<&'a str, Vec<usize>>,
    /// By demand: members that places are held for.
    held: BTreeMap<&'a str, u64>,
    /// By place: the demands that hold something there.
    holders: BTreeMap<&'a Place, BTreeSet<&'a String>>,
}

impl<'a> Facts<'a> {
    fn gather(snapshot: &'a Snapshot, plan: &'a Plan) -> Self {
        let demands: BTreeMap<_, _> = snapshot
            .demands
            .iter()
            .map(|demand| (demand.name.as_str(), demand))
            .collect();
        let nodes = snapshot
            .nodes
            .iter()
            .map(|node| (node.name.as_str(), node))
            .collect();
        let placed = placed(plan, &demands);
        let mut placed_by_demand: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (position, one) in placed.iter().enumerate() {
            let positions = placed_by_demand.entry(one.demand.name.as_str());
            positions.or_default().push(position);
        }
        let mut held: BTreeMap<&str, u64> = BTreeMap::new();
        let mut holders: BTreeMap<&Place, BTreeSet<&String>> = BTreeMap::new();
        for hold in &plan.holds {
            let sum = held.entry(hold.demand.as_str()).or_default();
            *sum = sum.saturating_add(hold.members);
            if hold.members > 0 {
                holders.entry(&hold.place).or_default().insert(&hold.demand);
            }
        }
        Self {
            snapshot,
            plan,
            placed,
            placed_by_demand,
            held,
            holders,
            demands,
            nodes,
            grounds: ground::all(snapshot, plan),
        }
    }

    /// Everything that is placed of one demand.
    fn placed_of(&self, demand: &str) -> impl Iterator<Item = &Placed<'a>> {
        let positions = self.placed_by_demand.get(demand).into_iter().flatten();
        positions.filter_map(|position| self.placed.get(*position))
    }

    fn ground(&self, place: &Place) -> Option<&Ground<'a>> {
        self.grounds.get(place)
    }
}

fn placed<'a>(plan: &'a Plan, demands: &BTreeMap<&'a str, &'a Demand>) -> Vec<Placed<'a>> {
    let now = plan.assignments.iter().flat_map(|assignment| {
        assignment.members.iter().map(|member| {
            let name = member.node.clone();
            (&assignment.demand, Place::Node { name }, 1, true)
        })
    });
    let held = plan
        .holds
        .iter()
        .map(|hold| (&hold.demand, hold.place.clone(), hold.members, false));
    now.chain(held)
        .filter_map(|(demand, place, members, now)| {
            Some(Placed {
                demand: *demands.get(demand.as_str())?,
                place,
                members,
                now,
            })
        })
        .collect()
}

fn text(place: &Place) -> String {
    match place {
        Place::Node { name } => name.clone(),
        Place::Purchase { buyer_uid, ordinal } => format!("purchase {ordinal} of {buyer_uid}"),
    }
}
