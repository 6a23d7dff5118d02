//! The commands: what may be typed, what is printed, how a run ends.
//!
//! Shared by the program `image-builder` and by `kubectl kaito build-image`. Only this part prints, and only through
//! [`Output`]. Data goes to stdout, everything else to stderr; the last line on stdout is the result, `REF@sha256:…`.

mod attach;
mod build;
mod build_flags;
mod copy;
mod diff;
mod failure;
mod fetch;
mod flags;
mod inspect;
mod interrupt;
mod login;
mod open;
mod output;
mod plan;
mod prepare;
mod program;
mod prune;
mod pull;
mod push;
mod remote;
mod shape;
mod shards;
mod summary;
mod table;
mod target;
mod verify;
mod wait_mcr;
mod workspace;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::registry::Credential;

pub use build::{Built, run as build};
pub use build_flags::Args as BuildArgs;
pub use failure::{Exit, Failure};
pub use output::{Output, Streams};
pub use program::main;
pub use verify::{Args as VerifyArgs, run as verify};

/// What commands are given besides their flags.
#[derive(Clone)]
pub struct Context {
    /// Environment variables.
    pub variables: BTreeMap<String, String>,
    /// The only way to print.
    pub output: Arc<dyn Output>,
    /// Credentials from elsewhere, such as a secret of the cluster; each for one host or for all.
    pub credentials: Vec<(Option<String>, Credential)>,
    /// How the program is called in texts.
    pub program: String,
}

impl Context {
    /// The value of an environment variable, absent when unset or empty.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<String> {
        self.variables
            .get(name)
            .filter(|value| !value.is_empty())
            .cloned()
    }
}
