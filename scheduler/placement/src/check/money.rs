//! Purchases are wanted, unique and allowed; releases serve nobody; nothing that is due is overlooked.

use std::collections::BTreeSet;

use super::{Facts, Violation};
use crate::plan::{Blocker, Place, PlannedNode};
use crate::snapshot::{Demand, InstanceType, Node, Purchase, Snapshot};

/// Every purchase has its own name, a buyer who may buy it, and Workspaces that use it.
pub(super) fn purchases(facts: &Facts<'_>) -> Vec<Violation> {
    let mut seen = BTreeSet::new();
    let mut violations = Vec::new();
    for purchase in &facts.plan.purchases {
        let first = seen.insert((&purchase.buyer_uid, purchase.ordinal));
        let faults = [
            (!first).then_some("the same name twice"),
            name_taken(facts, purchase),
            wrong_buyer(facts, purchase),
            wrong_users(facts, purchase),
        ];
        let faults = faults.into_iter().flatten();
        violations.extend(faults.map(|what| Violation::BadPurchase {
            buyer: purchase.buyer.clone(),
            ordinal: purchase.ordinal,
            what,
        }));
    }
    violations
}

fn name_taken(facts: &Facts<'_>, purchase: &PlannedNode) -> Option<&'static str> {
    let taken = facts.snapshot.ordinals_taken.get(&purchase.buyer_uid)?;
    taken
        .contains(&purchase.ordinal)
        .then_some("the name belongs to an earlier purchase")
}

fn wrong_buyer(facts: &Facts<'_>, purchase: &PlannedNode) -> Option<&'static str> {
    let Some(buyer) = facts.demands.get(purchase.buyer.as_str()) else {
        return Some("the buyer does not exist");
    };
    let Some(bought) = sold(facts.snapshot, purchase) else {
        return Some("the catalogue has no such type");
    };
    let now_seconds = facts.snapshot.now_seconds;
    let refused = bought.blocked.as_ref();
    if buyer.uid != purchase.buyer_uid {
        Some("the UID is not the buyer's")
    } else if purchase.for_demands.first() != Some(&purchase.buyer) {
        Some("the buyer is not the first to use it")
    } else if refused.is_some_and(|refused| refused.until_seconds > now_seconds) {
        Some("the cloud refused the type recently")
    } else {
        not_allowed(buyer, bought)
    }
}

/// The line of the price list that a purchase is made from.
pub(super) fn sold<'a>(snapshot: &'a Snapshot, purchase: &PlannedNode) -> Option<&'a InstanceType> {
    snapshot.catalogue.iter().find(|one| {
        one.name == purchase.instance_type
            && one.zone == purchase.zone
            && one.capacity_type == purchase.capacity_type
    })
}

fn not_allowed(buyer: &Demand, bought: &InstanceType) -> Option<&'static str> {
    let wanted = buyer.constraints.instance_type.as_deref();
    let named = wanted.is_some_and(|name| name.eq_ignore_ascii_case(&bought.name));
    match buyer.purchase {
        Purchase::Never => Some("the buyer may not buy"),
        Purchase::Fixed if !named => Some("the buyer asked for another type"),
        Purchase::Cheapest if bought.price_micro_dollars.is_none() => {
            Some("bought by price without a price")
        }
        Purchase::Fixed | Purchase::Cheapest => None,
    }
}

/// Those who are to share a purchase are those who hold places on it.
fn wrong_users(facts: &Facts<'_>, purchase: &PlannedNode) -> Option<&'static str> {
    let place = Place::Purchase {
        buyer_uid: purchase.buyer_uid.clone(),
        ordinal: purchase.ordinal,
    };
    let nobody = BTreeSet::new();
    let holders = facts.holders.get(&place).unwrap_or(&nobody);
    let users: BTreeSet<_> = purchase.for_demands.iter().collect();
    if holders.is_empty() {
        Some("nobody holds a place on it")
    } else if *holders != users || users.len() != purchase.for_demands.len() {
        Some("it is not for those who hold places on it")
    } else {
        None
    }
}

/// Only claims that exist, are idle past their grace, and that nobody was promised are given back, once.
pub(super) fn releases(facts: &Facts<'_>) -> Vec<Violation> {
    let mut seen = BTreeSet::new();
    let mut violations = Vec::new();
    for release in &facts.plan.releases {
        let mut nodes = facts.snapshot.nodes.iter();
        let node = nodes.find(|node| node.claim.as_ref() == Some(&release.claim));
        let fault = match node {
            _ if !seen.insert(&release.claim) => Some("given back twice"),
            None => Some("there is no such claim"),
            Some(node) => still_needed(facts, node),
        };
        violations.extend(fault.map(|what| Violation::BadRelease {
            claim: release.claim.clone(),
            what,
        }));
    }
    violations
}

fn still_needed(facts: &Facts<'_>, node: &Node) -> Option<&'static str> {
    if node.used.gpus > 0 {
        Some("pods use its GPUs")
    } else if grace_end(facts, node).is_none() {
        Some("it is not idle")
    } else if is_promised(facts, node) {
        Some("it is promised to a Workspace")
    } else if grace_end(facts, node)? > facts.snapshot.now_seconds {
        Some("its grace is not over")
    } else {
        None
    }
}

fn is_promised(facts: &Facts<'_>, node: &Node) -> bool {
    facts
        .placed
        .iter()
        .any(|one| matches!(&one.place, Place::Node { name } if *name == node.name))
}

fn grace_end(facts: &Facts<'_>, node: &Node) -> Option<i64> {
    let snapshot = facts.snapshot;
    let since = snapshot.idle_since.get(node.claim.as_ref()?)?;
    Some(since.saturating_add(snapshot.idle_grace_seconds))
}

/// Every idle claim past its grace is given back, and the plan names the moment when something is due next.
pub(super) fn next_change(facts: &Facts<'_>) -> Vec<Violation> {
    let now_seconds = facts.snapshot.now_seconds;
    let released: BTreeSet<_> = facts.plan.releases.iter().map(|one| &one.claim).collect();
    let idle = || {
        facts
            .snapshot
            .nodes
            .iter()
            .filter(|node| node.used.gpus == 0 && !is_promised(facts, node))
    };
    let overlooked = idle()
        .filter(|node| grace_end(facts, node).is_some_and(|end| end <= now_seconds))
        .filter_map(|node| node.claim.as_ref())
        .filter(|claim| !released.contains(claim))
        .map(|claim| Violation::BadRelease {
            claim: claim.clone(),
            what: "it serves nobody past its grace and is kept",
        });
    let grace_ends = idle()
        .filter_map(|node| grace_end(facts, node))
        .filter(|end| *end > now_seconds);
    let retries = facts
        .plan
        .waiting
        .iter()
        .filter_map(|one| match one.blocker {
            Blocker::OffersBlocked { retry_seconds, .. } => Some(retry_seconds),
            _ => None,
        });
    let expected = grace_ends.chain(retries).min();
    let found = facts.plan.next_change_seconds;
    let wrong = (found != expected).then_some(Violation::WrongNextChange {
        next_change_seconds: found,
        expected,
    });
    overlooked.chain(wrong).collect()
}
