//! `install`: the manifests in this program, applied in an order in which each finds what it needs.

pub mod manifests;
mod settle;

use std::time::Duration;

use kube::api::{Patch, PatchParams};
use serde_json::Value;
use tokio::time::Instant;

use crate::Context;
use crate::cli::dry_run::{DryRun, DryRunFlag};
use crate::cli::duration::{self, GoDuration};
use crate::cluster::Cluster;
use crate::cluster::kinds::{Kind, Resolver};
use crate::error::{Exit, Failure};
use crate::output::format::{self, Format, OutputFlag, Shape};
use crate::output::table::Headers;
use crate::output::{escape, yaml};

use self::manifests::{Part, Selection};

/// Where nodes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum NodeSource {
    /// Whoever serves NodeClaims in the cluster.
    Karpenter,
    /// Existing nodes only.
    Byo,
    /// Our provisioner with the simulated cloud.
    Simulated,
}

/// Flags of `install`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  # The API alone: Workspaces can be created, nothing acts on them yet
  kubectl kaito install --crds-only

  # Everything
  kubectl kaito install --image registry.example.com/kaito-scheduler:v0.1.0

  # For a cluster whose nodes are all there: nothing is ever bought
  kubectl kaito install --image registry.example.com/kaito-scheduler:v0.1.0 --nodes byo

  # The manifests, for a repository or another tool
  kubectl kaito install generate --image registry.example.com/kaito-scheduler:v0.1.0 > kaito.yaml

Exit status: 0 installed, 1 errors, 4 not working in time.")]
pub struct Args {
    /// generate: print the manifests and do nothing else
    #[arg(value_name = "ACTION", value_parser = ["generate"])]
    pub action: Option<String>,
    /// The CRDs and nothing else
    #[arg(long, conflicts_with = "without_workloads")]
    pub crds_only: bool,
    /// All but the Deployments; for a scheduler that runs elsewhere
    #[arg(long)]
    pub without_workloads: bool,
    /// Image of kaito-scheduler; required for the Deployments
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<String>,
    /// Image of kaito-runtime, which serves small models on CPUs
    #[arg(long, value_name = "IMAGE")]
    pub runtime_image: Option<String>,
    /// Image of image-builder, which pulls and pushes in pods
    #[arg(long, value_name = "IMAGE")]
    pub tools_image: Option<String>,
    /// Image of the trainer
    #[arg(long, value_name = "IMAGE")]
    pub trainer_image: Option<String>,
    /// Image of the GPU engine
    #[arg(long, value_name = "IMAGE")]
    pub engine_image: Option<String>,
    /// Let tuning fetch data sets also from addresses inside the cluster, for whoever may create Workspaces
    #[arg(long)]
    pub private_data_urls: bool,
    /// Secret in namespace kaito-system that lets nodes pull the image
    #[arg(long, value_name = "SECRET")]
    pub image_pull_secret: Option<String>,
    /// Where nodes come from: karpenter (NodeClaims), byo (existing nodes only) or simulated (pretended machines)
    #[arg(long, value_name = "SOURCE", value_enum, default_value_t = NodeSource::Karpenter, hide_possible_values = true)]
    pub nodes: NodeSource,
    /// Evict pods of lower priority for those that wait and find no room
    #[arg(long, default_value = "true", default_missing_value = "true", num_args = 0..=1, require_equals = true,
          value_parser = crate::cli::boolean::parse, value_name = "BOOL", action = clap::ArgAction::Set)]
    pub preemption: bool,
    /// Move inference servers together, each starting anew, and give back the bought nodes that become empty
    #[arg(long)]
    pub consolidation: bool,
    /// How far to go.
    #[command(flatten)]
    pub dry_run: DryRunFlag,
    /// Output: yaml or json print the manifests, as generate does; name
    #[command(flatten)]
    pub output: OutputFlag,
    /// Take over fields that others have set
    #[arg(long)]
    pub force_conflicts: bool,
    /// Wait until the API is served, its rules are enforced and the Deployments are available
    #[arg(long, default_value = "true", default_missing_value = "true", num_args = 0..=1, require_equals = true,
          value_parser = crate::cli::boolean::parse, value_name = "BOOL", action = clap::ArgAction::Set)]
    pub wait: bool,
    /// Longest time to wait
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration::parse)]
    pub timeout: GoDuration,
}

/// What the scheduler is told besides its own defaults.
fn scheduler_arguments(args: &Args) -> Vec<String> {
    let images = [
        ("runtime-image", &args.runtime_image),
        ("tools-image", &args.tools_image),
        ("engine-image", &args.engine_image),
        ("trainer-image", &args.trainer_image),
    ];
    let mut arguments: Vec<String> = images
        .into_iter()
        .filter_map(|(flag, image)| Some(format!("--{flag}={}", image.as_ref()?)))
        .collect();
    if args.nodes == NodeSource::Byo {
        arguments.push("--node-provisioner=byo".to_owned());
    }
    if args.private_data_urls {
        arguments.push("--private-data-urls".to_owned());
    }
    if !args.preemption {
        arguments.push("--preemption=off".to_owned());
    }
    if args.consolidation {
        arguments.push("--consolidation=on".to_owned());
    }
    arguments
}

/// Applies (or prints) the manifests.
///
/// # Errors
/// Missing flags, refusals of the server; exit 4 when something does not work in time.
pub async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let format = args.output.format(&["json", "name", "yaml"])?;
    let mode = args.dry_run.mode(context)?;
    let selection = Selection {
        crds_only: args.crds_only,
        workloads: !args.without_workloads && !args.crds_only,
        image: args.image.clone(),
        scheduler_arguments: scheduler_arguments(args),
        pull_secret: args.image_pull_secret.clone(),
        simulated_cloud: args.nodes == NodeSource::Simulated,
    };
    if selection.workloads && selection.image.is_none() {
        return Err(Failure::error("the Deployments need an image: name it with --image")
            .with_hint("Or leave them out with --without-workloads, or install the API alone with --crds-only."));
    }
    let parts = manifests::parts(&selection)?;
    let generate = args.action.is_some()
        || (matches!(format, Format::Json | Format::Yaml) && mode == DryRun::None);
    if generate || mode == DryRun::Client {
        return print(&parts, &format, mode, context, generate);
    }
    let cluster = Cluster::connect(context).await?;
    let deadline = Instant::now()
        + args
            .timeout
            .limit()
            .unwrap_or(Duration::from_secs(24 * 3600));
    let mut installer = Installer {
        args,
        context,
        cluster: &cluster,
        mode,
        format,
        deadline,
        resolver: Resolver::default(),
        new_namespace: false,
    };
    for part in &parts {
        installer.install(part).await?;
    }
    Ok(Exit::Success)
}

fn print(
    parts: &[Part],
    format: &Format,
    mode: DryRun,
    context: &Context,
    generate: bool,
) -> Result<Exit, Failure> {
    let objects: Vec<Value> = parts.iter().flat_map(|part| part.objects.clone()).collect();
    let printer = &context.printer;
    match format {
        Format::Human if generate => {
            for object in &objects {
                printer.data("---\n")?;
                printer.data(&yaml::render(object))?;
            }
        }
        Format::Yaml => {
            for object in &objects {
                printer.data("---\n")?;
                printer.data(&yaml::render(object))?;
            }
        }
        Format::Human => {
            for object in &objects {
                printer.line(&format!(
                    "{} serverside-applied{}",
                    format::reference(object),
                    mode.suffix()
                ))?;
            }
        }
        other => {
            format::print(printer, other, &objects, Shape::List, Headers::Show)?;
        }
    }
    printer.flush()?;
    Ok(Exit::Success)
}

struct Installer<'a> {
    args: &'a Args,
    context: &'a Context,
    cluster: &'a Cluster,
    mode: DryRun,
    format: Format,
    deadline: Instant,
    resolver: Resolver,
    /// Whether the namespace is only pretended to exist (server dry run on a cluster without it).
    new_namespace: bool,
}

impl Installer<'_> {
    async fn install(&mut self, part: &Part) -> Result<(), Failure> {
        for object in &part.objects {
            if manifests::is_node_claim_crd(object) && !self.may_define_node_claims().await? {
                self.context
                    .printer
                    .note("nodeclaims.karpenter.sh is already there and not ours: kept as it is")?;
                continue;
            }
            self.apply(object).await?;
        }
        if self.args.wait && self.mode == DryRun::None {
            settle::wait(self.cluster, self.context, part, self.deadline).await?;
        }
        Ok(())
    }

    /// The NodeClaim CRD belongs to Karpenter where that is installed.
    async fn may_define_node_claims(&self) -> Result<bool, Failure> {
        let api = manifests::crd_kind().everywhere(self.cluster);
        let what = "get customresourcedefinitions.apiextensions.k8s.io";
        let found = self
            .cluster
            .find(what, api.get_metadata(manifests::NODE_CLAIM_CRD))
            .await?;
        Ok(found.is_none_or(|object| manifests::is_ours(&object.metadata)))
    }

    async fn apply(&mut self, object: &Value) -> Result<(), Failure> {
        let kind = self.kind(object).await?;
        let text = |pointer: &str| {
            object
                .pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let (namespace, name) = (text("/metadata/namespace"), text("/metadata/name"));
        let reference = format::reference(object);
        if self.mode == DryRun::Server && kind.namespaced && self.new_namespace {
            return self.context.printer.note(&format!(
                "{reference}: not tried, its namespace does not exist yet"
            ));
        }
        let api = kind.api(self.cluster, namespace);
        let what = format!("get {}", kind.resource_name());
        let before = self.cluster.find(&what, api.get_metadata(name)).await?;
        self.new_namespace |= kind.resource.kind == "Namespace" && before.is_none();
        let mut params = PatchParams::apply(kaito_api::names::PLUGIN_MANAGER).validation_strict();
        params.force = self.args.force_conflicts;
        params.dry_run = self.mode == DryRun::Server;
        let what = format!("patch {}", kind.resource_name());
        let stored = self
            .cluster
            .call(&what, api.patch(name, &params, &Patch::Apply(object)))
            .await?;
        let before = before.and_then(|object| object.metadata.resource_version);
        let unchanged = before.is_some() && before == stored.metadata.resource_version;
        let verb = if unchanged {
            "unchanged"
        } else {
            "serverside-applied"
        };
        let line = match self.format {
            Format::Name => reference,
            _ => format!("{reference} {verb}{}", self.mode.suffix()),
        };
        self.context.printer.line(&escape::single_line(&line))
    }

    async fn kind(&mut self, object: &Value) -> Result<Kind, Failure> {
        let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        self.resolver
            .resolve(self.cluster, version, kind)
            .await?
            .ok_or_else(|| {
                Failure::error(format!(
                    "the server does not serve {kind} in version {version:?}"
                ))
                .with_hint("kaito needs Kubernetes 1.30 or newer.")
            })
    }
}
