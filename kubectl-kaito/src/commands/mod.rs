//! One file per command; each has its flags (`Args`) and `run`.
//!
//! A command gets its client from [`crate::cluster`], prints through the [`Context`]'s printer and returns an
//! [`Exit`]; it never ends the process.

pub mod logs;
pub mod options;
pub mod plan;
pub mod status;
pub mod version;
pub mod why;

use clap::Subcommand;

use crate::Context;
use crate::error::{Exit, Failure};

/// What the user asked for.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show one Workspace: its nodes, pods, conditions and progress
    Status(status::Args),
    /// Explain why a Workspace is not ready, root cause first
    #[command(visible_alias = "explain")]
    Why(why::Args),
    /// Show GPUs, memory, price and context length for a model before anything is bought
    #[command(visible_alias = "estimate")]
    Plan(plan::Args),
    /// Print or follow the logs of a Workspace's pods
    Logs(logs::Args),
    /// Print the versions of this program, the server and the installed CRDs
    Version(version::Args),
    /// List the connection flags that every command takes
    Options(options::Args),
}

/// Runs a command.
///
/// # Errors
/// The failure to print, with its exit status.
pub async fn run(command: Command, context: &Context) -> Result<Exit, Failure> {
    match command {
        Command::Status(args) => Box::pin(status::run(&args, context)).await,
        Command::Why(args) => Box::pin(why::run(&args, context)).await,
        Command::Plan(args) => Box::pin(plan::run(&args, context)).await,
        Command::Logs(args) => Box::pin(logs::run(&args, context)).await,
        Command::Version(args) => Box::pin(version::run(&args, context)).await,
        Command::Options(args) => options::run(&args, context),
    }
}
