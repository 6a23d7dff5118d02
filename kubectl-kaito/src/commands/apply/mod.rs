//! `apply`: check everything offline, then send it by server-side apply; with `--wait`, until it is ready.
//!
//! Order: read all inputs → report everything that is wrong and stop → resolve kinds and namespaces → let the server
//! dry-run all objects when there are several → send them → wait. Nothing is sent before all inputs are good.

mod conflict;
mod generate;
mod ready;
mod send;

use std::time::Duration;

use serde_json::Value;

use crate::Context;
use crate::cli::dry_run::{DryRun, DryRunFlag};
use crate::cli::duration::{self, GoDuration};
use crate::cluster::Cluster;
use crate::error::{Exit, Failure};
use crate::manifest::check::{self, Checked, Validation};
use crate::manifest::source::{self, SourceFlags};
use crate::manifest::{Document, tree::Segment};
use crate::output::format::{self, Format, OutputFlag, Shape, WRITE};
use crate::output::table::Headers;

use self::generate::GeneratorFlags;
use self::send::{Outcome, Sender};

/// Why nothing is applied.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// The old way.
    #[error("client-side apply is not offered; leave out --server-side=false")]
    ClientSide,
    /// Neither a file nor a model.
    #[error("must specify -f, or NAME with --model")]
    NoSource,
    /// `--validate` is no mode.
    #[error(
        "invalid - validate option {text:?}; must be one of: strict (or true), warn, ignore (or false)"
    )]
    Validation {
        /// As typed.
        text: String,
    },
    /// Files without objects.
    #[error("no objects passed to apply")]
    NoObjects,
    /// An object of another namespace than `-n` names.
    #[error(
        "the namespace from the provided object {own:?} does not match the namespace {explicit:?}. You must pass \
         '--namespace={own}' to perform this operation."
    )]
    Namespace {
        /// The object's.
        own: String,
        /// As typed.
        explicit: String,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::of(&error)
    }
}

/// Flags of `apply`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  # Check a file without any cluster; one line per error
  kubectl kaito apply -f workspace.yaml --dry-run=client

  # Create or change the objects of a directory
  kubectl kaito apply -f examples/

  # Describe a Workspace by flags, and see what would be sent
  kubectl kaito apply phi --model phi-4 --dry-run=client -o yaml

  # Apply from stdin and wait until the model serves
  cat workspace.yaml | kubectl kaito apply -f - --wait --timeout 20m

Exit status: 0 done, 1 errors, 4 not ready in time, 5 will not become ready.")]
pub struct Args {
    /// Where the objects come from.
    #[command(flatten)]
    pub source: SourceFlags,
    /// Output: json, yaml, name, jsonpath=TEMPLATE
    #[command(flatten)]
    pub output: OutputFlag,
    /// How far to go.
    #[command(flatten)]
    pub dry_run: DryRunFlag,
    /// What to do about unknown fields: strict (refuse), warn, ignore
    #[arg(long, value_name = "MODE", default_value = "strict", default_missing_value = "strict", num_args = 0..=1,
          require_equals = true)]
    pub validate: String,
    /// Name under which the server records who set a field
    #[arg(long, value_name = "NAME", default_value = kaito_api::names::PLUGIN_MANAGER)]
    pub field_manager: String,
    /// Take over fields that others have set; what was taken over is printed
    #[arg(long)]
    pub force_conflicts: bool,
    /// Use server-side apply; the only kind there is here
    #[arg(long, hide = true, default_value = "true", default_missing_value = "true", num_args = 0..=1,
          require_equals = true, value_parser = crate::cli::boolean::parse, action = clap::ArgAction::Set)]
    pub server_side: bool,
    /// Wait until the Workspaces are ready
    #[arg(long)]
    pub wait: bool,
    /// State to wait for: ready; implies --wait
    #[arg(long = "for", value_name = "STATE", value_parser = ["ready"])]
    pub wait_for: Option<String>,
    /// Longest time to wait, for example 20m; 0 means until ready or failed
    #[arg(long, value_name = "DURATION", default_value = "0", value_parser = duration::parse, allow_hyphen_values = true)]
    pub timeout: GoDuration,
    /// A Workspace in flags.
    #[command(flatten)]
    pub generator: GeneratorFlags,
}

/// Applies the objects of all inputs.
///
/// # Errors
/// Everything that is wrong with the inputs, one line each; refusals of the server; conflicts.
pub async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let format = args.output.format(WRITE)?;
    let mode = args.dry_run.mode(context)?;
    let validation = validation(&args.validate)?;
    if !args.server_side {
        return Err(Error::ClientSide.into());
    }
    let generated = generate::document(&args.generator)?;
    if args.source.filename.is_empty() && generated.is_none() {
        return Err(Error::NoSource.into());
    }
    let inputs = source::load(&args.source, context).await?;
    let mut checked = check::check(inputs, validation);
    checked.add(generated, validation);
    for warning in &checked.warnings {
        context
            .printer
            .warning(&crate::output::escape::multiline(&warning.to_string()))?;
    }
    let documents = accepted(checked)?;
    if mode == DryRun::Client {
        return client_dry_run(&documents, &format, context);
    }
    let cluster = Cluster::connect(context).await?;
    let sender = Sender {
        cluster: &cluster,
        context,
        args,
        validation,
        mode,
    };
    let outcomes = sender.send_all(documents).await?;
    print(&outcomes, &format, args, context)?;
    if (args.wait || args.wait_for.is_some()) && mode == DryRun::None {
        let limit: Option<Duration> = args.timeout.limit();
        return ready::wait(&cluster, context, &outcomes, limit).await;
    }
    Ok(Exit::Success)
}

fn validation(text: &str) -> Result<Validation, Failure> {
    match text {
        "strict" | "true" => Ok(Validation::Strict),
        "warn" => Ok(Validation::Warn),
        "ignore" | "false" => Ok(Validation::Ignore),
        other => {
            let text = other.to_owned();
            Err(Error::Validation { text }.into())
        }
    }
}

/// The documents, if nothing at all is wrong.
fn accepted(checked: Checked) -> Result<Vec<Document>, Failure> {
    if !checked.problems.is_empty() {
        return Err(Failure::many(
            checked.problems.iter().map(ToString::to_string),
        ));
    }
    if checked.documents.is_empty() {
        return Err(Error::NoObjects.into());
    }
    Ok(checked.documents)
}

/// Prints what would be sent. No configuration is read and nothing is connected to.
fn client_dry_run(
    documents: &[Document],
    format: &Format,
    context: &Context,
) -> Result<Exit, Failure> {
    let namespace = context
        .connection
        .namespace
        .as_deref()
        .filter(|name| !name.is_empty());
    let objects: Vec<Value> = documents
        .iter()
        .map(|document| {
            check_namespace(document, namespace)?;
            Ok(document.value())
        })
        .collect::<Result<_, Failure>>()?;
    let shape = if objects.len() == 1 {
        Shape::Single
    } else {
        Shape::List
    };
    if !format::print(&context.printer, format, &objects, shape, Headers::Show)? {
        for object in &objects {
            let reference = crate::output::escape::single_line(&format::reference(object));
            context.printer.line(&format!(
                "{reference} serverside-applied{}",
                DryRun::Client.suffix()
            ))?;
        }
    }
    Ok(Exit::Success)
}

/// An object's own namespace must be the one that was asked for.
fn check_namespace(document: &Document, explicit: Option<&str>) -> Result<(), Failure> {
    let own = document
        .tree
        .text(&["metadata", "namespace"])
        .filter(|name| !name.is_empty());
    match (own, explicit) {
        (Some(own), Some(explicit)) if own != explicit => {
            let key = |text: &str| Segment::Key(text.to_owned());
            let position = document.tree.locate(&[key("metadata"), key("namespace")]);
            let error = Error::Namespace {
                own: own.to_owned(),
                explicit: explicit.to_owned(),
            };
            Err(Failure::from(error).with_hint(format!(
                "{}:{}:{}",
                document.source, position.line, position.column
            )))
        }
        _ => Ok(()),
    }
}

fn print(
    outcomes: &[Outcome],
    format: &Format,
    args: &Args,
    context: &Context,
) -> Result<(), Failure> {
    if *format == Format::Human {
        // Result lines were printed as the objects were written.
        return Ok(());
    }
    let objects: Vec<Value> = outcomes
        .iter()
        .map(|outcome| {
            let mut object = outcome.object.clone();
            if !args.output.show_managed_fields {
                format::strip_managed_fields(&mut object);
            }
            object
        })
        .collect();
    let shape = if objects.len() == 1 {
        Shape::Single
    } else {
        Shape::List
    };
    format::print(&context.printer, format, &objects, shape, Headers::Show)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check_namespace;
    use crate::manifest::reader;

    #[test]
    fn an_object_of_another_namespace_is_refused_as_kubectl_refuses_it() {
        let reading = reader::read("f", "metadata:\n  namespace: other\n");
        let failure = check_namespace(&reading.documents[0], Some("default")).unwrap_err();
        assert_eq!(
            failure.lines(),
            [
                "error: the namespace from the provided object \"other\" does not match the namespace \"default\". You must \
             pass '--namespace=other' to perform this operation.",
                "f:2:14",
            ]
        );
        assert!(check_namespace(&reading.documents[0], None).is_ok());
    }
}
