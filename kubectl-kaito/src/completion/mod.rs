//! Answers the question of kubectl's completion: which words may stand at the end of this command line?
//!
//! kubectl (1.26 or newer) runs `kubectl_complete-kaito` from `PATH` with the words behind `kaito`. That is a link to this
//! program. The answer is one candidate per line, perhaps with a tab and a description, and a last line `:BITS`. Here
//! nothing is asked, nothing is written to stderr and stdin is not read; whatever goes wrong, and whatever takes too long,
//! is an answer without candidates.

mod live;
mod position;
mod values;

use std::sync::Arc;

use clap::{Arg, Command};

use self::live::Source;
use self::position::{Position, Wanted, position};
use self::values::Values;
use crate::cli;
use crate::environment::Environment;
use crate::error::Exit;
use crate::output::printer::{ColorChoice, Printer};

/// Name of the link that kubectl runs.
pub const LINK: &str = "kubectl_complete-kaito";
/// The hidden command that does the same.
const COMMAND: &str = "__complete";

/// Bit of the last line: no blank behind the word.
const NO_SPACE: u8 = 2;
/// Bit of the last line: the shell shall not offer files.
const NO_FILES: u8 = 4;
/// Bit of the last line: the shell shall offer folders only.
const FOLDERS: u8 = 16;

/// A word that may stand there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// The word.
    word: String,
    /// What it means; may be empty.
    help: String,
}

impl Candidate {
    fn new(word: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            word: word.into(),
            help: help.into(),
        }
    }

    /// The line for kubectl; none for a word that no line can hold.
    fn line(&self) -> Option<String> {
        if self.word.is_empty() || self.word.chars().any(char::is_control) {
            return None;
        }
        let help = self.help.lines().next().unwrap_or_default();
        let help: String = help.chars().filter(|c| !c.is_control()).collect();
        Some(if help.is_empty() {
            format!("{}\n", self.word)
        } else {
            format!("{}\t{help}\n", self.word)
        })
    }
}

/// The words of an unfinished command line, if this run is asked to complete one; the last is unfinished, perhaps empty.
#[must_use]
pub fn words(environment: &Environment) -> Option<Vec<String>> {
    let mut arguments = environment
        .arguments
        .iter()
        .map(|argument| argument.to_string_lossy().into_owned());
    let program = arguments.next()?;
    let stem = std::path::Path::new(&program).file_stem()?.to_str()?;
    let mut rest = arguments.peekable();
    if stem != LINK {
        rest.next_if(|first| first == COMMAND)?;
    }
    Some(rest.collect())
}

/// Prints what may stand at the end of the words.
pub async fn run(words: &[String], environment: &Arc<Environment>) -> Exit {
    let (candidates, bits) = answer(words, environment).await;
    let text: String = candidates.iter().filter_map(Candidate::line).collect();
    let printer = Printer::of_process(ColorChoice::Never, environment);
    // A shell that has stopped listening has no use for an error.
    let _ = printer.line(&format!("{text}:{bits}"));
    Exit::Success
}

async fn answer(words: &[String], environment: &Arc<Environment>) -> (Vec<Candidate>, u8) {
    let mut root = cli::command("kubectl kaito");
    root.build();
    let Position {
        command,
        wanted,
        typed,
    } = position(&root, words);
    match wanted {
        Wanted::Flag => (starting(flags(command), "", typed), NO_FILES),
        Wanted::Value(argument) => {
            let (head, typed) = last_of_list(argument, typed);
            let values = values::of(command, argument);
            resolve(values, head, typed, words, environment).await
        }
        Wanted::Word(ordinal) => {
            let (mut found, mut bits) = (Vec::new(), NO_FILES);
            let positional = command
                .get_positionals()
                .find(|argument| takes(argument, ordinal));
            if let Some(argument) = positional {
                let values = values::of(command, argument);
                (found, bits) = resolve(values, "", typed, words, environment).await;
            }
            if ordinal == 0 {
                found.extend(starting(commands(command), "", typed));
            }
            (found, bits)
        }
    }
}

/// Whether the positional word with this ordinal (from 0) goes to the argument.
fn takes(argument: &Arg, ordinal: usize) -> bool {
    let Some(first) = argument.get_index().map(|index| index.saturating_sub(1)) else {
        return false;
    };
    let many = argument
        .get_num_args()
        .is_some_and(|range| range.max_values() > 1)
        || matches!(argument.get_action(), clap::ArgAction::Append);
    first == ordinal || (many && first < ordinal)
}

/// What is finished of a list of values, and the rest.
fn last_of_list<'a>(argument: &Arg, typed: &'a str) -> (&'a str, &'a str) {
    let delimiter = argument.get_value_delimiter();
    let cut = delimiter.and_then(|delimiter| Some(typed.rfind(delimiter)? + delimiter.len_utf8()));
    typed.split_at(cut.unwrap_or_default())
}

async fn resolve(
    values: Values,
    head: &str,
    typed: &str,
    words: &[String],
    environment: &Arc<Environment>,
) -> (Vec<Candidate>, u8) {
    match values {
        Values::Words(words) => {
            let found = starting(words, head, typed);
            let open = !found.is_empty() && found.iter().all(|one| one.word.ends_with('='));
            (found, if open { NO_FILES | NO_SPACE } else { NO_FILES })
        }
        Values::Live(source) => {
            let (head, typed) = match (&source, typed.split_once('/')) {
                (Source::Workspaces, Some((kind, _))) => typed.split_at(kind.len() + 1),
                _ => (head, typed),
            };
            let names = live::names(source.of_kind(head), words, environment).await;
            (starting(names, head, typed), NO_FILES)
        }
        Values::Files => (Vec::new(), 0),
        Values::Folders => (Vec::new(), FOLDERS),
        Values::Nothing => (Vec::new(), NO_FILES),
    }
}

/// Those that begin as typed, with what stands before them.
fn starting(candidates: Vec<Candidate>, head: &str, typed: &str) -> Vec<Candidate> {
    candidates
        .into_iter()
        .filter(|one| one.word.starts_with(typed))
        .map(|one| Candidate::new(format!("{head}{}", one.word), one.help))
        .collect()
}

fn commands(command: &Command) -> Vec<Candidate> {
    let shown = command.get_subcommands().filter(|one| !one.is_hide_set());
    shown
        .map(|one| Candidate::new(one.get_name(), text(one.get_about())))
        .collect()
}

/// Flags of the command, and those that every command takes. Help hides most of the latter; here they are wanted, for
/// kubectl completes none of them behind a plugin's name.
fn flags(command: &Command) -> Vec<Candidate> {
    let shown = command
        .get_arguments()
        .filter(|one| !one.is_hide_set() || values::is_connection(one));
    shown
        .filter_map(|one| {
            let long = one.get_long()?;
            Some(Candidate::new(format!("--{long}"), text(one.get_help())))
        })
        .collect()
}

fn text(help: Option<&clap::builder::StyledStr>) -> String {
    help.map(ToString::to_string).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Candidate, answer, words};
    use crate::environment::Environment;

    fn environment(kubeconfig: &std::path::Path) -> Arc<Environment> {
        let variable = ("KUBECONFIG".to_owned(), kubeconfig.display().to_string());
        Arc::new(Environment {
            variables: [variable].into(),
            ..Environment::default()
        })
    }

    async fn complete(line: &[&str]) -> (Vec<String>, u8) {
        let line: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
        let nowhere = environment(std::path::Path::new("/nonexistent/config"));
        let (found, bits) = answer(&line, &nowhere).await;
        (found.into_iter().map(|one| one.word).collect(), bits)
    }

    #[test]
    fn it_is_chosen_by_the_name_of_the_link_or_by_the_hidden_command() {
        let of = |line: &[&str]| {
            words(&Environment {
                arguments: line.iter().map(Into::into).collect(),
                ..Environment::default()
            })
        };
        let asked = Some(vec!["get".to_owned(), String::new()]);
        assert_eq!(of(&["/x/kubectl_complete-kaito", "get", ""]), asked);
        assert_eq!(of(&["C:/x/kubectl_complete-kaito.exe", "get", ""]), asked);
        assert_eq!(of(&["/x/kubectl-kaito", "__complete", "get", ""]), asked);
        assert_eq!(of(&["/x/kubectl-kaito", "get", ""]), None);
    }

    #[tokio::test]
    async fn commands_are_offered_and_flags_only_behind_a_dash() {
        let (found, bits) = complete(&["sta"]).await;
        assert_eq!((found, bits), (vec!["status".to_owned()], 4));
        let (all, _) = complete(&[""]).await;
        assert!(all.contains(&"apply".to_owned()), "{all:?}");
        assert!(all.iter().all(|word| !word.starts_with('-')), "{all:?}");
        let (flags, _) = complete(&["status", "--wa"]).await;
        assert_eq!(flags, ["--watch", "--warnings-as-errors"]);
    }

    #[tokio::test]
    async fn values_stand_alone_also_behind_an_equals_sign_or_a_comma() {
        let json = ["json".to_owned()];
        assert_eq!(complete(&["get", "-o", "js"]).await.0[0], "json");
        assert_eq!(complete(&["version", "--output=json"]).await.0[0], "json");
        assert_eq!(complete(&["status", "-wo", "json"]).await.0[0], "json");
        assert_eq!(complete(&["plan", "-o", "js"]).await.0[..1], json[..]);
        let (types, _) = complete(&["plan", "--instance-type", "x,Standard_NC24ads"]).await;
        assert_eq!(types, ["x,Standard_NC24ads_A100_v4"]);
        let (models, _) = complete(&["plan", "--model=phi-4-mini"]).await;
        assert!(models.contains(&"phi-4-mini-instruct".to_owned()));
    }

    #[tokio::test]
    async fn a_value_that_goes_on_gets_no_blank_behind_it() {
        let (found, bits) = complete(&["get", "-o", "jsonp"]).await;
        assert_eq!((found, bits), (vec!["jsonpath=".to_owned()], 6));
    }

    #[tokio::test]
    async fn files_and_folders_are_left_to_the_shell() {
        assert_eq!(complete(&["apply", "-f", ""]).await, (vec![], 0));
        assert_eq!(complete(&["get", "--kubeconfig="]).await, (vec![], 0));
        assert_eq!(complete(&["get", "--cache-dir", ""]).await, (vec![], 16));
    }

    #[tokio::test]
    async fn without_a_cluster_names_are_no_error() {
        assert_eq!(complete(&["status", ""]).await, (vec![], 4));
        assert_eq!(complete(&["get", "-n", ""]).await, (vec![], 4));
        assert_eq!(complete(&["get", "--", "--wa"]).await, (vec![], 4));
    }

    #[tokio::test]
    async fn contexts_come_from_the_kubeconfig_without_a_server() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config");
        let yaml = "contexts: [{name: east, context: {cluster: a, user: u}}, {name: west, context: {cluster: b, user: u}}]";
        std::fs::write(&file, yaml).unwrap();
        let line = ["get", "--context", "e"].map(str::to_owned);
        let (found, _) = answer(&line, &environment(&file)).await;
        assert_eq!(found, [Candidate::new("east", "")]);
    }

    #[test]
    fn what_no_line_can_hold_is_left_out() {
        assert_eq!(Candidate::new("a\nb", "").line(), None);
        assert_eq!(
            Candidate::new("a", "b\u{1b}[31m\nc").line().unwrap(),
            "a\tb[31m\n"
        );
    }
}
