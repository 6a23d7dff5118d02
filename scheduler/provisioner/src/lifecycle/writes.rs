//! The lifecycle's writes: one per step of a decision, each of which may be repeated. Nothing is decided here; what was
//! written is noted in the mirrors at once, so that the next decision sees it.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use kaito_api::{NodeClaim, eviction, names};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::Status;
use kube::runtime::events::{Event, EventType};
use kube::{Api, Resource};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::decide::Progress;
use super::driver::{Gathered, Lifecycle};
use super::step::{PodRef, Step};
use crate::cloud::simulated::model::later;
use crate::cloud::{Cloud, Launch, LaunchRequest};
use crate::cluster::mirror::Chain;
use crate::cluster::write::{MANAGER, WriteError, or_gone, send};

/// Pause after a refused launch, doubled with every refusal up to the most.
const RETRY_SECONDS: i64 = 1;
const RETRY_MOST_SECONDS: i64 = 60;
/// Pause after an eviction, doubled with every repetition up to the most.
const EVICT_MILLIS: i64 = 500;
const EVICT_MOST_MILLIS: i64 = 10_000;

impl<C: Cloud> Lifecycle<C> {
    /// Carries out one step for the claim `name`.
    pub(super) async fn act(
        &self,
        name: &str,
        gathered: &Gathered,
        step: Step,
    ) -> Result<(), WriteError> {
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
        let body = eviction::eviction(&pod.namespace, &pod.name, &pod.uid);
        let params = PostParams::default();
        let request =
            api.create_subresource::<_, Status>(eviction::SUBRESOURCE, &pod.name, &params, &body);
        let answer = send("evict pod", &pod.name, request).await;
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
