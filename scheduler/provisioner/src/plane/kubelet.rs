//! The simulated kubelet's I/O: feeds [`pods::decide`] with pods of our nodes and writes what it says, one request
//! per transition. At rest it sends nothing.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use kaito_api::names;
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::addresses::Addresses;
use super::overcommitment::overcommitted;
use super::pods::{self, Action, Times, View};
use crate::cluster::agenda::Agenda;
use crate::cluster::mirror::{Chain, Mirror, key_of};
use crate::cluster::write::{MANAGER, WriteError, or_gone, send};
use crate::lifecycle::initialized::is_ready;
use crate::run::until;
use crate::scenario::{Pods, Scale};

/// Requests in flight: enough for a thousand pods within seconds, few enough to leave the API server room.
const CONCURRENCY: usize = 32;

/// Plays all kubelets of the simulated nodes.
pub struct Kubelet {
    /// Client.
    pub client: Client,
    /// Nodes.
    pub nodes: Arc<Mirror<Node>>,
    /// Bound pods.
    pub pods: Arc<Mirror<Pod>>,
    /// Pods to look at, by `namespace/name`.
    pub agenda: Arc<Agenda<String>>,
    /// Delays.
    pub delays: Pods,
    /// Time scale.
    pub scale: Scale,
    /// Address of every node.
    pub host_ip: IpAddr,
    /// What no object holds.
    pub memory: Mutex<Memory>,
}

/// What the kubelet knows beyond the API server's objects.
#[derive(Default)]
pub struct Memory {
    addresses: Addresses,
    /// When each pod was accepted, by UID; finer than `status.startTime`, which is whole seconds.
    accepted: BTreeMap<String, Timestamp>,
    failures: BTreeMap<String, u32>,
}

/// Whether a node is one of ours.
#[must_use]
pub fn is_simulated(node: &Node) -> bool {
    node.metadata
        .labels
        .as_ref()
        .is_some_and(|labels| labels.contains_key(names::LABEL_SIMULATED))
}

/// Name of the node that a pod is bound to.
#[must_use]
pub fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

impl Kubelet {
    /// Works until `shutdown`.
    pub async fn run(&self, shutdown: &CancellationToken) {
        for pod in self.pods.select(|_| true) {
            self.remember(&pod);
        }
        self.agenda
            .run(CONCURRENCY, shutdown, |key| self.round(key))
            .await;
    }

    /// Looks at every pod of a node that has become ready.
    pub fn node_ready(&self, node: &str) {
        for pod in self.pods.select(|pod| node_of(pod) == Some(node)) {
            self.agenda.now(key_of(pod.as_ref()));
        }
    }

    /// Forgets a pod that is gone.
    pub fn gone(&self, pod: &Pod) {
        let Some(uid) = pod.metadata.uid.as_deref() else {
            return;
        };
        let mut memory = self.memory();
        memory.addresses.release(uid);
        memory.accepted.remove(uid);
        memory.failures.remove(&key_of(pod));
    }

    async fn round(&self, key: String) -> Option<Duration> {
        match self.look(&key).await {
            Ok(next) => {
                self.memory().failures.remove(&key);
                next.map(until)
            }
            Err(error) if error.is_conflict() => Some(Duration::from_millis(100)),
            Err(error) => {
                warn!(pod = key, error = %Chain(&error), "the simulated kubelet could not report");
                let mut memory = self.memory();
                let failures = memory.failures.entry(key).or_default();
                *failures = failures.saturating_add(1);
                Some(Duration::from_secs(1) * 2_u32.saturating_pow((*failures - 1).min(6)))
            }
        }
    }

    /// One look at one pod; returns when to look again.
    async fn look(&self, key: &str) -> Result<Option<Timestamp>, WriteError> {
        let Some(pod) = self.pods.get(key) else {
            return Ok(None);
        };
        let Some(node) = node_of(&pod)
            .and_then(|name| self.nodes.get(name))
            .filter(|node| is_simulated(node))
        else {
            return Ok(None);
        };
        let leaving = pod.metadata.deletion_timestamp.is_some();
        if !is_ready(&node) && !leaving {
            return Ok(None);
        }
        let now = Timestamp::now();
        let (pod_ip, accepted) = self.remember(&pod);
        let refused = self.refused(&pod, &node);
        let decision = pods::decide(&View {
            pod: &pod,
            host_ip: &self.host_ip.to_string(),
            pod_ip: &pod_ip,
            accepted,
            refused: refused.as_deref(),
            times: self.times(&pod),
            now,
        });
        match decision.action {
            Action::Wait => {}
            Action::Report(status) => self.report(key, &pod, &status).await?,
            Action::Remove => self.remove(key, &pod).await?,
        }
        Ok(decision.next)
    }

    /// Address and time of acceptance of a pod, assigned at first sight.
    fn remember(&self, pod: &Pod) -> (String, Timestamp) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let status = pod.status.as_ref();
        let mut memory = self.memory();
        if let Some(address) = status.and_then(|status| status.pod_ip.as_ref()?.parse().ok()) {
            memory.addresses.claim(uid, address);
        }
        let ip = memory.addresses.of(uid).to_string();
        let reported = status
            .and_then(|status| status.start_time.as_ref())
            .map(|time| time.0);
        let accepted = memory.accepted.entry(uid.to_owned());
        (
            ip,
            *accepted.or_insert_with(|| reported.unwrap_or_else(Timestamp::now)),
        )
    }

    fn refused(&self, pod: &Pod, node: &Node) -> Option<String> {
        if pod
            .status
            .as_ref()
            .is_some_and(|status| status.start_time.is_some())
        {
            return None;
        }
        let others = self.pods.select(|other| node_of(other) == node_of(pod));
        overcommitted(pod, node, &others)
    }

    fn times(&self, pod: &Pod) -> Times {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let pick = |delay: crate::scenario::Delay, purpose| delay.pick(self.scale, uid, purpose);
        Times {
            init: pick(self.delays.init, "init"),
            start: pick(self.delays.start, "start"),
            stop: pick(self.delays.stop, "stop"),
            job: pick(self.delays.job, "job"),
        }
    }

    async fn report(&self, key: &str, pod: &Pod, status: &PodStatus) -> Result<(), WriteError> {
        // The UID makes the write fail for a namesake; the strategic merge keeps conditions of others.
        let patch =
            Patch::Strategic(json!({"metadata": {"uid": pod.metadata.uid}, "status": status}));
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let api = self.api(pod);
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let request = api.patch_status(name, &params, &patch);
        match or_gone(send("report the status of pod", key, request).await)? {
            Some(written) => self.pods.record(written),
            None => self.pods.forget(key),
        }
        debug!(
            pod = key,
            phase = status.phase.as_deref(),
            "simulated kubelet reported"
        );
        Ok(())
    }

    async fn remove(&self, key: &str, pod: &Pod) -> Result<(), WriteError> {
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions {
                uid: pod.metadata.uid.clone(),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let api = self.api(pod);
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        or_gone(send("remove the stopped pod", key, api.delete(name, &params)).await)?;
        Ok(())
    }

    fn api(&self, pod: &Pod) -> Api<Pod> {
        Api::namespaced(
            self.client.clone(),
            pod.metadata.namespace.as_deref().unwrap_or_default(),
        )
    }

    /// A poisoned lock is used on: nothing panics while holding it.
    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
