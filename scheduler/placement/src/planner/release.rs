//! Finds the claims that serve nobody.
//!
//! Looks at the ledger after all demands were served, so a node that anybody was promised is never given back.

use super::ledger::{Ledger, Slot, Stage};
use crate::plan::Release;

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
    for claim in ledger.slots().iter().filter_map(idle_claim) {
        let since = snapshot
            .idle_since
            .get(claim)
            .copied()
            .unwrap_or(snapshot.now_seconds);
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

/// Nodes that are broken or leaving are not given back here: their claim's own controller deals with them.
fn idle_claim<'a>(slot: &Slot<'a>) -> Option<&'a str> {
    let usable = matches!(slot.stage, Stage::Available | Stage::Expected);
    slot.claim.filter(|_| usable && !slot.serves)
}
