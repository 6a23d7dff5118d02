//! Links from pods: gated, without a node, without an image, crashing, loading.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::{Depth, Link, advice, latest_warning};
use crate::view::facts::Facts;
use crate::view::pod::{self, Trouble};

/// Links of the Workspace's pods.
pub(super) fn links(facts: &Facts) -> Vec<Link> {
    facts
        .pods
        .iter()
        .filter_map(|item| link(facts, item))
        .collect()
}

fn link(facts: &Facts, item: &Pod) -> Option<Link> {
    let state = pod::state(item);
    let trouble = state.trouble?;
    let message = words(&trouble)
        .filter(|words| !words.is_empty())
        .or_else(|| latest_warning(facts, item.metadata.uid.as_deref()))
        .unwrap_or_default();
    Some(Link {
        depth: Depth::Pod,
        object: pod::reference(item),
        field: state.field,
        value: value(&trouble, &state.reason),
        message,
        since: state.since,
        unblock: advice::pod(&trouble),
        command: Some(command(facts, item, &trouble)),
    })
}

fn value(trouble: &Trouble, reason: &str) -> String {
    match trouble {
        Trouble::Loading => "Running, not ready".to_owned(),
        Trouble::OutOfMemory(_) if reason != "OOMKilled" => format!("{reason}, OOMKilled"),
        _ => reason.to_owned(),
    }
}

fn words(trouble: &Trouble) -> Option<String> {
    match trouble {
        Trouble::Unschedulable(text)
        | Trouble::Image(text)
        | Trouble::Start(text)
        | Trouble::Crash(text)
        | Trouble::OutOfMemory(text)
        | Trouble::Failed(text) => Some(text.clone()),
        Trouble::Gated => {
            Some("waits until a place is found for every pod of the Workspace".to_owned())
        }
        Trouble::Starting | Trouble::Loading | Trouble::Terminating => None,
    }
}

fn command(facts: &Facts, item: &Pod, trouble: &Trouble) -> String {
    let namespace = advice::namespace_flag(facts);
    let workspace = facts.workspace.name_any();
    match trouble {
        Trouble::Crash(_) | Trouble::OutOfMemory(_) if pod::has_previous_log(item) => {
            format!("kubectl kaito logs {workspace} --previous{namespace}")
        }
        Trouble::Crash(_) | Trouble::OutOfMemory(_) | Trouble::Failed(_) | Trouble::Loading => {
            format!("kubectl kaito logs {workspace} --tail 50{namespace}")
        }
        Trouble::Gated => format!("kubectl kaito plan {workspace}{namespace}"),
        _ => format!("kubectl describe pod {}{namespace}", item.name_any()),
    }
}
