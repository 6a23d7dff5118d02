//! Where commands print.

use std::io::{ErrorKind, IsTerminal as _, Write as _};

use super::failure::{Exit, Failure, harmless};

/// Stdout and stderr, as commands see them.
pub trait Output: Send + Sync {
    /// Writes a line of data to stdout.
    ///
    /// # Errors
    /// A closed pipe or a full disk.
    fn data(&self, line: &str) -> Result<(), Failure>;

    /// Writes a line to stderr.
    fn note(&self, line: &str);

    /// Whether stderr is a terminal, and bars may be drawn.
    fn draws_bars(&self) -> bool;
}

/// The process's own streams.
#[derive(Clone, Copy, Debug, Default)]
pub struct Streams;

impl Output for Streams {
    fn data(&self, line: &str) -> Result<(), Failure> {
        let mut stdout = std::io::stdout().lock();
        writeln!(stdout, "{line}")
            .and_then(|()| stdout.flush())
            .map_err(|error| match error.kind() {
                ErrorKind::BrokenPipe => Failure::silent(Exit::ClosedPipe),
                _ => Failure::message(format!("cannot write to stdout: {error}")),
            })
    }

    fn note(&self, line: &str) {
        // A lost stderr cannot be reported anywhere.
        let _ = writeln!(std::io::stderr().lock(), "{}", harmless(line));
    }

    fn draws_bars(&self) -> bool {
        std::io::stderr().is_terminal()
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
    }
}
