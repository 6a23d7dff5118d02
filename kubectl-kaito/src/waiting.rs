//! Waits for one object: list, watch from there, list again when the watch ends. No polling.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use kube::api::{Api, DynamicObject, ListParams, WatchEvent, WatchParams};
use serde_json::Value;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::error::Failure;

/// Longest life of one watch; the server would end it at some time of its own otherwise.
const WATCH_SECONDS: u32 = 290;
/// Pause after a connection was lost, and how often in a row that may happen.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
const MAX_RECONNECTS: u32 = 30;
/// Pause between a watch that ended and the next list.
const RELIST_PAUSE: Duration = Duration::from_millis(50);

/// Looks at an object each time it changes, until `check` has an answer or the deadline passes (then none).
/// `check` gets nothing while the object does not exist. `what` names the resource, for example
/// `workspaces.kaito.sh`.
///
/// # Errors
/// The server refuses, or cannot be reached for `MAX_RECONNECTS` tries in a row.
pub async fn until<T>(
    cluster: &Cluster,
    api: &Api<DynamicObject>,
    name: &str,
    what: &str,
    deadline: Option<Instant>,
    check: impl FnMut(Option<&Value>) -> Option<T>,
) -> Result<Option<T>, Failure> {
    let waiting = follow(cluster, api, name, what, check);
    match deadline {
        None => waiting.await.map(Some),
        Some(deadline) => match tokio::time::timeout_at(deadline, waiting).await {
            Ok(result) => result.map(Some),
            Err(_) => Ok(None),
        },
    }
}

/// The object as it is now, without waiting.
///
/// # Errors
/// The server refuses or cannot be reached.
pub async fn once(
    cluster: &Cluster,
    api: &Api<DynamicObject>,
    name: &str,
    what: &str,
) -> Result<Option<Value>, Failure> {
    let found = cluster.find(&format!("get {what}"), api.get(name)).await?;
    Ok(found.and_then(|object| serde_json::to_value(object).ok()))
}

async fn follow<T>(
    cluster: &Cluster,
    api: &Api<DynamicObject>,
    name: &str,
    what: &str,
    mut check: impl FnMut(Option<&Value>) -> Option<T>,
) -> Result<T, Failure> {
    let selector = format!("metadata.name={name}");
    let mut losses = 0;
    loop {
        let list = cluster
            .call(
                &format!("list {what}"),
                api.list(&ListParams::default().fields(&selector)),
            )
            .await;
        let list = match list {
            Ok(list) => list,
            // The first list must work; later ones may meet a server that is just restarting.
            Err(failure) if losses == 0 || losses >= MAX_RECONNECTS => return Err(failure),
            Err(_) => {
                losses += 1;
                tokio::time::sleep(RECONNECT_PAUSE).await;
                continue;
            }
        };
        let object = list
            .items
            .first()
            .and_then(|object| serde_json::to_value(object).ok());
        if let Some(answer) = check(object.as_ref()) {
            return Ok(answer);
        }
        let version = list.metadata.resource_version.unwrap_or_default();
        let params = WatchParams::default()
            .fields(&selector)
            .timeout(WATCH_SECONDS);
        match watch(api, &params, &version, &mut check).await {
            Watched::Answer(answer) => return Ok(answer),
            Watched::Ended => {
                losses = 1;
                tokio::time::sleep(RELIST_PAUSE).await;
            }
            Watched::Failed(error) => {
                losses += 1;
                if is_refusal(&error) || losses >= MAX_RECONNECTS {
                    let failed = async { Err::<T, _>(error) };
                    return cluster.call(&format!("watch {what}"), failed).await;
                }
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        }
    }
}

/// How a watch ended.
enum Watched<T> {
    /// The check had an answer.
    Answer(T),
    /// The server closed it, as it does from time to time.
    Ended,
    /// It could not be opened.
    Failed(kube::Error),
}

/// Whether trying again would be refused again.
fn is_refusal(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if matches!(status.code, 401 | 403))
}

/// Looks at events until there is an answer or the watch ends, for whatever reason.
async fn watch<T>(
    api: &Api<DynamicObject>,
    params: &WatchParams,
    version: &str,
    check: &mut impl FnMut(Option<&Value>) -> Option<T>,
) -> Watched<T> {
    let mut events = match api.watch(params, version).await {
        Ok(events) => events.boxed(),
        Err(error) => return Watched::Failed(error),
    };
    while let Ok(Some(event)) = events.try_next().await {
        let answer = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                check(serde_json::to_value(object).ok().as_ref())
            }
            WatchEvent::Deleted(_) => check(None),
            WatchEvent::Bookmark(_) => None,
            WatchEvent::Error(_) => return Watched::Ended,
        };
        if let Some(answer) = answer {
            return Watched::Answer(answer);
        }
    }
    Watched::Ended
}
