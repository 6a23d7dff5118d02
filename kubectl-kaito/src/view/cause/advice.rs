//! What would unblock a cause, in one sentence each. Advice names an action of the user, never a hope.

use kube::ResourceExt;

use crate::view::facts::Facts;
use crate::view::pod::Trouble;

/// ` -n NAMESPACE` for commands that are printed, empty in the default namespace.
#[must_use]
pub fn namespace_flag(facts: &Facts) -> String {
    match facts.workspace.namespace() {
        Some(namespace) if namespace != "default" => format!(" -n {namespace}"),
        _ => String::new(),
    }
}

/// Advice for a verdict of the planner, by the reason of condition `Placed`.
#[must_use]
pub fn placement(reason: &str) -> Option<String> {
    let advice = match reason {
        "NodesLaunching" => "nothing to do: the nodes have been ordered",
        "PodsLeaving" => "nothing to do: pods of lower priority are making place",
        "NoNodeFits" => {
            "free or add GPUs on nodes that match resource.labelSelector, or let nodes be bought"
        }
        "NoInstanceTypeFits" => {
            "ask for a shorter context, less concurrency, or a larger instance type"
        }
        "UnknownInstanceType" => "use an instance type of the catalogue in resource.instanceType",
        "OffersBlocked" => {
            "raise the cloud quota, or leave resource.instanceType out so that another type may be bought"
        }
        "CannotBeSized" => {
            "correct the Workspace as the message says; it is tried again on every change"
        }
        "Planning" => "nothing to do: the scheduler is about to decide",
        _ => return None,
    };
    Some(advice.to_owned())
}

/// Advice for a claim that does not become a node, by condition reason and message.
#[must_use]
pub fn claim(reason: &str, message: &str) -> Option<String> {
    let text = format!("{reason} {message}").to_lowercase();
    let advice = if text.contains("quota") {
        "ask the cloud for more quota of this family, or choose another instance type or region"
    } else if text.contains("capacity")
        || text.contains("allocation")
        || text.contains("overconstrained")
    {
        "the cloud has none to give now: another type, zone or region, or wait for the next try"
    } else if text.contains("skunotavailable")
        || text.contains("not supported")
        || text.contains("invalid")
    {
        "the instance type is not offered here: choose another"
    } else if text.contains("unauthorized")
        || text.contains("forbidden")
        || text.contains("authorization")
    {
        "the provisioner's cloud identity lacks a permission; see its log"
    } else {
        return None;
    };
    Some(advice.to_owned())
}

/// Advice for a pod.
#[must_use]
pub fn pod(trouble: &Trouble) -> Option<String> {
    let advice = match trouble {
        Trouble::Gated => {
            "nothing to do here: the scheduler lifts the gate once it has a place for all its pods"
        }
        Trouble::Unschedulable(_) => {
            "the node that was chosen refuses the pod; the scheduler chooses again if it is deleted"
        }
        Trouble::Image(message) => image(message),
        Trouble::Start(_) => {
            "fix what the message names: a Secret, ConfigMap or volume that the container mounts"
        }
        Trouble::Crash(_) => "read the log of the run before",
        Trouble::OutOfMemory(_) => {
            "more host memory per pod: a larger instance type, or fewer workspaces on the node"
        }
        Trouble::Failed(_) => "read the log; the pod is not started again",
        Trouble::Starting => "nothing to do: the image is being pulled and the container created",
        Trouble::Loading => {
            "nothing to do while the start-up probe is within its window: weights are being loaded"
        }
        Trouble::Terminating => "wait for its grace period to end",
    };
    Some(advice.to_owned())
}

fn image(message: &str) -> &'static str {
    let text = message.to_lowercase();
    if text.contains("unauthorized")
        || text.contains("denied")
        || text.contains("forbidden")
        || text.contains("403")
    {
        "give the pod a pull secret that the registry accepts"
    } else if text.contains("not found") || text.contains("manifest unknown") {
        "the tag does not exist in the registry: correct the image"
    } else if text.contains("no such host") || text.contains("timeout") || text.contains("refused")
    {
        "the node cannot reach the registry: check name resolution, proxy and firewall"
    } else {
        "check the image name, the registry and the pull secret"
    }
}

/// Advice by the reason of a Workspace condition.
#[must_use]
pub fn outcome(reason: &str) -> Option<String> {
    let advice = match reason {
        "ModelMirrorNotReady" | "ModelMirrorPending" => {
            "the model is still being copied; see its ModelMirror"
        }
        "NodePluginsNotReady" => {
            "the GPU driver or device plugin on the node has not reported its GPUs yet"
        }
        "WorkspaceTuningJobStatusFailed" | "workspaceFailed" => {
            "read the log, correct the Workspace, and create it anew"
        }
        _ => return None,
    };
    Some(advice.to_owned())
}

#[cfg(test)]
mod tests {
    use super::{claim, pod};
    use crate::view::pod::Trouble;

    #[test]
    fn quota_and_capacity_get_different_advice() {
        assert!(
            claim("InsufficientCapacity", "QuotaExceeded: family")
                .unwrap()
                .contains("more quota")
        );
        assert!(
            claim("InsufficientCapacity", "no machines")
                .unwrap()
                .contains("none to give")
        );
        assert_eq!(claim("Unknown", "object is awaiting reconciliation"), None);
    }

    #[test]
    fn a_refused_pull_asks_for_a_secret_and_a_missing_tag_for_another_image() {
        let advice = |message: &str| pod(&Trouble::Image(message.to_owned())).unwrap();
        assert!(advice("401 Unauthorized").contains("pull secret"));
        assert!(advice("manifest unknown").contains("correct the image"));
        assert!(advice("lookup r: no such host").contains("cannot reach"));
    }
}
