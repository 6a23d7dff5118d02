//! Packs a gang onto the nodes that are there, on their way, or ordered by this plan.
//!
//! Reads the ledger and returns shares; promising them is the caller's business.

use super::fit;
use super::ledger::{Ledger, Share, Slot, Stage};
use crate::snapshot::Demand;

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
    /// How much it is preferred.
    pub(crate) tightness: Tightness,
    /// How many members fit.
    pub(crate) members: u64,
}

/// The less, the better; the position in the ledger (the name) breaks the last tie.
pub(crate) type Tightness = (u8, u64, u64, u64, u64);

/// Judges a node for a gang; nothing if no member fits.
///
/// Nodes that can be used sooner come first; among equals the tightest fit: fewest GPUs left over, then least memory
/// and CPU, then the smaller node, then the name. Placing a member makes its node tighter still, so filling the nodes
/// in that order is the same as choosing anew for every member.
pub(crate) fn candidate(slot: &Slot<'_>, demand: &Demand) -> Option<Candidate> {
    let members = fit::members_that_fit(slot, demand);
    (members > 0).then(|| Candidate {
        tightness: tightness(slot, demand),
        members,
    })
}

/// Takes candidates (position in the ledger, judgement) in their order until all members have a place.
pub(crate) fn fill(
    candidates: impl Iterator<Item = (usize, Candidate)>,
    ledger: &Ledger<'_>,
    members: u64,
) -> Packing {
    let mut packing = Packing {
        shares: Vec::new(),
        left_over: members,
        latest: None,
    };
    for (slot, candidate) in candidates {
        if packing.left_over == 0 {
            break;
        }
        let share = Share {
            slot,
            members: candidate.members.min(packing.left_over),
        };
        packing.left_over = packing.left_over.saturating_sub(share.members);
        packing.latest = packing
            .latest
            .max(ledger.slot(share.slot).map(|slot| slot.stage));
        packing.shares.push(share);
    }
    packing
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
    let mut candidates: Vec<_> = ordered
        .filter_map(|(position, slot)| Some((position, candidate(slot, demand)?)))
        .collect();
    candidates.sort_by_key(|(position, one)| (one.tightness, *position));
    let packing = fill(candidates.into_iter(), ledger, members);
    (packing.left_over == 0).then_some(packing.shares)
}

fn tightness(slot: &Slot<'_>, demand: &Demand) -> Tightness {
    let left = slot.free.saturating_sub(&demand.per_member);
    let stage = match slot.stage {
        Stage::Available => 0,
        Stage::Expected => 1,
        Stage::Ordered(_) => 2,
        Stage::Absent => 3,
    };
    (
        stage,
        left.gpus,
        left.memory_bytes,
        left.milli_cpu,
        slot.allocatable.gpus,
    )
}
