//! A plan with everything it was made from, so that it can be made again elsewhere and compared.
//!
//! Reads and writes no file: the caller does. A recording is JSON; its `format` says which version wrote it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::check::{self, Violation};
use crate::eviction::{self, Occupants};
use crate::plan::{EvictionPlan, Place, Plan};
use crate::planner::{self, Limits};
use crate::snapshot::Snapshot;

/// The only format that there is so far.
pub const FORMAT: &str = "kaito.sh/plan-recording/v1";

/// A snapshot, the limits, and the plan that came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recording {
    /// [`FORMAT`].
    pub format: String,
    /// Program and version that made the plan.
    pub recorded_by: String,
    /// What bounded the work.
    pub limits: Limits,
    /// What the plan was made from.
    pub snapshot: Snapshot,
    /// The plan.
    pub plan: Plan,
    /// Who was evicted after it, if anybody was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evicting: Option<Evicting>,
}

/// Evictions, and what they were planned from besides a snapshot and its plan.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evicting {
    /// Who ran.
    pub occupants: Occupants,
    /// Who was to leave, and for whom.
    pub evictions: EvictionPlan,
}

/// Why a recording cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It was written in a format that this version does not know.
    #[error(
        "the recording has format {found:?}, and only {FORMAT:?} can be replayed; use the version that wrote it"
    )]
    Format {
        /// What it says.
        found: String,
    },
}

/// What a replay found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The plan made now.
    pub plan: Plan,
    /// The evictions planned now; none if the recording has none.
    pub evictions: EvictionPlan,
    /// Where it differs from the recorded one, a line each; empty if the two are equal bit for bit.
    pub differences: Vec<String>,
    /// What is wrong with the recorded plan.
    pub recorded_violations: Vec<Violation>,
    /// What is wrong with the plan made now.
    pub violations: Vec<Violation>,
}

impl Replayed {
    /// Whether the same sound plan came of it.
    #[must_use]
    pub const fn is_same(&self) -> bool {
        self.differences.is_empty()
            && self.recorded_violations.is_empty()
            && self.violations.is_empty()
    }
}

impl Recording {
    /// Records a plan made within the usual limits.
    #[must_use]
    pub fn new(snapshot: Snapshot, plan: Plan, recorded_by: &str) -> Self {
        Self {
            format: FORMAT.to_owned(),
            recorded_by: recorded_by.to_owned(),
            limits: Limits::default(),
            snapshot,
            plan,
            evicting: None,
        }
    }

    /// Plans again, lets the checker look at both plans, and compares them.
    ///
    /// # Errors
    /// [`Error::Format`] if the recording is of another version.
    pub fn replay(&self) -> Result<Replayed, Error> {
        if self.format != FORMAT {
            return Err(Error::Format {
                found: self.format.clone(),
            });
        }
        let plan = planner::plan_within(&self.snapshot, &self.limits);
        let mut replayed = Replayed {
            differences: differences(&self.plan, &plan),
            recorded_violations: check::check(&self.snapshot, &self.plan),
            violations: check::check(&self.snapshot, &plan),
            plan,
            evictions: EvictionPlan::default(),
        };
        if let Some(evicting) = &self.evicting {
            self.replay_evictions(evicting, &mut replayed);
        }
        Ok(replayed)
    }

    fn replay_evictions(&self, recorded: &Evicting, replayed: &mut Replayed) {
        let Evicting {
            occupants,
            evictions,
        } = recorded;
        let check =
            |plan, evictions| check::check_evictions(&self.snapshot, plan, occupants, evictions);
        let now = eviction::plan(&self.snapshot, &replayed.plan, occupants);
        replayed
            .recorded_violations
            .extend(check(&self.plan, evictions));
        replayed.violations.extend(check(&replayed.plan, &now));
        let (before, after) = (lines(evictions), lines(&now));
        let gone = before.iter().filter(|line| !after.contains(line));
        let new = after.iter().filter(|line| !before.contains(line));
        replayed
            .differences
            .extend(gone.map(|line| format!("- {line}")));
        replayed
            .differences
            .extend(new.map(|line| format!("+ {line}")));
        if before != after && replayed.differences.is_empty() {
            let order = "the evictions are the same in another order";
            replayed.differences.push(order.to_owned());
        }
        replayed.evictions = now;
    }
}

/// Where two plans differ, by what they decide for whom.
fn differences(recorded: &Plan, now: &Plan) -> Vec<String> {
    let (before, after) = (sentences(recorded), sentences(now));
    let mut lines: Vec<String> = Vec::new();
    let keys = before.keys().chain(after.keys());
    let keys: std::collections::BTreeSet<_> = keys.collect();
    for key in keys {
        let none = Vec::new();
        let (was, is) = (
            before.get(key).unwrap_or(&none),
            after.get(key).unwrap_or(&none),
        );
        if was != is {
            lines.extend(was.iter().map(|one| format!("- {key}: {one}")));
            lines.extend(is.iter().map(|one| format!("+ {key}: {one}")));
        }
    }
    if lines.is_empty() && recorded != now {
        lines.push("the plans decide the same in another order".to_owned());
    }
    lines
}

/// Everything that an eviction plan says, in its order.
fn lines(evictions: &EvictionPlan) -> Vec<String> {
    let mut lines = Vec::new();
    for one in &evictions.preemptions {
        let victims = one.victims.iter();
        let victims: Vec<String> = victims
            .map(|victim| {
                format!(
                    "{} ({}: {})",
                    victim.workload,
                    victim.pods.join(", "),
                    victim.reason
                )
            })
            .collect();
        let places: Vec<String> = one
            .members
            .iter()
            .map(|member| format!("{} on {}", member.member, member.node))
            .collect();
        lines.push(format!(
            "{}: {} after {} left: {}",
            one.demand,
            places.join(", "),
            victims.join(", "),
            one.reason
        ));
    }
    for one in &evictions.refusals {
        lines.push(format!("{}: {}", one.demand, one.reason));
    }
    for one in &evictions.consolidations {
        let moves = one.moves.iter();
        let moves: Vec<String> = moves
            .map(|step| format!("{} of {} to {}", step.pod, step.workload, step.to))
            .collect();
        lines.push(format!(
            "{}: {}: {}",
            one.node,
            moves.join(", "),
            one.reason
        ));
    }
    lines
}

/// Everything that a plan says, sorted by whom it is about.
fn sentences(plan: &Plan) -> BTreeMap<String, Vec<String>> {
    let mut said: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut say = |who: &str, what: String| said.entry(who.to_owned()).or_default().push(what);
    for one in &plan.assignments {
        let members = one.members.iter();
        let places: Vec<String> = members
            .map(|member| format!("{} on {}", member.member, member.node))
            .collect();
        say(
            &one.demand,
            format!("{}: {}", places.join(", "), one.reason),
        );
    }
    for one in &plan.holds {
        let place = match &one.place {
            Place::Node { name } => name.clone(),
            Place::Purchase { buyer_uid, ordinal } => format!("purchase {ordinal} of {buyer_uid}"),
        };
        say(&one.demand, format!("holds {} on {place}", one.members));
    }
    for one in &plan.waiting {
        say(
            &one.demand,
            format!("waits: {:?}: {}", one.blocker, one.message),
        );
    }
    for one in &plan.purchases {
        let place = format!("{} {} {:?}", one.instance_type, one.zone, one.capacity_type);
        let sharing = one.for_demands.join(", ");
        say(
            &one.buyer,
            format!(
                "buys {} ({place}) for {sharing}: {}",
                one.ordinal, one.reason
            ),
        );
    }
    for one in &plan.releases {
        say(&one.claim, format!("given back: {}", one.reason));
    }
    if let Some(seconds) = plan.next_change_seconds {
        say("next change", format!("at {seconds}"));
    }
    said
}
