//! `logs`: the logs of a Workspace's pods.

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, ListParams, LogParams};

use crate::Context;
use crate::cluster::Cluster;
use crate::error::{Exit, Failure};

/// Flags of `logs`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Workspace
    pub name: String,
}

/// Prints the logs of all pods, one after another.
///
/// # Errors
/// Pods or logs cannot be read.
pub async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let cluster = Cluster::connect(context).await?;
    let pods: Api<Pod> = Api::namespaced(cluster.client().clone(), cluster.namespace());
    let selector = format!("{}={}", kaito_api::names::LABEL_WORKSPACE, args.name);
    let list = cluster.call("list pods", pods.list(&ListParams::default().labels(&selector))).await?;
    for pod in &list.items {
        let text = cluster.call("get pods/log", pods.logs(&pod.name_any(), &LogParams::default())).await?;
        context.printer.data(&text)?;
    }
    Ok(Exit::Success)
}
