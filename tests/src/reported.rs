//! What a cluster reports of its objects, as tests ask for it. Reads objects that were fetched; never asks a server.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kaito_api::{Workspace, conditions};

/// A condition of a Workspace, if there is a Workspace and it reports that condition.
#[must_use]
pub fn condition<'a>(workspace: Option<&'a Workspace>, kind: &str) -> Option<&'a Condition> {
    let list = workspace?.status.as_ref()?.conditions.as_ref()?;
    list.iter().find(|condition| condition.type_ == kind)
}

/// Whether a condition of a Workspace is true.
#[must_use]
pub fn is_true(workspace: Option<&Workspace>, kind: &str) -> bool {
    condition(workspace, kind).is_some_and(|condition| condition.status == "True")
}

/// Whether a Workspace waits for a place for this reason.
#[must_use]
pub fn waits_for(workspace: Option<&Workspace>, reason: &str) -> bool {
    condition(workspace, conditions::PLACED).is_some_and(|condition| condition.reason == reason)
}

/// Whether a pod is there and ready.
#[must_use]
pub fn is_ready(pod: Option<&Pod>) -> bool {
    let status = pod.and_then(|pod| pod.status.as_ref());
    let list = status.and_then(|status| status.conditions.as_ref());
    list.into_iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether a pod is bound to a node.
#[must_use]
pub fn is_bound(pod: &Pod) -> bool {
    pod.spec
        .as_ref()
        .is_some_and(|spec| spec.node_name.is_some())
}
