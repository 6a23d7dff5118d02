//! Makes place for gangs that wait, and empties nodes, by evicting what runs.
//!
//! Pure, like the planner: reads a snapshot, the plan made from it, and who runs where, and returns an
//! [`EvictionPlan`]. Never a victim of equal or higher priority (unless its queue holds more than its share and the
//! beneficiary's less), never past a disruption budget, never part of a gang, never anybody who need not go.

mod cluster;
mod consolidate;
mod frontier;
mod preempt;
mod protection;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::plan::{EvictionPlan, Plan};
use crate::snapshot::{Constraints, Resources, Snapshot};

/// A workload that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Running {
    /// `namespace/name`; unique.
    pub name: String,
    /// Higher is more important.
    pub priority: i32,
    /// Whether it may be evicted for the sake of others.
    pub preemptible: bool,
    /// Whether it may be moved to save a node: somebody makes its pods anew, and they may go wherever these may.
    pub movable: bool,
    /// When it started, seconds since the epoch.
    pub started_seconds: i64,
    /// It is left alone for so long after its start, seconds.
    pub minimum_runtime_seconds: i64,
    /// Queue that its GPUs count for; empty for none.
    pub queue: String,
    /// Its pods with their nodes; all go or none.
    pub members: Vec<RunningMember>,
    /// What each of them holds.
    pub per_member: Resources,
    /// Where its members may go.
    pub constraints: Constraints,
    /// Names of the disruption budgets that cover its pods.
    pub budgets: Vec<String>,
}

/// A pod that runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RunningMember {
    /// Pod name.
    pub pod: String,
    /// Node name.
    pub node: String,
}

/// Who runs, and what protects them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Occupants {
    /// Workloads. What they hold is part of their nodes' `used`.
    pub running: Vec<Running>,
    /// Budget → pods that may still be evicted (evictions under way already taken off). A budget that is not named
    /// here allows none.
    pub budgets: BTreeMap<String, u64>,
    /// Queue → GPUs that it holds beyond its share. Only these can be reclaimed.
    pub surplus_gpus: BTreeMap<String, u64>,
    /// Demands whose queue holds less than its share, by name: they may reclaim from others whatever the priority.
    pub reclaiming: BTreeSet<String>,
    /// Demands that wait rather than have anybody evicted, by name.
    pub yielding: BTreeSet<String>,
    /// Most pods that consolidation may move.
    pub most_moves: u64,
    /// Consolidation leaves a workload alone for so long after its start, seconds.
    pub settled_after_seconds: i64,
}

impl Running {
    /// GPU-seconds that are lost with it.
    pub(crate) fn lost_gpu_seconds(&self, now_seconds: i64) -> u64 {
        let age = now_seconds.saturating_sub(self.started_seconds).max(0);
        let gpus = self
            .per_member
            .gpus
            .saturating_mul(self.members.len() as u64);
        u64::try_from(age).unwrap_or(0).saturating_mul(gpus)
    }
}

/// Finds victims for the gangs that wait in `plan` for want of room, and nodes that can be emptied.
///
/// Nodes are emptied only if no gang waits for want of room: whoever waits comes first.
pub fn plan(snapshot: &Snapshot, plan: &Plan, occupants: &Occupants) -> EvictionPlan {
    let mut evictions = preempt::preempt(snapshot, plan, occupants);
    if evictions.preemptions.is_empty() && evictions.refusals.is_empty() {
        evictions.consolidations = consolidate::consolidate(snapshot, plan, occupants);
    }
    debug_assert_eq!(
        crate::check::check_evictions(snapshot, plan, occupants, &evictions),
        []
    );
    evictions
}
