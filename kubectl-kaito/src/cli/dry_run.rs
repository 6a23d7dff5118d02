//! `--dry-run` of the commands that change something.

use clap::Args;

use crate::Context;
use crate::error::Failure;

/// How far a change goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DryRun {
    /// It is made.
    None,
    /// Nothing is sent.
    Client,
    /// The server goes through all of it but does not store it.
    Server,
}

impl DryRun {
    /// What result lines end with.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Client => " (dry run)",
            Self::Server => " (server dry run)",
        }
    }
}

/// The flag `--dry-run`.
#[derive(Clone, Debug, Args)]
pub struct DryRunFlag {
    /// none, client (nothing is sent) or server (sent, but not stored)
    #[arg(long, value_name = "MODE", default_value = "none", default_missing_value = "", num_args = 0..=1,
          require_equals = true)]
    pub dry_run: String,
}

impl DryRunFlag {
    /// The mode.
    ///
    /// # Errors
    /// kubectl's text for an unknown mode.
    pub fn mode(&self, context: &Context) -> Result<DryRun, Failure> {
        match self.dry_run.as_str() {
            "none" => Ok(DryRun::None),
            "client" => Ok(DryRun::Client),
            "server" => Ok(DryRun::Server),
            "" => {
                context.printer.note(
                    "W: --dry-run is deprecated and can be replaced with --dry-run=client.",
                )?;
                Ok(DryRun::Client)
            }
            other => Err(Failure::error(format!(
                "Invalid dry-run value ({other}). Must be \"none\", \"server\", or \"client\"."
            ))),
        }
    }
}
