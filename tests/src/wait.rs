//! Waiting for objects on a watch, with a deadline and an account of what was there when it passed.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::watcher::{Config, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest account of the last state, in characters.
const ACCOUNT: usize = 20_000;

/// Why a wait ended without success.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The deadline passed.
    #[error("{what} has not happened within {seconds} s; last seen:\n{last}")]
    Late {
        /// What was waited for.
        what: String,
        /// The limit.
        seconds: u64,
        /// The objects, as YAML.
        last: String,
    },
}

/// Waits until `condition` holds for all objects that match `selector` (a label selector; empty for all), and
/// returns them, sorted by namespace and name. `condition` also sees the empty list.
///
/// # Errors
/// [`Error::Late`] after `limit`, with the objects as last seen.
pub async fn wait_for_all<K>(
    api: &Api<K>,
    selector: &str,
    what: &str,
    limit: Duration,
    condition: impl Fn(&[K]) -> bool,
) -> Result<Vec<K>, Error>
where
    K: Resource + Clone + DeserializeOwned + Serialize + Debug + Send + 'static,
{
    watch(
        api.clone(),
        Config::default().labels(selector),
        what,
        limit,
        condition,
    )
    .await
}

/// Waits until `condition` holds for the object `name`, and returns it; `None` stands for an object that does not
/// exist, so that a deletion can be waited for.
///
/// # Errors
/// [`Error::Late`] after `limit`, with the object as last seen.
pub async fn wait_for<K>(
    api: &Api<K>,
    name: &str,
    what: &str,
    limit: Duration,
    condition: impl Fn(Option<&K>) -> bool,
) -> Result<Option<K>, Error>
where
    K: Resource + Clone + DeserializeOwned + Serialize + Debug + Send + 'static,
{
    let config = Config::default().fields(&format!("metadata.name={name}"));
    let found = watch(api.clone(), config, what, limit, |objects| {
        condition(objects.first())
    })
    .await?;
    Ok(found.into_iter().next())
}

/// Waits until no object is left.
///
/// # Errors
/// [`Error::Late`] after `limit`, with the objects as last seen.
pub async fn wait_for_none<K>(api: &Api<K>, what: &str, limit: Duration) -> Result<(), Error>
where
    K: Resource + Clone + DeserializeOwned + Serialize + Debug + Send + 'static,
{
    wait_for_all(api, "", what, limit, <[K]>::is_empty).await?;
    Ok(())
}

async fn watch<K>(
    api: Api<K>,
    config: Config,
    what: &str,
    limit: Duration,
    condition: impl Fn(&[K]) -> bool,
) -> Result<Vec<K>, Error>
where
    K: Resource + Clone + DeserializeOwned + Serialize + Debug + Send + 'static,
{
    let mut seen = Seen {
        objects: BTreeMap::new(),
        complete: false,
        trouble: None,
    };
    let followed = tokio::time::timeout(limit, follow(api, config, &mut seen, &condition)).await;
    match followed {
        Ok(objects) => Ok(objects),
        Err(_) => Err(Error::Late {
            what: what.to_owned(),
            seconds: limit.as_secs(),
            last: seen.account(),
        }),
    }
}

/// Never returns unless the condition comes to hold: a watch that fails is taken up again.
async fn follow<K>(
    api: Api<K>,
    config: Config,
    seen: &mut Seen<K>,
    condition: &impl Fn(&[K]) -> bool,
) -> Vec<K>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut events = std::pin::pin!(watcher(api, config));
    loop {
        let Some(event) = events.next().await else {
            return std::future::pending().await;
        };
        seen.take(event);
        if seen.complete {
            let objects: Vec<K> = seen.objects.values().cloned().collect();
            if condition(&objects) {
                return objects;
            }
        }
    }
}

struct Seen<K> {
    objects: BTreeMap<(Option<String>, String), K>,
    /// False while the first list is still coming in.
    complete: bool,
    trouble: Option<String>,
}

impl<K: Resource> Seen<K> {
    fn take(&mut self, event: Result<Event<K>, kube::runtime::watcher::Error>) {
        match event {
            Ok(Event::Init) => {
                self.objects.clear();
                self.complete = false;
            }
            Ok(Event::InitDone) => self.complete = true,
            Ok(Event::InitApply(object) | Event::Apply(object)) => {
                self.objects
                    .insert((object.namespace(), object.name_any()), object);
            }
            Ok(Event::Delete(object)) => {
                self.objects
                    .remove(&(object.namespace(), object.name_any()));
            }
            Err(error) => self.trouble = Some(error.to_string()),
        }
    }
}

impl<K: Resource + Clone + Serialize> Seen<K> {
    fn account(&self) -> String {
        let shown: Vec<K> = self
            .objects
            .values()
            .cloned()
            .map(without_managed_fields)
            .collect();
        let mut text = match serde_saphyr::to_string(&shown) {
            Ok(text) if !shown.is_empty() => text,
            Ok(_) => "no object".to_owned(),
            Err(error) => format!("{} objects that cannot be shown: {error}", shown.len()),
        };
        if let Some(end) = text.char_indices().nth(ACCOUNT).map(|(index, _)| index) {
            text.truncate(end);
        }
        if let Some(trouble) = &self.trouble {
            text.push_str(&format!("\nthe watch failed: {trouble}"));
        }
        text
    }
}

fn without_managed_fields<K: Resource>(mut object: K) -> K {
    object.managed_fields_mut().clear();
    object
}
