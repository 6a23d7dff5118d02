//! Taking a Workspace down: its workload goes, then the nodes bought for it alone, then its finalizer.

use kaito_api::{Workspace, conditions, names};
use kube::ResourceExt;
use serde_json::json;

use super::apply::remove;
use crate::shared::Shared;
use crate::store::key;
use crate::writer::Error;

/// One step of the removal; whether nothing is left to do.
///
/// # Errors
/// The write that failed; everything can be repeated.
pub async fn cleanup(shared: &Shared, workspace: &Workspace) -> Result<bool, Error> {
    let Some(position) = workspace
        .finalizers()
        .iter()
        .position(|name| name == names::FINALIZER)
    else {
        return Ok(true);
    };
    let own = key(workspace);
    remove(shared, &shared.stores.deployments, &own).await?;
    remove(shared, &shared.stores.stateful_sets, &own).await?;
    remove(shared, &shared.stores.jobs, &own).await?;
    let open = open_ends(shared, workspace);
    if !open.is_empty() {
        let message = format!("waiting for {} to go", open.join(", "));
        report(shared, workspace, &message).await?;
        return Ok(false);
    }
    let path = format!("/metadata/finalizers/{position}");
    let operations = json!([
        {"op": "test", "path": path, "value": names::FINALIZER},
        {"op": "remove", "path": path},
    ]);
    let api = shared.writer.namespaced::<Workspace>(&own);
    let patched = shared
        .writer
        .json_patch(&api, "removing the finalizer of", &own.1, operations)
        .await;
    match patched {
        Ok(_) => Ok(true),
        // Changed or gone meanwhile: the next look decides on what is true then.
        Err(error) if error.is_stale() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Pods of the Workspace that are still there, and claims that it bought and nobody else uses.
fn open_ends(shared: &Shared, workspace: &Workspace) -> Vec<String> {
    let own = key(workspace);
    let pods = shared.pods_of(&own).len();
    let uid = workspace.uid().unwrap_or_default();
    let claims = shared.claims_only_for(&own, &uid);
    let mut open = Vec::new();
    if pods > 0 {
        open.push(format!("{pods} pods"));
    }
    open.extend(
        claims
            .into_iter()
            .map(|claim| format!("node claim {claim}")),
    );
    open
}

async fn report(shared: &Shared, workspace: &Workspace, message: &str) -> Result<(), Error> {
    let mut status = workspace.status.clone().unwrap_or_default();
    conditions::set(
        status.conditions.get_or_insert_default(),
        conditions::WORKSPACE_DELETING,
        conditions::Status::True,
        "workspaceDeleted",
        message,
        workspace.metadata.generation,
        jiff::Timestamp::now(),
    );
    shared.write_status(workspace, status).await
}
