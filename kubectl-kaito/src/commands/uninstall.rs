//! `uninstall`: remove what `install` made, last things first. Refuses while Workspaces exist, because nobody would
//! be left to return their nodes.

use kube::api::{DeleteParams, ListParams};
use serde_json::Value;
use tokio::time::Instant;

use super::install::manifests::{self, Part, Role, Selection};
use crate::Context;
use crate::cli::dry_run::{DryRun, DryRunFlag};
use crate::cli::duration::{self, GoDuration};
use crate::cluster::kinds::{Kind, Resolver};
use crate::cluster::{CallError, Cluster, failures};
use crate::error::{Exit, Failure};
use crate::output::{escape, format};
use crate::waiting;

/// Most Workspaces that are named when they are in the way.
const MAX_NAMED: usize = 20;

/// Flags of `uninstall`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Exit status: 0 removed, 1 errors (also while Workspaces exist), 4 still there after --timeout."
)]
pub struct Args {
    /// Remove the CRDs too
    #[arg(long)]
    pub crds: bool,
    /// How far to go.
    #[command(flatten)]
    pub dry_run: DryRunFlag,
    /// Wait until everything is gone
    #[arg(long, default_value = "true", default_missing_value = "true", num_args = 0..=1, require_equals = true,
          value_parser = crate::cli::boolean::parse, value_name = "BOOL", action = clap::ArgAction::Set)]
    pub wait: bool,
    /// Longest time to wait
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration::parse)]
    pub timeout: GoDuration,
}

/// Removes the installation.
///
/// # Errors
/// Workspaces that still exist, refusals of the server; exit 4 when something is still there after the timeout.
pub async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let mode = args.dry_run.mode(context)?;
    let mut parts = manifests::parts(&Selection {
        workloads: true,
        simulated_cloud: true,
        ..Selection::default()
    })?;
    parts.retain(|part| args.crds || part.role != Role::Definitions);
    let cluster = Cluster::connect(context).await?;
    refuse_while_in_use(&cluster).await?;
    let deadline = args.timeout.limit().map(|limit| Instant::now() + limit);
    let mut remover = Remover {
        args,
        context,
        cluster: &cluster,
        mode,
        deadline,
        resolver: Resolver::default(),
    };
    for part in parts.iter().rev() {
        remover.remove(part).await?;
    }
    if !args.crds {
        context
            .printer
            .note("The CRDs were kept; remove them with --crds.")?;
    }
    Ok(Exit::Success)
}

async fn refuse_while_in_use(cluster: &Cluster) -> Result<(), Failure> {
    let list = match cluster
        .attempt(
            cluster
                .all_workspaces()
                .list_metadata(&ListParams::default().limit(500)),
        )
        .await
    {
        Ok(list) => list,
        // Without the CRD there can be no Workspaces.
        Err(CallError::Request(kube::Error::Api(status)))
            if failures::is_unknown_resource(&status) =>
        {
            return Ok(());
        }
        Err(error) => return Err(cluster.explain(error, "list workspaces.kaito.sh")),
    };
    if list.items.is_empty() {
        return Ok(());
    }
    let count = list.items.len();
    let what = if count == 1 {
        "1 Workspace still exists; delete it first:".to_owned()
    } else {
        format!("{count} Workspaces still exist; delete them first:")
    };
    let mut failure = Failure::error(what);
    for item in list.items.iter().take(MAX_NAMED) {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        failure = failure.with_hint(format!(
            "  {}/{}",
            text(&item.metadata.namespace),
            text(&item.metadata.name)
        ));
    }
    if count > MAX_NAMED {
        failure = failure.with_hint(format!("  and {} more", count - MAX_NAMED));
    }
    Err(failure)
}

struct Remover<'a> {
    args: &'a Args,
    context: &'a Context,
    cluster: &'a Cluster,
    mode: DryRun,
    deadline: Option<Instant>,
    resolver: Resolver,
}

impl Remover<'_> {
    async fn remove(&mut self, part: &Part) -> Result<(), Failure> {
        for object in part.objects.iter().rev() {
            let text = |pointer: &str| {
                object
                    .pointer(pointer)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            let kind = self
                .resolver
                .resolve(self.cluster, text("/apiVersion"), text("/kind"))
                .await?;
            // What the server does not know cannot have been installed.
            let Some(kind) = kind else { continue };
            self.remove_one(
                object,
                &kind,
                text("/metadata/namespace"),
                text("/metadata/name"),
            )
            .await?;
        }
        Ok(())
    }

    async fn remove_one(
        &self,
        object: &Value,
        kind: &Kind,
        namespace: &str,
        name: &str,
    ) -> Result<(), Failure> {
        let api = kind.api(self.cluster, namespace);
        let resource = kind.resource_name();
        let found = self
            .cluster
            .find(&format!("get {resource}"), api.get_metadata(name))
            .await?;
        let Some(found) = found else { return Ok(()) };
        if !manifests::is_ours(&found.metadata) {
            let reference = escape::single_line(&format::reference(object));
            return self.context.printer.note(&format!(
                "{reference} was not installed by this program: kept"
            ));
        }
        if self.mode != DryRun::Client {
            let params = DeleteParams {
                dry_run: self.mode == DryRun::Server,
                ..DeleteParams::background()
            };
            self.cluster
                .find(&format!("delete {resource}"), api.delete(name, &params))
                .await?;
        }
        if self.args.wait && self.mode == DryRun::None {
            let gone = waiting::until(
                self.cluster,
                &api,
                name,
                &resource,
                self.deadline,
                |object| object.is_none().then_some(()),
            )
            .await?;
            if gone.is_none() {
                return Err(Failure::error(format!(
                    "timed out waiting for the condition on {}/{name}",
                    kind.resource.plural
                ))
                .with_exit(Exit::Timeout));
            }
        }
        let line = format!(
            "{} {name:?} deleted{}",
            kind.kind_name(),
            self.mode.suffix()
        );
        self.context.printer.line(&escape::single_line(&line))
    }
}
