//! What a decision consists of: steps for the driver, and when to look again. Data only.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kaito_api::nodeclaim::NodeClaimStatus;
use serde_json::Value;

/// One thing to do. Every step can be repeated: a crash after any of them loses nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Put our finalizer on the claim; first of all writes, so that no machine outlives its claim unseen.
    AddFinalizer,
    /// Ask the cloud for the claim's machine, or for its progress.
    Launch,
    /// Add labels and annotations to the claim.
    Annotate {
        /// Labels to add.
        labels: BTreeMap<String, String>,
        /// Annotations to add.
        annotations: BTreeMap<String, String>,
    },
    /// Replace the parts of the claim's status that are ours.
    WriteStatus(Box<NodeClaimStatus>),
    /// Merge-patch a node (registration, initialization, cordon, finalizer).
    PatchNode {
        /// Node.
        name: String,
        /// Merge patch; carries the resourceVersion where a list is replaced whole.
        patch: Value,
    },
    /// Tell the user, with an event on the claim.
    Report {
        /// Reason, in CamelCase.
        reason: String,
        /// What happened.
        note: String,
    },
    /// Give the claim up.
    DeleteClaim {
        /// Node whose absence the API server must confirm first: a watch may lag.
        if_absent: Option<String>,
    },
    /// Begin the end of a node.
    DeleteNode {
        /// Node.
        name: String,
        /// Its UID, a precondition.
        uid: String,
    },
    /// Evict a pod, respecting its disruption budget.
    Evict(PodRef),
    /// Delete a pod although its budget or grace says no: the drain's deadline is near.
    DeletePod {
        /// Pod.
        pod: PodRef,
        /// Grace period in seconds, at least 1.
        grace_seconds: u32,
    },
    /// Ask the cloud for the machine's end.
    DeleteMachine {
        /// Cloud id.
        provider_id: String,
    },
    /// Let go of the claim.
    RemoveFinalizer,
}

/// A pod as steps name it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodRef {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// UID, a precondition of whatever is done.
    pub uid: String,
}

/// What to do now, and when to look again if nothing changes before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Decision {
    /// In this order; a failed step ends the round.
    pub steps: Vec<Step>,
    /// When to look again at the latest; `None` leaves it to the watches.
    pub wake: Option<Timestamp>,
    /// The status differs from the recorded one and its write waits for company.
    pub holds_status: bool,
}

impl Decision {
    /// Only these steps.
    #[must_use]
    pub fn only(steps: Vec<Step>) -> Self {
        Self {
            steps,
            ..Self::default()
        }
    }

    /// Looks again at `at` at the latest.
    pub fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}
