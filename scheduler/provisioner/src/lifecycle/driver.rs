//! The lifecycle's loop: gathers what [`decide`] reads and has its steps carried out. It chooses nothing, and what
//! writes is [`super::writes`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kaito_api::NodeClaim;
use kube::Client;
use kube::runtime::events::Recorder;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::decide::{Limits, Observed, Progress, decide, is_ours};
use super::step::Decision;
use crate::cloud::{Cloud, Deletion};
use crate::cluster::agenda::Agenda;
use crate::cluster::mirror::{Chain, Mirror};
use crate::cluster::write::WriteError;
use crate::plane::kubelet::node_of;
use crate::plane::node::LABEL_NODE_CLAIM;
use crate::run::until;

/// Claims worked on at once.
const CONCURRENCY: usize = 16;
/// Decisions carried out in one go, so that a claim's steps are not spread over the queue. More means that a step has
/// no effect; the claim is then looked at again after [`PAUSE`].
const ROUNDS: usize = 10;
const PAUSE: Duration = Duration::from_secs(1);

/// Drives all claims through a cloud.
pub struct Lifecycle<C> {
    /// Client.
    pub client: Client,
    /// The cloud.
    pub cloud: Arc<C>,
    /// Claims.
    pub claims: Arc<Mirror<NodeClaim>>,
    /// Nodes.
    pub nodes: Arc<Mirror<Node>>,
    /// Bound pods.
    pub pods: Arc<Mirror<Pod>>,
    /// Claims to look at, by name.
    pub agenda: Arc<Agenda<String>>,
    /// Events; one recorder for the process, as it aggregates.
    pub recorder: Recorder,
    /// Limits.
    pub limits: Limits,
    /// What no object holds, by cloud id.
    pub memory: Mutex<Memories>,
}

/// What is known of each machine beyond the API server's objects, by cloud id.
#[derive(Default)]
pub struct Memories {
    machines: BTreeMap<String, Memory>,
    failures: BTreeMap<String, u32>,
}

#[derive(Clone, Default)]
pub(super) struct Memory {
    claim: String,
    pub(super) progress: Progress,
    pub(super) refusals: u32,
    pub(super) deletion: Option<Deletion>,
    held_since: Option<Timestamp>,
    pub(super) evict_not_before: BTreeMap<String, Timestamp>,
    pub(super) evictions: BTreeMap<String, u32>,
}

/// Everything one decision reads, owned.
pub(super) struct Gathered {
    pub(super) provider_id: String,
    pub(super) claim: Option<Arc<NodeClaim>>,
    nodes: Vec<Arc<Node>>,
    pods: Vec<Arc<Pod>>,
    memory: Memory,
}

/// Name of the claim that a node belongs to.
#[must_use]
pub fn claim_of(node: &Node) -> Option<&str> {
    node.metadata
        .labels
        .as_ref()?
        .get(LABEL_NODE_CLAIM)
        .map(String::as_str)
}

fn provider_id_of(node: &Node) -> Option<&str> {
    node.spec.as_ref()?.provider_id.as_deref()
}

impl<C: Cloud> Lifecycle<C> {
    /// Works until `shutdown`.
    pub async fn run(&self, shutdown: &CancellationToken) {
        self.agenda
            .run(CONCURRENCY, shutdown, |name| self.round(name))
            .await;
    }

    async fn round(&self, name: String) -> Option<Duration> {
        match self.reconcile(&name).await {
            Ok(wake) => {
                self.memory().failures.remove(&name);
                wake
            }
            Err(error) if error.is_conflict() => Some(Duration::from_millis(100)),
            Err(error) => {
                warn!(claim = name, error = %Chain(&error), "claim not reconciled");
                let mut memory = self.memory();
                let failures = memory.failures.entry(name).or_default();
                *failures = failures.saturating_add(1);
                Some(Duration::from_secs(1) * 2_u32.saturating_pow((*failures - 1).min(6)))
            }
        }
    }

    /// Brings one claim, and whatever carries its name, as far as it gets now.
    async fn reconcile(&self, name: &str) -> Result<Option<Duration>, WriteError> {
        for _ in 0..ROUNDS {
            let mut wake: Option<Timestamp> = None;
            let mut acted = false;
            for id in self.provider_ids(name) {
                let now = Timestamp::now();
                let gathered = self.gather(name, id);
                let decision = gathered.decide(self.limits, now);
                self.note_hold(&gathered, &decision, now);
                wake = [wake, decision.wake].into_iter().flatten().min();
                for step in decision.steps {
                    acted = true;
                    self.act(name, &gathered, step).await?;
                }
            }
            if !acted {
                self.forget_done(name);
                return Ok(wake.map(until));
            }
        }
        Ok(Some(PAUSE))
    }

    /// Cloud ids that carry the claim's name: its own, those of nodes (an earlier namesake's, too), and those that
    /// we still remember.
    fn provider_ids(&self, name: &str) -> BTreeSet<String> {
        let claim = self.claims.get(name).filter(|claim| is_ours(claim));
        let own = claim
            .and_then(|claim| claim.metadata.uid.clone())
            .map(|uid| self.cloud.provider_id(&uid));
        let nodes = self.nodes.select(|node| claim_of(node) == Some(name));
        let of_nodes = nodes
            .iter()
            .filter_map(|node| provider_id_of(node))
            .map(str::to_owned);
        let memory = self.memory();
        let remembered = memory
            .machines
            .iter()
            .filter(|(_, machine)| machine.claim == name);
        own.into_iter()
            .chain(of_nodes)
            .chain(remembered.map(|(id, _)| id.clone()))
            .collect()
    }

    fn gather(&self, name: &str, provider_id: String) -> Gathered {
        let claim = self.claims.get(name).filter(|claim| {
            let uid = claim.metadata.uid.as_deref().unwrap_or_default();
            is_ours(claim) && self.cloud.provider_id(uid) == provider_id
        });
        let nodes = self
            .nodes
            .select(|node| provider_id_of(node) == Some(&provider_id));
        let ending = claim
            .as_ref()
            .is_none_or(|claim| claim.metadata.deletion_timestamp.is_some());
        let on_nodes = |pod: &Pod| {
            let node = node_of(pod);
            node.is_some()
                && nodes
                    .iter()
                    .any(|found| found.metadata.name.as_deref() == node)
        };
        let pods = if ending && !nodes.is_empty() {
            self.pods.select(on_nodes)
        } else {
            Vec::new()
        };
        let mut memory = self.memory();
        let machine = memory.machines.entry(provider_id.clone()).or_default();
        name.clone_into(&mut machine.claim);
        let machine = machine.clone();
        drop(memory);
        Gathered {
            provider_id,
            claim,
            nodes,
            pods,
            memory: machine,
        }
    }

    fn note_hold(&self, gathered: &Gathered, decision: &Decision, now: Timestamp) {
        self.remember(&gathered.provider_id, |machine| {
            machine.held_since = decision
                .holds_status
                .then(|| machine.held_since.unwrap_or(now));
        });
    }

    /// Drops what is remembered of machines that are confirmed gone and have neither claim nor node.
    fn forget_done(&self, name: &str) {
        let claim = self.claims.get(name);
        let uid = claim.and_then(|claim| claim.metadata.uid.clone());
        let own = uid.map(|uid| self.cloud.provider_id(&uid));
        self.memory().machines.retain(|id, machine| {
            let over = machine.claim == name
                && machine.deletion == Some(Deletion::NotFound)
                && own.as_deref() != Some(id);
            !over
        });
    }

    pub(super) fn remember(&self, provider_id: &str, change: impl FnOnce(&mut Memory)) {
        if let Some(machine) = self.memory().machines.get_mut(provider_id) {
            change(machine);
        }
    }

    /// A poisoned lock is used on: nothing panics while holding it.
    fn memory(&self) -> MutexGuard<'_, Memories> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gathered {
    fn decide(&self, limits: Limits, now: Timestamp) -> Decision {
        // Nothing is left of it, or nothing was ever there: no claim, no node, and the cloud has confirmed.
        if self.claim.is_none()
            && self.nodes.is_empty()
            && self.memory.deletion == Some(Deletion::NotFound)
        {
            return Decision::default();
        }
        decide(&Observed {
            claim: self.claim.as_deref(),
            provider_id: &self.provider_id,
            nodes: &self.nodes,
            pods: &self.pods,
            progress: &self.memory.progress,
            deletion: self.memory.deletion,
            evict_not_before: &self.memory.evict_not_before,
            held_since: self.memory.held_since,
            limits,
            now,
        })
    }
}
