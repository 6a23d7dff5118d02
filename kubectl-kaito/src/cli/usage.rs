//! Usage errors in kubectl's words. The parser's own texts are never shown.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::error::Failure;

/// Translates a parser error. `arguments` begin with the program's path.
#[must_use]
pub fn failure(
    error: &clap::Error,
    root: &clap::Command,
    arguments: &[OsString],
    program: &str,
) -> Failure {
    let subcommand = arguments
        .iter()
        .skip(1)
        .filter_map(|argument| argument.to_str())
        .find_map(|word| root.find_subcommand(word));
    let path = subcommand.map_or_else(
        || program.to_owned(),
        |found| format!("{program} {}", found.get_name()),
    );
    let command = subcommand.unwrap_or(root);
    let argument = text(error, ContextKind::InvalidArg).unwrap_or_default();
    let see = format!("See '{path} --help' for usage.");
    match error.kind() {
        ErrorKind::UnknownArgument if argument.starts_with("--") => {
            let name = argument.split('=').next().unwrap_or_default();
            with_suggestion(
                Failure::verbatim(format!("Error: unknown flag: {name}")),
                error,
            )
            .with_hint(see)
        }
        ErrorKind::UnknownArgument if argument.starts_with('-') => {
            let short = argument
                .trim_start_matches('-')
                .chars()
                .next()
                .unwrap_or('-');
            Failure::verbatim(format!(
                "Error: unknown shorthand flag: {short:?} in {argument}"
            ))
            .with_hint(see)
        }
        ErrorKind::UnknownArgument => stray(&argument, arguments, command, &path),
        ErrorKind::InvalidSubcommand => unknown_command(error, program),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            bad_value(error, command, &argument).with_hint(see)
        }
        ErrorKind::MissingSubcommand => Failure::error("a command is required").with_hint(see),
        _ => {
            let message = described(error, &argument);
            Failure::error(message).with_hint(format!("See '{path} -h' for help and examples"))
        }
    }
}

fn described(error: &clap::Error, argument: &str) -> String {
    match error.kind() {
        ErrorKind::MissingRequiredArgument => format!("required: {argument}"),
        ErrorKind::ArgumentConflict => {
            let other = text(error, ContextKind::PriorArg).unwrap_or_default();
            format!("{argument} cannot be used with {other}")
        }
        ErrorKind::TooManyValues | ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues => {
            format!("wrong number of values for {argument}")
        }
        ErrorKind::NoEquals => format!("flag needs an argument after '=': {argument}"),
        ErrorKind::InvalidUtf8 => "an argument is not valid UTF-8".to_owned(),
        kind => kind.to_string(),
    }
}

fn stray(argument: &str, arguments: &[OsString], command: &clap::Command, path: &str) -> Failure {
    let failure = Failure::error(format!("unexpected argument {argument:?}"))
        .with_hint(format!("See '{path} -h' for help and examples"));
    if !matches!(argument, "true" | "false") {
        return failure;
    }
    let before = arguments
        .iter()
        .position(|word| word == argument)
        .and_then(|index| arguments.get(index.checked_sub(1)?))
        .and_then(|word| word.to_str())
        .unwrap_or_default();
    match flag_of(command, before) {
        Some(flag) => failure.with_hint(format!("use {flag}={argument}")),
        None => failure,
    }
}

fn unknown_command(error: &clap::Error, program: &str) -> Failure {
    let word = text(error, ContextKind::InvalidSubcommand).unwrap_or_default();
    let failure = Failure::verbatim(format!("Error: unknown command {word:?} for {program:?}"));
    let near = match error.get(ContextKind::SuggestedSubcommand) {
        Some(ContextValue::Strings(names)) => names.clone(),
        Some(ContextValue::String(name)) => vec![name.clone()],
        _ => Vec::new(),
    };
    let failure = if near.is_empty() {
        failure
    } else {
        failure
            .with_hint("\nDid you mean this?")
            .with_hint(format!("\t{}\n", near.join("\n\t")))
    };
    failure.with_hint(format!("See '{program} --help' for usage."))
}

fn bad_value(error: &clap::Error, command: &clap::Command, argument: &str) -> Failure {
    let value = text(error, ContextKind::InvalidValue).unwrap_or_default();
    let flag = argument.split(['=', ' ', '[']).next().unwrap_or_default();
    let name = flag_of(command, flag).map_or_else(
        || flag.to_owned(),
        |long| match short_of(command, &long) {
            Some(short) => format!("-{short}, {long}"),
            None => long,
        },
    );
    let allowed = match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(values)) => values.join(", "),
        _ => String::new(),
    };
    let reason = std::error::Error::source(error).map_or_else(
        || {
            if allowed.is_empty() {
                "invalid value".to_owned()
            } else {
                format!("must be one of: {allowed}")
            }
        },
        ToString::to_string,
    );
    if value.is_empty() && (!allowed.is_empty() || std::error::Error::source(error).is_none()) {
        return Failure::verbatim(format!("Error: flag needs an argument: {name}"));
    }
    if reason.starts_with("Invalid timeout value.") {
        return Failure::error(reason);
    }
    Failure::verbatim(format!(
        "Error: invalid argument {value:?} for {name:?} flag: {reason}"
    ))
}

fn with_suggestion(failure: Failure, error: &clap::Error) -> Failure {
    match text(error, ContextKind::SuggestedArg) {
        Some(near) => failure.with_hint(format!(
            "Did you mean {}?",
            near.split(['=', ' ']).next().unwrap_or(&near)
        )),
        None => failure,
    }
}

/// Long form, dashes included, of a flag given as `--long`, `-s` or a cluster of short flags.
fn flag_of(command: &clap::Command, typed: &str) -> Option<String> {
    if let Some(long) = typed.strip_prefix("--") {
        return command
            .get_arguments()
            .find(|a| a.get_long() == Some(long))
            .map(|_| typed.to_owned());
    }
    let short = typed.strip_prefix('-')?.chars().last()?;
    let long = command
        .get_arguments()
        .find(|a| a.get_short() == Some(short))?
        .get_long()?;
    Some(format!("--{long}"))
}

fn short_of(command: &clap::Command, long: &str) -> Option<char> {
    command
        .get_arguments()
        .find(|a| a.get_long() == long.strip_prefix("--"))?
        .get_short()
}

fn text(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(value) => Some(value.clone()),
        ContextValue::Strings(values) => Some(values.join(", ")),
        _ => None,
    }
}
