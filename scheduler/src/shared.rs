//! What the driver and the placement loop share: stores, writer, queue, sizes, verdicts, and memories of writes that
//! the stores do not show yet.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use kaito_api::workspace::WorkspaceStatus;
use kaito_api::{NodeClaim, Workspace, names};
use kaito_placement::plan::Blocker;
use kaito_snapshot::cluster::ClaimIndex;
use kaito_snapshot::pod;
use kaito_snapshot::sizing::{NodeMode, Sizing};
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::events::Recorder;
use kube::{Client, Resource, ResourceExt};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::store::{Key, Store, key};
use crate::workspace::build::{Images, content_hash};
use crate::writer::{Error, Writer};

/// How long a write is trusted over a store that does not show it.
const TRUST_WRITES: Duration = Duration::from_secs(30);

/// Settings of a run.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Where nodes come from.
    pub node_mode: NodeMode,
    /// Images of children.
    pub images: Images,
    /// How long a bought node that serves nobody is kept, seconds.
    pub idle_grace_seconds: i64,
    /// Where plans are recorded, if they are.
    pub record: Option<crate::placement::record::Settings>,
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

/// What the placement loop last said of a Workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All pods have nodes.
    Placed {
        /// Why those.
        reason: String,
    },
    /// They wait.
    Waiting {
        /// What for.
        blocker: Blocker,
        /// In words.
        message: String,
    },
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

/// What happened to claims since the placement loop last looked. A refused claim can come and go between two rounds,
/// so the stores alone do not tell.
#[derive(Debug, Default)]
pub struct ClaimJournal {
    /// Claims that the cloud has newly refused.
    pub refused: Vec<Arc<NodeClaim>>,
    /// Names of all claims that changed.
    pub changed: HashSet<String>,
}

/// The event recorder.
pub struct Events(Recorder);

impl Events {
    /// Publishes an event about `object`. A failure is logged, never an error: events are for people.
    pub async fn publish(&self, event: kube::runtime::events::Event, object: &Workspace) {
        if let Err(error) = self.0.publish(&event, &object.object_ref(&())).await {
            tracing::info!(%error, reason = event.reason, "event not recorded");
        }
    }
}

#[derive(Clone, Debug)]
struct Size {
    workspace: Arc<Workspace>,
    sizing: Arc<Sizing>,
    inputs: String,
}

#[derive(Clone, Debug)]
struct WrittenStatus {
    uid: Option<String>,
    status: WorkspaceStatus,
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

    /// Notes a change of a claim for the placement loop.
    pub fn note_claim(&self, old: Option<&NodeClaim>, new: Option<&Arc<NodeClaim>>) {
        let refused = |claim: &NodeClaim| kaito_snapshot::node::refusal(claim).is_some();
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let name = new
            .map(|claim| claim.name_any())
            .or_else(|| old.map(ResourceExt::name_any));
        journal.changed.extend(name);
        if let Some(new) = new.filter(|new| refused(new) && !old.is_some_and(refused)) {
            journal.refused.push(Arc::clone(new));
        }
    }

    /// What happened to claims since the last call.
    #[must_use]
    pub fn take_journal(&self) -> ClaimJournal {
        std::mem::take(&mut *self.journal.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Forgets a Workspace that is gone.
    pub fn forget(&self, key: &Key) {
        self.unsize(key);
        self.written
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
    }

    /// Records the size of a Workspace and wakes the placement loop if it is new.
    pub fn sized(&self, key: &Key, workspace: &Workspace, sizing: Arc<Sizing>, inputs: String) {
        let mut sizes = self.sizes.write().unwrap_or_else(PoisonError::into_inner);
        let same = sizes.get(key).is_some_and(|known| {
            known.inputs == inputs
                && known.workspace.uid() == workspace.uid()
                && *known.sizing == *sizing
        });
        if !same {
            let workspace = Arc::new(workspace.clone());
            sizes.insert(
                key.clone(),
                Size {
                    workspace,
                    sizing,
                    inputs,
                },
            );
            drop(sizes);
            self.placement.notify_one();
        }
    }

    /// Takes a Workspace out of placement.
    pub fn unsize(&self, key: &Key) {
        let known = self
            .sizes
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
        self.verdicts
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
        if known.is_some() {
            self.placement.notify_one();
        }
    }

    /// The size in use, if it was made from the same inputs and pods run with it.
    #[must_use]
    pub fn kept_size(&self, workspace: &Workspace, inputs: &str) -> Option<Arc<Sizing>> {
        let own = key(workspace);
        let known = self
            .sizes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&own)
            .cloned()?;
        let same = known.inputs == inputs && known.workspace.uid() == workspace.uid();
        let placed = || {
            self.pods_of(&own)
                .iter()
                .any(|pod| matches!(pod::stand(pod), pod::Stand::On(_)))
        };
        (same && placed()).then_some(known.sizing)
    }

    /// Workspaces with their sizes, for a snapshot.
    #[must_use]
    pub fn sized_workspaces(&self) -> Vec<(Arc<Workspace>, Arc<Sizing>)> {
        let sizes = self.sizes.read().unwrap_or_else(PoisonError::into_inner);
        sizes
            .iter()
            .map(|(key, size)| {
                let current = self.stores.workspaces.get(key);
                (
                    current.unwrap_or_else(|| Arc::clone(&size.workspace)),
                    Arc::clone(&size.sizing),
                )
            })
            .collect()
    }

    /// The last verdict on a Workspace.
    #[must_use]
    pub fn verdict(&self, key: &Key) -> Option<Verdict> {
        self.verdicts
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }

    /// Records a verdict; a new one brings the Workspace back into the queue.
    pub fn judge(&self, key: Key, verdict: Verdict) {
        let mut verdicts = self
            .verdicts
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if verdicts.get(&key) != Some(&verdict) {
            verdicts.insert(key.clone(), verdict);
            drop(verdicts);
            self.queue.add(key);
        }
    }

    /// Pods of a Workspace, those on their way out included.
    #[must_use]
    pub fn pods_of(&self, key: &Key) -> Vec<Arc<Pod>> {
        self.stores.pods.filter(|found| {
            found.metadata.namespace.as_deref() == Some(key.0.as_str())
                && pod::workspace_of(found) == Some(key.1.as_str())
        })
    }

    /// Names of claims bought for the Workspace with `uid` whose nodes no other Workspace uses.
    #[must_use]
    pub fn claims_only_for(&self, own: &Key, uid: &str) -> Vec<String> {
        let claims = self.stores.claims.all();
        let index = ClaimIndex::new(&claims);
        let mut shared_claims: Vec<String> = Vec::new();
        let nodes = self.stores.nodes.all();
        for found in self.stores.pods.all() {
            let Some(other) = pod::workspace_of(&found) else {
                continue;
            };
            let foreign = (found.metadata.namespace.as_deref(), other)
                != (Some(own.0.as_str()), own.1.as_str());
            if let (true, pod::Stand::On(name)) = (foreign, pod::stand(&found)) {
                let node = nodes.iter().find(|node| node.name_any() == name);
                shared_claims.extend(
                    node.and_then(|node| index.of(node))
                        .and_then(|claim| claim.metadata.name.clone()),
                );
            }
        }
        let mut names: Vec<String> = claims
            .iter()
            .filter(|claim| {
                claim
                    .annotations()
                    .get(names::ANNOTATION_BUYER_UID)
                    .is_some_and(|buyer| buyer == uid)
            })
            .map(|claim| claim.name_any())
            .filter(|name| !shared_claims.contains(name))
            .collect();
        names.sort();
        names
    }

    /// Whether exactly this content was applied a moment ago, though the store does not show it.
    #[must_use]
    pub fn was_applied<K: Resource<DynamicType = ()>>(&self, key: &Key, wanted: &K) -> bool {
        let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        applied
            .get(&(K::kind(&()).into_owned(), key.clone()))
            .is_some_and(|(hash, at)| {
                at.elapsed() < TRUST_WRITES && content_hash(wanted) == Some(hash.as_str())
            })
    }

    /// Remembers what was applied.
    pub fn applied<K: Resource<DynamicType = ()>>(&self, key: &Key, wanted: &K) {
        let hash = content_hash(wanted).unwrap_or_default().to_owned();
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        applied.insert(
            (K::kind(&()).into_owned(), key.clone()),
            (hash, Instant::now()),
        );
    }

    /// Forgets what was applied to an object that the store now shows, or shows no more.
    pub fn shown<K: Resource<DynamicType = ()>>(&self, key: &Key) {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        applied.remove(&(K::kind(&()).into_owned(), key.clone()));
    }

    /// Writes the status unless the server or our last write has the same.
    ///
    /// # Errors
    /// The write's.
    pub async fn write_status(
        &self,
        workspace: &Workspace,
        wanted: WorkspaceStatus,
    ) -> Result<(), Error> {
        let own = key(workspace);
        let uid = workspace.uid();
        let last = {
            let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            written
                .get(&own)
                .filter(|last| last.uid == uid)
                .map(|last| last.status.clone())
        };
        let current = last
            .or_else(|| workspace.status.clone())
            .unwrap_or_default();
        if current == wanted {
            return Ok(());
        }
        let object = json!({
            "apiVersion": Workspace::api_version(&()),
            "kind": Workspace::kind(&()),
            "metadata": {"name": own.1, "namespace": own.0, "uid": uid},
            "status": wanted,
        });
        let api = self.writer.namespaced::<Workspace>(&own);
        self.writer
            .apply_status(&api, names::STATUS_MANAGER, &own.1, &object)
            .await?;
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.insert(
            own,
            WrittenStatus {
                uid,
                status: wanted,
            },
        );
        Ok(())
    }

    /// The status that the server has or will show: our last write, else what the store shows.
    #[must_use]
    pub fn current_status(&self, workspace: &Workspace) -> WorkspaceStatus {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let last = written
            .get(&key(workspace))
            .filter(|last| last.uid == workspace.uid());
        last.map(|last| last.status.clone())
            .or_else(|| workspace.status.clone())
            .unwrap_or_default()
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
