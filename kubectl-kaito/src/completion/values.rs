//! Which values an argument of a command may have, as far as that is known without asking anybody. Pure.

use clap::{Arg, Args as _, Command};
use kaito_api::{catalogue, conditions};

use super::Candidate;
use super::live::Source;
use crate::cli::connection::{ConnectionFlags, IgnoredFlags};
use crate::output::format;
use crate::view::document;

/// Values of an argument.
pub(super) enum Values {
    /// These.
    Words(Vec<Candidate>),
    /// Names that somebody else knows.
    Live(Source),
    /// Files, which the shell knows best.
    Files,
    /// Folders.
    Folders,
    /// Anything, or nothing that could be listed.
    Nothing,
}

/// States that `wait --for` knows; the unfinished ones end in `=`.
const GOALS: [&str; 5] = ["ready", "deleted", "create", "delete", "jsonpath="];

/// Whether this is one of the flags that say how to reach the cluster.
pub(super) fn is_connection(argument: &Arg) -> bool {
    let has = |command: Command| {
        command
            .get_arguments()
            .any(|other| other.get_id() == argument.get_id())
    };
    has(ConnectionFlags::augment_args(Command::new("connection")))
        && !has(IgnoredFlags::augment_args(Command::new("ignored")))
}

/// What an argument of a command may be.
pub(super) fn of(command: &Command, argument: &Arg) -> Values {
    let possible = argument.get_possible_values();
    if !possible.is_empty() {
        let word = |value: &clap::builder::PossibleValue| {
            let help = value.get_help().map(ToString::to_string);
            Candidate::new(value.get_name(), help.unwrap_or_default())
        };
        return Values::Words(possible.iter().map(word).collect());
    }
    match (command.get_name(), argument.get_id().as_str()) {
        (name, "output") => Values::Words(formats(name)),
        ("wait", "goals") => Values::Words(goals()),
        (_, "model") => Values::Words(presets()),
        (_, "instance_type") => Values::Words(instance_types()),
        (_, "namespace") => Values::Live(Source::Namespaces),
        (_, "context") => Values::Live(Source::Contexts),
        (_, "cluster") => Values::Live(Source::Clusters),
        (_, "user") => Values::Live(Source::Users),
        ("status" | "why" | "logs" | "chat" | "plan", "name")
        | ("get" | "wait" | "delete", "names") => Values::Live(Source::Workspaces),
        _ => by_value_name(argument),
    }
}

/// Files and folders are told by what help calls them.
fn by_value_name(argument: &Arg) -> Values {
    let names = argument.get_value_names().unwrap_or_default();
    let is = |word: &str| names.iter().any(|name| name.contains(word));
    if is("FILE") || is("PATH") {
        Values::Files
    } else if is("DIR") {
        Values::Folders
    } else {
        Values::Nothing
    }
}

fn words<'a>(words: impl IntoIterator<Item = &'a str>) -> Vec<Candidate> {
    words
        .into_iter()
        .map(|word| Candidate::new(word, ""))
        .collect()
}

/// Formats of `-o`; those that want a template end in `=`.
fn formats(command: &str) -> Vec<Candidate> {
    let names = match command {
        "get" => format::READ,
        "status" | "why" | "plan" => document::FORMATS,
        "version" => format::DOCUMENT,
        _ => format::WRITE,
    };
    let names = names.iter().copied().map(|name| match name {
        "jsonpath" | "custom-columns" => Candidate::new(format!("{name}="), ""),
        name => Candidate::new(name, ""),
    });
    names.collect()
}

fn goals() -> Vec<Candidate> {
    let conditions =
        conditions::IN_ORDER.map(|kind| Candidate::new(format!("condition={kind}"), ""));
    words(GOALS).into_iter().chain(conditions).collect()
}

fn presets() -> Vec<Candidate> {
    let presets = catalogue::presets().iter();
    words(presets.map(catalogue::Preset::short_name))
}

fn instance_types() -> Vec<Candidate> {
    let types = catalogue::instance_types().iter();
    words(types.map(|one| one.name.as_ref()))
}
