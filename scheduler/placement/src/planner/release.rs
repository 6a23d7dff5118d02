//! Finds the claims that serve nobody.
//!
//! Looks at the ledger after all demands were served, so a node that anybody was promised is never given back.

use super::ledger::{Ledger, Slot};
use crate::plan::Release;
use crate::snapshot::Snapshot;

/// What the idle claims mean for the plan.
#[derive(Clone, Debug, Default)]
pub(crate) struct Idle {
    /// Claims to give back, by name.
    pub(crate) releases: Vec<Release>,
    /// When the next grace ends, seconds since the epoch.
    pub(crate) next_end_seconds: Option<i64>,
}

/// Sorts the idle claims into those whose grace is over and those to look at later.
pub(crate) fn idle_claims(ledger: &Ledger<'_>) -> Idle {
    let snapshot = ledger.snapshot();
    let mut idle = Idle::default();
    for (claim, since) in ledger
        .slots()
        .iter()
        .filter_map(|slot| idle_claim(slot, snapshot))
    {
        let end = since.saturating_add(snapshot.idle_grace_seconds);
        if end <= snapshot.now_seconds {
            let seconds = snapshot.now_seconds.saturating_sub(since);
            idle.releases.push(Release {
                claim: claim.to_owned(),
                reason: format!(
                    "has served no Workspace for {seconds} s and none is waiting for it"
                ),
            });
        } else {
            idle.next_end_seconds = Some(idle.next_end_seconds.map_or(end, |one| one.min(end)));
        }
    }
    idle.releases
        .sort_by(|one, other| one.claim.cmp(&other.claim));
    idle
}

/// The claim and since when it has been idle. The caller says which claims are idle, because it knows of pods that
/// need no GPU; a claim that it does not name is in use. A broken node that serves nobody costs as much as a good one.
fn idle_claim<'a>(slot: &Slot<'a>, snapshot: &Snapshot) -> Option<(&'a str, i64)> {
    let claim = slot.claim.filter(|_| !slot.serves)?;
    let since = snapshot.idle_since.get(claim)?;
    Some((claim, *since))
}
