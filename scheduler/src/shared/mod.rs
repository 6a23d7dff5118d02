//! What the driver and the placement loop share: settings, stores, writer, queue. Decides nothing.

mod claims;
mod placement;
mod writes;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kaito_api::{NodeClaim, Workspace};
use kaito_snapshot::occupants::Rules;
use kaito_snapshot::pod;
use kaito_snapshot::sizing::NodeMode;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::events::Recorder;
use kube::{Client, Resource, ResourceExt};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::store::{Key, Store};
use crate::workspace::build::weights::Delivery;
use crate::workspace::build::{DataReach, Images};
use crate::writer::Writer;

pub use claims::ClaimJournal;
use placement::Size;
pub use placement::Verdict;
use writes::WrittenStatus;

/// Settings of a run.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Where nodes come from.
    pub node_mode: NodeMode,
    /// Images of children.
    pub images: Images,
    /// How images of weights and adapters reach pods.
    pub weights: Delivery,
    /// Which addresses data sets may be fetched from.
    pub data_reach: DataReach,
    /// How long a bought node that serves nobody is kept, seconds.
    pub idle_grace_seconds: i64,
    /// Where plans are recorded, if they are.
    pub record: Option<crate::placement::record::Settings>,
    /// Whom placement may evict.
    pub evictions: Rules,
    /// Least time between two times that pods are moved to save nodes.
    pub pause_between_moves: Duration,
}

/// One store per watched kind.
#[derive(Clone, Debug, Default)]
pub struct Stores {
    /// Workspaces.
    pub workspaces: Store<Workspace>,
    /// Nodes.
    pub nodes: Store<Node>,
    /// Pods of all namespaces: they use what we place on.
    pub pods: Store<Pod>,
    /// Node claims.
    pub claims: Store<NodeClaim>,
    /// Disruption budgets.
    pub budgets: Store<PodDisruptionBudget>,
    /// Single-node workloads.
    pub deployments: Store<Deployment>,
    /// Multi-node workloads.
    pub stateful_sets: Store<StatefulSet>,
    /// Tuning workloads.
    pub jobs: Store<Job>,
    /// Services of Workspaces.
    pub services: Store<Service>,
    /// ConfigMaps without their content.
    pub configs: Store<PartialObjectMeta<ConfigMap>>,
}

/// Everything shared. One per process.
pub struct Shared {
    /// Settings.
    pub config: Config,
    /// Stores.
    pub stores: Stores,
    /// Way to the API server for changes.
    pub writer: Writer,
    /// Workspaces that need a look.
    pub queue: Queue,
    /// Wakes the placement loop.
    pub placement: Notify,
    /// Reports to people.
    pub events: Events,
    /// Numbers.
    pub metrics: Metrics,
    client: Client,
    sizes: RwLock<HashMap<Key, Size>>,
    verdicts: RwLock<HashMap<Key, Verdict>>,
    written: Mutex<HashMap<Key, WrittenStatus>>,
    applied: Mutex<HashMap<(String, Key), (String, Instant)>>,
    config_maps: Mutex<HashMap<Key, Arc<ConfigMap>>>,
    journal: Mutex<ClaimJournal>,
}

/// The event recorder.
pub struct Events(Recorder);

impl Events {
    /// Publishes an event about `object`. A failure is logged, never an error: events are for people.
    pub async fn publish(
        &self,
        event: kube::runtime::events::Event,
        object: &impl Resource<DynamicType = ()>,
    ) {
        if let Err(error) = self.0.publish(&event, &object.object_ref(&())).await {
            tracing::info!(%error, reason = event.reason, "event not recorded");
        }
    }
}

impl Shared {
    /// Nothing known yet.
    #[must_use]
    pub fn new(client: Client, writer: Writer, config: Config, recorder: Recorder) -> Self {
        Self {
            config,
            stores: Stores::default(),
            writer,
            queue: Queue::default(),
            placement: Notify::new(),
            events: Events(recorder),
            metrics: Metrics::default(),
            client,
            sizes: RwLock::default(),
            verdicts: RwLock::default(),
            written: Mutex::default(),
            applied: Mutex::default(),
            config_maps: Mutex::default(),
            journal: Mutex::default(),
        }
    }

    /// Forgets a Workspace that is gone.
    pub fn forget(&self, key: &Key) {
        self.unsize(key);
        self.written
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
    }

    /// Pods of a Workspace, those on their way out included.
    #[must_use]
    pub fn pods_of(&self, key: &Key) -> Vec<Arc<Pod>> {
        self.stores.pods.filter(|found| {
            found.metadata.namespace.as_deref() == Some(key.0.as_str())
                && pod::workspace_of(found) == Some(key.1.as_str())
        })
    }

    /// The ConfigMap `key` at `version`, read at most once per version.
    ///
    /// # Errors
    /// The read's.
    pub async fn config_map(
        &self,
        key: &Key,
        version: Option<&str>,
    ) -> Result<Option<Arc<ConfigMap>>, kube::Error> {
        let cached = {
            let maps = self
                .config_maps
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            maps.get(key)
                .filter(|map| map.resource_version().as_deref() == version)
                .cloned()
        };
        if cached.is_some() {
            return Ok(cached);
        }
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &key.0);
        let read = tokio::time::timeout(Duration::from_secs(10), api.get_opt(&key.1)).await;
        let found = match read {
            Ok(found) => found?.map(Arc::new),
            Err(elapsed) => return Err(kube::Error::Service(Box::new(elapsed))),
        };
        let mut maps = self
            .config_maps
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match found.as_ref() {
            Some(map) => maps.insert(key.clone(), Arc::clone(map)),
            None => maps.remove(key),
        };
        Ok(found)
    }
}
