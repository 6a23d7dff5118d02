//! Every demand is decided once, every gang whole, and blockers tell the truth.

use std::collections::BTreeSet;

use super::{Facts, Violation};
use crate::plan::{Blocker, Place, Waiting};
use crate::snapshot::{Demand, Purchase};

/// Every demand is assigned or waits, exactly once, and no other is.
pub(super) fn decided_once(facts: &Facts<'_>) -> Vec<Violation> {
    let assigned = facts.plan.assignments.iter().map(|one| &one.demand);
    let waiting = facts.plan.waiting.iter().map(|one| &one.demand);
    let mut decided: Vec<&str> = assigned.chain(waiting).map(String::as_str).collect();
    decided.sort_unstable();
    let times = |name: &str| {
        let before = decided.partition_point(|one| *one < name);
        decided.partition_point(|one| *one <= name) - before
    };
    let not_once = facts
        .demands
        .keys()
        .map(|name| (*name, times(name)))
        .filter(|(_, times)| *times != 1)
        .map(|(name, times)| Violation::NotDecidedOnce {
            demand: name.to_owned(),
            times,
        });
    let held = facts.plan.holds.iter().map(|one| one.demand.as_str());
    let unknown = decided
        .iter()
        .copied()
        .chain(held)
        .filter(|name| !facts.demands.contains_key(name))
        .map(|name| Violation::UnknownDemand {
            demand: name.to_owned(),
        });
    not_once.chain(unknown).collect()
}

/// Assignments name exactly the members of their demand; holds are for all members of gangs that wait for nodes.
pub(super) fn whole(facts: &Facts<'_>) -> Vec<Violation> {
    let assigned = facts.plan.assignments.iter().filter_map(|assignment| {
        let demand = facts.demands.get(assignment.demand.as_str())?;
        let named: Vec<_> = assignment.members.iter().map(|one| &one.member).collect();
        let wanted: Vec<_> = demand.members.iter().collect();
        (named != wanted).then(|| half(demand, format!("{named:?} assigned of {wanted:?}")))
    });
    let held = facts.plan.waiting.iter().filter_map(|waiting| {
        let demand = facts.demands.get(waiting.demand.as_str())?;
        let held = members_held(facts, demand);
        let wanted = match waiting.blocker {
            Blocker::NodesLaunching { .. } => demand.members.len() as u64,
            _ => 0,
        };
        (held != wanted).then(|| half(demand, format!("{held} places held, not {wanted}")))
    });
    let both = facts.plan.assignments.iter().filter_map(|assignment| {
        let demand = facts.demands.get(assignment.demand.as_str())?;
        let held = members_held(facts, demand);
        (held != 0).then(|| half(demand, format!("{held} places held though it is assigned")))
    });
    assigned.chain(held).chain(both).collect()
}

fn half(demand: &Demand, what: String) -> Violation {
    Violation::HalfGang {
        demand: demand.name.clone(),
        what,
    }
}

fn members_held(facts: &Facts<'_>, demand: &Demand) -> u64 {
    facts.held.get(demand.name.as_str()).copied().unwrap_or(0)
}

/// Blockers agree with what is held, with what may be bought, and with the catalogue.
pub(super) fn blockers(facts: &Facts<'_>) -> Vec<Violation> {
    facts
        .plan
        .waiting
        .iter()
        .filter_map(|waiting| {
            let demand = facts.demands.get(waiting.demand.as_str())?;
            falsehood(facts, demand, waiting).map(|what| Violation::FalseBlocker {
                demand: waiting.demand.clone(),
                what,
            })
        })
        .collect()
}

fn falsehood(facts: &Facts<'_>, demand: &Demand, waiting: &Waiting) -> Option<&'static str> {
    if waiting.message.is_empty() {
        return Some("has no message");
    }
    let wanted_type = demand.constraints.instance_type.as_deref();
    let may_buy = match demand.purchase {
        Purchase::Never => false,
        Purchase::Fixed => wanted_type.is_some(),
        Purchase::Cheapest => true,
    };
    match &waiting.blocker {
        Blocker::NodesLaunching {
            claims,
            ordered,
            leaving,
        } => launching(facts, demand, claims, leaving, *ordered),
        Blocker::NoNodeFits { .. } if may_buy => Some("a node could be bought"),
        Blocker::NoNodeFits {
            fitting_members, ..
        } => (*fitting_members as usize >= demand.members.len()).then_some("all members fit"),
        _ if !may_buy => Some("nothing may be bought, so no offer matters"),
        Blocker::UnknownInstanceType { instance_type } => {
            let mut types = facts.snapshot.catalogue.iter();
            let known = types.any(|one| one.name.eq_ignore_ascii_case(instance_type));
            known.then_some("the type is in the catalogue")
        }
        Blocker::OffersBlocked { retry_seconds, .. } => {
            (*retry_seconds <= facts.snapshot.now_seconds).then_some("the retry is due")
        }
        Blocker::NoInstanceTypeFits { .. } => None,
    }
}

fn launching(
    facts: &Facts<'_>,
    demand: &Demand,
    claims: &[String],
    leaving: &[String],
    ordered: u32,
) -> Option<&'static str> {
    let mine = || facts.placed_of(&demand.name);
    let purchases: BTreeSet<_> = mine()
        .filter(|one| matches!(one.place, Place::Purchase { .. }))
        .map(|one| &one.place)
        .collect();
    let absent = || {
        let nodes = mine().filter_map(|one| match &one.place {
            Place::Node { name } => facts.nodes.get(name.as_str()),
            Place::Purchase { .. } => None,
        });
        nodes.filter(|node| !node.available)
    };
    let expected: BTreeSet<_> = absent()
        .filter(|node| node.leaving_pods == 0)
        .map(|node| node.claim.as_ref().unwrap_or(&node.name))
        .collect();
    let left: BTreeSet<_> = absent()
        .filter(|node| node.leaving_pods > 0)
        .map(|node| &node.name)
        .collect();
    if expected != claims.iter().collect() {
        Some("names other claims than those it holds places on")
    } else if left != leaving.iter().collect() {
        Some("names other nodes that are left than those it holds places on")
    } else if purchases.len() != ordered as usize {
        Some("counts other purchases than those it holds places on")
    } else if claims.is_empty() && leaving.is_empty() && ordered == 0 {
        Some("waits for no node")
    } else {
        None
    }
}
