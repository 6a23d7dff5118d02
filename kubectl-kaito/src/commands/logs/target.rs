//! From a target to pods, and from a pod to its logs.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kaito_api::names;
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use kube::core::Selector;
use tokio::time::{Instant, sleep};

use super::question::{Containers, Question, Target, Workload};
use crate::cluster::Cluster;
use crate::error::Failure;
use crate::logs::{Source, containers, default_container, order_pods};
use crate::output::printer::Printer;

/// How often a workload without pods is looked at again.
const POLL: Duration = Duration::from_millis(500);

/// What the API server is asked for: one pod by name, or pods by label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pods {
    /// The pod of this name.
    Named(String),
    /// Pods with these labels.
    Labelled(String),
}

impl Pods {
    /// List parameters that select them.
    #[must_use]
    pub fn params(&self) -> ListParams {
        match self {
            Self::Named(name) => ListParams::default().fields(&format!("metadata.name={name}")),
            Self::Labelled(labels) => ListParams::default().labels(labels),
        }
    }

    /// Watch configuration that selects them.
    #[must_use]
    pub fn watcher(&self) -> kube::runtime::watcher::Config {
        let config = kube::runtime::watcher::Config::default();
        match self {
            Self::Named(name) => config.fields(&format!("metadata.name={name}")),
            Self::Labelled(labels) => config.labels(labels),
        }
    }
}

/// How to select the pods of the question's target. A workload's own selector is read; of its pods one is chosen
/// unless all are wanted.
///
/// # Errors
/// The target does not exist or cannot be read.
pub async fn select(
    question: &Question,
    cluster: &Cluster,
    printer: &Printer,
) -> Result<Pods, Failure> {
    match &question.target {
        Target::Pod(name) => Ok(Pods::Named(name.clone())),
        Target::Selector(labels) => Ok(Pods::Labelled(labels.clone())),
        Target::Workspace(name) => {
            let get = cluster.call("get workspaces.kaito.sh", async {
                cluster.workspaces().get(name).await
            });
            get.await.map_err(|failure| with_pod_hint(failure, name))?;
            Ok(Pods::Labelled(format!("{}={name}", names::LABEL_WORKSPACE)))
        }
        Target::Workload(kind, name) => {
            let labels = Pods::Labelled(workload_labels(cluster, *kind, name).await?);
            if question.all_pods {
                Ok(labels)
            } else {
                one_of(question, cluster, printer, &labels).await
            }
        }
    }
}

fn with_pod_hint(failure: Failure, name: &str) -> Failure {
    let missing = failure.lines().iter().any(|line| line.contains("NotFound"));
    if missing {
        failure.with_hint(format!(
            "A bare name is a Workspace; for a pod use pod/{name}."
        ))
    } else {
        failure
    }
}

async fn workload_labels(cluster: &Cluster, kind: Workload, name: &str) -> Result<String, Failure> {
    let client = || cluster.client().clone();
    let namespace = cluster.namespace();
    let selector = match kind {
        Workload::Deployment => {
            let api: Api<Deployment> = Api::namespaced(client(), namespace);
            let found = cluster.call("get deployments.apps", api.get(name)).await?;
            found.spec.map(|spec| spec.selector)
        }
        Workload::StatefulSet => {
            let api: Api<StatefulSet> = Api::namespaced(client(), namespace);
            let found = cluster.call("get statefulsets.apps", api.get(name)).await?;
            found.spec.map(|spec| spec.selector)
        }
        Workload::Job => {
            let api: Api<Job> = Api::namespaced(client(), namespace);
            let found = cluster.call("get jobs.batch", api.get(name)).await?;
            found.spec.and_then(|spec| spec.selector)
        }
    };
    label_text(selector.unwrap_or_default()).ok_or_else(|| {
        Failure::error(format!(
            "{name} has no label selector, so its pods cannot be found"
        ))
    })
}

/// The selector as a query, or `None` if it selects everything or cannot be read.
fn label_text(selector: LabelSelector) -> Option<String> {
    let selector: Selector = selector.try_into().ok()?;
    if selector.selects_all() {
        None
    } else {
        Some(selector.to_string())
    }
}

async fn one_of(
    question: &Question,
    cluster: &Cluster,
    printer: &Printer,
    labels: &Pods,
) -> Result<Pods, Failure> {
    let deadline = Instant::now() + question.running_timeout.unwrap_or_default();
    loop {
        let mut pods = list(cluster, labels).await?;
        order_pods(&mut pods);
        if let Some(first) = pods.first() {
            if pods.len() > 1 {
                printer.note(&format!(
                    "Found {} pods, using pod/{}",
                    pods.len(),
                    first.name_any()
                ))?;
            }
            return Ok(Pods::Named(first.name_any()));
        }
        if Instant::now() >= deadline {
            return Err(Failure::error("timed out waiting for the condition")
                .with_hint("The workload has no pods; --pod-running-timeout waits longer."));
        }
        sleep(POLL).await;
    }
}

/// The pods as they are now, by name.
///
/// # Errors
/// They cannot be listed.
pub async fn list(cluster: &Cluster, pods: &Pods) -> Result<Vec<Pod>, Failure> {
    let api: Api<Pod> = cluster.namespaced();
    let mut found = cluster
        .call("list pods", api.list(&pods.params()))
        .await?
        .items;
    found.sort_by_key(ResourceExt::name_any);
    Ok(found)
}

/// The logs of a pod that the question means. Notes about a choice are added to `notes`, each once.
///
/// # Errors
/// The container named is not one of the pod's.
pub fn sources(
    question: &Question,
    pod: &Pod,
    notes: &mut BTreeMap<String, ()>,
) -> Result<Vec<Source>, Failure> {
    let wanted = match &question.containers {
        Containers::All => containers(pod),
        Containers::Named(name) if containers(pod).contains(name) => vec![name.clone()],
        Containers::Named(name) => {
            return Err(Failure::error(format!(
                "container {name} is not valid for pod {}",
                pod.name_any()
            ))
            .with_hint(format!("It has: {}", containers(pod).join(", "))));
        }
        Containers::Default => {
            let (name, note) = default_container(pod).unzip();
            notes.extend(note.flatten().map(|note| (note, ())));
            name.into_iter().collect()
        }
    };
    let uid = pod.uid().unwrap_or_default();
    let source = |container| Source {
        pod: pod.name_any(),
        uid: uid.clone(),
        container,
    };
    Ok(wanted.into_iter().map(source).collect())
}

/// Which nodes are simulated: they run no container, so they have no logs.
#[derive(Debug, Default)]
pub struct Simulated {
    known: HashMap<String, bool>,
}

impl Simulated {
    /// Whether `pod` runs on a simulated node. A node that cannot be read counts as real: then the request for its log
    /// says what is wrong.
    pub async fn holds(&mut self, cluster: &Cluster, pod: &Pod) -> bool {
        let Some(node) = crate::view::facts::node_of(pod) else {
            return false;
        };
        if let Some(known) = self.known.get(&node) {
            return *known;
        }
        let api: Api<Node> = Api::all(cluster.client().clone());
        let found = cluster.attempt(api.get_metadata(&node)).await;
        let simulated = found.is_ok_and(|node| {
            node.labels()
                .get(names::LABEL_SIMULATED)
                .is_some_and(|v| v == "true")
        });
        self.known.insert(node, simulated);
        simulated
    }
}

/// What is said instead of the log of a pod on a simulated node.
#[must_use]
pub fn emulated_note(pod: &Pod) -> String {
    let node = crate::view::facts::node_of(pod).unwrap_or_default();
    format!(
        "pod/{}: emulated: node {node} is simulated, no container runs there and none writes a log",
        pod.name_any()
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::{label_text, sources};
    use crate::commands::logs::question::{Containers, Question, Since, Target};
    use crate::logs::write::Shape;

    fn question(containers: Containers) -> Question {
        Question {
            target: Target::Workspace("phi".to_owned()),
            containers,
            all_pods: false,
            follow: false,
            previous: false,
            since: Since::Beginning,
            tail: None,
            limit_bytes: None,
            max_streams: 5,
            ignore_errors: false,
            running_timeout: None,
            insecure_backend: false,
            shape: Shape::default(),
        }
    }

    fn pod() -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": {
            "initContainers": [{"name": "init"}], "containers": [{"name": "main"}]}}))
        .unwrap()
    }

    #[test]
    fn a_container_that_the_pod_lacks_is_refused_with_those_it_has() {
        let failure = sources(
            &question(Containers::Named("x".to_owned())),
            &pod(),
            &mut BTreeMap::new(),
        )
        .unwrap_err();
        assert_eq!(
            failure.lines()[0],
            "error: container x is not valid for pod p"
        );
        assert_eq!(failure.lines()[1], "It has: init, main");
    }

    #[test]
    fn the_defaulting_note_comes_once_for_all_pods() {
        let mut notes = BTreeMap::new();
        for _ in 0..2 {
            assert_eq!(
                sources(&question(Containers::Default), &pod(), &mut notes)
                    .unwrap()
                    .len(),
                1
            );
        }
        assert_eq!(notes.len(), 1);
        assert_eq!(
            sources(&question(Containers::All), &pod(), &mut notes)
                .unwrap()
                .len(),
            2
        );
    }

    #[test]
    fn a_selector_that_selects_everything_is_not_used() {
        let selector = serde_json::from_value(json!({"matchLabels": {"a": "b"}})).unwrap();
        assert_eq!(label_text(selector).as_deref(), Some("a=b"));
        assert_eq!(label_text(serde_json::from_value(json!({})).unwrap()), None);
    }
}
