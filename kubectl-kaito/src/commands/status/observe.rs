//! Reads a Workspace and what hangs on it. Every read but the Workspace itself may fail; it then becomes a note.

use std::collections::BTreeSet;

use futures::future::join_all;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Node, Pod, Service};
use kaito_api::{NodeClaim, Workspace, names};
use kube::ResourceExt;
use kube::api::{Api, ListParams, LogParams};
use serde::de::DeserializeOwned;

use crate::cluster::{CallError, Cluster};
use crate::error::Failure;
use crate::logs::select::has_started;
use crate::view::facts::{Facts, claim_of_node, node_of, node_of_claim};
use crate::view::training::Training;

/// Lines of a trainer's log that are looked at: its last steps and what libraries write between them.
const TRAINER_LINES: i64 = 100;
/// Objects per page.
const PAGE: u32 = 500;

/// Reads everything about Workspace `name` of the cluster's namespace.
///
/// # Errors
/// The Workspace itself cannot be read.
pub async fn observe(cluster: &Cluster, name: &str) -> Result<Facts, Failure> {
    let workspaces = cluster.workspaces();
    let found = cluster
        .call("get workspaces.kaito.sh", workspaces.get(name))
        .await?;
    let workspace: Workspace = found
        .try_parse()
        .map_err(|error| Failure::error(format!("cannot read workspace {name:?}: {error}")))?;
    let mut facts = read_namespace(cluster, name).await;
    facts.workspace = workspace;
    read_machines(cluster, &mut facts).await;
    let mut facts = facts.narrowed();
    read_training(cluster, &mut facts).await;
    Ok(facts)
}

/// What the trainer said last. On a simulated node there is none, and a log that cannot be read for another reason than
/// a missing right has gone with its pod: the next look will tell.
async fn read_training(cluster: &Cluster, facts: &mut Facts) {
    if !facts.is_tuning() || facts.nodes.iter().any(is_simulated) {
        return;
    }
    let started = |pod: &&Pod| has_started(pod, names::TRAINER_CONTAINER);
    let youngest = |pod: &&Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let Some(pod) = facts.pods.iter().filter(started).max_by_key(youngest) else {
        return;
    };
    let params = LogParams {
        container: Some(names::TRAINER_CONTAINER.to_owned()),
        tail_lines: Some(TRAINER_LINES),
        ..LogParams::default()
    };
    let pods: Api<Pod> = cluster.namespaced();
    let name = pod.name_any();
    let answer = cluster.attempt(pods.logs(&name, &params)).await;
    match answer {
        Ok(log) => facts.training = Training::read(&log),
        Err(error) if is_forbidden(&error) => {
            let _none: Option<String> = noted(&mut facts.notes, "pods/log", Err(error));
        }
        Err(_) => {}
    }
}

fn is_simulated(node: &Node) -> bool {
    let label = node.labels().get(names::LABEL_SIMULATED);
    label.is_some_and(|value| value == "true")
}

fn is_forbidden(error: &CallError) -> bool {
    matches!(error, CallError::Request(kube::Error::Api(status)) if status.code == 403)
}

/// What lives in the namespace, and the claims that carry the Workspace's labels: all at once.
async fn read_namespace(cluster: &Cluster, name: &str) -> Facts {
    let (workloads, mut facts) =
        futures::join!(read_workloads(cluster, name), read_labelled(cluster, name));
    facts.deployments = workloads.deployments;
    facts.stateful_sets = workloads.stateful_sets;
    facts.jobs = workloads.jobs;
    facts.services = workloads.services;
    facts.notes.splice(0..0, workloads.notes);
    facts
}

/// What carries the Workspace's name.
async fn read_workloads(cluster: &Cluster, name: &str) -> Facts {
    let headless = format!("{name}-headless");
    let (deployment, stateful_set, job, service, second_service) = futures::join!(
        get::<Deployment>(cluster, cluster.namespaced(), name),
        get::<StatefulSet>(cluster, cluster.namespaced(), name),
        get::<Job>(cluster, cluster.namespaced(), name),
        get::<Service>(cluster, cluster.namespaced(), name),
        get::<Service>(cluster, cluster.namespaced(), &headless),
    );
    let mut facts = Facts::default();
    let notes = &mut facts.notes;
    let services = [service, second_service];
    facts
        .deployments
        .extend(noted(notes, "deployments", deployment).flatten());
    facts
        .stateful_sets
        .extend(noted(notes, "statefulsets", stateful_set).flatten());
    facts.jobs.extend(noted(notes, "jobs", job).flatten());
    for service in services {
        facts
            .services
            .extend(noted(notes, "services", service).flatten());
    }
    facts
}

/// What carries the Workspace's label, and events.
async fn read_labelled(cluster: &Cluster, name: &str) -> Facts {
    let ours = format!("{}={name}", names::LABEL_WORKSPACE);
    let claims = format!(
        "{ours},{}={}",
        names::LABEL_WORKSPACE_NAMESPACE,
        cluster.namespace()
    );
    let everywhere = Api::all(cluster.client().clone());
    // Events about cluster-scoped objects are kept in the default namespace.
    let default = Api::namespaced(cluster.client().clone(), "default");
    let about_claims = ListParams::default().fields("involvedObject.kind=NodeClaim");
    let (pods, claims, events, claim_events) = futures::join!(
        list::<Pod>(
            cluster,
            cluster.namespaced(),
            ListParams::default().labels(&ours)
        ),
        list::<NodeClaim>(cluster, everywhere, ListParams::default().labels(&claims)),
        list::<Event>(cluster, cluster.namespaced(), ListParams::default()),
        list::<Event>(cluster, default, about_claims),
    );
    let mut facts = Facts::default();
    let notes = &mut facts.notes;
    facts.pods = noted(notes, "pods", pods).unwrap_or_default();
    facts.claims = noted(notes, "nodeclaims", claims).unwrap_or_default();
    facts.events = noted(notes, "events", events).unwrap_or_default();
    if cluster.namespace() != "default" {
        let more = noted(notes, "events in namespace default", claim_events);
        facts.events.extend(more.unwrap_or_default());
    }
    facts
}

/// Nodes of pods and claims, then the claims of shared nodes.
async fn read_machines(cluster: &Cluster, facts: &mut Facts) {
    let of_pods = facts.pods.iter().filter_map(node_of);
    let wanted: BTreeSet<String> = of_pods
        .chain(facts.claims.iter().filter_map(node_of_claim))
        .collect();
    let nodes: Api<Node> = Api::all(cluster.client().clone());
    let found = join_all(wanted.iter().map(|name| get(cluster, nodes.clone(), name))).await;
    for answer in found {
        facts
            .nodes
            .extend(noted(&mut facts.notes, "nodes", answer).flatten());
    }
    let known: BTreeSet<String> = facts.claims.iter().map(ResourceExt::name_any).collect();
    let shared: BTreeSet<String> = facts
        .nodes
        .iter()
        .filter_map(claim_of_node)
        .filter(|name| !known.contains(name))
        .collect();
    let claims: Api<NodeClaim> = Api::all(cluster.client().clone());
    let found = join_all(shared.iter().map(|name| get(cluster, claims.clone(), name))).await;
    for answer in found {
        facts
            .claims
            .extend(noted(&mut facts.notes, "nodeclaims", answer).flatten());
    }
}

async fn get<K>(cluster: &Cluster, api: Api<K>, name: &str) -> Result<Option<K>, CallError>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    absent_is_none(cluster.attempt(api.get(name)).await)
}

async fn list<K>(cluster: &Cluster, api: Api<K>, params: ListParams) -> Result<Vec<K>, CallError>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut all = Vec::new();
    let mut params = params.limit(PAGE);
    loop {
        let Some(page) = absent_is_none(cluster.attempt(api.list(&params)).await)? else {
            return Ok(all);
        };
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(all),
        }
    }
}

/// Neither a missing object nor a missing resource type (no Karpenter here) is worth a note.
fn absent_is_none<T>(answer: Result<T, CallError>) -> Result<Option<T>, CallError> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(CallError::Request(kube::Error::Api(status))) if status.code == 404 => Ok(None),
        Err(error) => Err(error),
    }
}

/// The answer, or a note why there is none; the same note only once.
fn noted<T>(notes: &mut Vec<String>, what: &str, answer: Result<T, CallError>) -> Option<T> {
    let error = match answer {
        Ok(found) => return Some(found),
        Err(error) => error,
    };
    let note = match error {
        CallError::Request(kube::Error::Api(status)) if status.code == 403 => {
            format!("{what}: forbidden (needs get and list of {what})")
        }
        CallError::Request(kube::Error::Api(status)) => format!("{what}: {}", status.message),
        CallError::Request(error) => format!("{what}: {error}"),
        error @ CallError::TimedOut(_) => format!("{what}: {error}"),
    };
    if !notes.contains(&note) {
        notes.push(note);
    }
    None
}
