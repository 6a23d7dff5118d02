//! The edge of every command: exit codes, and the one error type that is printed.
//!
//! Modules below have their own typed errors; commands turn them into a [`Failure`], whose text has the shape that
//! kubectl uses for the same case.

use std::fmt;
use std::process::ExitCode;

use kube::core::Status;

use crate::output::escape;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Success,
    /// 1: any error, usage errors included.
    Failure,
    /// 3: a documented negative answer, such as "not ready" or "does not fit".
    Negative,
    /// 4: timed out.
    Timeout,
    /// 5: the object reached a state that it will not leave by waiting.
    Terminal,
    /// 141: the reader closed our stdout, as a process dying from SIGPIPE would end.
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
            Self::Terminal => 5,
            Self::ClosedPipe => 141,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// A failed command: what is printed on stderr, line by line, and the exit status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    lines: Vec<String>,
    /// Exit status of the process.
    pub exit: Exit,
}

impl Failure {
    /// `error: MESSAGE`, exit 1.
    #[must_use]
    pub fn error(message: impl fmt::Display) -> Self {
        Self::verbatim(format!("error: {message}"))
    }

    /// `error: ` with an error and all that caused it, exit 1. Modules turn their own errors into failures by this.
    #[must_use]
    pub fn of(error: &dyn std::error::Error) -> Self {
        let causes = std::iter::successors(error.source(), |cause| cause.source());
        let text = causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"));
        Self::error(text)
    }

    /// MESSAGE as it is, exit 1. May hold several lines.
    #[must_use]
    pub fn verbatim(message: impl fmt::Display) -> Self {
        Self {
            lines: vec![escape::multiline(&message.to_string())],
            exit: Exit::Failure,
        }
    }

    /// Several lines, each printed as it is; exit 1.
    #[must_use]
    pub fn many(lines: impl IntoIterator<Item = String>) -> Self {
        let lines = lines
            .into_iter()
            .map(|line| escape::multiline(&line))
            .collect();
        Self {
            lines,
            exit: Exit::Failure,
        }
    }

    /// No text at all; for answers that were already printed.
    #[must_use]
    pub const fn silent(exit: Exit) -> Self {
        Self {
            lines: Vec::new(),
            exit,
        }
    }

    /// The reader of stdout went away.
    #[must_use]
    pub const fn closed_pipe() -> Self {
        Self::silent(Exit::ClosedPipe)
    }

    /// Ctrl-C or SIGTERM.
    #[must_use]
    pub fn interrupted(signal: &str) -> Self {
        Self::error(signal)
    }

    /// Adds a line below the message: where, why, or the next command.
    #[must_use]
    pub fn with_hint(mut self, hint: impl fmt::Display) -> Self {
        self.lines.push(escape::multiline(&hint.to_string()));
        self
    }

    /// The same failure with another exit status.
    #[must_use]
    pub const fn with_exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }

    /// The lines to print on stderr, escaped.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.lines.join("\n"))
    }
}

/// An API server's refusal in kubectl's words. `fallback` names the request when the server gave no JSON status,
/// for example `get workspaces.kaito.sh`.
#[must_use]
pub fn from_status(status: &Status, fallback: &str) -> Failure {
    if status.code == 401 || status.reason == "Unauthorized" {
        return Failure::error("You must be logged in to the server (Unauthorized)");
    }
    if let Some(details) = status
        .details
        .as_ref()
        .filter(|_| status.reason == "Invalid")
    {
        return invalid(details, &status.message);
    }
    if status.reason.is_empty() || status.reason == "Failed to parse error data" {
        let body = first_line(&status.message);
        return Failure::verbatim(format!(
            "Error from server (InternalError): an error on the server ({body:?}) has prevented the request from \
             succeeding ({fallback})"
        ));
    }
    Failure::verbatim(format!(
        "Error from server ({}): {}",
        status.reason, status.message
    ))
}

fn invalid(details: &kube::core::response::StatusDetails, message: &str) -> Failure {
    let mut causes: Vec<String> = Vec::new();
    for cause in &details.causes {
        let text = if cause.field.is_empty() || cause.field == "<nil>" {
            cause.message.clone()
        } else {
            format!("{}: {}", cause.field, cause.message)
        };
        if !causes.contains(&text) {
            causes.push(text);
        }
    }
    let head = format!("The {} {:?} is invalid: ", details.kind, details.name);
    match causes.as_slice() {
        [] => Failure::verbatim(format!("Error from server (Invalid): {message}")),
        [only] => Failure::verbatim(format!("{head}{only}")),
        several => Failure::many(
            std::iter::once(head).chain(several.iter().map(|text| format!("* {text}"))),
        ),
    }
}

/// First line of a body, cut to 200 characters: proxies answer with pages of HTML.
fn first_line(body: &str) -> String {
    body.trim()
        .lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(200)
        .collect()
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use serde_json::json;

    use super::{Exit, Failure, from_status};

    fn status(value: serde_json::Value) -> Status {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn reasons_are_shown_as_kubectl_shows_them() {
        let failure = from_status(
            &status(
                json!({"reason": "NotFound", "message": "workspaces \"a\" not found", "code": 404}),
            ),
            "",
        );
        assert_eq!(
            failure.lines(),
            ["Error from server (NotFound): workspaces \"a\" not found"]
        );
        assert_eq!(failure.exit, Exit::Failure);
    }

    #[test]
    fn one_cause_is_inline_and_several_are_listed_once_each() {
        let one = json!({"reason": "Invalid", "message": "m", "details": {"name": "phi", "kind": "Workspace",
            "causes": [{"field": "resource.count", "message": "bad"}]}});
        assert_eq!(
            from_status(&status(one), "").lines(),
            ["The Workspace \"phi\" is invalid: resource.count: bad"]
        );
        let two = json!({"reason": "Invalid", "message": "m", "details": {"name": "phi", "kind": "Workspace",
            "causes": [{"field": "a", "message": "x"}, {"field": "a", "message": "x"}, {"field": "b", "message": "y"}]}});
        assert_eq!(
            from_status(&status(two), "").lines(),
            ["The Workspace \"phi\" is invalid: ", "* a: x", "* b: y"]
        );
    }

    #[test]
    fn control_characters_of_a_server_cannot_reach_the_terminal() {
        let failure = Failure::error("a\u{1b}[31mb");
        assert_eq!(failure.lines(), ["error: a^[[31mb"]);
    }
}
