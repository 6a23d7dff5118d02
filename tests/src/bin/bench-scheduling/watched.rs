//! Which pod was bound where and when, as a client sees it on its watch.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, ResourceExt};
use tokio::sync::watch;

/// A pod's node, and when it was seen to have it.
#[derive(Debug, Clone)]
pub(crate) struct Bound {
    /// The node's name.
    pub(crate) node: String,
    /// When.
    pub(crate) at: Instant,
}

/// Bound pods by name.
pub(crate) type Places = BTreeMap<String, Bound>;

/// Follows pods until it is dropped.
pub(crate) struct Watched {
    places: watch::Receiver<Places>,
    task: tokio::task::JoinHandle<()>,
}

impl Watched {
    pub(crate) fn start(pods: Api<Pod>) -> Self {
        let (sender, places) = watch::channel(Places::new());
        let task = tokio::spawn(async move {
            watcher(pods, Config::default())
                .for_each(async |event| {
                    if let Ok(Event::Apply(pod) | Event::InitApply(pod)) = event {
                        sender.send_if_modified(|places| take(places, &pod));
                    }
                })
                .await;
        });
        Self { places, task }
    }

    /// Waits until `count` pods are bound, or none was for `quiet`; what is bound then.
    pub(crate) async fn settled(&self, count: usize, quiet: Duration) -> Result<Places> {
        let mut places = self.places.clone();
        loop {
            let now = places.borrow_and_update().clone();
            if now.len() >= count {
                return Ok(now);
            }
            match tokio::time::timeout(quiet, places.changed()).await {
                Ok(changed) => changed.context("the watch has ended")?,
                Err(_) => return Ok(now),
            }
            // One look per burst of bindings is enough: their times are taken by the watch.
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn take(places: &mut Places, pod: &Pod) -> bool {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let Some(node) = node else { return false };
    let name = pod.name_any();
    if places.contains_key(&name) {
        return false;
    }
    let at = Instant::now();
    places.insert(name, Bound { node, at });
    true
}
