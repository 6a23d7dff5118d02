//! Workspace → NodeClaim → Node, and Workspace → workload → Pod, and its Services, as rows.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Service};
use kaito_api::NodeClaim;
use kube::ResourceExt;
use serde::Serialize;

use super::facts::{Facts, claim_of_node, created, node_of, node_of_claim, readiness_of_node};
use super::phase::claim_stage;
use super::{pod, summary};

/// One object of the tree.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Branch {
    /// Kind.
    pub kind: &'static str,
    /// Name.
    pub name: String,
    /// UID; empty if the object was not read.
    pub uid: String,
    /// Ready, as a word or as `n/m`; `-` where the question does not arise.
    pub ready: String,
    /// Restarts; pods only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restarts: Option<i32>,
    /// The most specific reason for its state.
    pub reason: String,
    /// When it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// Objects below it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub children: Vec<Self>,
}

/// The tree of the Workspace.
#[must_use]
pub fn tree(facts: &Facts) -> Branch {
    let summary = summary::summary(facts);
    let ready = matches!(summary.phase.as_str(), "Ready" | "Succeeded");
    let mut root = branch(
        "Workspace",
        &facts.workspace,
        if ready { "True" } else { "False" },
        &summary.phase,
    );
    root.children = claims(facts);
    root.children.extend(nodes_without_claim(facts));
    root.children.extend(workloads(facts));
    root.children.extend(facts.services.iter().map(service));
    root
}

fn branch<K: ResourceExt>(kind: &'static str, object: &K, ready: &str, reason: &str) -> Branch {
    Branch {
        kind,
        name: object.name_any(),
        uid: object.uid().unwrap_or_default(),
        ready: ready.to_owned(),
        restarts: None,
        reason: reason.to_owned(),
        created: created(object.meta().creation_timestamp.as_ref()),
        children: Vec::new(),
    }
}

fn claims(facts: &Facts) -> Vec<Branch> {
    facts
        .claims
        .iter()
        .map(|claim| claim_branch(facts, claim))
        .collect()
}

fn claim_branch(facts: &Facts, claim: &NodeClaim) -> Branch {
    let stage = claim_stage(claim);
    let ready = if stage.is_none() { "True" } else { "False" };
    let reason = if claim.metadata.deletion_timestamp.is_some() {
        "Terminating".to_owned()
    } else {
        stage.map_or_else(
            || "Ready".to_owned(),
            |(stage, condition)| {
                condition.map_or_else(
                    || format!("Not{stage}"),
                    |condition| condition.reason.clone(),
                )
            },
        )
    };
    let mut found = branch("NodeClaim", claim, ready, &reason);
    let name = node_of_claim(claim);
    found.children = facts
        .nodes
        .iter()
        .filter(|node| {
            Some(node.name_any()) == name || claim_of_node(node) == Some(claim.name_any())
        })
        .map(node_branch)
        .collect();
    found
}

fn nodes_without_claim(facts: &Facts) -> Vec<Branch> {
    let claimed = |node: &Node| {
        facts.claims.iter().any(|claim| {
            node_of_claim(claim) == Some(node.name_any())
                || claim_of_node(node) == Some(claim.name_any())
        })
    };
    facts
        .nodes
        .iter()
        .filter(|node| !claimed(node))
        .map(node_branch)
        .collect()
}

fn node_branch(node: &Node) -> Branch {
    let ready = readiness_of_node(node);
    let cordoned = node
        .spec
        .as_ref()
        .and_then(|spec| spec.unschedulable)
        .unwrap_or_default();
    let word = ready.map_or("Unknown", |condition| condition.status.as_str());
    let reason = match ready {
        Some(condition) if condition.status == "True" && cordoned => "Cordoned".to_owned(),
        Some(condition) => condition.reason.clone().unwrap_or_default(),
        None => "NoStatus".to_owned(),
    };
    branch("Node", node, word, &reason)
}

fn workloads(facts: &Facts) -> Vec<Branch> {
    let deployments = facts.deployments.iter().map(|item| {
        let wanted = item.spec.as_ref().and_then(|spec| spec.replicas);
        let status = item.status.as_ref();
        let ready = status.and_then(|status| status.ready_replicas);
        replicas("Deployment", item, ready, wanted)
    });
    let stateful_sets = facts.stateful_sets.iter().map(|item| {
        let wanted = item.spec.as_ref().and_then(|spec| spec.replicas);
        let status = item.status.as_ref();
        let ready = status.and_then(|status| status.ready_replicas);
        replicas("StatefulSet", item, ready, wanted)
    });
    let jobs = facts.jobs.iter().map(|item| {
        let wanted = item.spec.as_ref().and_then(|spec| spec.completions);
        let status = item.status.as_ref();
        let succeeded = status.and_then(|status| status.succeeded);
        let ready = share(succeeded, wanted);
        branch("Job", item, &ready, &job_word(item))
    });
    let mut found = deployments.chain(stateful_sets).chain(jobs).collect();
    attach_pods(facts, &mut found);
    found
}

/// How many of the pods that are wanted (one, unless the workload says otherwise) are there.
fn share(have: Option<i32>, wanted: Option<i32>) -> String {
    format!("{}/{}", have.unwrap_or_default(), wanted.unwrap_or(1))
}

fn replicas(
    kind: &'static str,
    item: &impl ResourceExt,
    ready: Option<i32>,
    wanted: Option<i32>,
) -> Branch {
    let word = if ready.unwrap_or_default() >= wanted.unwrap_or(1) {
        "Available"
    } else {
        "Progressing"
    };
    branch(kind, item, &share(ready, wanted), word)
}

/// Pods go below the workload that owns them; there is at most one of the three kinds at a time except while one is
/// being replaced, and then the owner's kind decides.
fn attach_pods(facts: &Facts, workloads: &mut Vec<Branch>) {
    for item in &facts.pods {
        let found = pod_branch(item);
        let owner = item
            .owner_references()
            .iter()
            .find(|owner| owner.controller == Some(true));
        let kind = owner.map(|owner| {
            if owner.kind == "ReplicaSet" {
                "Deployment"
            } else {
                owner.kind.as_str()
            }
        });
        let place = workloads
            .iter_mut()
            .find(|workload| kind.is_none_or(|kind| workload.kind == kind));
        match place {
            Some(workload) if workload.kind != "Pod" => workload.children.push(found),
            _ => workloads.push(found),
        }
    }
}

fn pod_branch(item: &k8s_openapi::api::core::v1::Pod) -> Branch {
    let state = pod::state(item);
    let reason = match node_of(item) {
        Some(node) => format!("{} on {node}", state.reason),
        None => state.reason.clone(),
    };
    Branch {
        restarts: Some(state.restarts),
        ..branch("Pod", item, &state.ready, &reason)
    }
}

fn job_word(job: &k8s_openapi::api::batch::v1::Job) -> String {
    let status = job.status.as_ref();
    let conditions = status
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    let ended = conditions.iter().find(|condition| {
        matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True"
    });
    if let Some(ended) = ended {
        return ended
            .reason
            .clone()
            .filter(|reason| !reason.is_empty())
            .unwrap_or_else(|| ended.type_.clone());
    }
    let active = status.and_then(|status| status.active).unwrap_or_default();
    if active > 0 {
        "Running".to_owned()
    } else {
        "Pending".to_owned()
    }
}

fn service(item: &Service) -> Branch {
    let spec = item.spec.as_ref();
    let address = spec
        .and_then(|spec| spec.cluster_ip.as_deref())
        .unwrap_or("no address");
    let ports: Vec<String> = spec
        .and_then(|spec| spec.ports.as_deref())
        .unwrap_or_default()
        .iter()
        .map(|port| port.port.to_string())
        .collect();
    let address = if address == "None" {
        "headless"
    } else {
        address
    };
    branch(
        "Service",
        item,
        "-",
        &format!("{address}:{}", ports.join(",")),
    )
}

#[cfg(test)]
mod tests {
    use super::{Branch, tree};
    use crate::view::facts::tests::yaml;

    fn lines(branch: &Branch, depth: usize, out: &mut Vec<String>) {
        let indent = "  ".repeat(depth);
        out.push(format!(
            "{indent}{}/{} {} {}",
            branch.kind, branch.name, branch.ready, branch.reason
        ));
        for child in &branch.children {
            lines(child, depth + 1, out);
        }
    }

    #[test]
    fn objects_linked_by_labels_stand_where_they_belong() {
        let facts = yaml(crate::view::tests::LOADING);
        let mut out = Vec::new();
        lines(&tree(&facts), 0, &mut out);
        assert_eq!(
            out,
            [
                "Workspace/phi False Pending",
                "  NodeClaim/ws012345678 True Ready",
                "    Node/node-1 True KubeletReady",
                "  Deployment/phi 0/1 Progressing",
                "    Pod/phi-5d9-abc 0/1 Running on node-1",
                "  Service/phi - 10.0.0.7:80,29500",
            ]
        );
    }
}
