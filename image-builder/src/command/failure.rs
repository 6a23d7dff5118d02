//! How a command ends: exit codes by class of failure, and the one error type that is printed.

use std::error::Error;
use std::fmt;
use std::process::ExitCode;

use crate::attest::{BundleError, KeyError};
use crate::layout::LayoutError;
use crate::plan::PlanError;
use crate::pull::PullError;
use crate::push::PushError;
use crate::registry::{Class, RegistryError};
use crate::source::SourceError;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Success,
    /// 1: usage errors and everything that has no class of its own.
    Failure,
    /// 3: a negative answer: not verified, different, denied by `--deny`.
    Negative,
    /// 4: timed out.
    Timeout,
    /// 5: the source cannot be read or must not be packaged.
    Source,
    /// 6: credentials are missing, refused or insufficient.
    Unauthorized,
    /// 7: a registry or the network failed, after all attempts; running the command again continues.
    Network,
    /// 8: the registry refused for good, or what was asked for is not there.
    Refused,
    /// 130: interrupted.
    Interrupted,
    /// 141: the reader closed our stdout.
    ClosedPipe,
}

impl Exit {
    /// The process's exit status.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Failure => 1,
            Self::Negative => 3,
            Self::Timeout => 4,
            Self::Source => 5,
            Self::Unauthorized => 6,
            Self::Network => 7,
            Self::Refused => 8,
            Self::Interrupted => 130,
            Self::ClosedPipe => 141,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// A failed command: the lines for stderr, and the exit status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What is printed, line by line, escaped.
    pub lines: Vec<String>,
    /// Exit status.
    pub exit: Exit,
}

impl Failure {
    /// `error: MESSAGE`, exit 1.
    #[must_use]
    pub fn message(message: impl fmt::Display) -> Self {
        Self {
            lines: vec![harmless(&format!("error: {message}"))],
            exit: Exit::Failure,
        }
    }

    /// An error with everything that caused it, and the exit status of its class.
    #[must_use]
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        let exit = causes(error).find_map(class).unwrap_or(Exit::Failure);
        Self::message(chained(error)).with_exit(exit)
    }

    /// Adds a line.
    #[must_use]
    pub fn with_line(mut self, line: impl fmt::Display) -> Self {
        self.lines.push(harmless(&line.to_string()));
        self
    }

    /// Another exit status.
    #[must_use]
    pub const fn with_exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// Nothing to print; for answers that were printed already.
    #[must_use]
    pub const fn silent(exit: Exit) -> Self {
        Self {
            lines: Vec::new(),
            exit,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.lines.join("\n"))
    }
}

impl<E: Error + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::of(&error)
    }
}

fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// The class of an error, if it has one; causes are asked when it has not.
fn class(error: &(dyn Error + 'static)) -> Option<Exit> {
    if let Some(error) = error.downcast_ref::<RegistryError>() {
        return Some(match error.class() {
            Class::Transient(_) => Exit::Network,
            Class::Unauthorized => Exit::Unauthorized,
            Class::Integrity => Exit::Negative,
            Class::Missing | Class::Form | Class::Refused => Exit::Refused,
        });
    }
    if let Some(error) = error.downcast_ref::<PushError>() {
        return match error {
            PushError::Mismatch { .. } => Some(Exit::Negative),
            PushError::TooLarge { .. } | PushError::Mcr => Some(Exit::Refused),
            _ => None,
        };
    }
    if let Some(error) = error.downcast_ref::<PullError>() {
        return match error {
            PullError::Mismatch { .. } | PullError::Size { .. } | PullError::Archive { .. } => {
                Some(Exit::Negative)
            }
            _ => None,
        };
    }
    if error.is::<SourceError>() || error.is::<PlanError>() {
        return Some(Exit::Source);
    }
    if let Some(LayoutError::Damaged { .. }) = error.downcast_ref() {
        return Some(Exit::Negative);
    }
    match error.downcast_ref::<BundleError>() {
        Some(BundleError::Key(_)) | None => error.is::<KeyError>().then_some(Exit::Unauthorized),
        Some(_) => Some(Exit::Negative),
    }
}

/// Message and causes in one line; a cause that its parent has quoted already is left out.
fn chained(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for cause in causes(error) {
        let message = cause.to_string();
        if text.is_empty() {
            text = message;
        } else if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
    }
    text
}

/// Text that cannot move a terminal's cursor or reverse its writing direction; newlines stay.
#[must_use]
pub(crate) fn harmless(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            '\n' | '\t' => character.to_string(),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => escaped(character),
            _ if character.is_control() => escaped(character),
            _ => character.to_string(),
        })
        .collect()
}

fn escaped(character: char) -> String {
    character.escape_unicode().to_string()
}

#[cfg(test)]
mod tests {
    use super::{Exit, Failure};
    use crate::plan::PlanError;
    use crate::source::SourceError;

    #[test]
    fn causes_are_told_once_and_decide_the_exit_code() {
        let source = SourceError::File {
            action: "open",
            path: "w".to_owned(),
            cause: std::io::ErrorKind::NotFound.into(),
        };
        let failure = Failure::of(&source);
        assert_eq!(failure.lines, ["error: cannot open w: entity not found"]);
        assert_eq!(failure.exit, Exit::Source);
        let empty = PlanError::Empty { reason: "no files" };
        assert_eq!(Failure::from(empty).exit.code(), 5);
    }

    #[test]
    fn foreign_text_cannot_move_the_cursor() {
        let failure = Failure::message("a\u{1b}[2Jb\u{202e}c");
        assert_eq!(failure.lines, ["error: a\\u{1b}[2Jb\\u{202e}c"]);
    }
}
