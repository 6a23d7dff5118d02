//! One file per command; each has its flags (`Args`) and `run`.
//!
//! A command gets its client from [`crate::cluster`], prints through the [`Context`]'s printer and returns an
//! [`Exit`]; it never ends the process.

pub mod apply;
pub mod build_image;
pub mod chat;
pub mod completion;
pub mod delete;
pub mod get;
pub mod install;
pub mod logs;
pub mod options;
pub mod plan;
pub mod status;
pub mod uninstall;
pub mod version;
pub mod wait;
pub mod why;

use clap::Subcommand;

use crate::Context;
use crate::error::{Exit, Failure};

/// What the user asked for.
#[derive(Debug, Subcommand)]
#[expect(clippy::large_enum_variant, reason = "there is one value per process")]
pub enum Command {
    /// Create or change Workspaces (and other objects) from files; checks them offline first
    Apply(apply::Args),
    /// Package model weights or an adapter as an image, and push it
    BuildImage(Box<build_image::Args>),
    /// List Workspaces
    #[command(visible_alias = "list")]
    Get(get::Args),
    /// Show one Workspace: its nodes, pods, conditions and progress
    Status(status::Args),
    /// Explain why a Workspace is not ready, root cause first
    #[command(visible_alias = "explain")]
    Why(why::Args),
    /// Wait until Workspaces reach a state
    Wait(wait::Args),
    /// Show GPUs, memory, price and context length for a model before anything is bought
    #[command(visible_alias = "estimate")]
    Plan(Box<plan::Args>),
    /// Print or follow the logs of a Workspace's pods
    Logs(logs::Args),
    /// Talk to the model of a Workspace
    Chat(chat::Args),
    /// Delete Workspaces
    Delete(delete::Args),
    /// Install kaito into the cluster from the manifests in this program
    Install(install::Args),
    /// Remove kaito from the cluster
    Uninstall(uninstall::Args),
    /// Complete commands, flags and names in shells
    Completion(completion::Args),
    /// Print the versions of this program, the server and the installed CRDs
    Version(version::Args),
    /// List the connection flags that every command takes
    Options(options::Args),
}

impl Command {
    /// Whether the command ends itself at Ctrl-C and SIGTERM, because it has something to say then.
    #[must_use]
    pub const fn handles_signals(&self) -> bool {
        matches!(self, Self::BuildImage(_))
    }
}

/// Runs a command.
///
/// # Errors
/// The failure to print, with its exit status.
pub async fn run(command: Command, context: &Context) -> Result<Exit, Failure> {
    match command {
        Command::Apply(args) => Box::pin(apply::run(&args, context)).await,
        Command::BuildImage(args) => Box::pin(build_image::run(&args, context)).await,
        Command::Get(args) => Box::pin(get::run(&args, context)).await,
        Command::Wait(args) => Box::pin(wait::run(&args, context)).await,
        Command::Delete(args) => Box::pin(delete::run(&args, context)).await,
        Command::Install(args) => Box::pin(install::run(&args, context)).await,
        Command::Uninstall(args) => Box::pin(uninstall::run(&args, context)).await,
        Command::Status(args) => Box::pin(status::run(&args, context)).await,
        Command::Why(args) => Box::pin(why::run(&args, context)).await,
        Command::Plan(args) => Box::pin(plan::run(&args, context)).await,
        Command::Logs(args) => Box::pin(logs::run(&args, context)).await,
        Command::Chat(args) => Box::pin(chat::run(&args, context)).await,
        Command::Version(args) => Box::pin(version::run(&args, context)).await,
        Command::Completion(args) => completion::run(&args, context),
        Command::Options(args) => options::run(&args, context),
    }
}
