//! `completion`: scripts for shells, and the link by which kubectl completes behind `kubectl kaito`.

mod link;

use clap::ValueEnum;
use clap_complete::Shell;

use crate::Context;
use crate::cli;
use crate::error::{Exit, Failure};

/// Flags of `completion`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  # Complete 'kubectl kaito …' wherever kubectl itself is completed (kubectl 1.26 or newer)
  kubectl kaito completion install

  # Complete the file name kubectl-kaito, called without kubectl, in this bash
  source <(kubectl kaito completion bash)")]
pub struct Args {
    /// What to do
    #[arg(value_name = "ACTION", value_enum)]
    pub action: Action,
    /// Folder on PATH for the link [default: ~/.local/bin, if it is on PATH]; not krew's
    #[arg(long, value_name = "DIR")]
    pub dir: Option<std::path::PathBuf>,
}

/// What `completion` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Action {
    /// Print a script for bash
    Bash,
    /// Print a script for zsh
    Zsh,
    /// Print a script for fish
    Fish,
    /// Print a script for PowerShell
    #[value(name = "powershell")]
    PowerShell,
    /// Let kubectl complete this plugin
    Install,
    /// Undo install
    Uninstall,
}

/// Prints a script, or makes or removes the link.
///
/// # Errors
/// No folder to put the link in, another file in its place, or a folder that cannot be written to.
pub fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let shell = match args.action {
        Action::Bash => Shell::Bash,
        Action::Zsh => Shell::Zsh,
        Action::Fish => Shell::Fish,
        Action::PowerShell => Shell::PowerShell,
        Action::Install | Action::Uninstall => return place(args, context),
    };
    if args.dir.is_some() {
        return Err(Failure::error("--dir goes with install and uninstall only"));
    }
    let mut script = Vec::new();
    let mut command = cli::command("kubectl-kaito");
    clap_complete::generate(shell, &mut command, "kubectl-kaito", &mut script);
    context.printer.bytes(&script)?;
    context.printer.flush()?;
    Ok(Exit::Success)
}

fn place(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let dir = args.dir.as_deref();
    let done = match args.action {
        Action::Uninstall => link::remove(dir, &context.environment),
        _ => link::make(dir, &context.environment),
    };
    let told = done.map_err(|error| error.failure())?;
    context.printer.line(&told)?;
    Ok(Exit::Success)
}
