//! Condition types and reasons of a Workspace, and the one function that sets a condition.
//!
//! Names and reasons are KAITO's, so that scripts written for it keep working.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// All NodeClaims of the Workspace are ready.
pub const NODE_CLAIM_READY: &str = "NodeClaimReady";
/// All nodes the Workspace runs on are ready and show their GPUs.
pub const NODES_READY: &str = "NodesReady";
/// Claims and nodes are ready.
pub const RESOURCE_READY: &str = "ResourceReady";
/// The inference server answers.
pub const INFERENCE_READY: &str = "InferenceReady";
/// The tuning job has started.
pub const JOB_STARTED: &str = "JobStarted";
/// The Workspace serves, or its tuning has ended well.
pub const WORKSPACE_SUCCEEDED: &str = "WorkspaceSucceeded";
/// Same meaning as [`WORKSPACE_SUCCEEDED`] under the name that KAITO used until v0.3.
pub const WORKSPACE_READY: &str = "WorkspaceReady";
/// Deletion is under way.
pub const WORKSPACE_DELETING: &str = "WorkspaceDeleting";
/// Placement verdict: where the pods go, or why they wait. Ours.
pub const PLACED: &str = "Placed";

/// What a Workspace reports on its way to being ready, in the order in which it comes true.
pub const IN_ORDER: [&str; 8] = [
    PLACED,
    NODE_CLAIM_READY,
    NODES_READY,
    RESOURCE_READY,
    INFERENCE_READY,
    JOB_STARTED,
    WORKSPACE_SUCCEEDED,
    WORKSPACE_READY,
];

/// Value of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Holds.
    True,
    /// Does not hold.
    False,
    /// Not known yet.
    Unknown,
}

impl Status {
    /// The wire form.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// Longest message we write; longer ones are cut at a character boundary.
pub const MAX_MESSAGE: usize = 1024;

/// Sets condition `kind` in `conditions`, keeping `lastTransitionTime` unless the status flips. `now` is truncated
/// to whole seconds, as the wire format is. Returns whether anything but the time changed.
pub fn set(
    conditions: &mut Vec<Condition>,
    kind: &str,
    status: Status,
    reason: &str,
    message: &str,
    generation: Option<i64>,
    now: jiff::Timestamp,
) -> bool {
    let message = cut(message);
    let since = Time(jiff::Timestamp::from_second(now.as_second()).unwrap_or(now));
    let Some(found) = conditions
        .iter_mut()
        .find(|condition| condition.type_ == kind)
    else {
        conditions.push(Condition {
            type_: kind.to_owned(),
            status: status.as_str().to_owned(),
            reason: reason.to_owned(),
            message,
            observed_generation: generation,
            last_transition_time: since,
        });
        return true;
    };
    if found.status == status.as_str()
        && found.reason == reason
        && found.message == message
        && found.observed_generation == generation
    {
        return false;
    }
    if found.status != status.as_str() {
        found.last_transition_time = since;
        status.as_str().clone_into(&mut found.status);
    }
    reason.clone_into(&mut found.reason);
    found.message = message;
    found.observed_generation = generation;
    true
}

/// Whether condition `kind` is True.
#[must_use]
pub fn is_true(conditions: &[Condition], kind: &str) -> bool {
    conditions
        .iter()
        .any(|condition| condition.type_ == kind && condition.status == "True")
}

fn cut(message: &str) -> String {
    let mut end = message.len().min(MAX_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::{Status, is_true, set};

    #[test]
    fn transition_time_moves_only_when_the_status_flips() {
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        let mut list = Vec::new();
        assert!(set(
            &mut list,
            "A",
            Status::False,
            "Wait",
            "one",
            Some(1),
            at(10)
        ));
        assert!(set(
            &mut list,
            "A",
            Status::False,
            "Wait",
            "two",
            Some(1),
            at(20)
        ));
        assert_eq!(list[0].last_transition_time.0, at(10));
        assert!(!set(
            &mut list,
            "A",
            Status::False,
            "Wait",
            "two",
            Some(1),
            at(30)
        ));
        assert!(set(
            &mut list,
            "A",
            Status::True,
            "Done",
            "",
            Some(1),
            at(40)
        ));
        assert_eq!(list[0].last_transition_time.0, at(40));
        assert!(is_true(&list, "A"));
    }

    #[test]
    fn long_messages_are_cut_at_a_character_boundary() {
        let mut list = Vec::new();
        let long = "é".repeat(2000);
        set(
            &mut list,
            "A",
            Status::False,
            "Wait",
            &long,
            None,
            jiff::Timestamp::UNIX_EPOCH,
        );
        assert_eq!(list[0].message.len(), 1024);
    }
}
