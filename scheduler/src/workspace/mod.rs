//! The Workspace driver: observe → size → build → apply → report, one Workspace at a time.
//!
//! It never chooses nodes; that is the placement loop's, whose verdicts it reports.

pub mod apply;
pub mod build;
pub mod cleanup;
pub mod observe;
pub mod status;

use std::sync::Arc;
use std::time::Duration;

use kaito_api::Workspace;
use kaito_snapshot::sizing::{self, Sizing};

use crate::queue::Outcome;
use crate::shared::Shared;
use crate::store::Key;
use crate::writer;

/// A Workspace that nothing happens to is looked at again after this time: watches can miss events.
const RESYNC: Duration = Duration::from_secs(3600);
/// A Workspace that is being deleted is looked at again after this time.
const CLEANUP_PERIOD: Duration = Duration::from_secs(5);

/// Why a look at a Workspace failed: one variant per step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Reading what the stores do not hold.
    #[error("observing the Workspace")]
    Observe(#[source] observe::Error),
    /// Bringing the children to what they should be.
    #[error("applying its children")]
    Apply(#[source] writer::Error),
    /// Writing its status.
    #[error("writing its status")]
    Status(#[source] writer::Error),
    /// Taking it down.
    #[error("cleaning up after it")]
    Cleanup(#[source] writer::Error),
}

impl Error {
    /// Whether the decision was made on old knowledge, so that the next look will simply be right.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        match self {
            Self::Observe(_) => false,
            Self::Apply(error) | Self::Status(error) | Self::Cleanup(error) => error.is_stale(),
        }
    }
}

/// Looks at the Workspace `key` once and brings the cluster closer to what it says.
///
/// # Errors
/// One variant of [`Error`] per step.
pub async fn reconcile(shared: &Shared, key: &Key) -> Result<Outcome, Error> {
    let Some(workspace) = shared.stores.workspaces.get(key) else {
        shared.forget(key);
        return Ok(Outcome::Done);
    };
    if workspace.metadata.deletion_timestamp.is_some() {
        shared.unsize(key);
        let finished = cleanup::cleanup(shared, &workspace)
            .await
            .map_err(Error::Cleanup)?;
        return Ok(if finished {
            Outcome::Done
        } else {
            Outcome::Later(CLEANUP_PERIOD)
        });
    }
    let context = observe::context(shared, &workspace)
        .await
        .map_err(Error::Observe)?;
    let sizing = size(shared, &workspace, &context);
    if let Ok(sizing) = &sizing {
        let children = build::children(&workspace, sizing, &context.build);
        let waits = apply::apply(shared, &workspace, children)
            .await
            .map_err(Error::Apply)?;
        shared.sized(key, &workspace, Arc::clone(sizing), context.inputs.clone());
        if waits {
            report(shared, key, &workspace, &Ok(Arc::clone(sizing))).await?;
            return Ok(Outcome::Later(Duration::from_secs(1)));
        }
    } else {
        shared.unsize(key);
    }
    report(shared, key, &workspace, &sizing).await?;
    Ok(Outcome::Later(RESYNC))
}

type Sized = Result<Arc<Sizing>, String>;

/// The size, or why there is none. A size that a running workload was made with is kept while its inputs are the
/// same: existing nodes that come and go must not change its shape.
fn size(shared: &Shared, workspace: &Workspace, context: &observe::Context) -> Sized {
    if let Some(kept) = shared.kept_size(workspace, &context.inputs) {
        return Ok(kept);
    }
    match sizing::size(workspace, &context.surroundings) {
        Ok(sizing) => Ok(Arc::new(sizing)),
        Err(error) => Err(crate::error_chain(&error)),
    }
}

async fn report(
    shared: &Shared,
    key: &Key,
    workspace: &Workspace,
    sizing: &Sized,
) -> Result<(), Error> {
    let observed = status::observe(shared, key, workspace, sizing);
    let wanted = status::derive(&observed);
    shared
        .write_status(workspace, wanted)
        .await
        .map_err(Error::Status)
}
