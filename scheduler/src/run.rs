//! The scheduler process: builds the object graph, one function per task, and runs it until told to stop.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kaito_api::names;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::lease::{self, Claim, Election};
use crate::metrics::{ByResult, Result as Ended};
use crate::queue::Outcome;
use crate::shared::{Config, Shared};
use crate::store::{Change, Key, Store, key};
use crate::workspace::{self, observe};
use crate::writer::{Clients, Writer};
use crate::{http, placement, signals};

/// Workspaces looked at at once. Each mostly waits for the API server.
const WORKERS: usize = 16;
/// Watches that run, one per kind.
const WATCHES: usize = 10;
/// Longest that stopping may take after the first signal.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(25);

/// How to run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Settings of driver and placement.
    pub config: Config,
    /// Where to elect a leader; absent: this instance is alone.
    pub election: Option<Election>,
    /// Where to serve health and metrics.
    pub health_address: SocketAddr,
}

/// Why the scheduler ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Leadership was lost.
    #[error("running as leader")]
    Lease(#[source] lease::Error),
    /// Health and metrics cannot be served.
    #[error("running the HTTP server")]
    Http(#[source] http::Error),
    /// A watch ended, so that its store would grow stale.
    #[error("watching {0}; its stream ended")]
    Watch(&'static str),
    /// A task panicked.
    #[error("a task panicked; this process ends rather than linger half-dead")]
    Panic(#[source] tokio::task::JoinError),
}

/// Runs the scheduler until `shutdown`.
///
/// # Errors
/// [`Error`] when it cannot go on.
pub async fn run(
    clients: Clients,
    options: Options,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let client = clients.usual.clone();
    let claim = Arc::new(watch::Sender::new(match options.election {
        Some(_) => Claim::Following,
        None => Claim::Alone,
    }));
    let writer = Writer::new(clients, claim.subscribe());
    let reporter = Reporter {
        controller: names::MANAGER.to_owned(),
        instance: None,
    };
    let recorder = Recorder::new(client.clone(), reporter);
    let shared = Arc::new(Shared::new(
        client.clone(),
        writer,
        options.config,
        recorder,
    ));
    let mut background = JoinSet::new();
    watches(&mut background, &client, &shared);
    serve(&mut background, options.health_address, &shared, &shutdown);
    let mut acting = JoinSet::new();
    workers(&mut acting, &shared, &shutdown);
    place(&mut acting, &shared, &shutdown);
    // The lease goes last: it is given back when nothing writes any more.
    let lease_stop = CancellationToken::new();
    if let Some(settings) = options.election {
        let (client, stop) = (client.clone(), lease_stop.clone());
        background.spawn(async move {
            lease::run(client, settings, claim, stop)
                .await
                .map_err(Error::Lease)
        });
    }
    let ended = tokio::select! {
        Some(ended) = background.join_next() => joined(ended),
        Some(ended) = acting.join_next() => joined(ended),
        () = shutdown.cancelled() => Ok(()),
    };
    shutdown.cancel();
    stop(acting, background, lease_stop).await;
    ended
}

fn joined(ended: Result<Result<(), Error>, tokio::task::JoinError>) -> Result<(), Error> {
    ended.map_err(Error::Panic).and_then(|ended| ended)
}

/// Lets writes under way finish, then gives the lease back; watches are dropped.
async fn stop(
    mut acting: JoinSet<Result<(), Error>>,
    mut background: JoinSet<Result<(), Error>>,
    lease_stop: CancellationToken,
) {
    let orderly = async {
        while acting.join_next().await.is_some() {}
        lease_stop.cancel();
        // The lease and the HTTP server end by themselves; watches never do.
        while background.len() > WATCHES && background.join_next().await.is_some() {}
    };
    if tokio::time::timeout(SHUTDOWN_LIMIT, orderly).await.is_err() {
        tracing::warn!("not everything ended in time; the lease runs out by itself");
    }
}

fn workers(
    tasks: &mut JoinSet<Result<(), Error>>,
    shared: &Arc<Shared>,
    shutdown: &CancellationToken,
) {
    for _ in 0..WORKERS {
        let (shared, shutdown) = (Arc::clone(shared), shutdown.clone());
        tasks.spawn(async move {
            let ready = async {
                filled(&shared).await;
                shared.writer.wait_leading().await;
            };
            tokio::select! {
                () = ready => {}
                () = shutdown.cancelled() => return Ok(()),
            }
            loop {
                let key = tokio::select! {
                    key = shared.queue.next() => key,
                    () = shutdown.cancelled() => return Ok(()),
                };
                let outcome = look(&shared, &key).await;
                shared.queue.finish(key, outcome);
            }
        });
    }
}

async fn look(shared: &Shared, key: &Key) -> Outcome {
    let (outcome, result) = match workspace::reconcile(shared, key).await {
        Ok(outcome) => (outcome, Ended::Ok),
        Err(error) if error.is_stale() => {
            let text = crate::error_chain(&error);
            tracing::debug!(
                namespace = key.0,
                name = key.1,
                error = text,
                "changed meanwhile"
            );
            (Outcome::Failed, Ended::Stale)
        }
        Err(error) => {
            let text = crate::error_chain(&error);
            tracing::warn!(namespace = key.0, name = key.1, error = text, "look failed");
            (Outcome::Failed, Ended::Error)
        }
    };
    shared
        .metrics
        .reconciles
        .get_or_create(&ByResult { result })
        .inc();
    outcome
}

async fn filled(shared: &Shared) {
    let stores = &shared.stores;
    tokio::join!(
        stores.workspaces.wait_filled(),
        stores.nodes.wait_filled(),
        stores.pods.wait_filled(),
        stores.claims.wait_filled(),
        stores.budgets.wait_filled(),
        stores.deployments.wait_filled(),
        stores.stateful_sets.wait_filled(),
        stores.jobs.wait_filled(),
        stores.services.wait_filled(),
        stores.configs.wait_filled(),
    );
}

fn place(
    tasks: &mut JoinSet<Result<(), Error>>,
    shared: &Arc<Shared>,
    shutdown: &CancellationToken,
) {
    let (shared, shutdown) = (Arc::clone(shared), shutdown.clone());
    tasks.spawn(async move {
        tokio::select! {
            () = filled(&shared) => placement::run(shared, shutdown).await,
            () = shutdown.cancelled() => {}
        }
        Ok(())
    });
}

fn serve(
    tasks: &mut JoinSet<Result<(), Error>>,
    address: SocketAddr,
    shared: &Arc<Shared>,
    shutdown: &CancellationToken,
) {
    let (shared, shutdown) = (Arc::clone(shared), shutdown.clone());
    tasks.spawn(async move {
        http::serve(address, shared, shutdown)
            .await
            .map_err(Error::Http)
    });
}

fn watches(tasks: &mut JoinSet<Result<(), Error>>, client: &Client, shared: &Arc<Shared>) {
    let stores = shared.stores.clone();
    let all = watcher::Config::default;
    let ours = || watcher::Config::default().labels(names::LABEL_WORKSPACE);
    let c = client;
    follow(
        tasks,
        c,
        shared,
        stores.workspaces,
        all(),
        signals::workspace,
    );
    follow(tasks, c, shared, stores.nodes, all(), signals::node);
    follow(tasks, c, shared, stores.pods, all(), signals::pod);
    follow(tasks, c, shared, stores.claims, all(), signals::claim);
    follow(tasks, c, shared, stores.budgets, all(), signals::budget);
    follow(tasks, c, shared, stores.deployments, ours(), signals::child);
    follow(
        tasks,
        c,
        shared,
        stores.stateful_sets,
        ours(),
        signals::child,
    );
    follow(tasks, c, shared, stores.jobs, ours(), signals::child);
    follow(tasks, c, shared, stores.services, ours(), signals::child);
    follow_metadata(tasks, c, shared, stores.configs);
}

type Signal<K> = fn(&Shared, &Change<K>);

fn follow<K>(
    tasks: &mut JoinSet<Result<(), Error>>,
    client: &Client,
    shared: &Arc<Shared>,
    store: Store<K>,
    config: watcher::Config,
    signal: Signal<K>,
) where
    K: Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let api: Api<K> = Api::all(client.clone());
    let shared = Arc::clone(shared);
    tasks.spawn(async move {
        use kube::runtime::WatchStreamExt;
        let events = watcher(api, config).default_backoff().modify(|object| {
            object.managed_fields_mut().clear();
        });
        let ended = store
            .follow(events, |change| signal(&shared, &change))
            .await;
        if let Err(error) = ended {
            tracing::error!(%error, "watch ended");
        }
        Err(Error::Watch(std::any::type_name::<K>()))
    });
}

fn follow_metadata(
    tasks: &mut JoinSet<Result<(), Error>>,
    client: &Client,
    shared: &Arc<Shared>,
    store: Store<PartialObjectMeta<k8s_openapi::api::core::v1::ConfigMap>>,
) {
    let api: Api<PartialObjectMeta<k8s_openapi::api::core::v1::ConfigMap>> =
        Api::all(client.clone());
    let shared = Arc::clone(shared);
    tasks.spawn(async move {
        use kube::runtime::WatchStreamExt;
        let events = watcher(api, watcher::Config::default()).default_backoff();
        let events = events.modify(|object| object.managed_fields_mut().clear());
        let ended = store
            .follow(events, |change| {
                let (old, new) = &change;
                let Some(object) = new.as_ref().or(old.as_ref()) else {
                    return;
                };
                let changed = key(object.as_ref());
                for workspace in shared.stores.workspaces.all() {
                    if observe::config_key(&workspace).as_ref() == Some(&changed) {
                        shared.queue.add(key(workspace.as_ref()));
                    }
                }
            })
            .await;
        if let Err(error) = ended {
            tracing::error!(%error, "watch ended");
        }
        Err(Error::Watch("ConfigMap"))
    });
}
