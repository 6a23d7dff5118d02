//! When what happened to which Workspace, as a client sees it on its watches.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kaito_api::names::LABEL_WORKSPACE;
use kube::api::DynamicObject;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, ResourceExt};
use tokio::sync::watch;

/// First time of each step, and what is there now. Keys are names of Workspaces.
#[derive(Debug, Default)]
pub(crate) struct Times {
    /// A pod of it was bound to a node.
    pub(crate) bound: BTreeMap<String, Instant>,
    /// Its condition `WorkspaceReady` became true.
    pub(crate) ready: BTreeMap<String, Instant>,
    /// Names of pods that exist.
    pub(crate) pods: BTreeSet<String>,
    /// Names of Workspaces that exist.
    pub(crate) workspaces: BTreeSet<String>,
}

/// Follows pods and Workspaces until it is dropped.
pub(crate) struct Recorder {
    times: watch::Receiver<Times>,
    tasks: [tokio::task::JoinHandle<()>; 2],
}

impl Recorder {
    pub(crate) fn start(pods: Api<Pod>, workspaces: Api<DynamicObject>) -> Self {
        let (sender, times) = watch::channel(Times::default());
        let of_pods = sender.clone();
        let tasks = [
            tokio::spawn(async move {
                watcher(pods, Config::default())
                    .for_each(async |event| of_pods.send_modify(|times| times.take_pod(event)))
                    .await;
            }),
            tokio::spawn(async move {
                watcher(workspaces, Config::default())
                    .for_each(async |event| sender.send_modify(|times| times.take_workspace(event)))
                    .await;
            }),
        ];
        Self { times, tasks }
    }

    /// Waits until `done` says so and returns what it gives.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        mut done: impl FnMut(&Times) -> Option<T>,
    ) -> Result<T> {
        let mut times = self.times.clone();
        let wait = async {
            loop {
                let found = done(&times.borrow_and_update());
                if let Some(found) = found {
                    return Ok(found);
                }
                times.changed().await.context("the watches have ended")?;
            }
        };
        let waited = tokio::time::timeout(limit, wait).await;
        waited.with_context(|| format!("{what} not within {} s", limit.as_secs()))?
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Times {
    fn take_pod(&mut self, event: Result<Event<Pod>, kube::runtime::watcher::Error>) {
        match event {
            Ok(Event::Apply(pod) | Event::InitApply(pod)) => {
                self.pods.insert(pod.name_any());
                let bound = pod
                    .spec
                    .as_ref()
                    .is_some_and(|spec| spec.node_name.is_some());
                if let (true, Some(workspace)) = (bound, pod.labels().get(LABEL_WORKSPACE)) {
                    self.bound
                        .entry(workspace.clone())
                        .or_insert_with(Instant::now);
                }
            }
            Ok(Event::Delete(pod)) => {
                self.pods.remove(&pod.name_any());
            }
            Ok(Event::Init | Event::InitDone) | Err(_) => {}
        }
    }

    fn take_workspace(
        &mut self,
        event: Result<Event<DynamicObject>, kube::runtime::watcher::Error>,
    ) {
        match event {
            Ok(Event::Apply(workspace) | Event::InitApply(workspace)) => {
                self.workspaces.insert(workspace.name_any());
                if is_ready(&workspace) {
                    self.ready
                        .entry(workspace.name_any())
                        .or_insert_with(Instant::now);
                }
            }
            Ok(Event::Delete(workspace)) => {
                self.workspaces.remove(&workspace.name_any());
            }
            Ok(Event::Init | Event::InitDone) | Err(_) => {}
        }
    }
}

fn is_ready(workspace: &DynamicObject) -> bool {
    let conditions = workspace
        .data
        .pointer("/status/conditions")
        .and_then(|list| list.as_array());
    conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "WorkspaceReady" && condition["status"] == "True")
}
