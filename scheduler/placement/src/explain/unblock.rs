//! Finds the cheapest way to unblock a gang: one thing that a person could change so that it would be placed.
//!
//! Every suggestion has been tried against the ledger before it is made. Changes that cost nothing come first.

use super::{counted, needs, price};
use crate::planner::fit::{self, Obstacle};
use crate::planner::ledger::{Ledger, Slot, Stage};
use crate::planner::purchase::{self, Refusal};
use crate::snapshot::{Constraints, Demand, Purchase};

/// One thing that can be changed about nodes; from the easiest to the hardest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Availability,
    Labels,
    Taints,
    InstanceType,
    Usage,
}

const CHANGES: [Change; 5] = [
    Change::Availability,
    Change::Labels,
    Change::Taints,
    Change::InstanceType,
    Change::Usage,
];

/// The easiest change that places the gang, if one thing alone can.
pub(super) fn cheapest(
    ledger: &Ledger<'_>,
    demand: &Demand,
    refusal: &Refusal<'_>,
    fitting: u64,
) -> Option<String> {
    let members = demand.members.len() as u64;
    let missing = members.saturating_sub(fitting);
    let changeable = changeable(ledger, demand);
    CHANGES
        .into_iter()
        .find_map(|change| change_nodes(&changeable, demand, change, missing))
        .or_else(|| change_type(ledger, demand, refusal, missing))
        .or_else(|| last_resort(demand, refusal))
}

/// The nodes on which one kind of change alone makes room, with the members gained, by name.
fn changeable<'l, 'a>(
    ledger: &'l Ledger<'a>,
    demand: &'a Demand,
) -> Vec<(Change, u64, &'l Slot<'a>)> {
    ledger
        .slots()
        .iter()
        .filter(|slot| !matches!(slot.stage, Stage::Ordered(_)))
        .filter_map(|slot| {
            let (change, gain) = only_change(slot, demand)?;
            Some((change, gain, slot))
        })
        .collect()
}

/// The only kind of change that `slot` needs, and how many more members it would take then.
fn only_change(slot: &Slot<'_>, demand: &Demand) -> Option<(Change, u64)> {
    let mut obstacles = fit::obstacles(slot, demand).map(|one| change_of(&one));
    let room = fit::room(slot, demand);
    let change = match obstacles.next() {
        // It takes some members, and more if others went.
        None => Change::Usage,
        Some(first) => first.filter(|_| obstacles.all(|one| one == first))?,
    };
    if change != Change::Usage {
        return Some((change, room));
    }
    let empty = Slot {
        free: slot.allocatable,
        ..slot.clone()
    };
    Some((change, fit::room(&empty, demand).saturating_sub(room)))
}

/// Tries to find room for `missing` more members by one kind of change to nodes.
fn change_nodes(
    changeable: &[(Change, u64, &Slot<'_>)],
    demand: &Demand,
    change: Change,
    missing: u64,
) -> Option<String> {
    let mut changed = Vec::new();
    let mut gained = 0_u64;
    let mut suitable: Vec<_> = changeable.iter().filter(|one| one.0 == change).collect();
    if change == Change::Usage {
        // The fewest GPUs to free; among equals by name.
        suitable.sort_by_key(|(_, _, slot)| demand.per_member.gpus.saturating_sub(slot.free.gpus));
    }
    for (_, gain, slot) in suitable {
        if *gain > 0 && gained < missing {
            gained = gained.saturating_add(*gain);
            changed.push(slot.name);
        }
    }
    (gained >= missing).then(|| describe(demand, change, &changed, missing))
}

fn change_of(obstacle: &Obstacle<'_>) -> Option<Change> {
    match obstacle {
        Obstacle::Absent(_) => Some(Change::Availability),
        Obstacle::OwnLabel(..) | Obstacle::RequiredLabel(..) => Some(Change::Labels),
        Obstacle::Taint(_) => Some(Change::Taints),
        Obstacle::InstanceType(..) => Some(Change::InstanceType),
        Obstacle::TooFull(..) | Obstacle::Fragmented(..) => Some(Change::Usage),
        Obstacle::GpuMemory(..)
        | Obstacle::Spread
        | Obstacle::TooSmall(..)
        | Obstacle::GpuMemoryUnknown(_)
        | Obstacle::Unpriced
        | Obstacle::Spot => None,
    }
}

fn describe(demand: &Demand, change: Change, nodes: &[&str], missing: u64) -> String {
    let named = match nodes {
        [one] => format!("node {one}"),
        _ => format!("nodes {}", nodes.join(", ")),
    };
    match change {
        Change::Availability => format!("make {named} available"),
        Change::Labels => format!("label {named} with {}", wanted_labels(&demand.constraints)),
        Change::Taints => format!("tolerate the taints of {named}"),
        Change::InstanceType => format!("allow the instance type of {named}"),
        Change::Usage => format!("free room for {} on {named}", counted(missing, "more pod")),
    }
}

fn wanted_labels(constraints: &Constraints) -> String {
    let pairs: Vec<_> = constraints
        .own_node_labels
        .iter()
        .chain(&constraints.required_labels)
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    pairs.join(",")
}

/// Tries the cheapest type of the catalogue instead of none or the one asked for.
fn change_type(
    ledger: &Ledger<'_>,
    demand: &Demand,
    refusal: &Refusal<'_>,
    missing: u64,
) -> Option<String> {
    let free_to_choose = Demand {
        purchase: Purchase::Cheapest,
        constraints: Constraints {
            instance_type: None,
            ..demand.constraints.clone()
        },
        ..demand.clone()
    };
    let order = purchase::choose(ledger.snapshot(), &free_to_choose, missing).ok()?;
    let verb = match refusal {
        Refusal::NotWanted => "buy",
        _ => "use instance type",
    };
    let each = price(order.instance_type.price_micro_dollars);
    let name = &order.instance_type.name;
    Some(match order.nodes {
        1 => format!("{verb} {name} at {each}"),
        nodes => format!("{verb} {name} at {each}, {nodes} of them"),
    })
}

fn last_resort(demand: &Demand, refusal: &Refusal<'_>) -> Option<String> {
    match refusal {
        Refusal::NotWanted => Some(format!("add nodes with room for {}", needs(demand))),
        Refusal::Unknown(_) => Some("correct the name of the instance type".to_owned()),
        Refusal::NothingFits(tally) => {
            let only_taints = tally.keys().all(|one| matches!(one, Obstacle::Taint(_)));
            (only_taints && !tally.is_empty())
                .then(|| "tolerate the taints of bought nodes".to_owned())
        }
        Refusal::Blocked(types) => types
            .first()
            .map(|one| format!("have the cloud's limit for {} raised", one.name)),
    }
}
