//! The program `image-builder`: its command line, and the end of each run.

use std::ffi::OsString;
use std::sync::Arc;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use super::failure::{Exit, Failure};
use super::output::{Output, Streams};
use super::{
    BuildArgs, Context, attach, build, copy, diff, fetch, inspect, login, plan, prune, pull, push,
    verify, wait_mcr,
};

/// Package model weights, adapters and programs as OCI images; push, pull and verify them.
#[derive(Debug, Parser)]
#[command(
    name = "image-builder",
    version,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = "Exit status: 0 done, 1 errors, 3 not verified, different or denied, 4 timed out, 5 the source \
                  cannot be used, 6 credentials missing or refused, 7 network or registry failed (run it again to \
                  go on), 8 refused or not there, 130 interrupted."
)]
struct Program {
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one value per process")]
enum Command {
    /// Show what would be made of a source, without reading a weight
    Plan(plan::Args),
    /// Make an image of a source: in a registry, an OCI layout or a tar
    Build(BuildArgs),
    /// Push an OCI layout to a registry
    Push(push::Args),
    /// Fetch the files of an image, verified
    Pull(pull::Args),
    /// Fetch the files of other sources: the hub, blob stores, addresses
    Fetch(fetch::Args),
    /// Show what an image is and holds
    Inspect(inspect::Args),
    /// Read an image's blobs again and compare; check signatures
    Verify(verify::Args),
    /// List the files that differ between two images
    Diff(diff::Args),
    /// Attach a document or a signature to an image
    Attach(attach::Args),
    /// Copy an image to another repository
    Copy(copy::Args),
    /// Store a registry's password, from stdin
    Login(login::Args),
    /// Wait until Microsoft's registry serves an image
    WaitMcr(wait_mcr::Args),
    /// Clear the cache, or remove unused blobs from OCI layouts
    Prune(prune::Args),
}

/// Runs the program with the process's arguments and streams.
pub async fn main() -> Exit {
    let output = Streams;
    let command = match parse(std::env::args_os()) {
        Ok(command) => command,
        Err(failure) => return report(&output, &failure),
    };
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let context = Context {
        variables,
        output: Arc::new(output),
        credentials: Vec::new(),
        program: "image-builder".to_owned(),
    };
    match run(command, &context).await {
        Ok(exit) => exit,
        Err(failure) => report(&output, &failure),
    }
}

fn report(output: &dyn Output, failure: &Failure) -> Exit {
    for line in &failure.lines {
        output.note(line);
    }
    failure.exit
}

/// Usage errors end with 1, as all errors without a class of their own; help is no error.
fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, Failure> {
    let parsed = Program::command()
        .args_override_self(true)
        .try_get_matches_from(arguments)
        .and_then(|matches| Program::from_arg_matches(&matches));
    match parsed {
        Ok(program) => Ok(program.command),
        Err(error) => {
            let helps = matches!(
                error.kind(),
                ErrorKind::DisplayHelp
                    | ErrorKind::DisplayVersion
                    | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            );
            // A stdout that is gone needs no help.
            let _ = error.print();
            Err(Failure::silent(if helps {
                Exit::Success
            } else {
                Exit::Failure
            }))
        }
    }
}

async fn run(command: Command, context: &Context) -> Result<Exit, Failure> {
    match command {
        Command::Plan(args) => Box::pin(plan::run(&args, context)).await,
        Command::Build(args) => match &args.verify {
            Some(reference) => {
                let args = verify::Args {
                    reference: reference.clone(),
                    key: None,
                    concurrency: args.concurrency,
                    registry: args.registry.clone(),
                    progress: args.progress.clone(),
                };
                Box::pin(verify::run(&args, context)).await
            }
            None => Box::pin(build::run(&args, context))
                .await
                .map(|_| Exit::Success),
        },
        Command::Push(args) => Box::pin(push::run(&args, context)).await,
        Command::Pull(args) => Box::pin(pull::run(&args, context)).await,
        Command::Fetch(args) => Box::pin(fetch::run(&args, context)).await,
        Command::Inspect(args) => Box::pin(inspect::run(&args, context)).await,
        Command::Verify(args) => Box::pin(verify::run(&args, context)).await,
        Command::Diff(args) => Box::pin(diff::run(&args, context)).await,
        Command::Attach(args) => Box::pin(attach::run(&args, context)).await,
        Command::Copy(args) => Box::pin(copy::run(&args, context)).await,
        Command::Login(args) => Box::pin(login::run(&args, context)).await,
        Command::WaitMcr(args) => Box::pin(wait_mcr::run(&args, context)).await,
        Command::Prune(args) => Box::pin(prune::run(&args, context)).await,
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::{Program, parse};

    #[test]
    fn the_definition_is_consistent() {
        Program::command().debug_assert();
    }

    #[test]
    fn every_command_is_known_and_passwords_cannot_be_arguments() {
        let command = Program::command();
        let names: Vec<&str> = command
            .get_subcommands()
            .map(clap::Command::get_name)
            .collect();
        assert_eq!(
            names,
            [
                "plan", "build", "push", "pull", "fetch", "inspect", "verify", "diff", "attach",
                "copy", "login", "wait-mcr", "prune"
            ]
        );
        let words = |text: &str| {
            text.split(' ')
                .map(Into::into)
                .collect::<Vec<std::ffi::OsString>>()
        };
        assert!(parse(words("image-builder login r.io -u me --password x")).is_err());
        assert!(
            parse(words(
                "image-builder build dir -t r.io/a:b --push --compression zstd"
            ))
            .is_ok()
        );
    }
}
