//! `delete`: remove objects, and by default wait until they are gone.

use futures::future::join_all;
use kube::api::{DeleteParams, Preconditions, PropagationPolicy};
use tokio::time::Instant;

use crate::Context;
use crate::cli::dry_run::{DryRun, DryRunFlag};
use crate::cli::duration::{self, GoDuration};
use crate::cluster::Cluster;
use crate::cluster::kinds::{self, Kind, Resolver, Selection};
use crate::error::{Exit, Failure};
use crate::manifest::check;
use crate::manifest::source::{self, SourceFlags};
use crate::output::escape;
use crate::output::format::{Format, OutputFlag};
use crate::waiting;

/// Why something is not deleted.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// No object and no selector.
    #[error("resource(s) were provided, but no name was specified")]
    NoName,
    /// An object and a selector.
    #[error("name cannot be provided when a selector is specified")]
    NameAndSelector,
    /// The server does not know the kind.
    #[error("no matches for kind {kind:?} in version {version:?}")]
    Kind {
        /// The kind.
        kind: String,
        /// Group and version.
        version: String,
    },
    /// Files without objects.
    #[error("no objects passed to delete")]
    NoObjects,
    /// The object is not there, in the server's words.
    #[error("Error from server (NotFound): {resource} {name:?} not found")]
    NotFound {
        /// Its resource.
        resource: String,
        /// Its name.
        name: String,
    },
    /// It is still there.
    #[error("timed out waiting for the condition on {object}")]
    StillThere {
        /// Its resource and name.
        object: String,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::NoName => {
                Self::of(&error).with_hint("Name the objects, or use -f, -l or --all.")
            }
            Error::NotFound { .. } => Self::verbatim(error),
            _ => Self::of(&error),
        }
    }
}

/// Flags of `delete`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  # Delete two Workspaces and wait until their nodes are returned
  kubectl kaito delete phi falcon

  # Delete what a file describes
  kubectl kaito delete -f workspace.yaml

Exit status: 0 gone, 1 errors, 4 still there after --timeout.")]
pub struct Args {
    /// NAME…, TYPE NAME… or TYPE/NAME…
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// Files that name the objects.
    #[command(flatten)]
    pub source: SourceFlags,
    /// Output: name
    #[command(flatten)]
    pub output: OutputFlag,
    /// How far to go.
    #[command(flatten)]
    pub dry_run: DryRunFlag,
    /// All objects of the namespace
    #[arg(long)]
    pub all: bool,
    /// All namespaces
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// Objects with these labels
    #[arg(short = 'l', long, value_name = "SELECTOR")]
    pub selector: Option<String>,
    /// Objects with these fields
    #[arg(long, value_name = "SELECTOR")]
    pub field_selector: Option<String>,
    /// Objects that do not exist are no error
    #[arg(long)]
    pub ignore_not_found: bool,
    /// Wait until the objects are gone
    #[arg(long, default_value = "true", default_missing_value = "true", num_args = 0..=1, require_equals = true,
          value_parser = crate::cli::boolean::parse, value_name = "BOOL", action = clap::ArgAction::Set)]
    pub wait: bool,
    /// Longest time to wait; 0 means until they are gone
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = duration::parse, allow_hyphen_values = true)]
    pub timeout: GoDuration,
    /// Seconds that pods get to end; negative leaves it to the object, 0 is sent as 1
    #[arg(long, value_name = "SECONDS", default_value_t = -1, allow_hyphen_values = true)]
    pub grace_period: i64,
    /// Dependent objects: background, foreground or orphan
    #[arg(long, value_name = "MODE", default_value = "background", default_missing_value = "background",
          num_args = 0..=1, require_equals = true, value_parser = ["background", "foreground", "orphan"])]
    pub cascade: String,
}

/// An object to delete.
struct Victim {
    kind: Kind,
    namespace: String,
    name: String,
}

/// Deletes the objects.
///
/// # Errors
/// Bad arguments, objects that do not exist, refusals of the server; exit 4 when they are still there after the
/// timeout.
pub async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let format = args.output.format(&["name"])?;
    let mode = args.dry_run.mode(context)?;
    let (kind, targets) = kinds::arguments(&args.names)?;
    let selecting = args.all || args.selector.is_some() || args.field_selector.is_some();
    if targets.is_empty() && args.source.filename.is_empty() && !selecting {
        return Err(Error::NoName.into());
    }
    if !targets.is_empty() && selecting {
        return Err(Error::NameAndSelector.into());
    }
    let cluster = Cluster::connect(context).await?;
    let mut victims: Vec<Victim> = targets
        .into_iter()
        .map(|target| Victim {
            kind: target.kind,
            namespace: cluster.namespace().to_owned(),
            name: target.name,
        })
        .collect();
    victims.extend(of_files(args, context, &cluster).await?);
    if selecting {
        victims.extend(selected(args, &kind, &cluster).await?);
        if victims.is_empty() {
            context.printer.line("No resources found")?;
            return Ok(Exit::Success);
        }
    }
    let deadline = args.timeout.limit().map(|limit| Instant::now() + limit);
    let deletion = Deletion {
        args,
        context,
        cluster: &cluster,
        mode,
        format,
        deadline,
    };
    let results = join_all(victims.iter().map(|victim| deletion.run(victim))).await;
    conclude(results)
}

/// Shared by all objects of one call.
struct Deletion<'a> {
    args: &'a Args,
    context: &'a Context,
    cluster: &'a Cluster,
    mode: DryRun,
    format: Format,
    deadline: Option<Instant>,
}

async fn of_files(
    args: &Args,
    context: &Context,
    cluster: &Cluster,
) -> Result<Vec<Victim>, Failure> {
    if args.source.filename.is_empty() {
        return Ok(Vec::new());
    }
    let inputs = source::load(&args.source, context).await?;
    let checked = check::identities(inputs);
    if !checked.problems.is_empty() {
        return Err(Failure::many(
            checked.problems.iter().map(ToString::to_string),
        ));
    }
    let mut resolver = Resolver::default();
    let mut victims = Vec::new();
    for document in &checked.documents {
        let text = |keys: &[&str]| document.tree.text(keys).unwrap_or_default();
        let (version, kind) = (text(&["apiVersion"]), text(&["kind"]));
        let found = resolver.resolve(cluster, version, kind).await?;
        let kind = found.ok_or_else(|| Error::Kind {
            kind: kind.to_owned(),
            version: version.to_owned(),
        })?;
        let own = text(&["metadata", "namespace"]);
        let namespace = if own.is_empty() {
            cluster.namespace()
        } else {
            own
        }
        .to_owned();
        victims.push(Victim {
            kind,
            namespace,
            name: text(&["metadata", "name"]).to_owned(),
        });
    }
    if victims.is_empty() {
        return Err(Error::NoObjects.into());
    }
    Ok(victims)
}

async fn selected(args: &Args, kind: &Kind, cluster: &Cluster) -> Result<Vec<Victim>, Failure> {
    let selection = Selection {
        namespace: (!args.all_namespaces).then(|| cluster.namespace()),
        labels: args.selector.as_deref(),
        fields: args.field_selector.as_deref(),
    };
    let found = kind.select(cluster, &selection).await?;
    Ok(found
        .into_iter()
        .map(|(namespace, name)| Victim {
            kind: kind.clone(),
            namespace,
            name,
        })
        .collect())
}

impl Deletion<'_> {
    async fn run(&self, victim: &Victim) -> Result<(), Failure> {
        let api = victim.kind.api(self.cluster, &victim.namespace);
        let resource = victim.kind.resource_name();
        let found = self
            .cluster
            .find(&format!("get {resource}"), api.get_metadata(&victim.name))
            .await?;
        let Some(uid) = found.and_then(|object| object.metadata.uid) else {
            return if self.args.ignore_not_found {
                Ok(())
            } else {
                Err(not_found(victim))
            };
        };
        if self.mode == DryRun::Client {
            return self.report(victim, "deleted");
        }
        let params = self.params(&uid);
        let request = api.delete(&victim.name, &params);
        let sent = self
            .cluster
            .find(&format!("delete {resource}"), request)
            .await?;
        if sent.is_none() && !self.args.ignore_not_found {
            return Err(not_found(victim));
        }
        if self.mode == DryRun::Server {
            return self.report(victim, "deleted");
        }
        if !self.args.wait {
            return self.report(victim, "deleting");
        }
        let mut holders = String::new();
        let gone = waiting::until(
            self.cluster,
            &api,
            &victim.name,
            &resource,
            self.deadline,
            |object| match object {
                Some(object)
                    if object
                        .pointer("/metadata/uid")
                        .and_then(serde_json::Value::as_str)
                        == Some(&uid) =>
                {
                    holders = finalizers(object);
                    None
                }
                _ => Some(()),
            },
        )
        .await?;
        match gone {
            Some(()) => self.report(victim, "deleted"),
            None => Err(still_there(victim, &holders)),
        }
    }

    /// The precondition keeps a namesake, made in the meantime, alive.
    fn params(&self, uid: &str) -> DeleteParams {
        let seconds = match self.args.grace_period {
            0 => Some(1),
            seconds => u32::try_from(seconds).ok(),
        };
        DeleteParams {
            dry_run: self.mode == DryRun::Server,
            grace_period_seconds: seconds,
            propagation_policy: Some(match self.args.cascade.as_str() {
                "foreground" => PropagationPolicy::Foreground,
                "orphan" => PropagationPolicy::Orphan,
                _ => PropagationPolicy::Background,
            }),
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
        }
    }

    fn report(&self, victim: &Victim, verb: &str) -> Result<(), Failure> {
        let kind = victim.kind.kind_name();
        let line = match self.format {
            Format::Name => format!("{kind}/{}", victim.name),
            _ => format!("{kind} {:?} {verb}{}", victim.name, self.mode.suffix()),
        };
        self.context.printer.line(&escape::single_line(&line))
    }
}

fn not_found(victim: &Victim) -> Failure {
    let (resource, name) = (victim.kind.resource_name(), victim.name.clone());
    Error::NotFound { resource, name }.into()
}

fn still_there(victim: &Victim, holders: &str) -> Failure {
    let failure = Failure::from(Error::StillThere {
        object: format!("{}/{}", victim.kind.resource.plural, victim.name),
    });
    let failure = if holders.is_empty() {
        failure
    } else {
        failure.with_hint(format!(
            "It is marked for deletion and held by the finalizer {holders}, which its controller removes when it is done; \
             check that the controller runs."
        ))
    };
    failure.with_exit(Exit::Timeout)
}

fn finalizers(object: &serde_json::Value) -> String {
    let list = object
        .pointer("/metadata/finalizers")
        .and_then(serde_json::Value::as_array);
    let names: Vec<&str> = list
        .into_iter()
        .flatten()
        .filter_map(serde_json::Value::as_str)
        .collect();
    names.join(", ")
}

/// All failures together; any error outweighs a timeout.
fn conclude(results: Vec<Result<(), Failure>>) -> Result<Exit, Failure> {
    let failures: Vec<Failure> = results.into_iter().filter_map(Result::err).collect();
    if failures.is_empty() {
        return Ok(Exit::Success);
    }
    let timeouts_only = failures.iter().all(|failure| failure.exit == Exit::Timeout);
    let closed = failures
        .iter()
        .all(|failure| failure.exit == Exit::ClosedPipe);
    let exit = if closed {
        Exit::ClosedPipe
    } else if timeouts_only {
        Exit::Timeout
    } else {
        Exit::Failure
    };
    let lines = failures
        .iter()
        .flat_map(|failure| failure.lines().iter().cloned());
    Err(Failure::many(lines).with_exit(exit))
}
