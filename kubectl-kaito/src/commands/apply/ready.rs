//! Waits for the applied Workspaces, all at once, with progress on stderr.

use std::time::Duration;

use futures::future::join_all;
use serde_json::Value;
use tokio::time::Instant;

use super::send::Outcome;
use crate::Context;
use crate::cluster::Cluster;
use crate::commands::wait::{self, Goal, Waiter};
use crate::error::{Exit, Failure};

/// Waits until all Workspaces among `outcomes` are ready. Other kinds have no readiness of their own.
///
/// # Errors
/// Timeout (exit 4), a Workspace that will not become ready (exit 5), or a connection that is lost.
pub(super) async fn wait(
    cluster: &Cluster,
    context: &Context,
    outcomes: &[Outcome],
    limit: Option<Duration>,
) -> Result<Exit, Failure> {
    let deadline = limit.map(|limit| Instant::now() + limit);
    let waiters = outcomes
        .iter()
        .filter(|outcome| outcome.kind.resource.kind == "Workspace")
        .map(|outcome| Waiter {
            cluster,
            context,
            kind: outcome.kind.clone(),
            namespace: outcome.namespace.clone(),
            name: outcome
                .object
                .pointer("/metadata/name")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
            deadline,
        });
    let waiting = waiters.map(|waiter| async move { waiter.run(&[Goal::Ready]).await });
    wait::verdict(join_all(waiting).await)
}
