//! What the placement loop remembers between rounds because no object shows it: writes that the stores lag behind,
//! refused offers, idle claims.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use kaito_api::{NodeClaim, Workspace, names};
use kaito_placement::snapshot::BlockedOffer;
use kaito_snapshot::cluster::{self, ClaimIndex, Memory, Objects};
use kaito_snapshot::{node, pod};
use kube::ResourceExt;
use kube::runtime::events::{Event, EventType};
use tokio::time::Instant;

use crate::shared::Shared;
use crate::store::Key;

/// How long a write is trusted over stores that do not show it.
const TRUST: Duration = Duration::from_secs(30);
/// How long an offer is left alone after its first refusal, seconds; doubles with each further one.
const FIRST_BLOCK_SECONDS: i64 = 30;
/// Longest time that an offer is left alone, seconds.
const LONGEST_BLOCK_SECONDS: i64 = 600;
/// An offer that was not refused for this long after its block ended starts anew, seconds.
const FORGIVE_SECONDS: i64 = 1_800;

/// The loop's memory.
#[derive(Debug, Default)]
pub struct LoopMemory {
    pinned: HashMap<Key, (String, Instant)>,
    ordered: HashMap<String, (Arc<NodeClaim>, Instant)>,
    idle_since: BTreeMap<String, i64>,
    blocked: BTreeMap<String, (BlockedOffer, u32)>,
    told: HashMap<Key, Instant>,
    evicted: HashMap<Key, (String, Instant)>,
    refused: Option<(String, Instant)>,
    emptying: BTreeSet<String>,
    moved: Option<Instant>,
}

impl LoopMemory {
    /// A pod was sent to a node.
    pub fn pin(&mut self, pod: Key, node: String) {
        self.pinned.insert(pod, (node, Instant::now()));
    }

    /// A pod was not sent after all.
    pub fn unpin(&mut self, pod: &Key) {
        self.pinned.remove(pod);
    }

    /// A claim was made.
    pub fn order(&mut self, claim: NodeClaim) {
        self.ordered
            .insert(claim.name_any(), (Arc::new(claim), Instant::now()));
    }

    /// The pod with this UID was evicted.
    pub fn evict(&mut self, pod: Key, uid: String) {
        self.evicted.insert(pod, (uid, Instant::now()));
    }

    /// An eviction was refused, for this reason.
    pub fn refuse(&mut self, why: String) {
        self.refused = Some((why, Instant::now()));
    }

    /// Why an eviction was refused within the last `pause`, if one was.
    #[must_use]
    pub fn refusal(&self, pause: Duration) -> Option<&str> {
        let (why, at) = self.refused.as_ref()?;
        (at.elapsed() < pause).then_some(why.as_str())
    }

    /// The pods of a node are about to be moved; nobody is sent to it from now on.
    pub fn start_emptying(&mut self, node: &str) {
        self.emptying.insert(node.to_owned());
        self.moved = Some(Instant::now());
    }

    /// A node could not be emptied and serves on.
    pub fn keep(&mut self, node: &str) {
        self.emptying.remove(node);
    }

    /// Opens all nodes that are being emptied again; whether there were any. Not remembered by any object: a process
    /// that starts anew opens them too.
    pub fn keep_all(&mut self) -> bool {
        !std::mem::take(&mut self.emptying).is_empty()
    }

    /// Whether pods were moved within the last `pause`.
    #[must_use]
    pub fn has_moved_within(&self, pause: Duration) -> bool {
        self.moved.is_some_and(|at| at.elapsed() < pause)
    }

    /// Which of the pods that wait have not been told why for `pause`, at most `most` of them. They count as told from
    /// now on; those that wait no longer are forgotten.
    pub fn untold<'a>(
        &mut self,
        waiting: &HashSet<&'a Key>,
        most: usize,
        pause: Duration,
    ) -> Vec<&'a Key> {
        self.told.retain(|pod, _| waiting.contains(pod));
        let due = |pod: &&&Key| self.told.get(**pod).is_none_or(|at| at.elapsed() >= pause);
        let due: Vec<&Key> = waiting.iter().filter(due).take(most).copied().collect();
        let now = Instant::now();
        self.told
            .extend(due.iter().map(|pod| ((*pod).clone(), now)));
        due
    }

    /// Drops what the stores show by now, notices refusals and idle claims.
    pub async fn refresh(&mut self, shared: &Shared, objects: &Objects, now: i64) {
        let gated: HashSet<Key> = objects
            .pods
            .iter()
            .filter(|found| pod::stand(found) == pod::Stand::Gated)
            .map(|found| cluster::key_of(found))
            .collect();
        self.pinned
            .retain(|key, (_, at)| gated.contains(key) && at.elapsed() < TRUST);
        self.forget_evictions(objects);
        let journal = shared.take_journal();
        self.ordered
            .retain(|name, (_, at)| !journal.changed.contains(name) && at.elapsed() < TRUST);
        for claim in &journal.refused {
            self.notice_refusal(shared, claim, now).await;
        }
        self.notice_idle(objects, now);
    }

    /// This memory in the form that snapshots are built from.
    pub fn for_snapshot(&self, shared: &Shared) -> Memory {
        Memory {
            blocked: self
                .blocked
                .iter()
                .map(|(name, (offer, _))| (name.clone(), offer.clone()))
                .collect(),
            idle_since: self.idle_since.clone(),
            idle_grace_seconds: shared.config.idle_grace_seconds,
            assumed: self
                .pinned
                .iter()
                .map(|(key, (node, _))| (key.clone(), node.clone()))
                .collect(),
            evicted: self
                .evicted
                .iter()
                .map(|(key, (uid, _))| (key.clone(), uid.clone()))
                .collect(),
            emptying: self.emptying.clone(),
            ..Memory::default()
        }
    }

    /// Claims that were made and that the stores do not show yet.
    pub fn ordered(&self) -> impl Iterator<Item = &Arc<NodeClaim>> {
        self.ordered.values().map(|(claim, _)| claim)
    }

    /// Whether a promise is outstanding that no object shows: the next round must not be far.
    pub fn is_waiting(&self) -> bool {
        !self.pinned.is_empty() || !self.ordered.is_empty() || !self.evicted.is_empty()
    }

    /// Forgets the evictions that the objects show, and nodes that are gone.
    fn forget_evictions(&mut self, objects: &Objects) {
        let staying = objects
            .pods
            .iter()
            .filter(|found| found.metadata.deletion_timestamp.is_none());
        let unshown: HashSet<(Key, Option<String>)> = staying
            .filter(|found| self.evicted.contains_key(&cluster::key_of(found)))
            .map(|found| (cluster::key_of(found), found.uid()))
            .collect();
        self.evicted.retain(|key, (uid, at)| {
            unshown.contains(&(key.clone(), Some(uid.clone()))) && at.elapsed() < TRUST
        });
        let nodes: HashSet<String> = objects.nodes.iter().map(|node| node.name_any()).collect();
        self.emptying.retain(|node| nodes.contains(node));
    }

    /// A refused claim blocks its instance type for a while and is reported on its buyer, where it outlives the claim.
    async fn notice_refusal(&mut self, shared: &Shared, claim: &NodeClaim, now: i64) {
        let (Some((reason, message)), true) = (node::refusal(claim), cluster::is_ours(claim))
        else {
            return;
        };
        let Some(kind) = claim.instance_type() else {
            return;
        };
        self.block(kind, reason, message, now);
        report(shared, claim, kind, message).await;
    }

    fn block(&mut self, instance_type: &str, reason: &str, message: &str, now: i64) {
        let entry = self.blocked.entry(instance_type.to_owned()).or_default();
        if now > entry.0.until_seconds + FORGIVE_SECONDS {
            entry.1 = 0;
        }
        let pause = (FIRST_BLOCK_SECONDS << entry.1.min(10)).min(LONGEST_BLOCK_SECONDS);
        entry.1 = entry.1.saturating_add(1);
        entry.0 = BlockedOffer {
            until_seconds: now + pause,
            reason: if message.is_empty() {
                reason.to_owned()
            } else {
                message.to_owned()
            },
        };
    }

    /// A claim is idle when no pod of any Workspace, nor any other that we placed, is on, or on its way to, its node.
    fn notice_idle(&mut self, objects: &Objects, now: i64) {
        let index = ClaimIndex::new(&objects.claims);
        let by_host = cluster::nodes_by_host(&objects.nodes);
        let mut used: BTreeSet<String> =
            self.pinned.values().map(|(node, _)| node.clone()).collect();
        let memory = Memory::default();
        for found in objects.pods.iter().filter(|found| pod::is_ours(found)) {
            used.extend(cluster::node_of(found, &memory, &by_host));
        }
        let busy: BTreeSet<String> = objects
            .nodes
            .iter()
            .filter(|node| used.contains(&node.name_any()))
            .filter_map(|node| index.of(node))
            .filter_map(|claim| claim.metadata.name.clone())
            .collect();
        let idle: BTreeMap<String, i64> = objects
            .claims
            .iter()
            .filter(|claim| cluster::is_ours(claim) && claim.metadata.deletion_timestamp.is_none())
            .map(|claim| claim.name_any())
            .filter(|name| !busy.contains(name))
            .map(|name| {
                let since = self.idle_since.get(&name).copied().unwrap_or(now);
                (name, since)
            })
            .collect();
        self.idle_since = idle;
    }
}

/// The Workspace that a claim was bought for, if it is still there.
pub fn buyer(shared: &Shared, claim: &NodeClaim) -> Option<Arc<Workspace>> {
    let labels = claim.labels();
    let key = (
        labels.get(names::LABEL_WORKSPACE_NAMESPACE)?.clone(),
        labels.get(names::LABEL_WORKSPACE)?.clone(),
    );
    shared.stores.workspaces.get(&key)
}

async fn report(shared: &Shared, claim: &NodeClaim, instance_type: &str, message: &str) {
    let Some(workspace) = buyer(shared, claim) else {
        return;
    };
    let event = Event {
        type_: EventType::Warning,
        reason: "NodeClaimCreationFailed".to_owned(),
        note: Some(format!("{instance_type}: {message}")),
        action: "BuyNode".to_owned(),
        secondary: None,
    };
    shared.events.publish(event, workspace.as_ref()).await;
}
