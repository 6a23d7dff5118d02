//! Names that a kubeconfig or a cluster knows. The only part of completion that may ask a server, for a second at most.

use std::sync::Arc;
use std::time::Duration;

use clap::FromArgMatches;
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use kube::api::{ListParams, ObjectList, PartialObjectMeta};

use super::Candidate;
use crate::Context;
use crate::cli;
use crate::cli::connection::ConnectionFlags;
use crate::cluster::kinds::Kind;
use crate::cluster::{Cluster, Warnings, kubeconfig};
use crate::environment::Environment;
use crate::output::printer::Printer;

/// Longest time for an answer: whoever presses Tab waits for it.
const BUDGET: Duration = Duration::from_millis(900);
/// Most names that are asked for; more help nobody.
const MOST: u32 = 500;

/// Where names come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// Workspaces of the namespace.
    Workspaces,
    /// Objects of another kind, typed as `TYPE/`.
    Kind(Box<Kind>),
    /// A kind that we do not know.
    Unknown,
    /// Namespaces.
    Namespaces,
    /// Contexts of the kubeconfig.
    Contexts,
    /// Clusters of the kubeconfig.
    Clusters,
    /// Users of the kubeconfig.
    Users,
}

impl Source {
    /// The source for names behind `TYPE/`; itself where no type was typed.
    pub(super) fn of_kind(self, head: &str) -> Self {
        match (head.strip_suffix('/'), &self) {
            (Some(kind), Self::Workspaces) => {
                Kind::named(kind).map_or(Self::Unknown, |kind| Self::Kind(Box::new(kind)))
            }
            _ => self,
        }
    }
}

/// The names; none when they cannot be had in time.
pub(super) async fn names(
    source: Source,
    words: &[String],
    environment: &Arc<Environment>,
) -> Vec<Candidate> {
    let environment = Arc::new(Environment {
        // No credential plugin may ask anything.
        stdin_is_terminal: false,
        ..(**environment).clone()
    });
    let flags = typed_flags(words);
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // A credential plugin blocks its thread for as long as it likes; this one is not waited for.
    let started = std::thread::Builder::new().spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        if let Ok(runtime) = runtime {
            let _ = sender.send(runtime.block_on(ask(source, flags, environment)));
        }
    });
    match (started, tokio::time::timeout(BUDGET, receiver).await) {
        (Ok(_), Ok(Ok(Some(names)))) => {
            let names = names.into_iter().map(|name| Candidate::new(name, ""));
            names.collect()
        }
        _ => Vec::new(),
    }
}

/// The connection flags among the words, however unfinished the rest is.
fn typed_flags(words: &[String]) -> ConnectionFlags {
    let before = words.split_last().map_or(words, |(_, before)| before);
    let line = std::iter::once("kubectl-kaito").chain(before.iter().map(String::as_str));
    let command = cli::command("kubectl kaito").ignore_errors(true);
    let flags = command
        .try_get_matches_from(line)
        .and_then(|matches| ConnectionFlags::from_arg_matches(&matches));
    ConnectionFlags {
        verbosity: 0,
        ..flags.unwrap_or_default()
    }
}

async fn ask(
    source: Source,
    connection: ConnectionFlags,
    environment: Arc<Environment>,
) -> Option<Vec<String>> {
    let listed = || kubeconfig::merged(&connection, &environment).ok();
    match source {
        Source::Contexts => Some(listed()?.contexts.into_iter().map(|one| one.name).collect()),
        Source::Clusters => Some(listed()?.clusters.into_iter().map(|one| one.name).collect()),
        Source::Users => Some(
            listed()?
                .auth_infos
                .into_iter()
                .map(|one| one.name)
                .collect(),
        ),
        Source::Unknown => None,
        Source::Workspaces => of_kind(&Kind::workspace(), connection, environment).await,
        Source::Kind(kind) => of_kind(&kind, connection, environment).await,
        Source::Namespaces => {
            let cluster = connect(connection, environment).await?;
            let namespaces: Api<Namespace> = Api::all(cluster.client().clone());
            let found = namespaces.list_metadata(&few()).await.ok()?;
            Some(named(found))
        }
    }
}

async fn of_kind(
    kind: &Kind,
    connection: ConnectionFlags,
    environment: Arc<Environment>,
) -> Option<Vec<String>> {
    let cluster = connect(connection, environment).await?;
    let api = kind.api(&cluster, cluster.namespace());
    let found = api.list_metadata(&few()).await.ok()?;
    Some(named(found))
}

fn named<K: Clone>(found: ObjectList<PartialObjectMeta<K>>) -> Vec<String> {
    let names = found.items.into_iter().map(|one| one.metadata.name);
    names.flatten().collect()
}

/// Whatever the server has at hand.
fn few() -> ListParams {
    ListParams::default().limit(MOST).match_any()
}

/// A connection that writes nothing anywhere.
async fn connect(connection: ConnectionFlags, environment: Arc<Environment>) -> Option<Cluster> {
    let context = Context {
        environment,
        connection,
        printer: Printer::to_writers(Box::new(std::io::sink()), Box::new(std::io::sink())),
        warnings: Warnings::default(),
        program: "kubectl kaito".to_owned(),
    };
    Cluster::connect(&context).await.ok()
}
