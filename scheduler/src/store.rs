//! What the watches have seen: one store per kind, filled by one watch each.
//!
//! A store only mirrors; it decides nothing. Whoever needs to know of changes gets `(old, new)` with each.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock};

use futures::{Stream, TryStreamExt, pin_mut};
use kube::Resource;
use kube::runtime::watcher;
use tokio::sync::watch;

/// Namespace (empty for cluster-scoped kinds) and name.
pub type Key = (String, String);

/// Namespace and name of an object.
pub fn key<K: Resource>(object: &K) -> Key {
    let meta = object.meta();
    (
        meta.namespace.clone().unwrap_or_default(),
        meta.name.clone().unwrap_or_default(),
    )
}

/// A change of one object: `(None, Some)` it came, `(Some, Some)` it changed, `(Some, None)` it went.
pub type Change<K> = (Option<Arc<K>>, Option<Arc<K>>);

/// Objects of one kind by key. Cheap to clone; all clones are the same store.
#[derive(Debug)]
pub struct Store<K> {
    objects: Arc<RwLock<HashMap<Key, Arc<K>>>>,
    filled: watch::Sender<bool>,
}

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self {
            objects: Arc::clone(&self.objects),
            filled: self.filled.clone(),
        }
    }
}

impl<K> Default for Store<K> {
    fn default() -> Self {
        Self {
            objects: Arc::default(),
            filled: watch::Sender::new(false),
        }
    }
}

impl<K: Resource> Store<K> {
    /// The object with this key.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.objects
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }

    /// All objects, in no order.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<K>> {
        self.objects
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .cloned()
            .collect()
    }

    /// The objects for which `keep` holds. The read lock is held meanwhile: `keep` must be short.
    #[must_use]
    pub fn filter(&self, keep: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        let objects = self.objects.read().unwrap_or_else(PoisonError::into_inner);
        objects
            .values()
            .filter(|object| keep(object))
            .cloned()
            .collect()
    }

    /// Waits until the first complete list has arrived.
    pub async fn wait_filled(&self) {
        let mut filled = self.filled.subscribe();
        // The sender lives in `self`, so waiting cannot end by its loss.
        drop(filled.wait_for(|filled| *filled).await);
    }

    /// Whether the first complete list has arrived.
    #[must_use]
    pub fn is_filled(&self) -> bool {
        *self.filled.borrow()
    }

    fn put(&self, object: K) -> Change<K> {
        let object = Arc::new(object);
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        let old = objects.insert(key(object.as_ref()), Arc::clone(&object));
        (old, Some(object))
    }

    fn take(&self, key: &Key) -> Change<K> {
        let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
        (objects.remove(key), None)
    }

    /// Follows `events` until they end, calling `changed` after each change. During a list, objects that are not in
    /// it any more are reported as gone when it is complete, so that a cut watch loses nothing.
    ///
    /// # Errors
    /// The watch's own, when its back-off gives up.
    pub async fn follow(
        &self,
        events: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>>,
        mut changed: impl FnMut(Change<K>),
    ) -> Result<(), watcher::Error>
    where
        K: Debug,
    {
        pin_mut!(events);
        let mut listed: HashSet<Key> = HashSet::new();
        loop {
            let event = match events.try_next().await {
                Ok(Some(event)) => event,
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::warn!(%error, "watch failed; it is tried again");
                    continue;
                }
            };
            match event {
                watcher::Event::Init => listed.clear(),
                watcher::Event::InitApply(object) => {
                    listed.insert(key(&object));
                    changed(self.put(object));
                }
                watcher::Event::Apply(object) => changed(self.put(object)),
                watcher::Event::Delete(object) => changed(self.take(&key(&object))),
                watcher::Event::InitDone => {
                    for gone in self.all().iter().map(|object| key(object.as_ref())) {
                        if !listed.contains(&gone) {
                            changed(self.take(&gone));
                        }
                    }
                    listed = HashSet::new();
                    self.filled.send_replace(true);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Store, key};
    use futures::stream;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::runtime::watcher::Event;

    fn named(name: &str) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.to_owned());
        object
    }

    #[tokio::test]
    async fn a_new_list_reports_what_vanished_while_the_watch_was_cut() {
        let store = Store::default();
        let events = vec![
            Ok(Event::Init),
            Ok(Event::InitApply(named("a"))),
            Ok(Event::InitApply(named("b"))),
            Ok(Event::InitDone),
            Ok(Event::Init),
            Ok(Event::InitApply(named("b"))),
            Ok(Event::InitDone),
        ];
        let mut gone = Vec::new();
        let followed = store.follow(stream::iter(events), |(old, new)| {
            if let (Some(old), None) = (old, new) {
                gone.push(key(old.as_ref()).1);
            }
        });
        followed.await.unwrap();
        assert_eq!(gone, ["a"]);
        assert!(store.is_filled());
        assert_eq!(store.all().len(), 1);
    }
}
