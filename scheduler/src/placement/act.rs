//! Carries a plan out: pins pods and lifts gates, orders nodes, gives nodes back. It makes no choice.

use std::collections::BTreeMap;

use futures::StreamExt;
use futures::stream;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kaito_api::nodeclaim::{NodeClaimSpec, NodeClassReference, Requirement, ResourceRequests};
use kaito_api::{NodeClaim, Workspace, names};
use kaito_placement::plan::{Assignment, Plan, PlannedNode, Release};
use kaito_placement::snapshot::{CapacityType, LABEL_CAPACITY_TYPE, LABEL_ZONE};
use kaito_snapshot::cluster::{self, Objects};
use kaito_snapshot::sizing::Sizing;
use kube::ResourceExt;
use kube::api::ObjectMeta;
use kube::runtime::events::{Event, EventType};
use serde_json::json;
use std::sync::Arc;

use super::memory::LoopMemory;
use super::split;
use crate::shared::Shared;
use crate::store::Key;
use crate::writer::Error;

/// Writes under way at once.
const CONCURRENCY: usize = 32;
/// Disk asked for when the model does not say.
const DEFAULT_DISK_GIB: u32 = 1024;

/// Carries out `plan`; whether something failed that a new round should look at soon.
pub async fn carry_out(
    shared: &Shared,
    memory: &mut LoopMemory,
    objects: &Objects,
    plan: Plan,
) -> bool {
    let Plan {
        assignments,
        purchases,
        releases,
        waiting: _,
        holds: _,
        next_change_seconds: _,
    } = plan;
    let mut failed = assign(shared, memory, objects, assignments).await;
    for purchase in &purchases {
        match buy(shared, objects, purchase).await {
            Ok(claim) => {
                shared.metrics.purchases.inc();
                memory.order(claim);
            }
            Err(error) => failed |= note(&error),
        }
    }
    for release in &releases {
        match give_back(shared, release).await {
            Ok(()) => {
                shared.metrics.releases.inc();
            }
            Err(error) => failed |= note(&error),
        }
    }
    failed
}

fn note(error: &Error) -> bool {
    if error.is_stale() {
        tracing::debug!(
            error = crate::error_chain(error),
            "the plan met a change; planning again"
        );
    } else {
        tracing::warn!(
            error = crate::error_chain(error),
            "a step of the plan failed"
        );
    }
    true
}

/// Pods with their nodes, all of a plan at once. The memory holds the promise before the first byte is sent, so that
/// no later round can promise the same GPU while an answer is outstanding.
async fn assign(
    shared: &Shared,
    memory: &mut LoopMemory,
    objects: &Objects,
    assignments: Vec<Assignment>,
) -> bool {
    let mut pins: Vec<(Key, String)> = Vec::new();
    for assignment in &assignments {
        let (namespace, _) = split(&assignment.demand);
        for member in &assignment.members {
            let pod = (namespace.clone(), member.member.clone());
            memory.pin(pod.clone(), member.node.clone());
            pins.push((pod, member.node.clone()));
        }
        label_nodes(shared, assignment).await;
    }
    let hosts: BTreeMap<String, String> = cluster::nodes_by_host(&objects.nodes)
        .into_iter()
        .map(|(host, name)| (name, host))
        .collect();
    let writes = pins.into_iter().map(|(pod, node)| {
        let host = hosts.get(&node).cloned().unwrap_or(node);
        async move {
            let result = pin(shared, &pod, &host).await;
            (pod, result)
        }
    });
    let results: Vec<_> = stream::iter(writes)
        .buffer_unordered(CONCURRENCY)
        .collect()
        .await;
    let mut failed = false;
    for (pod, result) in results {
        match result {
            Ok(()) => {
                shared.metrics.assignments.inc();
            }
            Err(error) => {
                // Without an answer the pin may hold: the promise stays until the store shows the pod.
                if error.is_stale() {
                    memory.unpin(&pod);
                }
                failed |= note(&error);
            }
        }
    }
    failed
}

/// Pins a pod to a node and lifts its gate in one patch that tests both the pod's identity and the gate.
async fn pin(shared: &Shared, key: &Key, host: &str) -> Result<(), Error> {
    let api = shared.writer.namespaced::<Pod>(key);
    let Some(found) = shared.stores.pods.get(key) else {
        return Ok(());
    };
    let Some(spec) = found.spec.as_ref() else {
        return Ok(());
    };
    let gates = spec.scheduling_gates.as_deref().unwrap_or_default();
    let Some(position) = gates.iter().position(|gate| gate.name == names::GATE) else {
        return Ok(());
    };
    let gate = format!("/spec/schedulingGates/{position}");
    let mut selector = spec.node_selector.clone().unwrap_or_default();
    selector.insert(names::LABEL_HOSTNAME.to_owned(), host.to_owned());
    let operations = json!([
        {"op": "test", "path": "/metadata/uid", "value": found.uid()},
        {"op": "test", "path": format!("{gate}/name"), "value": names::GATE},
        {"op": "remove", "path": gate},
        {"op": "add", "path": "/spec/nodeSelector", "value": selector},
    ]);
    shared
        .writer
        .json_patch(&api, "placing", &key.1, operations)
        .await
        .map(drop)
}

/// Puts the labels of a Workspace's selector on bought nodes that it comes to share, where the keys are free, so
/// that `kubectl get nodes -l` finds them. Cosmetic: a failure is noted and nothing depends on it.
async fn label_nodes(shared: &Shared, assignment: &Assignment) {
    let Some(workspace) = shared.stores.workspaces.get(&split(&assignment.demand)) else {
        return;
    };
    let wanted = cluster::selector_labels(&workspace.spec.resource.label_selector);
    for member in &assignment.members {
        let key = (String::new(), member.node.clone());
        let Some(node) = shared.stores.nodes.get(&key) else {
            continue;
        };
        let bought = node
            .labels()
            .get(names::LABEL_NODEPOOL)
            .is_some_and(|p| p == names::NODEPOOL);
        let missing: BTreeMap<&String, &String> = wanted
            .iter()
            .filter(|(key, _)| !node.labels().contains_key(*key))
            .collect();
        if !bought || missing.is_empty() {
            continue;
        }
        let operations: Vec<_> = missing
            .iter()
            .map(|(key, value)| {
                let escaped = key.replace('~', "~0").replace('/', "~1");
                json!({"op": "add", "path": format!("/metadata/labels/{escaped}"), "value": value})
            })
            .collect();
        let api = shared.writer.cluster::<Node>();
        let patched = shared
            .writer
            .json_patch(&api, "labelling", &member.node, json!(operations));
        if let Err(error) = patched.await {
            tracing::info!(
                error = crate::error_chain(&error),
                "the node keeps its labels"
            );
        }
    }
}

/// Orders one node. The buyer holds a finalizer before the claim exists, so that no claim outlives its reason.
async fn buy(
    shared: &Shared,
    objects: &Objects,
    purchase: &PlannedNode,
) -> Result<NodeClaim, Error> {
    let key = split(&purchase.buyer);
    let found = objects
        .workspaces
        .iter()
        .find(|(workspace, _)| workspace.uid().as_deref() == Some(purchase.buyer_uid.as_str()));
    let claim = claim(purchase, &key, found);
    if let Some((workspace, _)) = found {
        hold(shared, &key, workspace).await?;
    }
    let api = shared.writer.cluster::<NodeClaim>();
    let created = shared.writer.create(&api, &claim).await?;
    if let Some((workspace, _)) = found {
        let event = Event {
            type_: EventType::Normal,
            reason: "NodeClaimCreated".to_owned(),
            note: Some(format!("{}: {}", claim.name_any(), purchase.reason)),
            action: "BuyNode".to_owned(),
            secondary: None,
        };
        shared.events.publish(event, workspace.as_ref()).await;
    }
    Ok(created.unwrap_or(claim))
}

/// Puts our finalizer on the buyer, unless it is there.
async fn hold(shared: &Shared, key: &Key, workspace: &Workspace) -> Result<(), Error> {
    let current = shared.stores.workspaces.get(key);
    let held = current.is_some_and(|current| {
        current.uid() == workspace.uid()
            && current
                .finalizers()
                .iter()
                .any(|name| name == names::FINALIZER)
    });
    if held {
        return Ok(());
    }
    let mut path = "/metadata/finalizers/-";
    let mut value = json!(names::FINALIZER);
    if workspace.finalizers().is_empty() {
        path = "/metadata/finalizers";
        value = json!([names::FINALIZER]);
    }
    let operations = json!([
        {"op": "test", "path": "/metadata/uid", "value": workspace.uid()},
        {"op": "add", "path": path, "value": value},
    ]);
    let api = shared.writer.namespaced::<Workspace>(key);
    shared
        .writer
        .json_patch(&api, "holding", &key.1, operations)
        .await
        .map(drop)
}

/// The claim for a planned node. Its name derives from buyer and ordinal, so a repeat meets the first one.
fn claim(
    purchase: &PlannedNode,
    buyer: &Key,
    found: Option<&(Arc<Workspace>, Arc<Sizing>)>,
) -> NodeClaim {
    let mut labels = found
        .map(|(w, _)| cluster::selector_labels(&w.spec.resource.label_selector))
        .unwrap_or_default();
    let owned = [
        (names::LABEL_NODEPOOL, names::NODEPOOL),
        (names::LABEL_WORKSPACE_NAMESPACE, buyer.0.as_str()),
        (names::LABEL_WORKSPACE, buyer.1.as_str()),
    ];
    labels.extend(owned.map(|(key, value)| (key.to_owned(), value.to_owned())));
    let family = found
        .and_then(|(w, _)| w.annotations().get(names::ANNOTATION_IMAGE_FAMILY).cloned())
        .map_or_else(
            || "ubuntu".to_owned(),
            |family| family.trim().to_lowercase(),
        );
    let annotations = BTreeMap::from([
        (
            names::ANNOTATION_DO_NOT_DISRUPT.to_owned(),
            "true".to_owned(),
        ),
        (names::ANNOTATION_IMAGE_FAMILY.to_owned(), family),
        (
            names::ANNOTATION_BUYER_UID.to_owned(),
            purchase.buyer_uid.clone(),
        ),
        (
            names::ANNOTATION_BUYER_ORDINAL.to_owned(),
            purchase.ordinal.to_string(),
        ),
    ]);
    let disk = found
        .and_then(|(_, sizing)| sizing.preset)
        .map(|preset| preset.disk_gib)
        .filter(|disk| *disk > 0)
        .unwrap_or(DEFAULT_DISK_GIB);
    NodeClaim {
        metadata: ObjectMeta {
            name: Some(names::claim_name(&purchase.buyer_uid, purchase.ordinal)),
            labels: Some(labels),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        spec: spec(purchase, disk),
        status: None,
    }
}

fn spec(purchase: &PlannedNode, disk_gib: u32) -> NodeClaimSpec {
    let only = |key: &str, value: &str| Requirement {
        key: key.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![value.to_owned()]),
        min_values: None,
    };
    let mut requirements = vec![
        only(names::LABEL_NODEPOOL, names::NODEPOOL),
        only(names::LABEL_INSTANCE_TYPE, &purchase.instance_type),
        only("kubernetes.io/os", "linux"),
    ];
    if !purchase.zone.is_empty() {
        requirements.push(only(LABEL_ZONE, &purchase.zone));
    }
    if purchase.capacity_type != CapacityType::OnDemand {
        requirements.push(only(LABEL_CAPACITY_TYPE, purchase.capacity_type.label()));
    }
    NodeClaimSpec {
        node_class_ref: NodeClassReference {
            group: names::GROUP.to_owned(),
            kind: "KaitoNodeClass".to_owned(),
            name: "default".to_owned(),
        },
        requirements,
        resources: Some(ResourceRequests {
            requests: Some(BTreeMap::from([(
                "storage".to_owned(),
                Quantity(format!("{disk_gib}Gi")),
            )])),
        }),
        taints: Some(vec![Taint {
            key: names::TAINT_SKU.to_owned(),
            value: Some("gpu".to_owned()),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        }]),
        startup_taints: None,
        // We decide when a node goes; it must not expire under a model.
        expire_after: Some("Never".to_owned()),
        termination_grace_period: None,
    }
}

async fn give_back(shared: &Shared, release: &Release) -> Result<(), Error> {
    let key = (String::new(), release.claim.clone());
    let Some(found) = shared.stores.claims.get(&key) else {
        return Ok(());
    };
    let api = shared.writer.cluster::<NodeClaim>();
    shared
        .writer
        .delete(&api, &release.claim, found.uid().as_deref())
        .await?;
    tracing::info!(
        claim = release.claim,
        reason = release.reason,
        "node given back"
    );
    if let Some(workspace) = super::memory::buyer(shared, &found) {
        let event = Event {
            type_: EventType::Normal,
            reason: "NodeClaimReleased".to_owned(),
            note: Some(format!("{}: {}", release.claim, release.reason)),
            action: "ReleaseNode".to_owned(),
            secondary: None,
        };
        shared.events.publish(event, workspace.as_ref()).await;
    }
    Ok(())
}
