//! `options`: the connection flags that every command takes.

use clap::{Args as _, Command};

use crate::Context;
use crate::cli::connection::ConnectionFlags;
use crate::error::{Exit, Failure};

/// Flags of `options`: none.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {}

/// Prints the flags.
///
/// # Errors
/// A closed pipe.
pub fn run(_: &Args, context: &Context) -> Result<Exit, Failure> {
    context
        .printer
        .data("The following options can be passed to any command:\n\n")?;
    context.printer.data(&flags())?;
    context.printer.flush()?;
    Ok(Exit::Success)
}

/// One flag per paragraph, sorted by name: names, value, meaning.
fn flags() -> String {
    let command = ConnectionFlags::augment_args(Command::new("options"));
    let mut flags: Vec<(String, String)> = command
        .get_arguments()
        .filter_map(|argument| {
            let long = argument.get_long()?;
            let short = argument
                .get_short()
                .map_or_else(|| "    ".to_owned(), |short| format!("-{short}, "));
            let takes_value = argument.get_action().takes_values();
            let value = argument
                .get_value_names()
                .filter(|_| takes_value)
                .and_then(<[_]>::first);
            let value = value.map_or_else(String::new, |name| format!(" {name}"));
            let help = argument
                .get_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            Some((
                long.to_owned(),
                format!("    {short}--{long}{value}:\n\t{help}.\n\n"),
            ))
        })
        .collect();
    flags.sort();
    flags.into_iter().map(|(_, text)| text).collect()
}
