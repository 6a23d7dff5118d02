//! What a Workspace's nodes amount to: claims made and ready, nodes ready and showing their GPUs.

use kaito_api::{NodeClaim, conditions, nodeclaim};
use kaito_snapshot::node;
use kaito_snapshot::sizing::NodeMode;

use super::{Observed, Word, blocker_name, holds, lacks, placed_pods, replicas};
use crate::shared::Verdict;

/// Words on claims, on nodes, and on both together.
pub(super) struct Resource {
    pub(super) claims: Word,
    pub(super) nodes: Word,
    pub(super) both: Word,
}

/// What is said of the nodes; a job that has ended needs none.
pub(super) fn resource(observed: &Observed, finished: bool) -> Resource {
    let claims = if finished {
        holds("NodeClaimsReady", "the job has ended")
    } else {
        claims(observed)
    };
    let nodes = if finished {
        holds("NodesReady", "the job has ended")
    } else {
        nodes(observed)
    };
    let both = match (claims.0, nodes.0, observed.mode) {
        (conditions::Status::True, conditions::Status::True, _)
        | (_, conditions::Status::True, NodeMode::OwnNodes) => {
            holds("workspaceResourceStatusSuccess", "all nodes are ready")
        }
        (conditions::Status::True, ..) | (.., NodeMode::OwnNodes) => {
            lacks(&nodes.1, nodes.2.clone())
        }
        _ => lacks(&claims.1, claims.2.clone()),
    };
    Resource {
        claims,
        nodes,
        both,
    }
}

fn claims(observed: &Observed) -> Word {
    if let Some(waiting) = observed.awaited.iter().find_map(|claim| stage(claim)) {
        return waiting;
    }
    let bought = observed
        .nodes
        .iter()
        .filter_map(|(_, _, claim)| claim.as_ref());
    if let Some(waiting) = bought.clone().find_map(stage) {
        return waiting;
    }
    if placed_pods(observed) >= replicas(observed) {
        return match bought.count() {
            0 => holds(
                "NodeClaimsReady",
                "existing nodes are used; no node had to be bought",
            ),
            count => holds("NodeClaimsReady", format!("{count} node claims are ready")),
        };
    }
    match &observed.verdict {
        Some(Verdict::Waiting { blocker, message }) => {
            lacks(blocker_name(blocker), message.clone())
        }
        _ => lacks("NodeClaimNotReady", "no node has been chosen yet"),
    }
}

/// The earliest stage that a claim has not reached, in the provisioner's words.
fn stage(claim: &NodeClaim) -> Option<Word> {
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    if conditions::is_true(claim.conditions(), nodeclaim::READY) {
        return None;
    }
    let stages = [
        nodeclaim::LAUNCHED,
        nodeclaim::REGISTERED,
        nodeclaim::INITIALIZED,
    ];
    let open = stages.iter().find_map(|stage| {
        claim
            .conditions()
            .iter()
            .find(|c| c.type_ == *stage && c.status != "True")
    });
    Some(match open {
        Some(open) => {
            let reason = if open.reason.is_empty() {
                "NodeClaimNotReady"
            } else {
                open.reason.as_str()
            };
            let message = format!("node claim {name} is not {}: {}", open.type_, open.message);
            lacks(reason, message)
        }
        None => lacks(
            "NodeClaimNotReady",
            format!("node claim {name} was just made"),
        ),
    })
}

fn nodes(observed: &Observed) -> Word {
    let wanted = replicas(observed);
    for (name, found, _) in &observed.nodes {
        let Some(found) = found else {
            return lacks("NodeNotReady", format!("node {name} is gone"));
        };
        if !node::is_ready(found) {
            return lacks("NodeNotReady", format!("node {name} is not ready"));
        }
        let gpus_wanted = observed.sizing.as_ref().is_ok_and(|sizing| sizing.gpus > 0);
        if gpus_wanted && node::allocatable_gpus(found) == 0 {
            return lacks(
                "NodePluginsNotReady",
                format!("node {name} shows no GPU yet"),
            );
        }
    }
    if placed_pods(observed) >= wanted {
        holds(
            "NodesReady",
            format!("{} nodes are ready", observed.nodes.len()),
        )
    } else {
        lacks("NodeNotReady", "pods are waiting for nodes")
    }
}
