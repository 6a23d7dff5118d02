//! The condition set of a NodeClaim: three dependents and the root that follows from them. Pure.
//!
//! The algorithm is Karpenter core's, so that clients which read its claims read ours.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kaito_api::conditions::{self, Status};
use kaito_api::nodeclaim::{INITIALIZED, LAUNCHED, READY, REGISTERED};

/// The conditions that make up `Ready`.
pub const DEPENDENTS: [&str; 3] = [LAUNCHED, REGISTERED, INITIALIZED];

/// A new value of one condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Value.
    pub status: Status,
    /// Reason; empty on True means the condition's own name.
    pub reason: &'static str,
    /// Message.
    pub message: String,
}

impl Verdict {
    /// The condition holds.
    #[must_use]
    pub const fn holds() -> Self {
        Self {
            status: Status::True,
            reason: "",
            message: String::new(),
        }
    }

    /// It is not known yet.
    #[must_use]
    pub fn unknown(reason: &'static str, message: &str) -> Self {
        Self {
            status: Status::Unknown,
            reason,
            message: message.to_owned(),
        }
    }

    /// It does not hold, and will not.
    #[must_use]
    pub fn fails(reason: &'static str, message: &str) -> Self {
        Self {
            status: Status::False,
            reason,
            message: message.to_owned(),
        }
    }
}

/// When and for which generation conditions are set.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// `metadata.generation` of the claim.
    pub generation: Option<i64>,
    /// `metadata.creationTimestamp` of the claim: transition time of what never moved.
    pub created: Timestamp,
    /// Now.
    pub now: Timestamp,
}

/// The conditions after `verdicts` (type and value) over `current`. Conditions that are not named keep their value;
/// missing dependents begin as Unknown; the root is computed; the order is the wire's: oldest transition first,
/// `Ready` last.
#[must_use]
pub fn advance(
    current: &[Condition],
    verdicts: &[(&str, Verdict)],
    moment: Moment,
) -> Vec<Condition> {
    let mut list = current.to_vec();
    let begin = |list: &mut Vec<Condition>, kind: &str, reason: &str, message: &str| {
        if !list.iter().any(|condition| condition.type_ == kind) {
            let Moment {
                generation,
                created,
                ..
            } = moment;
            conditions::set(
                list,
                kind,
                Status::Unknown,
                reason,
                message,
                generation,
                created,
            );
        }
    };
    for kind in DEPENDENTS {
        begin(
            &mut list,
            kind,
            "AwaitingReconciliation",
            "object is awaiting reconciliation",
        );
    }
    begin(
        &mut list,
        READY,
        "AwaitingReconciliation",
        "object is awaiting reconciliation",
    );
    for (kind, verdict) in verdicts {
        let reason = match (verdict.status, verdict.reason) {
            (Status::True, "") => kind,
            (_, reason) => reason,
        };
        conditions::set(
            &mut list,
            kind,
            verdict.status,
            reason,
            &verdict.message,
            moment.generation,
            moment.now,
        );
    }
    set_root(&mut list, moment);
    list.sort_by_key(|condition| (condition.type_ == READY, condition.last_transition_time.0));
    list
}

fn set_root(list: &mut Vec<Condition>, moment: Moment) {
    let current = |condition: &Condition| condition.observed_generation == moment.generation;
    let mut unhealthy: Vec<&Condition> = list
        .iter()
        .filter(|condition| DEPENDENTS.contains(&condition.type_.as_str()))
        .filter(|condition| condition.status != "True" || !current(condition))
        .collect();
    unhealthy.sort_by_key(|condition| std::cmp::Reverse(condition.last_transition_time.0));
    let failed = unhealthy
        .iter()
        .any(|condition| condition.status == "False" && current(condition));
    let parts: Vec<String> = unhealthy
        .iter()
        .map(|condition| format!("{}={}", condition.type_, condition.status))
        .collect();
    let (status, reason) = match (unhealthy.is_empty(), failed) {
        (true, _) => (Status::True, READY),
        (false, true) => (Status::False, "UnhealthyDependents"),
        (false, false) => (Status::Unknown, "ReconcilingDependents"),
    };
    conditions::set(
        list,
        READY,
        status,
        reason,
        &parts.join(", "),
        moment.generation,
        moment.now,
    );
}

/// When condition `kind` got its present status, if that is `status`.
#[must_use]
pub fn since(list: &[Condition], kind: &str, status: Status) -> Option<Timestamp> {
    let found = list
        .iter()
        .find(|condition| condition.type_ == kind && condition.status == status.as_str());
    found.map(|condition| {
        let Time(at) = condition.last_transition_time;
        at
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn moment(now: i64) -> Moment {
        Moment {
            generation: Some(1),
            created: at(100),
            now: at(now),
        }
    }

    fn brief(list: &[Condition]) -> Vec<(String, String, String, i64)> {
        list.iter()
            .map(|c| {
                (
                    c.type_.clone(),
                    c.status.clone(),
                    c.reason.clone(),
                    c.last_transition_time.0.as_second(),
                )
            })
            .collect()
    }

    fn row(kind: &str, status: &str, reason: &str, second: i64) -> (String, String, String, i64) {
        (
            kind.to_owned(),
            status.to_owned(),
            reason.to_owned(),
            second,
        )
    }

    #[test]
    fn a_new_set_awaits_reconciliation_since_creation() {
        let list = advance(&[], &[], moment(130));
        assert_eq!(
            brief(&list),
            [
                row("Launched", "Unknown", "AwaitingReconciliation", 100),
                row("Registered", "Unknown", "AwaitingReconciliation", 100),
                row("Initialized", "Unknown", "AwaitingReconciliation", 100),
                row("Ready", "Unknown", "ReconcilingDependents", 100),
            ]
        );
        assert_eq!(
            list[3].message,
            "Launched=Unknown, Registered=Unknown, Initialized=Unknown"
        );
    }

    #[test]
    fn the_root_is_true_only_when_all_dependents_are() {
        let all = DEPENDENTS.map(|kind| (kind, Verdict::holds()));
        let list = advance(&[], &all[..2], moment(130));
        assert_eq!(list[3].status, "Unknown");
        let list = advance(&list, &all, moment(140));
        assert_eq!(list.last().unwrap().status, "True");
        assert_eq!(list.last().unwrap().reason, "Ready");
        assert_eq!(
            list[0].reason, "Launched",
            "True without a reason takes the type's name"
        );
    }

    #[test]
    fn a_failed_dependent_makes_the_root_false_and_the_newest_is_named_first() {
        let list = advance(
            &[],
            &[(LAUNCHED, Verdict::fails("InsufficientCapacity", "none"))],
            moment(150),
        );
        let root = list.last().unwrap();
        assert_eq!(
            (root.status.as_str(), root.reason.as_str()),
            ("False", "UnhealthyDependents")
        );
        assert_eq!(
            root.message,
            "Launched=False, Registered=Unknown, Initialized=Unknown"
        );
    }

    #[test]
    fn a_dependent_of_an_older_generation_does_not_count() {
        let all = DEPENDENTS.map(|kind| (kind, Verdict::holds()));
        let mut list = advance(&[], &all, moment(130));
        list[0].observed_generation = Some(0);
        assert_eq!(
            advance(&list, &[], moment(140)).last().unwrap().status,
            "Unknown"
        );
    }

    #[test]
    fn the_wire_order_is_by_transition_with_the_root_last() {
        let list = advance(&[], &[(LAUNCHED, Verdict::holds())], moment(150));
        let order: Vec<&str> = list.iter().map(|c| c.type_.as_str()).collect();
        assert_eq!(order, ["Registered", "Initialized", "Launched", "Ready"]);
    }

    #[test]
    fn repeating_a_verdict_changes_nothing_and_foreign_conditions_stay() {
        let mut list = advance(
            &[],
            &[(REGISTERED, Verdict::unknown("NodeNotFound", "no"))],
            moment(130),
        );
        conditions::set(&mut list, "Drifted", Status::True, "X", "", Some(1), at(90));
        let first = advance(
            &list,
            &[(REGISTERED, Verdict::unknown("NodeNotFound", "no"))],
            moment(150),
        );
        let second = advance(
            &first,
            &[(REGISTERED, Verdict::unknown("NodeNotFound", "no"))],
            moment(170),
        );
        assert_eq!(first, second);
        assert!(second.iter().any(|c| c.type_ == "Drifted"));
    }
}
