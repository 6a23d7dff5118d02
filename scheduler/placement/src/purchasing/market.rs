//! The problem in the form that the search works on: groups of equal pods and machines with menus.

use std::collections::{BTreeMap, VecDeque};

use super::{Machine, Problem};

/// Amounts in the order of [`crate::snapshot::Resources::amounts`].
pub(super) type Amounts = [u64; 5];

/// Pods that are interchangeable.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// What one pod needs.
    pub(super) need: Amounts,
    /// How many pods.
    pub(super) count: u64,
    /// Most of them on one machine.
    most: u64,
    /// By offer: whether it suits.
    suits: Vec<bool>,
    /// The lots in it with their members.
    lots: VecDeque<(usize, u64)>,
}

/// A group that a machine can hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    /// Position of the group.
    pub(super) group: usize,
    /// What one pod needs.
    pub(super) need: Amounts,
    /// Share of the machine that one pod needs, by resource.
    pub(super) share: [f64; 5],
    /// Most of them on the machine when it is empty.
    pub(super) most: u64,
}

/// An offer.
#[derive(Clone, Debug)]
pub(super) struct Bin {
    /// Position in the problem.
    offer: usize,
    /// Micro-dollars per hour.
    pub(super) price: u64,
    /// What it holds.
    pub(super) capacity: Amounts,
    /// Groups of which at least one pod fits, by position.
    pub(super) menu: Vec<Item>,
}

/// What a machine holds: the machine, and groups with counts, by position.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pattern {
    /// Position of the machine among the bins.
    pub(super) bin: usize,
    /// Groups and how many pods of each, at least one.
    pub(super) counts: Vec<(usize, u64)>,
}

/// Groups and machines.
#[derive(Clone, Debug)]
pub(super) struct Market {
    /// Groups.
    pub(super) groups: Vec<Group>,
    /// Machines that none is better than in every respect.
    pub(super) bins: Vec<Bin>,
}

impl Market {
    /// Translates a problem; `None` if some pod fits no offer.
    pub(super) fn new(problem: &Problem) -> Option<Self> {
        let groups = groups(problem);
        let mut bins: Vec<Bin> = (0..problem.offers.len())
            .filter_map(|offer| bin(problem, &groups, offer))
            .filter(|bin| !bin.menu.is_empty())
            .collect();
        bins.sort_by_key(|bin| (bin.price, bin.offer));
        let bins = undominated(bins);
        let mut served = vec![false; groups.len()];
        for item in bins.iter().flat_map(|bin| &bin.menu) {
            if let Some(one) = served.get_mut(item.group) {
                *one = true;
            }
        }
        served
            .into_iter()
            .all(|one| one)
            .then_some(Self { groups, bins })
    }

    /// Pods of each group.
    pub(super) fn counts(&self) -> Vec<u64> {
        self.groups.iter().map(|group| group.count).collect()
    }

    /// Micro-dollars per hour of some machines.
    pub(super) fn cost(&self, nodes: &[Pattern]) -> u64 {
        nodes
            .iter()
            .map(|node| self.price(node.bin))
            .fold(0, u64::saturating_add)
    }

    /// Micro-dollars per hour of one machine.
    pub(super) fn price(&self, bin: usize) -> u64 {
        self.bins.get(bin).map_or(0, |bin| bin.price)
    }

    /// Whether a machine may and can hold all of `counts`.
    pub(super) fn holds(&self, bin: &Bin, counts: &[(usize, u64)]) -> bool {
        let mut free = bin.capacity;
        counts.iter().all(|(group, count)| {
            self.groups.get(*group).is_some_and(|group| {
                let suits = group.suits.get(bin.offer).copied().unwrap_or_default();
                suits && *count <= group.most && take(&mut free, &group.need, *count)
            })
        })
    }

    /// Names the lots again: machines that hold the first members of the first lots come first.
    pub(super) fn into_machines(mut self, nodes: Vec<Pattern>) -> Vec<Machine> {
        let mut machines = Vec::with_capacity(nodes.len());
        for node in nodes {
            let mut holds: Vec<(usize, u64)> = Vec::new();
            for (group, count) in node.counts {
                if let Some(group) = self.groups.get_mut(group) {
                    draw(&mut group.lots, count, &mut holds);
                }
            }
            holds.sort_unstable();
            let offer = self.bins.get(node.bin).map_or(0, |bin| bin.offer);
            machines.push(Machine { offer, holds });
        }
        machines.sort_by(|one, other| one.holds.cmp(&other.holds));
        machines
    }
}

fn draw(lots: &mut VecDeque<(usize, u64)>, mut count: u64, holds: &mut Vec<(usize, u64)>) {
    while let Some(first) = lots.front_mut().filter(|_| count > 0) {
        let taken = first.1.min(count);
        holds.push((first.0, taken));
        count -= taken;
        first.1 -= taken;
        if first.1 == 0 {
            lots.pop_front();
        }
    }
}

/// Takes `count` shares away if they are there.
pub(super) fn take(free: &mut Amounts, need: &Amounts, count: u64) -> bool {
    let mut left = *free;
    for (left, need) in left.iter_mut().zip(need) {
        let Some(rest) = need
            .checked_mul(count)
            .and_then(|all| left.checked_sub(all))
        else {
            return false;
        };
        *left = rest;
    }
    *free = left;
    true
}

/// How many shares are there.
pub(super) fn room(free: &Amounts, need: &Amounts) -> u64 {
    free.iter()
        .zip(need)
        .filter_map(|(free, need)| free.checked_div(*need))
        .min()
        .unwrap_or(u64::MAX)
}

/// Lots of one kind are one group; a lot that spreads is a group of its own.
fn groups(problem: &Problem) -> Vec<Group> {
    let mut positions: BTreeMap<(usize, Option<usize>), usize> = BTreeMap::new();
    let mut groups: Vec<Group> = Vec::new();
    for (position, lot) in problem.lots.iter().enumerate() {
        let Some(kind) = problem.kinds.get(lot.kind).filter(|_| lot.members > 0) else {
            continue;
        };
        let key = (lot.kind, lot.spread.then_some(position));
        let found = *positions.entry(key).or_insert_with(|| {
            let mut suits = vec![false; problem.offers.len()];
            for offer in &kind.suits {
                if let Some(one) = suits.get_mut(*offer) {
                    *one = true;
                }
            }
            groups.push(Group {
                need: kind.each.amounts(),
                count: 0,
                most: if lot.spread { 1 } else { u64::MAX },
                suits,
                lots: VecDeque::new(),
            });
            groups.len() - 1
        });
        if let Some(group) = groups.get_mut(found) {
            group.count = group.count.saturating_add(lot.members);
            group.lots.push_back((position, lot.members));
        }
    }
    groups
}

fn bin(problem: &Problem, groups: &[Group], offer: usize) -> Option<Bin> {
    let found = problem.offers.get(offer)?;
    let capacity = found.capacity.amounts();
    let menu = groups
        .iter()
        .enumerate()
        .filter(|(_, group)| group.suits.get(offer).copied().unwrap_or_default())
        .filter_map(|(position, group)| {
            let most = room(&capacity, &group.need)
                .min(group.most)
                .min(group.count);
            let mut share = [0.0; 5];
            for ((share, need), has) in share.iter_mut().zip(group.need).zip(capacity) {
                *share = need as f64 / (has.max(1)) as f64;
            }
            (most > 0).then_some(Item {
                group: position,
                need: group.need,
                share,
                most,
            })
        })
        .collect();
    Some(Bin {
        offer,
        price: found.micro_dollars,
        capacity,
        menu,
    })
}

/// Leaves out what costs no less, holds no more and suits no more than something before it.
fn undominated(bins: Vec<Bin>) -> Vec<Bin> {
    let mut kept: Vec<Bin> = Vec::new();
    for bin in bins {
        let beaten = kept.iter().any(|better| {
            let holds = better
                .capacity
                .iter()
                .zip(bin.capacity)
                .all(|(a, b)| *a >= b);
            holds && serves_all(better, &bin)
        });
        if !beaten {
            kept.push(bin);
        }
    }
    kept
}

/// Menus are ordered by group.
fn serves_all(better: &Bin, bin: &Bin) -> bool {
    let mut offered = better.menu.iter().map(|item| item.group);
    bin.menu
        .iter()
        .all(|item| offered.by_ref().any(|group| group == item.group))
}
