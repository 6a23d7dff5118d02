//! From changes of objects to work: which Workspaces need a look, and whether placement has to think again.
//!
//! Only signals: no object is read beyond what says whom it concerns.

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kaito_api::{NodeClaim, Workspace, names};
use kaito_placement::plan::Blocker;
use kaito_snapshot::pod::{Stand, is_ours, stand, workspace_of};
use kube::{Resource, ResourceExt};

use crate::shared::{Shared, Verdict};
use crate::store::{Change, key};

fn either<K>(change: &Change<K>) -> Option<&K> {
    change.1.as_deref().or(change.0.as_deref())
}

/// A Workspace changed.
pub fn workspace(shared: &Shared, change: &Change<Workspace>) {
    if let Some(object) = either(change) {
        // Our own status writes come back as changes; they concern nobody.
        let (Some(old), Some(new)) = change else {
            shared.queue.add(key(object));
            return;
        };
        let status_only = old.metadata.generation == new.metadata.generation
            && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
            && old.metadata.annotations == new.metadata.annotations
            && old.metadata.finalizers == new.metadata.finalizers
            && old.metadata.uid == new.metadata.uid;
        if !status_only {
            shared.queue.add(key(object));
        }
    }
}

/// A Deployment, StatefulSet, Job or Service of a Workspace changed.
pub fn child<K: Resource<DynamicType = ()>>(shared: &Shared, change: &Change<K>) {
    let Some(object) = either(change) else { return };
    shared.shown::<K>(&key(object));
    if let Some(name) = object.labels().get(names::LABEL_WORKSPACE) {
        let namespace = object.namespace().unwrap_or_default();
        shared.queue.add((namespace, name.clone()));
    }
}

/// A pod changed: it may wait for a place, take one, or leave one.
pub fn pod(shared: &Shared, change: &Change<Pod>) {
    let Some(object) = either(change) else { return };
    let place = |pod: Option<&Pod>| {
        pod.map(|pod| {
            (
                stand(pod),
                pod.metadata.deletion_timestamp.is_some(),
                pod.uid(),
            )
        })
    };
    if place(change.0.as_deref()) != place(change.1.as_deref()) {
        let held = |pod: Option<&Pod>| pod.is_some_and(|pod| matches!(stand(pod), Stand::On(_)));
        let ours = is_ours(object);
        if ours || held(change.0.as_deref()) || held(change.1.as_deref()) {
            shared.placement.notify_one();
        }
    }
    if let Some(name) = workspace_of(object) {
        let namespace = object.namespace().unwrap_or_default();
        shared.queue.add((namespace, name.to_owned()));
    }
}

/// A claim changed: it may become a node, or have been refused.
pub fn claim(shared: &Shared, change: &Change<NodeClaim>) {
    let Some(object) = either(change) else { return };
    shared.note_claim(change.0.as_deref(), change.1.as_ref());
    shared.placement.notify_one();
    let name = object.name_any();
    for workspace in shared.stores.workspaces.all() {
        let own = key(workspace.as_ref());
        let waits = matches!(
            shared.verdict(&own),
            Some(Verdict::Waiting { blocker: Blocker::NodesLaunching { claims, .. }, .. })
                if claims.contains(&name)
        );
        let bought = object.labels().get(names::LABEL_WORKSPACE) == Some(&own.1)
            && object.labels().get(names::LABEL_WORKSPACE_NAMESPACE) == Some(&own.0);
        if waits || bought {
            shared.queue.add(own);
        }
    }
}

/// A disruption budget changed: it may let somebody go now.
pub fn budget(shared: &Shared, change: &Change<PodDisruptionBudget>) {
    let allowed = |budget: Option<&PodDisruptionBudget>| {
        budget.map(|budget| {
            let status = budget.status.as_ref();
            (
                budget.metadata.generation,
                status.and_then(|status| status.observed_generation),
                status.map(|status| status.disruptions_allowed),
            )
        })
    };
    if allowed(change.0.as_deref()) != allowed(change.1.as_deref()) {
        shared.placement.notify_one();
    }
}

/// A node changed. Heartbeats change only condition times, which concern nobody.
pub fn node(shared: &Shared, change: &Change<Node>) {
    let facts = |node: Option<&Node>| {
        node.map(|node| {
            (
                node.metadata.labels.clone(),
                node.metadata.deletion_timestamp.clone(),
                node.spec.clone(),
                node.status
                    .as_ref()
                    .and_then(|status| status.allocatable.clone()),
                kaito_snapshot::node::is_ready(node),
            )
        })
    };
    if facts(change.0.as_deref()) == facts(change.1.as_deref()) {
        return;
    }
    shared.placement.notify_one();
    let Some(object) = either(change) else { return };
    let name = object.name_any();
    for found in shared
        .stores
        .pods
        .filter(|pod| stand(pod) == Stand::On(name.clone()))
    {
        if let Some(workspace) = workspace_of(&found) {
            shared
                .queue
                .add((found.namespace().unwrap_or_default(), workspace.to_owned()));
        }
    }
}
