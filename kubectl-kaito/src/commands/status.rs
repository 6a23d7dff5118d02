//! `status`: Prints the state of a Workspace.

use crate::Context;
use crate::cluster::Cluster;
use crate::error::{Exit, Failure};
use crate::readiness::{self, Verdict};

/// Flags of `status`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Workspace
    pub name: String,
}

/// Prints the state of a Workspace.
///
/// # Errors
/// The Workspace cannot be read.
pub async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let cluster = Cluster::connect(context).await?;
    let api = cluster.workspaces();
    let workspace = cluster.call("get workspaces.kaito.sh", api.get(&args.name)).await?;
    let workspace = serde_json::to_value(&workspace).map_err(Failure::error)?;
    let text = match readiness::judge(&workspace) {
        Verdict::Ready => "ready".to_owned(),
        Verdict::Waiting(reason) => format!("waiting: {reason}"),
        Verdict::Failed(reason) => format!("failed: {reason}"),
    };
    context.printer.line(&crate::output::escape::single_line(&text))?;
    Ok(Exit::Success)
}
