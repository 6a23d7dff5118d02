//! The lifecycle's I/O: gathers what [`decide`] reads and carries out its steps. It chooses nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use kaito_api::{NodeClaim, names};
use kube::api::{DeleteParams, EvictParams, Patch, PatchParams, Preconditions};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Client, Resource};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::decide::{Limits, Observed, Progress, decide, is_ours};
use super::step::{Decision, PodRef, Step};
use crate::cloud::simulated::model::later;
use crate::cloud::{Cloud, Deletion, Launch, LaunchRequest};
use crate::cluster::agenda::Agenda;
use crate::cluster::mirror::{Chain, Mirror};
use crate::cluster::write::{MANAGER, WriteError, or_gone, send};
use crate::plane::kubelet::node_of;
use crate::plane::node::LABEL_NODE_CLAIM;
use crate::run::until;

/// Claims worked on at once.
const CONCURRENCY: usize = 16;
/// Decisions carried out in one go, so that a claim's steps are not spread over the queue. More means that a step has
/// no effect; the claim is then looked at again after [`PAUSE`].
const ROUNDS: usize = 10;
const PAUSE: Duration = Duration::from_secs(1);
/// Pause after a refused launch, doubled with every refusal up to the most.
const RETRY_SECONDS: i64 = 1;
const RETRY_MOST_SECONDS: i64 = 60;
/// Pause after an eviction, doubled with every repetition up to the most.
const EVICT_MILLIS: i64 = 500;
const EVICT_MOST_MILLIS: i64 = 10_000;

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
struct Memory {
    claim: String,
    progress: Progress,
    refusals: u32,
    deletion: Option<Deletion>,
    held_since: Option<Timestamp>,
    evict_not_before: BTreeMap<String, Timestamp>,
    evictions: BTreeMap<String, u32>,
}

/// Everything one decision reads, owned.
struct Gathered {
    provider_id: String,
    claim: Option<Arc<NodeClaim>>,
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

    async fn act(&self, name: &str, gathered: &Gathered, step: Step) -> Result<(), WriteError> {
        match step {
            Step::AddFinalizer => self.add_finalizer(name, gathered).await,
            Step::Launch => {
                self.launch(gathered).await;
                Ok(())
            }
            Step::Annotate {
                labels,
                annotations,
            } => {
                let patch = json!({"metadata": {"labels": labels, "annotations": annotations}});
                self.patch_claim("label claim", name, patch).await
            }
            Step::WriteStatus(status) => {
                let version = gathered
                    .claim
                    .as_ref()
                    .and_then(|c| c.metadata.resource_version.clone());
                let patch = Patch::Merge(
                    json!({"metadata": {"resourceVersion": version}, "status": status}),
                );
                let api: Api<NodeClaim> = Api::all(self.client.clone());
                let params = params();
                let request = api.patch_status(name, &params, &patch);
                self.keep_claim(name, send("write the status of claim", name, request).await)
            }
            Step::PatchNode { name, patch } => self.patch_node(&name, patch).await,
            Step::Report { reason, note } => {
                self.publish(gathered, reason, note).await;
                Ok(())
            }
            Step::DeleteClaim { if_absent } => self.delete_claim(name, gathered, if_absent).await,
            Step::DeleteNode { name, uid } => self.delete_node(&name, uid).await,
            Step::Evict(pod) => self.evict(gathered, pod).await,
            Step::DeletePod { pod, grace_seconds } => self.delete_pod(&pod, grace_seconds).await,
            Step::DeleteMachine { provider_id } => {
                let answer = self.cloud.delete(&provider_id, Timestamp::now()).await;
                self.remember(&provider_id, |machine| machine.deletion = Some(answer));
                Ok(())
            }
            Step::RemoveFinalizer => self.remove_finalizer(name, gathered).await,
        }
    }

    async fn launch(&self, gathered: &Gathered) {
        let Some(request) = gathered.claim.as_deref().and_then(LaunchRequest::of) else {
            return;
        };
        let now = Timestamp::now();
        let answer = self.cloud.create(&request, now).await;
        self.remember(&gathered.provider_id, |machine| {
            machine.progress = match answer {
                Ok(Launch::Pending { until }) => Progress::Pending { until },
                Ok(Launch::Accepted(accepted)) => {
                    info!(
                        claim = request.claim,
                        id = accepted.provider_id,
                        "machine launched"
                    );
                    machine.refusals = 0;
                    Progress::Accepted(accepted)
                }
                Err(error) => {
                    warn!(claim = request.claim, error = %error, "machine refused");
                    let pause = RETRY_SECONDS << machine.refusals.min(6);
                    machine.refusals = machine.refusals.saturating_add(1);
                    let pause = SignedDuration::from_secs(pause.min(RETRY_MOST_SECONDS));
                    Progress::Refused {
                        error,
                        retry: later(now, pause),
                    }
                }
            };
        });
    }

    async fn add_finalizer(&self, name: &str, gathered: &Gathered) -> Result<(), WriteError> {
        let Some(claim) = &gathered.claim else {
            return Ok(());
        };
        let mut finalizers = claim.metadata.finalizers.clone().unwrap_or_default();
        finalizers.push(names::TERMINATION_FINALIZER.to_owned());
        self.patch_claim(
            "add the finalizer to claim",
            name,
            finalizers_patch(claim, finalizers),
        )
        .await
    }

    async fn remove_finalizer(&self, name: &str, gathered: &Gathered) -> Result<(), WriteError> {
        let Some(claim) = &gathered.claim else {
            return Ok(());
        };
        let mut finalizers = claim.metadata.finalizers.clone().unwrap_or_default();
        finalizers.retain(|finalizer| finalizer != names::TERMINATION_FINALIZER);
        let gone = finalizers.is_empty();
        self.patch_claim(
            "remove the finalizer of claim",
            name,
            finalizers_patch(claim, finalizers),
        )
        .await?;
        if gone {
            info!(claim = name, "machine returned, claim ended");
            self.claims.forget(name);
        }
        Ok(())
    }

    async fn patch_claim(
        &self,
        action: &'static str,
        name: &str,
        patch: Value,
    ) -> Result<(), WriteError> {
        let api: Api<NodeClaim> = Api::all(self.client.clone());
        let answer = send(
            action,
            name,
            api.patch(name, &params(), &Patch::Merge(patch)),
        )
        .await;
        self.keep_claim(name, answer)
    }

    fn keep_claim(
        &self,
        name: &str,
        answer: Result<NodeClaim, WriteError>,
    ) -> Result<(), WriteError> {
        match or_gone(answer)? {
            Some(claim) => self.claims.record(claim),
            None => self.claims.forget(name),
        }
        Ok(())
    }

    async fn patch_node(&self, name: &str, patch: Value) -> Result<(), WriteError> {
        let api: Api<Node> = Api::all(self.client.clone());
        let answer = send(
            "patch node",
            name,
            api.patch(name, &params(), &Patch::Merge(&patch)),
        )
        .await;
        match or_gone(answer)? {
            // The last finalizer of a leaving node: the answer is its last state.
            Some(node) if node.metadata.deletion_timestamp.is_some() && no_finalizers(&node) => {
                self.nodes.forget(name);
            }
            Some(node) => self.nodes.record(node),
            None => self.nodes.forget(name),
        }
        Ok(())
    }

    async fn delete_claim(
        &self,
        name: &str,
        gathered: &Gathered,
        if_absent: Option<String>,
    ) -> Result<(), WriteError> {
        if let Some(node) = if_absent {
            let api: Api<Node> = Api::all(self.client.clone());
            if let Some(node) = send("look for node", &node, api.get_opt(&node)).await? {
                self.nodes.record(node);
                return Ok(());
            }
        }
        let uid = gathered
            .claim
            .as_ref()
            .and_then(|claim| claim.metadata.uid.clone());
        let api: Api<NodeClaim> = Api::all(self.client.clone());
        let params = guarded(uid);
        let answer = or_gone(send("delete claim", name, api.delete(name, &params)).await)?;
        match answer.map(|answer| answer.left()) {
            Some(Some(claim)) => self.claims.record(claim),
            _ => self.claims.forget(name),
        }
        Ok(())
    }

    async fn delete_node(&self, name: &str, uid: String) -> Result<(), WriteError> {
        let api: Api<Node> = Api::all(self.client.clone());
        let params = guarded(Some(uid));
        let answer = or_gone(send("delete node", name, api.delete(name, &params)).await)?;
        match answer.map(|answer| answer.left()) {
            Some(Some(node)) => self.nodes.record(node),
            _ => self.nodes.forget(name),
        }
        Ok(())
    }

    async fn evict(&self, gathered: &Gathered, pod: PodRef) -> Result<(), WriteError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let params = EvictParams {
            delete_options: Some(guarded(Some(pod.uid.clone()))),
            ..EvictParams::default()
        };
        let answer = send("evict pod", &pod.name, api.evict(&pod.name, &params)).await;
        let now = Timestamp::now();
        self.remember(&gathered.provider_id, |machine| {
            let tries = machine.evictions.entry(pod.uid.clone()).or_default();
            let pause = (EVICT_MILLIS << (*tries).min(5)).min(EVICT_MOST_MILLIS);
            *tries = tries.saturating_add(1);
            machine.evict_not_before.insert(
                pod.uid.clone(),
                later(now, SignedDuration::from_millis(pause)),
            );
        });
        match answer {
            Ok(_) => Ok(()),
            // A disruption budget says not now, the pod is gone, or it is a namesake: each is seen again in time.
            Err(error) if error.is_throttled() || error.is_not_found() || error.is_conflict() => {
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn delete_pod(&self, pod: &PodRef, grace_seconds: u32) -> Result<(), WriteError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let params = DeleteParams {
            grace_period_seconds: Some(grace_seconds),
            ..guarded(Some(pod.uid.clone()))
        };
        let answer = or_gone(send("delete pod", &pod.name, api.delete(&pod.name, &params)).await)?;
        if let Some(Some(pod)) = answer.map(|answer| answer.left()) {
            self.pods.record(pod);
        }
        Ok(())
    }

    /// A lost event is not a failure of the claim: the condition says the same.
    async fn publish(&self, gathered: &Gathered, reason: String, note: String) {
        let Some(claim) = &gathered.claim else { return };
        let event = Event {
            type_: EventType::Warning,
            reason,
            note: Some(cut(note)),
            action: "Provision".to_owned(),
            secondary: None,
        };
        let reference = claim.object_ref(&());
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        if let Err(error) = send(
            "publish an event on claim",
            name,
            self.recorder.publish(&event, &reference),
        )
        .await
        {
            warn!(claim = name, error = %Chain(&error), "event lost");
        }
    }

    fn remember(&self, provider_id: &str, change: impl FnOnce(&mut Memory)) {
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

fn params() -> PatchParams {
    PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    }
}

fn guarded(uid: Option<String>) -> DeleteParams {
    DeleteParams {
        preconditions: Some(Preconditions {
            uid,
            resource_version: None,
        }),
        ..DeleteParams::default()
    }
}

/// A list is replaced whole, so the patch must not meet a newer claim.
fn finalizers_patch(claim: &NodeClaim, finalizers: Vec<String>) -> Value {
    json!({"metadata": {"resourceVersion": claim.metadata.resource_version, "finalizers": finalizers}})
}

fn no_finalizers(node: &Node) -> bool {
    node.metadata.finalizers.as_ref().is_none_or(Vec::is_empty)
}

/// Events take notes of at most 1 kB.
fn cut(mut note: String) -> String {
    let mut end = note.len().min(1000);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note.truncate(end);
    note
}
