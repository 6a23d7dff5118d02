//! The node plane's I/O: creates the nodes of simulated machines, reports their stages, and keeps their leases and
//! heartbeats alive in real time, because the real controller-manager judges them by its own clock.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference};
use kaito_api::NodeClaim;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::node::{self, Address};
use crate::cloud::simulated::{Simulated, View};
use crate::cluster::agenda::Agenda;
use crate::cluster::mirror::{Chain, Mirror};
use crate::cluster::write::{MANAGER, WriteError, or_gone, send};
use crate::run::until;

/// Requests in flight.
const CONCURRENCY: usize = 16;
/// Lease duration and renewal, the kubelet's defaults.
const LEASE_SECONDS: i32 = 40;
const RENEW: SignedDuration = SignedDuration::from_secs(10);
/// Heartbeat of the node status, the kubelet's default while nothing changes.
const HEARTBEAT: SignedDuration = SignedDuration::from_mins(5);
/// Namespace of node leases.
const LEASES: &str = "kube-node-lease";

/// Plays the machines of the simulated cloud.
pub struct Plane {
    /// Client.
    pub client: Client,
    /// Claims.
    pub claims: Arc<Mirror<NodeClaim>>,
    /// Nodes.
    pub nodes: Arc<Mirror<Node>>,
    /// The cloud.
    pub cloud: Arc<Simulated>,
    /// Claims whose machine to look at, by name.
    pub agenda: Arc<Agenda<String>>,
    /// Where the kubelets are reached.
    pub address: Address,
    /// Beats by node UID.
    pub beats: Mutex<BTreeMap<String, Beat>>,
}

/// When a node was last heard of, by us.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beat {
    lease: Option<Timestamp>,
    status: Option<Timestamp>,
}

impl Plane {
    /// Works until `shutdown`.
    pub async fn run(&self, shutdown: &CancellationToken) {
        self.agenda
            .run(CONCURRENCY, shutdown, |claim| self.round(claim))
            .await;
    }

    /// Forgets a node that is gone.
    pub fn gone(&self, node: &Node) {
        if let Some(uid) = &node.metadata.uid {
            self.beats().remove(uid);
        }
    }

    async fn round(&self, claim: String) -> Option<Duration> {
        match self.look(&claim).await {
            Ok(next) => next.map(until),
            Err(error) if error.is_conflict() || error.is_already_exists() => {
                Some(Duration::from_millis(200))
            }
            Err(error) => {
                warn!(claim, error = %Chain(&error), "the simulated machine could not report");
                Some(Duration::from_secs(2))
            }
        }
    }

    /// One look at one machine; returns when to look again.
    async fn look(&self, claim_name: &str) -> Result<Option<Timestamp>, WriteError> {
        let claim = self.claims.get(claim_name);
        let uid = claim
            .as_ref()
            .and_then(|claim| claim.metadata.uid.clone())
            .unwrap_or_default();
        let now = Timestamp::now();
        let Some(view) = self.cloud.view(&uid, now) else {
            return Ok(None);
        };
        let name = node::name(claim_name);
        let found = self.nodes.get(&name);
        if node::may_join(claim.as_deref(), found.as_deref(), &view) {
            self.create(&node::build(&view, self.address, now)).await?;
            return Ok(Some(now));
        }
        let id = Some(view.machine.provider_id.as_str());
        let ours = found.filter(|node| {
            node.spec
                .as_ref()
                .and_then(|spec| spec.provider_id.as_deref())
                == id
        });
        let Some(node) = ours else {
            return Ok(view.next);
        };
        if let Some(status) = node::status_if_changed(&node, &view, self.address, now) {
            self.report(&name, &node, &status).await?;
        }
        let beat = self.beat(&name, &node, &view, now).await?;
        Ok(Some(view.next.map_or(beat, |next| next.min(beat))))
    }

    async fn create(&self, node: &Node) -> Result<(), WriteError> {
        let api: Api<Node> = Api::all(self.client.clone());
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let params = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        let created = send("create simulated node", name, api.create(&params, node)).await?;
        info!(node = name, "simulated node joined");
        self.beats()
            .entry(created.metadata.uid.clone().unwrap_or_default())
            .or_default()
            .status = Some(Timestamp::now());
        self.nodes.record(created);
        Ok(())
    }

    async fn report(&self, name: &str, node: &Node, status: &NodeStatus) -> Result<(), WriteError> {
        // The strategic merge keeps conditions that others have added; the UID refuses a namesake.
        let patch =
            Patch::Strategic(json!({"metadata": {"uid": node.metadata.uid}, "status": status}));
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let api: Api<Node> = Api::all(self.client.clone());
        let request = api.patch_status(name, &params, &patch);
        match or_gone(send("report the status of node", name, request).await)? {
            Some(written) => self.nodes.record(written),
            None => self.nodes.forget(name),
        }
        self.beats()
            .entry(node.metadata.uid.clone().unwrap_or_default())
            .or_default()
            .status = Some(Timestamp::now());
        debug!(node = name, "simulated node reported");
        Ok(())
    }

    /// Renews lease and heartbeat if they are due; returns when the next one is.
    async fn beat(
        &self,
        name: &str,
        node: &Node,
        view: &View,
        now: Timestamp,
    ) -> Result<Timestamp, WriteError> {
        let uid = node.metadata.uid.clone().unwrap_or_default();
        let beat = self.beats().get(&uid).copied().unwrap_or_default();
        let due = |last: Option<Timestamp>, period: SignedDuration| {
            last.and_then(|last| last.checked_add(period).ok())
                .unwrap_or(now)
        };
        if due(beat.status, HEARTBEAT) <= now {
            self.report(name, node, &node::heartbeat(node, view, self.address, now))
                .await?;
        }
        if due(beat.lease, RENEW) <= now {
            self.renew(name, &uid, beat.lease.is_none(), now).await?;
            self.beats().entry(uid.clone()).or_default().lease = Some(now);
        }
        let beat = self.beats().get(&uid).copied().unwrap_or_default();
        let (lease, status) = (due(beat.lease, RENEW), due(beat.status, HEARTBEAT));
        Ok(lease.min(status))
    }

    async fn renew(
        &self,
        node: &str,
        uid: &str,
        first: bool,
        now: Timestamp,
    ) -> Result<(), WriteError> {
        let api: Api<Lease> = Api::namespaced(self.client.clone(), LEASES);
        let params = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let renewed =
            Patch::Merge(json!({"spec": {"renewTime": MicroTime(now), "holderIdentity": node}}));
        if !first {
            let request = api.patch(node, &params, &renewed);
            if or_gone(send("renew the lease of node", node, request).await)?.is_some() {
                return Ok(());
            }
        }
        let lease = lease(node, uid, now);
        let created = send(
            "create the lease of node",
            node,
            api.create(&PostParams::default(), &lease),
        )
        .await;
        match created {
            // It was made before a restart.
            Err(error) if error.is_already_exists() => {
                let request = api.patch(node, &params, &renewed);
                send("renew the lease of node", node, request)
                    .await
                    .map(drop)
            }
            other => other.map(drop),
        }
    }

    /// A poisoned lock is used on: nothing panics while holding it.
    fn beats(&self) -> MutexGuard<'_, BTreeMap<String, Beat>> {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A node's lease, owned by the node so that it goes with it.
fn lease(node: &str, uid: &str, now: Timestamp) -> Lease {
    Lease {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            namespace: Some(LEASES.to_owned()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Node".to_owned(),
                name: node.to_owned(),
                uid: uid.to_owned(),
                block_owner_deletion: None,
                controller: None,
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node.to_owned()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(MicroTime(now)),
            ..LeaseSpec::default()
        }),
    }
}
