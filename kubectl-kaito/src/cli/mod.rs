//! The command line: what may be typed, read with the habits of kubectl's flag library.
//!
//! Parsing needs nothing but the arguments; no file and no server is touched here.

pub mod boolean;
pub mod connection;
pub mod dry_run;
pub mod duration;
pub mod usage;

use std::ffi::OsString;
use std::path::Path;

use clap::error::ErrorKind;
use clap::{ArgAction, CommandFactory, FromArgMatches, Parser};

use self::connection::ConnectionFlags;
use crate::commands::Command;
use crate::environment::Environment;
use crate::error::Failure;
use crate::output::printer::ColorChoice;

/// Deploy, watch and debug AI models on GPUs.
#[derive(Debug, Parser)]
#[command(
    name = "kubectl-kaito",
    disable_help_subcommand = true,
    disable_version_flag = true,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100,
    after_help = "Use \"kubectl kaito options\" for the connection flags that every command takes."
)]
pub struct Cli {
    /// Connection flags.
    #[command(flatten)]
    pub connection: ConnectionFlags,
    /// Flags about the program's own behaviour.
    #[command(flatten)]
    pub global: GlobalFlags,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags about the program's own behaviour; every command takes them.
#[derive(Debug, Clone, clap::Args)]
pub struct GlobalFlags {
    /// Colour in the output: auto, always or never
    #[arg(long, global = true, value_enum, default_value_t = ColorChoice::Auto, value_name = "WHEN",
          hide_possible_values = true)]
    pub color: ColorChoice,
}

/// What came out of the arguments.
#[derive(Debug)]
pub enum Parsed {
    /// A command to run, and the program's name in texts.
    Run(Box<Cli>, String),
    /// Help, to be printed on stdout.
    Print(String),
    /// A usage error.
    Usage(Failure),
}

/// Parses the process's arguments.
#[must_use]
pub fn parse(environment: &Environment) -> Parsed {
    let program = program_name(environment.arguments.first());
    let arguments = normalized(&environment.arguments);
    let mut command = command(&program);
    match command.try_get_matches_from_mut(arguments.clone()) {
        Ok(matches) => match Cli::from_arg_matches(&matches) {
            Ok(cli) => Parsed::Run(Box::new(cli), program),
            Err(error) => Parsed::Usage(usage::failure(&error, &command, &arguments, &program)),
        },
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                Parsed::Print(error.render().to_string())
            }
            _ => Parsed::Usage(usage::failure(&error, &command, &arguments, &program)),
        },
    }
}

/// The whole command line definition, with kubectl's reading of booleans and repeated flags on every level.
#[must_use]
pub fn command(program: &str) -> clap::Command {
    let command = with_kubectl_habits(Cli::command()).bin_name(program.to_owned());
    if program == "kubectl kaito" {
        command
    } else {
        command.after_help(format!(
            "Use \"{program} options\" for the connection flags that every command takes."
        ))
    }
}

/// Switches take `--flag=false`; the last occurrence wins.
fn with_kubectl_habits(command: clap::Command) -> clap::Command {
    command
        .args_override_self(true)
        .mut_args(|argument| match argument.get_action() {
            ArgAction::SetTrue => argument
                .action(ArgAction::Set)
                .num_args(0..=1)
                .require_equals(true)
                .value_name("BOOL")
                .default_value("false")
                .default_missing_value("true")
                .hide_default_value(true)
                .hide_possible_values(true)
                .value_parser(boolean::parse),
            _ => argument,
        })
        .mut_subcommands(with_kubectl_habits)
}

/// `kubectl kaito` when called as a plugin, else the file's own name.
fn program_name(argument: Option<&OsString>) -> String {
    let name = argument
        .and_then(|path| Path::new(path).file_stem())
        .and_then(|stem| stem.to_str())
        .unwrap_or("kubectl-kaito");
    match name.strip_prefix("kubectl-") {
        Some(plugin) => format!("kubectl {}", plugin.replace('_', "-")),
        None => name.to_owned(),
    }
}

/// `_` in names of long flags means `-`, up to `--`.
fn normalized(arguments: &[OsString]) -> Vec<OsString> {
    let mut flags_ended = false;
    arguments
        .iter()
        .map(|argument| {
            let Some(text) = argument
                .to_str()
                .filter(|text| !flags_ended && text.starts_with("--"))
            else {
                return argument.clone();
            };
            flags_ended = text == "--";
            match text.split_once('=') {
                Some((name, value)) => format!("{}={value}", name.replace('_', "-")).into(),
                None => text.replace('_', "-").into(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Cli, Parsed, command, normalized, parse, program_name};
    use crate::environment::Environment;

    fn parsed(words: &[&str]) -> Parsed {
        let arguments = words.iter().map(Into::into).collect();
        parse(&Environment {
            arguments,
            ..Environment::default()
        })
    }

    fn cli(words: &[&str]) -> Cli {
        match parsed(words) {
            Parsed::Run(cli, _) => *cli,
            other => panic!("{words:?}: {other:?}"),
        }
    }

    #[test]
    fn the_definition_is_consistent() {
        command("kubectl kaito").debug_assert();
    }

    #[test]
    fn usage_says_kubectl_kaito_when_called_as_a_plugin() {
        assert_eq!(
            program_name(Some(&"/x/kubectl-kaito".into())),
            "kubectl kaito"
        );
        assert_eq!(program_name(Some(&"kaito".into())), "kaito");
    }

    #[test]
    fn underscores_in_flag_names_are_dashes_but_values_are_left_alone() {
        let words: Vec<std::ffi::OsString> =
            ["a_b", "--all_namespaces", "--x_y=c_d", "--", "--k_l"]
                .iter()
                .map(Into::into)
                .collect();
        assert_eq!(
            normalized(&words),
            ["a_b", "--all-namespaces", "--x-y=c_d", "--", "--k_l"]
        );
    }

    #[test]
    fn every_connection_flag_follows_every_command() {
        let root = command("kubectl kaito");
        for subcommand in root.get_subcommands() {
            let name = subcommand.get_name();
            let required: &[&str] = match name {
                "wait" => &["phi", "--for=ready"],
                "status" | "why" | "logs" | "delete" | "chat" => &["phi"],
                "apply" => &["-f", "x"],
                "build-image" => &["dir"],
                "completion" => &["bash"],
                _ => &[],
            };
            let words = [
                &["kubectl-kaito", name][..],
                required,
                &[
                    "--kubeconfig=k",
                    "--cache-dir=c",
                    "--client-certificate=c",
                    "--client-key=k",
                    "--token=t",
                    "--as=u",
                    "--as-uid=1",
                    "--as-group=g",
                    "--as-group=h",
                    "--as-user-extra=a=b",
                    "--username=u",
                    "--password=p",
                    "--cluster=c",
                    "--user=u",
                    "-n",
                    "ns",
                    "--context=c",
                    "-s",
                    "host:1",
                    "--tls-server-name=t",
                    "--insecure-skip-tls-verify",
                    "--certificate-authority=ca",
                    "--request-timeout=5",
                    "--disable-compression",
                    "-v6",
                    "--warnings-as-errors",
                ],
            ]
            .concat();
            let flags = cli(&words).connection;
            assert_eq!(flags.namespace.as_deref(), Some("ns"), "{name}");
            assert_eq!(flags.impersonate_groups, ["g", "h"], "{name}");
            assert_eq!(flags.verbosity, 6, "{name}");
            assert!(flags.insecure_skip_tls_verify, "{name}");
        }
    }

    #[test]
    fn the_last_occurrence_wins_and_short_flags_cluster() {
        assert_eq!(
            cli(&["kubectl-kaito", "get", "-n", "a", "-nb"])
                .connection
                .namespace
                .as_deref(),
            Some("b")
        );
        assert_eq!(
            cli(&["kubectl-kaito", "get", "-Awn=c"])
                .connection
                .namespace
                .as_deref(),
            Some("c")
        );
    }
}
