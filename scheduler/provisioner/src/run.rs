//! Builds the parts, connects them, and runs them until they are told to stop.

use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use kaito_api::{NodeClaim, names};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::cloud::simulated::{Model, Simulated};
use crate::cluster::agenda::Agenda;
use crate::cluster::mirror::{Change, Mirror, feed, key_of};
use crate::lifecycle::decide::{Limits, is_ours};
use crate::lifecycle::driver::{Lifecycle, claim_of};
use crate::lifecycle::initialized::is_ready;
use crate::plane::driver::Plane;
use crate::plane::kubelet::{Kubelet, is_simulated, node_of};
use crate::plane::node::Address;
use crate::plane::server::{Server, ServerError};
use crate::recovery;
use crate::scenario::{Scale, Scenario};

/// How long to wait for the first view of the cluster before saying what is missing.
const FIRST_VIEW: Duration = Duration::from_secs(60);

/// Settings of the provisioner with the simulated cloud.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the cloud has, how fast it is, what goes wrong (`--scenario FILE`, see [`Scenario::read`]).
    pub scenario: Scenario,
    /// Simulated seconds per real second (`--time-scale N`). 60, the default, brings a node up in about six seconds;
    /// a very large number makes every machine immediate. Limits never fall below the scenario's `limits.least`.
    pub time_scale: NonZeroU32,
    /// Seed of all drawn delays and zones (`--seed N`).
    pub seed: u64,
    /// Address that all simulated kubelets listen on and report (`--kubelet-address`); kube-apiserver connects there
    /// for `kubectl logs`, so it must be reachable from it. The port is chosen by the system.
    pub kubelet_address: IpAddr,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            scenario: Scenario::default(),
            time_scale: NonZeroU32::MIN.saturating_add(59),
            seed: 0,
            kubelet_address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }
}

/// The provisioner could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The simulated kubelets' endpoint.
    #[error("cannot start the simulated kubelets")]
    Server(#[from] ServerError),
    /// The API server showed nothing.
    #[error(
        "the API server did not list NodeClaims, Nodes and Pods within {} seconds; \
         check that the NodeClaim CRD is installed and that this account may list and watch all three (see the log)",
        FIRST_VIEW.as_secs()
    )]
    NoView,
    /// A part ended by itself.
    #[error("the {part} of the provisioner ended unexpectedly; restart it")]
    Ended {
        /// Which part.
        part: &'static str,
    },
}

/// How long from now until `at`; nothing if it is past.
pub(crate) fn until(at: Timestamp) -> Duration {
    let left = at
        .duration_since(Timestamp::now())
        .max(SignedDuration::ZERO);
    // Rounded up, so that what was due at `at` is due when we wake.
    Duration::try_from(left).unwrap_or_default() + Duration::from_millis(1)
}

/// All parts, connected.
struct Parts {
    client: Client,
    cloud: Arc<Simulated>,
    claims: Arc<Mirror<NodeClaim>>,
    nodes: Arc<Mirror<Node>>,
    pods: Arc<Mirror<Pod>>,
    lifecycle: Lifecycle<Simulated>,
    plane: Plane,
    kubelet: Kubelet,
}

/// Runs the provisioner with the simulated cloud until `shutdown`. Only one may run in a cluster at a time; the
/// caller holds the lease.
///
/// # Errors
/// [`Error`] when it cannot start, or when a part of it ends by itself.
pub async fn run(
    client: Client,
    options: Options,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let server = Server::bind(options.kubelet_address).await?;
    let address = Address {
        ip: options.kubelet_address,
        port: server.port(),
    };
    info!(%address.ip, address.port, "simulated cloud: no machine is real");
    let parts = Parts::new(client, &options, address);
    let stop = shutdown.child_token();
    let _guard = stop.clone().drop_guard();
    let ended = |part| Err(Error::Ended { part });
    tokio::select! {
        () = shutdown.cancelled() => Ok(()),
        () = parts.watch_claims() => ended("claim watch"),
        () = parts.watch_nodes() => ended("node watch"),
        () = parts.watch_pods() => ended("pod watch"),
        () = server.run(parts.pods.clone(), stop.clone()) => ended("kubelet endpoint"),
        result = parts.work(&stop) => result,
    }
}

impl Parts {
    fn new(client: Client, options: &Options, address: Address) -> Self {
        let scale = Scale {
            factor: options.time_scale,
            seed: options.seed,
        };
        let scenario = Arc::new(options.scenario.clone());
        let (claims, nodes, pods) = (Arc::default(), Arc::default(), Arc::default());
        let machines: Arc<Agenda<String>> = Arc::default();
        let wake = machines.clone();
        let model = Model::new(scenario.clone(), scale);
        let cloud = Arc::new(Simulated::new(model, move |claim| {
            wake.now(claim.to_owned());
        }));
        let reporter = Reporter {
            controller: names::PROVISIONER_MANAGER.to_owned(),
            instance: None,
        };
        let lifecycle = Lifecycle {
            client: client.clone(),
            cloud: cloud.clone(),
            claims: Arc::clone(&claims),
            nodes: Arc::clone(&nodes),
            pods: Arc::clone(&pods),
            agenda: Arc::default(),
            recorder: Recorder::new(client.clone(), reporter),
            limits: real_limits(&scenario, scale),
            memory: Default::default(),
        };
        let plane = Plane {
            client: client.clone(),
            claims: Arc::clone(&claims),
            nodes: Arc::clone(&nodes),
            cloud: cloud.clone(),
            agenda: machines,
            address,
            beats: Default::default(),
        };
        let kubelet = Kubelet {
            client: client.clone(),
            nodes: Arc::clone(&nodes),
            pods: Arc::clone(&pods),
            agenda: Arc::default(),
            delays: scenario.pods,
            scale,
            host_ip: address.ip,
            memory: Default::default(),
        };
        Self {
            client,
            cloud,
            claims,
            nodes,
            pods,
            lifecycle,
            plane,
            kubelet,
        }
    }

    /// Waits for the first complete view, takes over what exists, then works.
    async fn work(&self, stop: &CancellationToken) -> Result<(), Error> {
        let filled = async {
            tokio::join!(
                self.claims.filled(),
                self.nodes.filled(),
                self.pods.filled()
            )
        };
        tokio::time::timeout(FIRST_VIEW, filled)
            .await
            .map_err(|_| Error::NoView)?;
        self.recover();
        tokio::join!(
            self.lifecycle.run(stop),
            self.plane.run(stop),
            self.kubelet.run(stop)
        );
        Ok(())
    }

    /// Reads the machines of an earlier process back from claims and nodes. Before any claim is worked on, so that
    /// none is launched twice or squeezed in beside machines that count against the quota.
    fn recover(&self) {
        let nodes = self.nodes.select(is_simulated);
        let claims = self.claims.select(is_ours);
        for claim in &claims {
            let uid = claim.metadata.uid.as_deref().unwrap_or_default();
            let id = crate::cloud::simulated::provider_id(uid);
            let node = nodes.iter().find(|node| has_id(node, &id));
            if let Some(adoption) =
                recovery::adoption(Some(claim.as_ref()), node.map(AsRef::as_ref))
            {
                self.cloud.adopt(adoption);
            }
        }
        let known = |node: &Node| {
            claims.iter().any(|claim| {
                let uid = claim.metadata.uid.as_deref().unwrap_or_default();
                has_id(node, &crate::cloud::simulated::provider_id(uid))
            })
        };
        for orphan in nodes.iter().filter(|node| !known(node)) {
            if let Some(adoption) = recovery::adoption(None, Some(orphan.as_ref())) {
                self.cloud.adopt(adoption);
            }
        }
    }

    fn look_at_claim(&self, name: &str) {
        self.lifecycle.agenda.now(name.to_owned());
        self.plane.agenda.now(name.to_owned());
    }

    async fn watch_claims(&self) {
        let changed = |(old, new): &Change<NodeClaim>| {
            if let Some(claim) = new.as_ref().or(old.as_ref()).filter(|claim| is_ours(claim)) {
                self.look_at_claim(&key_of(claim.as_ref()));
            }
        };
        feed(
            &self.claims,
            Api::all(self.client.clone()),
            watcher::Config::default(),
            changed,
        )
        .await;
    }

    async fn watch_nodes(&self) {
        let changed = |(old, new): &Change<Node>| {
            let Some(node) = new
                .as_ref()
                .or(old.as_ref())
                .filter(|node| is_simulated(node))
            else {
                return;
            };
            if let Some(claim) = claim_of(node) {
                self.look_at_claim(claim);
            }
            match new {
                None => self.plane.gone(node),
                Some(new) if is_ready(new) && !old.as_ref().is_some_and(|old| is_ready(old)) => {
                    self.kubelet.node_ready(&key_of(new.as_ref()));
                }
                Some(_) => {}
            }
        };
        feed(
            &self.nodes,
            Api::all(self.client.clone()),
            watcher::Config::default(),
            changed,
        )
        .await;
    }

    /// Only bound pods: the others have no kubelet.
    async fn watch_pods(&self) {
        let changed = |(old, new): &Change<Pod>| {
            let Some(pod) = new.as_ref().or(old.as_ref()) else {
                return;
            };
            match new {
                Some(new) => self.kubelet.agenda.now(key_of(new.as_ref())),
                None => self.kubelet.gone(pod),
            }
            let node = node_of(pod).and_then(|name| self.nodes.get(name));
            let leaving = node.filter(|node| node.metadata.deletion_timestamp.is_some());
            if let Some(claim) = leaving.as_ref().and_then(|node| claim_of(node)) {
                self.lifecycle.agenda.now(claim.to_owned());
            }
        };
        let config = watcher::Config::default().fields("spec.nodeName!=");
        feed(&self.pods, Api::all(self.client.clone()), config, changed).await;
    }
}

fn real_limits(scenario: &Scenario, scale: Scale) -> Limits {
    let limits = scenario.limits;
    Limits {
        launch: limits.real(limits.launch, scale),
        registration: limits.real(limits.registration, scale),
        initialization: limits.real(limits.initialization, scale),
        begun: Timestamp::now(),
    }
}

fn has_id(node: &Node, id: &str) -> bool {
    node.spec
        .as_ref()
        .and_then(|spec| spec.provider_id.as_deref())
        == Some(id)
}
