//! Buys for all gangs together what is cheaper than each buying for itself.
//!
//! Starts from a finished pass in which every gang bought by itself. What gangs have on nodes that are there or on
//! their way stays theirs; only the nodes to order are chosen anew. The result is taken only if it costs less and if
//! everybody who had a place to wait for still has one.

use std::collections::BTreeMap;

use super::class::Likeness;
use super::ledger::{Ledger, Share, Stage};
use super::ranking::Ranking;
use super::{Fate, Pass, Served, gang, keep, purchase};
use crate::explain;
use crate::purchasing::{self, Kind, Lot, Offer, Problem};
use crate::snapshot::{Demand, InstanceType, Purchase, Snapshot};

/// A node to order and who is to share it: positions of fates, and members.
struct Machine<'a> {
    instance_type: &'a InstanceType,
    holds: Vec<(usize, u64)>,
}

/// What one fate has on nodes to order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ordered {
    /// Members to choose a node for.
    bought: u64,
    /// Members that share what others buy.
    guests: u64,
}

/// The same pass with cheaper purchases, if there are any within `steps` steps.
pub(super) fn cheaper<'a>(pass: &Pass<'a>, steps: u64) -> Option<Pass<'a>> {
    if pass.ledger.purchases().len() < 2 || steps == 0 {
        return None;
    }
    let snapshot = pass.ledger.snapshot();
    let mut kept: BTreeMap<usize, Machine<'a>> = BTreeMap::new();
    let ordered: Vec<Ordered> = (0..)
        .zip(&pass.fates)
        .map(|(position, fate)| sort_out(pass, position, fate, &mut kept))
        .collect();
    let (problem, offers) = problem(pass, snapshot, &ordered)?;
    let solution = purchasing::solve(&problem.whole, steps)?;
    let before = cost_now(pass, snapshot);
    if solution.micro_dollars >= before {
        return None;
    }
    let pods = ordered.iter().map(|one| one.bought).sum();
    let saving = explain::Saving {
        pods,
        workspaces: ordered.iter().filter(|one| one.bought > 0).count() as u64,
        together: solution.micro_dollars,
        alone: before,
    };
    let mut machines: Vec<Machine<'a>> = solution
        .machines
        .into_iter()
        .filter_map(|machine| {
            let named = machine.holds.into_iter();
            Some(Machine {
                instance_type: offers.get(machine.offer)?,
                holds: named
                    .filter_map(|(lot, members)| Some((*problem.fates.get(lot)?, members)))
                    .collect(),
            })
        })
        .collect();
    machines.extend(kept.into_values());
    machines.sort_by(|one, other| one.holds.cmp(&other.holds));
    rebuild(pass, &machines, &ordered, &saving)
}

/// Which of a fate's places on nodes to order are up for a new choice. Nodes without a price were asked for by name and
/// stay as they are.
fn sort_out<'a>(
    pass: &Pass<'a>,
    position: usize,
    fate: &Fate<'a>,
    kept: &mut BTreeMap<usize, Machine<'a>>,
) -> Ordered {
    let mut ordered = Ordered::default();
    for share in &fate.shares {
        let Some(instance_type) = type_of(&pass.ledger, share.slot) else {
            continue;
        };
        if instance_type.price_micro_dollars.is_none() {
            let machine = kept.entry(share.slot).or_insert_with(|| Machine {
                instance_type,
                holds: Vec::new(),
            });
            machine.holds.push((position, share.members));
        } else if has_offers(pass, fate.demand) {
            ordered.bought = ordered.bought.saturating_add(share.members);
        } else {
            ordered.guests = ordered.guests.saturating_add(share.members);
        }
    }
    ordered
}

fn has_offers(pass: &Pass<'_>, demand: &Demand) -> bool {
    demand.purchase != Purchase::Never && !open_offers(pass, demand).is_empty()
}

/// Offers with a price that may be bought for a demand now.
fn open_offers<'a>(pass: &Pass<'a>, demand: &'a Demand) -> Vec<&'a InstanceType> {
    let surveyed = pass.classes.surveyed(demand);
    let open = match &surveyed {
        Some(Ok(survey)) => survey.open.clone(),
        Some(Err(_)) => Vec::new(),
        None => purchase::survey(pass.ledger.snapshot(), demand)
            .map(|survey| survey.open)
            .unwrap_or_default(),
    };
    open.into_iter()
        .map(|(offer, _)| offer)
        .filter(|offer| offer.price_micro_dollars.is_some())
        .collect()
}

fn type_of<'a>(ledger: &Ledger<'a>, slot: usize) -> Option<&'a InstanceType> {
    let Stage::Ordered(purchase) = ledger.slot(slot)?.stage else {
        return None;
    };
    let purchase = ledger.purchases().get(purchase)?;
    ledger.snapshot().catalogue.iter().find(|one| {
        one.name == purchase.instance_type
            && one.zone == purchase.zone
            && one.capacity_type == purchase.capacity_type
    })
}

/// The purchase problem, and which fate each lot belongs to.
struct Translated {
    whole: Problem,
    fates: Vec<usize>,
}

fn problem<'a>(
    pass: &Pass<'a>,
    snapshot: &'a Snapshot,
    ordered: &[Ordered],
) -> Option<(Translated, Vec<&'a InstanceType>)> {
    let mut offers: Vec<&InstanceType> = snapshot
        .catalogue
        .iter()
        .filter(|offer| offer.price_micro_dollars.is_some())
        .collect();
    offers.sort_by_key(|offer| purchase::rank(offer));
    let positions: BTreeMap<_, usize> = (0..)
        .zip(&offers)
        .map(|(position, offer)| (purchase::rank(offer), position))
        .collect();
    let mut kinds: BTreeMap<Likeness<'a>, usize> = BTreeMap::new();
    let mut whole = Problem {
        offers: offers.iter().map(|offer| priced(offer)).collect(),
        ..Problem::default()
    };
    let mut fates = Vec::new();
    let members = pass.fates.iter().zip(ordered).enumerate();
    for (position, (fate, ordered)) in members.filter(|(_, (_, one))| one.bought > 0) {
        let kind = *kinds.entry(Likeness::of(fate.demand)).or_insert_with(|| {
            let open = open_offers(pass, fate.demand);
            let known = open.iter().map(|offer| purchase::rank(offer));
            whole.kinds.push(Kind {
                each: fate.demand.per_member,
                suits: known
                    .filter_map(|rank| positions.get(&rank).copied())
                    .collect(),
            });
            whole.kinds.len() - 1
        });
        whole.lots.push(Lot {
            kind,
            members: ordered.bought,
            spread: fate.demand.constraints.spread,
        });
        fates.push(position);
    }
    (!fates.is_empty()).then_some((Translated { whole, fates }, offers))
}

fn priced(offer: &InstanceType) -> Offer {
    Offer {
        capacity: offer.allocatable,
        micro_dollars: offer.price_micro_dollars.unwrap_or(u64::MAX),
    }
}

/// Micro-dollars per hour of what is to be ordered and has a price.
fn cost_now(pass: &Pass<'_>, snapshot: &Snapshot) -> u64 {
    let mut prices = BTreeMap::new();
    for offer in &snapshot.catalogue {
        let key = (
            offer.name.as_str(),
            offer.zone.as_str(),
            offer.capacity_type,
        );
        prices.insert(key, offer.price_micro_dollars.unwrap_or(0));
    }
    let bought = pass.ledger.purchases().iter();
    bought
        .filter_map(|one| {
            prices.get(&(
                one.instance_type.as_str(),
                one.zone.as_str(),
                one.capacity_type,
            ))
        })
        .fold(0, |sum, price| sum.saturating_add(*price))
}

/// Serves everybody again, the nodes to order being given.
fn rebuild<'a>(
    pass: &Pass<'a>,
    machines: &[Machine<'a>],
    ordered: &[Ordered],
    saving: &explain::Saving,
) -> Option<Pass<'a>> {
    let mut again = Pass {
        ledger: Ledger::open(pass.ledger.snapshot()),
        // Places on nodes that are there stay; nothing is ranked again.
        ranking: Ranking::default(),
        classes: pass.classes.forgetting_nodes(),
        fates: Vec::with_capacity(pass.fates.len()),
    };
    let mut shares: Vec<Vec<Share>> = pass
        .fates
        .iter()
        .map(|fate| {
            let there = fate.shares.iter().copied();
            there
                .filter(|share| type_of(&pass.ledger, share.slot).is_none())
                .collect()
        })
        .collect();
    for (fate, shares) in pass.fates.iter().zip(&shares) {
        again.ledger.promise(fate.demand, shares);
    }
    for machine in machines {
        order(pass, &mut again.ledger, machine, &mut shares, saving)?;
    }
    for ((fate, ordered), shares) in pass.fates.iter().zip(ordered).zip(&mut shares) {
        if ordered.guests > 0 {
            let more = gang::pack_on_ordered(&again.ledger, fate.demand, ordered.guests)?;
            again.ledger.promise(fate.demand, &more);
            shares.extend(more);
        }
    }
    for (fate, shares) in pass.fates.iter().zip(shares) {
        again.settle(fate, shares);
    }
    Some(again)
}

/// Orders one machine on the account of the first who may buy it, and promises it to those who share it.
fn order<'a>(
    pass: &Pass<'a>,
    ledger: &mut Ledger<'a>,
    machine: &Machine<'a>,
    shares: &mut [Vec<Share>],
    saving: &explain::Saving,
) -> Option<()> {
    let mut sharing = Vec::with_capacity(machine.holds.len());
    for (position, members) in &machine.holds {
        sharing.push((*position, pass.fates.get(*position)?.demand, *members));
    }
    let (_, buyer, _) = sharing
        .iter()
        .find(|(_, demand, _)| may_buy(demand, machine.instance_type))?;
    let pods = sharing.iter().map(|(_, _, members)| members).sum();
    let reason = saving.reason(machine.instance_type, pods, sharing.len() as u64);
    let slot = ledger.order(buyer, machine.instance_type, &reason);
    for (position, demand, members) in sharing {
        let share = Share { slot, members };
        ledger.promise(demand, &[share]);
        shares.get_mut(position)?.push(share);
    }
    Some(())
}

fn may_buy(demand: &Demand, offer: &InstanceType) -> bool {
    match demand.purchase {
        Purchase::Never => false,
        Purchase::Fixed => demand
            .constraints
            .instance_type
            .as_deref()
            .is_some_and(|name| name.eq_ignore_ascii_case(&offer.name)),
        Purchase::Cheapest => offer.price_micro_dollars.is_some(),
    }
}

impl<'a> Pass<'a> {
    /// Gives a demand its fate again, its places being promised already. One that had none gets none: what happens to
    /// be left over on nodes chosen for others is free for all once it is there.
    fn settle(&mut self, before: &Fate<'a>, shares: Vec<Share>) {
        let demand = before.demand;
        let served = match &before.served {
            Served::Now(assignment) => Served::Now(assignment.clone()),
            Served::Held(..) => keep(&self.ledger, demand, &shares),
            Served::Later(waiting) => Served::Later(waiting.clone()),
        };
        self.fates.push(Fate {
            demand,
            shares,
            served,
        });
    }
}
