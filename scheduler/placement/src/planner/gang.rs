//! Packs a gang onto the nodes that are there, on their way, or ordered by this plan.
//!
//! Reads the ledger and returns shares; promising them is the caller's business.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::fit;
use super::ledger::{Ledger, Share, Slot, Stage};
use super::ranking::{INDIFFERENT, Ranking};
use crate::snapshot::{Demand, Resources};

/// The best that a gang can have without buying.
#[derive(Clone, Debug)]
pub(crate) struct Packing {
    /// Shares in order of preference; members take them in the order of their ordinals.
    pub(crate) shares: Vec<Share>,
    /// Members left without a node.
    pub(crate) left_over: u64,
    /// The latest stage among the shares.
    pub(crate) latest: Option<Stage>,
}

/// A node on which members fit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// How much it is preferred for the first of them.
    pub(crate) preference: Preference,
    /// How many members fit.
    pub(crate) members: u64,
}

/// The less, the better; the position in the ledger (the name) breaks the last tie.
///
/// Nodes that can be used sooner come first; then those that the pods to expect can use least, by the packing engine's
/// rating; among equals the tightest fit: fewest GPUs left over, then least memory and CPU, then the smaller node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Preference {
    stage: u8,
    score: Reverse<i32>,
    left_gpus: u64,
    left_memory_bytes: u64,
    left_milli_cpu: u64,
    gpus: u64,
}

/// Judges a node for a gang; nothing if no member fits.
pub(crate) fn candidate(
    slot: &Slot<'_>,
    demand: &Demand,
    score: impl FnOnce() -> i32,
) -> Option<Candidate> {
    let members = fit::members_that_fit(slot, demand);
    (members > 0).then(|| Candidate {
        preference: preference(slot, &slot.free, demand, score()),
        members,
    })
}

/// Gives every member the node that is best then: candidates (position in the ledger, judgement) come in the order of
/// their preference, and a node that has taken a member is judged anew for the next.
pub(super) fn fill(
    candidates: impl Iterator<Item = (usize, Candidate)>,
    ledger: &Ledger<'_>,
    ranking: &mut Ranking,
    demand: &Demand,
    members: u64,
) -> Packing {
    let request = ranking.request(demand);
    let mut unopened = candidates.map(|(slot, one)| ((one.preference, slot), one.members));
    // Nodes that have taken members, and the best that has not, with the members that they still hold.
    let mut line: BTreeMap<(Preference, usize), u64> = unopened.next().into_iter().collect();
    let mut taken = Taken::default();
    let mut left_over = members;
    while left_over > 0
        && let Some(((_, slot), room)) = line.pop_first()
    {
        left_over = left_over.saturating_sub(1);
        let here = taken.one_more(slot);
        if here == 1 {
            line.extend(unopened.next());
        }
        if room > 1
            && let Some(found) = ledger.slot(slot)
        {
            let free = found.free.saturating_sub(&demand.per_member.times(here));
            let score = ranking.score(slot, &free, request);
            let judged = preference(found, &free, demand, score);
            line.insert((judged, slot), room.saturating_sub(1));
        }
    }
    let slots = taken.shares.iter().filter_map(|one| ledger.slot(one.slot));
    Packing {
        left_over,
        latest: slots.map(|slot| slot.stage).max(),
        shares: taken.shares,
    }
}

/// Who has taken how many, in the order in which they began.
#[derive(Debug, Default)]
struct Taken {
    shares: Vec<Share>,
    positions: BTreeMap<usize, usize>,
}

impl Taken {
    /// Counts a member on a slot; how many it has then.
    fn one_more(&mut self, slot: usize) -> u64 {
        let next = self.shares.len();
        let position = *self.positions.entry(slot).or_insert(next);
        if position == next {
            self.shares.push(Share { slot, members: 0 });
        }
        self.shares.get_mut(position).map_or(0, |share| {
            share.members = share.members.saturating_add(1);
            share.members
        })
    }
}

/// Places `members` of a gang on nodes ordered by this plan only, whole or not at all.
pub(crate) fn pack_on_ordered(
    ledger: &Ledger<'_>,
    demand: &Demand,
    members: u64,
) -> Option<Vec<Share>> {
    let ordered = ledger
        .slots()
        .iter()
        .enumerate()
        .filter(|(_, slot)| matches!(slot.stage, Stage::Ordered(_)));
    // Nodes that nobody has yet are alike to those who come later.
    let mut unranked = Ranking::default();
    let mut candidates: Vec<_> = ordered
        .filter_map(|(position, slot)| Some((position, candidate(slot, demand, || INDIFFERENT)?)))
        .collect();
    candidates.sort_by_key(|(position, one)| (one.preference, *position));
    let packing = fill(
        candidates.into_iter(),
        ledger,
        &mut unranked,
        demand,
        members,
    );
    (packing.left_over == 0).then_some(packing.shares)
}

fn preference(slot: &Slot<'_>, free: &Resources, demand: &Demand, score: i32) -> Preference {
    let left = free.saturating_sub(&demand.per_member);
    Preference {
        stage: match slot.stage {
            Stage::Available => 0,
            Stage::Expected => 1,
            Stage::Ordered(_) => 2,
            Stage::Absent => 3,
        },
        score: Reverse(score),
        left_gpus: left.gpus,
        left_memory_bytes: left.memory_bytes,
        left_milli_cpu: left.milli_cpu,
        gpus: slot.allocatable.gpus,
    }
}
