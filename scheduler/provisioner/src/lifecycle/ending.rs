//! Why a live claim is given up: what is recorded of it, its age, and the time that its stages take. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kaito_api::NodeClaim;
use kaito_api::conditions::{Status, is_true};
use kaito_api::nodeclaim::{INITIALIZED, LAUNCHED, READY, REGISTERED};

use super::conditions;
use super::decide::{Observed, Progress};
use super::step::{Decision, Step};
use crate::cloud::simulated::model::later;
use crate::duration::parse_duration;

/// Why a claim is given up.
pub(super) struct Ending {
    reason: String,
    note: String,
    if_absent: Option<String>,
}

impl Ending {
    /// What is done about it.
    pub(super) fn decision(self) -> Decision {
        let Self {
            reason,
            note,
            if_absent,
        } = self;
        let report = Step::Report { reason, note };
        // Absence is confirmed before anything is said about it.
        match if_absent {
            Some(_) => Decision::only(vec![Step::DeleteClaim { if_absent }, report]),
            None => Decision::only(vec![report, Step::DeleteClaim { if_absent }]),
        }
    }
}

/// Endings that the recorded claim and the nodes prove; they come before any new request to the cloud.
pub(super) fn recorded_ending(observed: &Observed<'_>, claim: &NodeClaim) -> Option<Ending> {
    let recorded = claim.conditions();
    let ending = |reason: &str, note: String, if_absent| {
        Some(Ending {
            reason: reason.to_owned(),
            note,
            if_absent,
        })
    };
    if let Some(refused) = recorded
        .iter()
        .find(|c| c.type_ == LAUNCHED && c.status == "False")
    {
        return ending(&refused.reason, refused.message.clone(), None);
    }
    let expiry = expiry(claim);
    if expiry.is_some_and(|expiry| expiry <= observed.now) {
        return ending(
            "Expired",
            "The claim has reached its expireAfter.".to_owned(),
            None,
        );
    }
    let name = claim
        .status
        .as_ref()
        .and_then(|status| status.node_name.clone());
    if let Some(name) = name.filter(|_| observed.nodes.is_empty() && is_true(recorded, REGISTERED))
    {
        let note = format!("Node {name} is gone; the claim ends with it.");
        return ending("NodeGone", note, Some(name));
    }
    let leaving = observed
        .nodes
        .iter()
        .find(|node| node.metadata.deletion_timestamp.is_some())?;
    let name = leaving.metadata.name.as_deref().unwrap_or_default();
    ending(
        "NodeDeleted",
        format!("Node {name} is being deleted; the claim ends with it."),
        None,
    )
}

/// When the claim was made.
pub(super) fn created(claim: &NodeClaim) -> Option<Timestamp> {
    claim
        .metadata
        .creation_timestamp
        .as_ref()
        .map(|time| time.0)
}

/// When the claim ends of its own accord, if ever.
pub(super) fn expiry(claim: &NodeClaim) -> Option<Timestamp> {
    // An absent or unreadable value never expires: taking nodes away needs a clear order.
    let life = parse_duration(claim.spec.expire_after.as_deref()?).ok()?;
    Some(later(created(claim)?, life))
}

/// When which stage becomes overdue, with the reason; the first that counts now.
pub(super) fn due(
    observed: &Observed<'_>,
    claim: &NodeClaim,
    list: &[Condition],
) -> Option<(Timestamp, &'static str)> {
    let limits = observed.limits;
    let created = created(claim)?.max(limits.begun);
    if !is_true(list, LAUNCHED) {
        return Some((later(created, limits.launch), "LaunchTimeout"));
    }
    if !is_true(list, REGISTERED) {
        return Some((later(created, limits.registration), "RegistrationTimeout"));
    }
    if !is_true(list, INITIALIZED) {
        let registered = conditions::since(list, REGISTERED, Status::True)?;
        return Some((
            later(registered.max(limits.begun), limits.initialization),
            "InitializationTimeout",
        ));
    }
    None
}

/// The stage that took too long, if one did.
pub(super) fn overdue(
    observed: &Observed<'_>,
    claim: &NodeClaim,
    list: &[Condition],
) -> Option<Ending> {
    // A final refusal is written down before the claim ends.
    if matches!(observed.progress, Progress::Refused { error, .. } if error.is_final()) {
        return None;
    }
    let (at, reason) = due(observed, claim, list)?;
    if at > observed.now {
        return None;
    }
    let unhealthy: Vec<String> = list
        .iter()
        .filter(|c| c.status != "True" && c.type_ != READY && !c.message.is_empty())
        .map(|c| format!("{}: {}", c.type_, c.message))
        .collect();
    let note = format!("Given up after its time limit. {}", unhealthy.join("; "));
    Some(Ending {
        reason: reason.to_owned(),
        note,
        if_absent: None,
    })
}
