//! Why a Workspace is not ready: links of one causal chain, root first, each with the field that says so.
//!
//! Every link quotes what the cluster says. The scheduler's own words (condition `Placed`) are never replaced by a
//! guess; advice is added beside them.

pub mod advice;
mod claims;
mod pods;
mod workloads;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kaito_api::conditions;
use kube::ResourceExt;
use serde::Serialize;

use super::facts::{Facts, created, event_time};
use crate::readiness;

/// How deep a cause lies; the lower explains the higher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Depth {
    /// The cloud refuses or still builds a machine.
    Cloud,
    /// A node is not usable.
    Node,
    /// No place has been found.
    Placement,
    /// The workload cannot make its pods.
    Workload,
    /// A pod has no node, no image, or does not run.
    Pod,
    /// The Workspace's own conditions.
    Workspace,
}

/// One link of the chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Link {
    /// How deep it lies.
    pub depth: Depth,
    /// `Kind/name`.
    pub object: String,
    /// The field that says so.
    pub field: String,
    /// What it says, in short.
    pub value: String,
    /// What it says, in full; may be empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// What would unblock it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unblock: Option<String>,
    /// The command that shows more or helps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// Whether the Workspace has what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// It serves.
    Ready,
    /// Its tuning has ended well.
    Succeeded,
    /// Not yet, or no longer.
    NotReady,
    /// It is being deleted.
    Deleting,
}

impl Verdict {
    /// Whether nothing is left to explain.
    #[must_use]
    pub const fn is_good(self) -> bool {
        matches!(self, Self::Ready | Self::Succeeded)
    }
}

/// The answer to "why".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Ready or not.
    pub verdict: Verdict,
    /// Links, root first; empty when ready.
    pub links: Vec<Link>,
}

/// Finds the chain.
#[must_use]
pub fn chain(facts: &Facts) -> Chain {
    let verdict = verdict(facts);
    if verdict.is_good() {
        return Chain {
            verdict,
            links: Vec::new(),
        };
    }
    let mut links = Vec::new();
    links.extend(deletion(facts));
    links.extend(claims::links(facts));
    links.extend(placement(facts));
    links.extend(workloads::links(facts));
    links.extend(pods::links(facts));
    links.extend(outcome(facts));
    links.sort_by(|a, b| (a.depth, &a.object, &a.field).cmp(&(b.depth, &b.object, &b.field)));
    Chain { verdict, links }
}

/// One link per depth: the first in order, with a count of its like. About placement the condition and the planner
/// both have their say.
#[must_use]
pub fn shortened(links: &[Link]) -> Vec<Link> {
    let mut short: Vec<(Link, usize)> = Vec::new();
    for link in links {
        match short.last_mut() {
            Some((last, surplus)) if last.depth == link.depth && link.depth != Depth::Placement => {
                *surplus += 1;
            }
            _ => short.push((link.clone(), 0)),
        }
    }
    short
        .into_iter()
        .map(|(link, surplus)| counted(link, surplus))
        .collect()
}

fn counted(mut link: Link, surplus: usize) -> Link {
    if surplus > 0 {
        link.object = format!("{} (and {surplus} more)", link.object);
    }
    link
}

/// Ready means here what it means to `wait`.
fn verdict(facts: &Facts) -> Verdict {
    if facts.workspace.metadata.deletion_timestamp.is_some() {
        return Verdict::Deleting;
    }
    match facts.readiness() {
        readiness::Verdict::Ready if facts.is_tuning() => Verdict::Succeeded,
        readiness::Verdict::Ready => Verdict::Ready,
        readiness::Verdict::Waiting(_) | readiness::Verdict::Failed(_) => Verdict::NotReady,
    }
}

fn deletion(facts: &Facts) -> Option<Link> {
    let since = created(facts.workspace.metadata.deletion_timestamp.as_ref())?;
    let finalizers = facts.workspace.finalizers().join(", ");
    Some(Link {
        depth: Depth::Workspace,
        object: format!("Workspace/{}", facts.workspace.name_any()),
        field: "metadata.finalizers".to_owned(),
        value: if finalizers.is_empty() {
            "Deleting".to_owned()
        } else {
            finalizers
        },
        message: "deletion waits until whoever set the finalizers has cleaned up and removed them"
            .to_owned(),
        since: Some(since),
        unblock: Some(
            "the scheduler removes its finalizer once the bought nodes are returned".to_owned(),
        ),
        command: Some("kubectl get nodeclaims".to_owned()),
    })
}

fn placement(facts: &Facts) -> Option<Link> {
    let placed = facts.condition(conditions::PLACED)?;
    if placed.status == "True" {
        return None;
    }
    let name = facts.workspace.name_any();
    Some(Link {
        depth: Depth::Placement,
        unblock: advice::placement(&placed.reason),
        command: Some(format!(
            "kubectl kaito plan {name}{}",
            advice::namespace_flag(facts)
        )),
        ..condition_link(format!("Workspace/{name}"), placed)
    })
}

/// The Workspace's conditions that do not hold, and what its controller says about itself if it says nothing.
fn outcome(facts: &Facts) -> Vec<Link> {
    let object = format!("Workspace/{}", facts.workspace.name_any());
    if facts.conditions().is_empty() {
        return vec![silent_controller(facts, object)];
    }
    let told = if facts.is_tuning() {
        [conditions::JOB_STARTED, conditions::WORKSPACE_SUCCEEDED]
    } else {
        [conditions::RESOURCE_READY, conditions::INFERENCE_READY]
    };
    told.into_iter()
        .filter_map(|kind| facts.condition(kind))
        .filter(|condition| condition.status != "True")
        .map(|condition| Link {
            depth: Depth::Workspace,
            unblock: advice::outcome(&condition.reason),
            ..condition_link(object.clone(), condition)
        })
        .collect()
}

fn silent_controller(facts: &Facts, object: String) -> Link {
    Link {
        depth: Depth::Workspace,
        object,
        field: "status.conditions".to_owned(),
        value: "<none>".to_owned(),
        message: "no controller has reported about this Workspace yet".to_owned(),
        since: created(facts.workspace.metadata.creation_timestamp.as_ref()),
        unblock: Some("check that kaito-scheduler is installed, running and the leader".to_owned()),
        command: Some("kubectl kaito version".to_owned()),
    }
}

fn condition_link(object: String, condition: &Condition) -> Link {
    Link {
        depth: Depth::Workspace,
        object,
        field: format!("status.conditions[{}]", condition.type_),
        value: format!("{}, {}", condition.status, condition.reason),
        message: condition.message.clone(),
        since: Some(condition.last_transition_time.0),
        unblock: None,
        command: None,
    }
}

/// The newest warning about `uid`, as `reason: message`.
fn latest_warning(facts: &Facts, uid: Option<&str>) -> Option<String> {
    let uid = uid?;
    let warnings = facts.events.iter().filter(|event| {
        event.type_.as_deref() == Some("Warning")
            && event.involved_object.uid.as_deref() == Some(uid)
    });
    let newest = warnings.max_by_key(|event| event_time(event))?;
    let reason = newest.reason.as_deref().unwrap_or("Warning");
    Some(format!(
        "{reason}: {}",
        newest.message.as_deref().unwrap_or_default()
    ))
}

#[cfg(test)]
mod tests {
    use super::{Depth, Verdict, chain, shortened};
    use crate::view::facts::tests::yaml;
    use crate::view::tests::{LOADING, QUOTA};

    #[test]
    fn a_quota_refusal_is_the_root_and_the_workspace_comes_last() {
        let found = chain(&yaml(QUOTA));
        assert_eq!(found.verdict, Verdict::NotReady);
        let depths: Vec<Depth> = found.links.iter().map(|link| link.depth).collect();
        assert_eq!(
            depths,
            [
                Depth::Cloud,
                Depth::Placement,
                Depth::Pod,
                Depth::Workspace,
                Depth::Workspace
            ]
        );
        let root = &found.links[0];
        assert_eq!(root.object, "NodeClaim/ws012345678");
        assert_eq!(root.field, "status.conditions[Launched]");
        assert_eq!(root.value, "False, InsufficientCapacity");
        assert_eq!(
            root.message,
            "quota StandardNCADSA100v4Family: 24 of 24 vCPUs are in use"
        );
        assert!(root.unblock.as_ref().unwrap().contains("quota"));
        assert_eq!(
            found.links[1].message,
            "waits for 1 node that is being bought"
        );
    }

    #[test]
    fn the_short_chain_has_one_link_per_depth_and_counts_the_rest() {
        let found = chain(&yaml(QUOTA));
        let short = shortened(&found.links);
        assert_eq!(short.len(), 4);
        assert_eq!(short[3].object, "Workspace/phi (and 1 more)");
    }

    #[test]
    fn a_pod_that_loads_its_weights_is_explained_by_its_probe() {
        let found = chain(&yaml(LOADING));
        assert_eq!(found.links[0].object, "Pod/phi-5d9-abc");
        assert!(
            found.links[0]
                .command
                .as_ref()
                .unwrap()
                .starts_with("kubectl kaito logs phi")
        );
    }

    #[test]
    fn a_ready_workspace_needs_no_explanation() {
        let text = r#"
kind: Workspace
apiVersion: kaito.sh/v1beta1
metadata: {name: phi, namespace: default}
resource: {labelSelector: {}}
inference: {preset: {name: phi-4}}
status:
  state: Ready
  conditions: [{type: WorkspaceSucceeded, status: "True", reason: r, message: "", lastTransitionTime: 2026-01-01T00:00:00Z}]
"#;
        let found = chain(&yaml(text));
        assert_eq!((found.verdict, found.links.len()), (Verdict::Ready, 0));
    }

    #[test]
    fn a_workspace_that_nobody_reports_on_points_to_the_controller() {
        let text = "
kind: Workspace
apiVersion: kaito.sh/v1beta1
metadata: {name: phi, namespace: default}
resource: {labelSelector: {}}
inference: {preset: {name: phi-4}}
";
        let found = chain(&yaml(text));
        assert_eq!(found.links.len(), 1);
        assert!(
            found.links[0]
                .unblock
                .as_ref()
                .unwrap()
                .contains("kaito-scheduler")
        );
    }
}
