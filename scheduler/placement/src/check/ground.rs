//! What stands on a place must be allowed there and find room there.

use std::collections::BTreeMap;

use super::{Facts, Placed, Violation, text};
use crate::plan::{Blocker, Place, Plan};
use crate::snapshot::{
    CapacityType, Demand, InstanceType, Resources, Snapshot, Taint, TaintEffect,
};

/// A node of the snapshot or of the plan's purchases.
pub(super) struct Ground<'a> {
    labels: &'a BTreeMap<String, String>,
    taints: &'a [Taint],
    instance_type: Option<&'a str>,
    gpu_memory_bytes: u64,
    /// What the offer that it is bought from says about zone and terms.
    sold: Option<&'a InstanceType>,
    bought: bool,
    allocatable: Resources,
    used: Resources,
    available: bool,
    expected: bool,
}

/// Every place that the plan can name.
pub(super) fn all<'a>(snapshot: &'a Snapshot, plan: &'a Plan) -> BTreeMap<Place, Ground<'a>> {
    let nodes = snapshot.nodes.iter().map(|node| {
        let name = node.name.clone();
        let ground = Ground {
            labels: &node.labels,
            taints: &node.taints,
            instance_type: node.instance_type.as_deref(),
            gpu_memory_bytes: node.gpu_memory_bytes,
            sold: None,
            bought: node.claim.is_some(),
            allocatable: node.allocatable,
            used: node.used,
            available: node.available,
            expected: node.expected,
        };
        (Place::Node { name }, ground)
    });
    let purchases = plan.purchases.iter().filter_map(|purchase| {
        let bought = super::money::sold(snapshot, purchase)?;
        let place = Place::Purchase {
            buyer_uid: purchase.buyer_uid.clone(),
            ordinal: purchase.ordinal,
        };
        let ground = Ground {
            labels: &snapshot.purchase_labels,
            taints: &snapshot.purchase_taints,
            instance_type: Some(&bought.name),
            gpu_memory_bytes: bought.gpu_memory_bytes,
            sold: Some(bought),
            bought: true,
            allocatable: bought.allocatable,
            used: Resources::default(),
            available: false,
            expected: true,
        };
        Some((place, ground))
    });
    nodes.chain(purchases).collect()
}

/// Every member stands on a place that exists, is in the right state, and meets its constraints.
pub(super) fn constraints(facts: &Facts<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for placed in &facts.placed {
        let (demand, place) = (placed.demand.name.clone(), text(&placed.place));
        let ground = facts.ground(&placed.place);
        if let Some(what) = wrong_state(ground, placed.now) {
            violations.push(Violation::NoSuchPlace {
                demand,
                place,
                what,
            });
        } else if let Some(constraint) =
            ground.and_then(|ground| broken_constraint(ground, placed.demand))
        {
            violations.push(Violation::ConstraintBroken {
                demand,
                place,
                constraint,
            });
        }
    }
    violations.extend(together(facts));
    violations
}

fn wrong_state(ground: Option<&Ground<'_>>, now: bool) -> Option<&'static str> {
    let Some(ground) = ground else {
        return Some("does not exist");
    };
    if now && !ground.available {
        return Some("cannot be used now");
    }
    (!ground.available && !ground.expected).then_some("is not expected to come")
}

pub(super) fn broken_constraint(ground: &Ground<'_>, demand: &Demand) -> Option<&'static str> {
    let wanted = &demand.constraints;
    let carries = |labels: &BTreeMap<String, String>| {
        labels
            .iter()
            .all(|(key, value)| label(ground, key) == Some(value.as_str()))
    };
    let right_type = match (&wanted.instance_type, ground.instance_type) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wanted), Some(has)) => wanted.to_lowercase() == has.to_lowercase(),
    };
    let known_small =
        ground.gpu_memory_bytes > 0 && ground.gpu_memory_bytes < wanted.gpu_memory_bytes;
    let spot = ground
        .sold
        .is_some_and(|offer| offer.capacity_type == CapacityType::Spot);
    let verdicts = [
        (repelled(ground.taints, demand), "tolerations"),
        (
            !ground.bought && !carries(&wanted.own_node_labels),
            "label selector",
        ),
        (!carries(&wanted.required_labels), "node selector"),
        (!right_type, "instance type"),
        (known_small, "GPU memory"),
        (spot && !wanted.accepts_spot, "refusal of spot machines"),
    ];
    verdicts
        .into_iter()
        .find(|(broken, _)| *broken)
        .map(|(_, constraint)| constraint)
}

fn label<'g>(ground: &'g Ground<'_>, key: &str) -> Option<&'g str> {
    let own = ground.labels.get(key).map(String::as_str);
    own.or(match (key, ground.sold) {
        ("topology.kubernetes.io/zone", Some(offer)) => Some(offer.zone.as_str()),
        ("karpenter.sh/capacity-type", Some(offer)) => match offer.capacity_type {
            CapacityType::OnDemand => Some("on-demand"),
            CapacityType::Spot => Some("spot"),
        },
        _ => None,
    })
}

fn repelled(taints: &[Taint], demand: &Demand) -> bool {
    taints.iter().any(|taint| {
        if taint.effect == TaintEffect::PreferNoSchedule {
            return false;
        }
        let mut matching = demand.constraints.tolerations.clone();
        matching.retain(|one| one.key.is_empty() || one.key == taint.key);
        matching.retain(|one| one.value.as_ref().is_none_or(|value| value == &taint.value));
        matching.retain(|one| one.effect.is_none_or(|effect| effect == taint.effect));
        matching.is_empty()
    })
}

/// No two members of a spread gang on one node, those placed earlier included.
fn together(facts: &Facts<'_>) -> Vec<Violation> {
    let mut counts = BTreeMap::<(&str, &Place), u64>::new();
    for placed in facts
        .placed
        .iter()
        .filter(|one| one.demand.constraints.spread)
    {
        let earlier = match &placed.place {
            Place::Node { name } => u64::from(placed.demand.placed_on.contains(name)),
            Place::Purchase { .. } => 0,
        };
        let key = (placed.demand.name.as_str(), &placed.place);
        let count = counts.entry(key).or_insert(earlier);
        *count = count.saturating_add(placed.members);
    }
    counts
        .into_iter()
        .filter(|(_, count)| *count > 1)
        .map(|((demand, place), _)| Violation::ConstraintBroken {
            demand: demand.to_owned(),
            place: text(place),
            constraint: "spread",
        })
        .collect()
}

type Amounts = [(&'static str, u128); 5];

fn amounts(of: &Resources) -> Amounts {
    [
        ("GPUs", of.gpus.into()),
        ("pods", of.pods.into()),
        ("CPU", of.milli_cpu.into()),
        ("memory", of.memory_bytes.into()),
        ("ephemeral storage", of.ephemeral_bytes.into()),
    ]
}

/// What is promised on each place, assigned and held.
fn promised<'f>(placed: impl Iterator<Item = &'f Placed<'f>>) -> BTreeMap<&'f Place, Amounts> {
    let mut sums = BTreeMap::new();
    for one in placed {
        let sum: &mut Amounts = sums
            .entry(&one.place)
            .or_insert_with(|| amounts(&Resources::default()));
        for (total, each) in sum.iter_mut().zip(amounts(&one.demand.per_member)) {
            total.1 += each.1 * u128::from(one.members);
        }
    }
    sums
}

/// No resource of any place is promised beyond what it has.
pub(super) fn commitments(facts: &Facts<'_>) -> Vec<Violation> {
    let mut violations = Vec::new();
    for (place, sum) in promised(facts.placed.iter()) {
        let Some(ground) = facts.ground(place) else {
            continue;
        };
        let used = amounts(&ground.used);
        let has = amounts(&ground.allocatable);
        for ((promised, used), has) in sum.iter().zip(used).zip(has) {
            if promised.1 > 0 && promised.1 + used.1 > has.1 {
                violations.push(Violation::OverCommitted {
                    place: text(place),
                    resource: has.0,
                });
            }
        }
    }
    violations
}

/// A gang may wait only if it does not fit on what is left at the end, its own held places given back.
///
/// Capacity only shrinks while demands are served, so what is left at the end was there at its turn. Nodes bought by
/// demands after it are not counted: they were not.
pub(super) fn missed_places(facts: &Facts<'_>) -> Vec<Violation> {
    let all = promised(facts.placed.iter());
    let open: Vec<_> = facts
        .grounds
        .iter()
        .filter_map(|(place, ground)| match place {
            Place::Node { name } => Some((name, ground, all.get(place))),
            Place::Purchase { .. } => None,
        })
        .collect();
    let waiting = facts.plan.waiting.iter();
    waiting
        .filter_map(|waiting| {
            let demand = *facts.demands.get(waiting.demand.as_str())?;
            let launching = matches!(waiting.blocker, Blocker::NodesLaunching { .. });
            let wanted = demand.members.len() as u128;
            let missed = room_left(facts, &open, demand, launching, wanted) >= wanted;
            missed.then(|| Violation::PlaceMissed {
                demand: demand.name.clone(),
            })
        })
        .collect()
}

/// Name, node, and what is promised there.
type Open<'f> = (&'f String, &'f Ground<'f>, Option<&'f Amounts>);

/// Room for members of `demand`; counting stops at `enough`.
fn room_left(
    facts: &Facts<'_>,
    open: &[Open<'_>],
    demand: &Demand,
    only_available: bool,
    enough: u128,
) -> u128 {
    let own = promised(facts.placed_of(&demand.name));
    let mut total = 0_u128;
    for (name, ground, promised) in open {
        let usable = ground.available || (ground.expected && !only_available);
        let spread_out = demand.constraints.spread && demand.placed_on.contains(name);
        if !usable || spread_out || total >= enough {
            continue;
        }
        let place = Place::Node {
            name: (*name).clone(),
        };
        let by_others = without(*promised, own.get(&place));
        let room = room_on(ground, &by_others, demand);
        if room == 0 || broken_constraint(ground, demand).is_some() {
            continue;
        }
        let most = if demand.constraints.spread {
            1
        } else {
            u128::MAX
        };
        total = total.saturating_add(room.min(most));
    }
    total
}

/// What others than the demand itself were promised.
fn without(all: Option<&Amounts>, own: Option<&Amounts>) -> Amounts {
    let mut left = all.copied().unwrap_or(amounts(&Resources::default()));
    if let Some(own) = own {
        for (left, own) in left.iter_mut().zip(own) {
            left.1 -= own.1;
        }
    }
    left
}

fn room_on(ground: &Ground<'_>, promised: &Amounts, demand: &Demand) -> u128 {
    let mut room = u128::MAX;
    for (((has, used), promised), each) in amounts(&ground.allocatable)
        .into_iter()
        .zip(amounts(&ground.used))
        .zip(promised)
        .zip(amounts(&demand.per_member))
    {
        let free = has.1.saturating_sub(used.1).saturating_sub(promised.1);
        room = room.min(free.checked_div(each.1).unwrap_or(u128::MAX));
    }
    room
}
