//! What we know of one kind: the watch's view plus our own writes, so that a decision never reads a state older than
//! what this process has written.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Debug;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch::{Receiver, Sender};
use tracing::warn;

/// UIDs of deleted objects that are remembered, so that the late answer to a write cannot revive one. Far more than
/// can be under way at once.
const REMEMBERED: usize = 4096;

/// Objects by `namespace/name` (cluster-scoped ones by name).
pub struct Mirror<K> {
    state: Mutex<State<K>>,
    /// Raised with every change; lets a log stream wait for its pod's end.
    changes: Sender<u64>,
    filled: Sender<bool>,
    /// Every change, whether the watch or a write of ours brought it, in the order in which it was made.
    told: UnboundedSender<Change<K>>,
    listener: Mutex<Option<UnboundedReceiver<Change<K>>>>,
}

struct State<K> {
    objects: BTreeMap<String, Arc<K>>,
    deleted: VecDeque<String>,
    listing: Option<BTreeSet<String>>,
}

/// One change: the object before and after.
pub type Change<K> = (Option<Arc<K>>, Option<Arc<K>>);

impl<K> Default for Mirror<K> {
    fn default() -> Self {
        let state = State {
            objects: BTreeMap::new(),
            deleted: VecDeque::new(),
            listing: None,
        };
        let (told, listener) = unbounded_channel();
        Self {
            state: Mutex::new(state),
            changes: Sender::new(0),
            filled: Sender::new(false),
            told,
            listener: Mutex::new(Some(listener)),
        }
    }
}

/// Key of an object.
pub fn key_of<K: Resource>(object: &K) -> String {
    let metadata = object.meta();
    let name = metadata.name.as_deref().unwrap_or_default();
    match metadata.namespace.as_deref() {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name.to_owned(),
    }
}

/// Resource versions are numbers that grow, by the API's contract since Kubernetes 1.35 and in every earlier etcd.
fn version<K: Resource>(object: &K) -> u64 {
    object
        .meta()
        .resource_version
        .as_deref()
        .and_then(|version| version.parse().ok())
        .unwrap_or(0)
}

impl<K: Resource + Clone> Mirror<K> {
    /// The object with this key.
    pub fn get(&self, key: &str) -> Option<Arc<K>> {
        self.lock().objects.get(key).cloned()
    }

    /// All objects that pass, in the order of their keys.
    pub fn select(&self, pass: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        self.lock()
            .objects
            .values()
            .filter(|object| pass(object))
            .cloned()
            .collect()
    }

    /// Takes in the answer to a write of ours.
    pub fn record(&self, object: K) {
        let mut state = self.lock();
        let change = state.put(object);
        self.tell(change);
    }

    /// Forgets an object that the API server says is gone.
    pub fn forget(&self, key: &str) {
        let mut state = self.lock();
        if let Some(object) = state.objects.remove(key) {
            state.bury(object.as_ref());
            self.tell([(Some(object), None)]);
        }
    }

    /// Called with the state locked, so that changes are told in their order.
    fn tell(&self, changes: impl IntoIterator<Item = Change<K>>) {
        for change in changes {
            self.changes.send_modify(|count| *count += 1);
            // Without a listener nobody cares.
            let _ = self.told.send(change);
        }
    }

    /// A receiver that sees every change from now on.
    pub fn changes(&self) -> Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until the first list is complete.
    pub async fn filled(&self) {
        let mut filled = self.filled.subscribe();
        // The sender lives as long as `self`, so waiting cannot fail.
        if filled.wait_for(|filled| *filled).await.is_err() {
            pending::<()>().await;
        }
    }

    /// Takes in one watch event.
    pub fn observe(&self, event: Event<K>) {
        let mut state = self.lock();
        let changes = match event {
            Event::Init => {
                state.listing = Some(BTreeSet::new());
                vec![]
            }
            Event::InitApply(object) => {
                let key = key_of(&object);
                if let Some(listing) = &mut state.listing {
                    listing.insert(key);
                }
                state.put(object).into_iter().collect()
            }
            Event::InitDone => state.prune(),
            Event::Apply(object) => state.put(object).into_iter().collect(),
            Event::Delete(object) => state.remove(&object).into_iter().collect(),
        };
        let filled = state.listing.is_none();
        self.tell(changes);
        drop(state);
        self.filled
            .send_if_modified(|known| !std::mem::replace(known, *known || filled) && filled);
    }

    /// A poisoned lock is used on: nothing panics while holding it.
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Resource + Clone> State<K> {
    /// Stores an object unless a newer or the same version is known, or it is buried.
    fn put(&mut self, mut object: K) -> Option<Change<K>> {
        // Bulk that no decision reads.
        object.meta_mut().managed_fields = None;
        if object
            .meta()
            .uid
            .as_ref()
            .is_some_and(|uid| self.deleted.contains(uid))
        {
            return None;
        }
        let key = key_of(&object);
        let old = self.objects.get(&key).cloned();
        if old
            .as_ref()
            .is_some_and(|old| version(old.as_ref()) >= version(&object))
        {
            return None;
        }
        let new = Arc::new(object);
        self.objects.insert(key, new.clone());
        Some((old, Some(new)))
    }

    /// Removes an object that the watch says is deleted, but not a namesake that has followed it.
    fn remove(&mut self, object: &K) -> Option<Change<K>> {
        self.bury(object);
        let key = key_of(object);
        let known = self.objects.get(&key)?;
        if known.meta().uid != object.meta().uid {
            return None;
        }
        self.objects.remove(&key).map(|old| (Some(old), None))
    }

    fn bury(&mut self, object: &K) {
        self.deleted.extend(object.meta().uid.clone());
        if self.deleted.len() > REMEMBERED {
            self.deleted.pop_front();
        }
    }

    /// After a new list: what it did not name is gone.
    fn prune(&mut self) -> Vec<Change<K>> {
        let Some(listed) = self.listing.take() else {
            return vec![];
        };
        let gone: Vec<String> = self
            .objects
            .keys()
            .filter(|key| !listed.contains(*key))
            .cloned()
            .collect();
        let removed = gone.iter().filter_map(|key| self.objects.remove(key));
        removed.map(|old| (Some(old), None)).collect()
    }
}

/// Keeps `mirror` up to date for ever and reports every change, including those that our own writes made.
pub async fn feed<K>(
    mirror: &Mirror<K>,
    api: Api<K>,
    config: watcher::Config,
    changed: impl Fn(&Change<K>),
) where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let listener = mirror
        .listener
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .take();
    let listen = async {
        let Some(mut listener) = listener else { return };
        while let Some(change) = listener.recv().await {
            changed(&change);
        }
    };
    let watching = async {
        let mut events = std::pin::pin!(watch(api, config).default_backoff());
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => mirror.observe(event),
                Err(error) => {
                    warn!(kind = %K::kind(&()), error = %Chain(&error), "watch failed; it is resumed");
                }
            }
        }
    };
    tokio::select! {
        () = listen => {}
        () = watching => {}
    }
}

/// An error with its sources on one line.
pub struct Chain<'a>(pub &'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(formatter, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Node;
    use serde_json::json;

    use super::*;

    fn node(name: &str, uid: &str, version: u64) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": uid, "resourceVersion": version.to_string()}
        }))
        .unwrap()
    }

    fn version_of(mirror: &Mirror<Node>, name: &str) -> Option<u64> {
        mirror.get(name).map(|node| version(node.as_ref()))
    }

    fn told(mirror: &Mirror<Node>) -> Vec<Change<Node>> {
        let mut listener = mirror.listener.lock().unwrap();
        std::iter::from_fn(|| listener.as_mut().unwrap().try_recv().ok()).collect()
    }

    #[test]
    fn a_change_is_told_once_whether_we_or_the_watch_made_it() {
        let mirror = Mirror::default();
        mirror.observe(Event::Apply(node("a", "u", 5)));
        mirror.record(node("a", "u", 7));
        mirror.observe(Event::Apply(node("a", "u", 7)));
        mirror.forget("a");
        mirror.observe(Event::Delete(node("a", "u", 8)));
        let versions: Vec<_> = told(&mirror)
            .iter()
            .map(|(_, new)| new.as_ref().map(|node| version(node.as_ref())))
            .collect();
        assert_eq!(versions, [Some(5), Some(7), None]);
    }

    #[test]
    fn an_older_watch_event_does_not_undo_our_own_write() {
        let mirror = Mirror::default();
        mirror.observe(Event::Apply(node("a", "u", 5)));
        mirror.record(node("a", "u", 7));
        mirror.observe(Event::Apply(node("a", "u", 6)));
        assert_eq!(version_of(&mirror, "a"), Some(7));
    }

    #[test]
    fn a_late_answer_does_not_revive_a_deleted_object() {
        let mirror = Mirror::default();
        mirror.observe(Event::Apply(node("a", "u", 5)));
        mirror.observe(Event::Delete(node("a", "u", 8)));
        mirror.record(node("a", "u", 7));
        assert_eq!(version_of(&mirror, "a"), None);
        mirror.record(node("a", "v", 9));
        assert_eq!(
            version_of(&mirror, "a"),
            Some(9),
            "a namesake is another object"
        );
    }

    #[test]
    fn a_new_list_removes_what_it_does_not_name() {
        let mirror = Mirror::default();
        mirror.observe(Event::Apply(node("a", "u", 1)));
        mirror.observe(Event::Apply(node("b", "v", 2)));
        mirror.observe(Event::Init);
        mirror.observe(Event::InitApply(node("b", "v", 2)));
        told(&mirror);
        mirror.observe(Event::InitDone);
        let changes = told(&mirror);
        assert_eq!(changes.len(), 1);
        assert!(changes[0].1.is_none());
        assert_eq!(mirror.select(|_| true).len(), 1);
    }
}
