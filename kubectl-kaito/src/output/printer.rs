//! The only writer of the program: data to stdout, everything else to stderr.
//!
//! A closed stdout is the normal end of a pipe and becomes [`Failure::closed_pipe`]; any other write error (a full
//! disk) is an ordinary failure.

use std::fmt;
use std::io::{self, BufWriter, ErrorKind, Write};
use std::sync::{Arc, Mutex, PoisonError};

use anstyle::{AnsiColor, Style};

use crate::environment::Environment;
use crate::error::Failure;

/// Value of `--color`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum ColorChoice {
    /// Colour on a terminal only, and not with `NO_COLOR` or `TERM=dumb`.
    #[default]
    Auto,
    /// Colour everywhere.
    Always,
    /// No colour.
    Never,
}

/// What a piece of text means; colour is never the only carrier of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// No colour.
    Plain,
    /// Good: ready, done.
    Good,
    /// Attention: waiting, warning.
    Warn,
    /// Bad: failed.
    Bad,
    /// A thing to look at: a command, a path.
    Accent,
    /// Less important.
    Dim,
}

type Sink = Arc<Mutex<BufWriter<Box<dyn Write + Send>>>>;

/// Writes to stdout and stderr; cheap to clone, all clones share the same buffers.
#[derive(Clone)]
pub struct Printer {
    stdout: Sink,
    stderr: Sink,
    stdout_color: bool,
    stderr_color: bool,
    stdout_is_terminal: bool,
    stderr_is_terminal: bool,
}

impl fmt::Debug for Printer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Printer")
            .field("stdout_color", &self.stdout_color)
            .finish_non_exhaustive()
    }
}

impl Printer {
    /// The printer of the running process.
    #[must_use]
    pub fn of_process(color: ColorChoice, environment: &Environment) -> Self {
        let mut printer = Self::to_writers(Box::new(io::stdout()), Box::new(io::stderr()));
        printer.stdout_color = has_color(color, environment, environment.stdout_is_terminal);
        printer.stderr_color = has_color(color, environment, environment.stderr_is_terminal);
        printer.stdout_is_terminal = environment.stdout_is_terminal;
        printer.stderr_is_terminal = environment.stderr_is_terminal;
        printer
    }

    /// A printer without colour that writes to the given writers; for tests.
    #[must_use]
    pub fn to_writers(stdout: Box<dyn Write + Send>, stderr: Box<dyn Write + Send>) -> Self {
        Self {
            stdout: Arc::new(Mutex::new(BufWriter::new(stdout))),
            stderr: Arc::new(Mutex::new(BufWriter::new(stderr))),
            stdout_color: false,
            stderr_color: false,
            stdout_is_terminal: false,
            stderr_is_terminal: false,
        }
    }

    /// Whether stdout is a terminal.
    #[must_use]
    pub const fn stdout_is_terminal(&self) -> bool {
        self.stdout_is_terminal
    }

    /// Whether stderr is a terminal.
    #[must_use]
    pub const fn stderr_is_terminal(&self) -> bool {
        self.stderr_is_terminal
    }

    /// Writes one line of data to stdout and flushes it.
    ///
    /// # Errors
    /// A closed pipe or another write error.
    pub fn line(&self, text: &str) -> Result<(), Failure> {
        self.data(text)?;
        self.data("\n")?;
        self.flush()
    }

    /// Writes data to stdout as it is, without flushing.
    ///
    /// # Errors
    /// A closed pipe or another write error.
    pub fn data(&self, text: &str) -> Result<(), Failure> {
        self.bytes(text.as_bytes())
    }

    /// Writes bytes to stdout as they are, without flushing; for log lines that need not be UTF-8.
    ///
    /// # Errors
    /// A closed pipe or another write error.
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        lock(&self.stdout).write_all(bytes).map_err(stdout_failure)
    }

    /// Flushes stdout.
    ///
    /// # Errors
    /// A closed pipe or another write error.
    pub fn flush(&self) -> Result<(), Failure> {
        lock(&self.stdout).flush().map_err(stdout_failure)
    }

    /// Writes one line to stderr: warnings, progress, hints, errors. Stdout is flushed first, so that the two
    /// streams keep their order on a terminal.
    ///
    /// # Errors
    /// A closed stdout. A closed stderr is ignored: there is nobody left to tell.
    pub fn note(&self, text: &str) -> Result<(), Failure> {
        self.flush()?;
        let mut stderr = lock(&self.stderr);
        let _ = writeln!(stderr, "{text}").and_then(|()| stderr.flush());
        Ok(())
    }

    /// `Warning: TEXT` on stderr, the word in yellow on a terminal.
    ///
    /// # Errors
    /// As [`Self::note`].
    pub fn warning(&self, text: &str) -> Result<(), Failure> {
        self.note(&format!(
            "{} {text}",
            paint("Warning:", Tone::Warn, self.stderr_color)
        ))
    }

    /// `text` coloured for stdout, unchanged when stdout has no colour.
    #[must_use]
    pub fn paint(&self, text: &str, tone: Tone) -> String {
        paint(text, tone, self.stdout_color)
    }

    /// `text` coloured for stderr, unchanged when stderr has no colour.
    #[must_use]
    pub fn paint_note(&self, text: &str, tone: Tone) -> String {
        paint(text, tone, self.stderr_color)
    }
}

fn lock(sink: &Sink) -> std::sync::MutexGuard<'_, BufWriter<Box<dyn Write + Send>>> {
    sink.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature that map_err wants"
)]
fn stdout_failure(error: io::Error) -> Failure {
    if error.kind() == ErrorKind::BrokenPipe {
        return Failure::closed_pipe();
    }
    Failure::error(format!("cannot write to stdout: {error}"))
}

fn has_color(choice: ColorChoice, environment: &Environment, terminal: bool) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        ColorChoice::Auto => {
            terminal
                && environment.variable("TERM") != Some("dumb")
                && !environment.variables.contains_key("NO_COLOR")
                && (!cfg!(windows) || environment.variable("WT_SESSION").is_some())
        }
    }
}

fn paint(text: &str, tone: Tone, color: bool) -> String {
    let style = match tone {
        Tone::Plain => return text.to_owned(),
        Tone::Good => AnsiColor::Green.on_default(),
        Tone::Warn => AnsiColor::Yellow.on_default(),
        Tone::Bad => AnsiColor::Red.on_default(),
        Tone::Accent => AnsiColor::Cyan.on_default(),
        Tone::Dim => Style::new().dimmed(),
    };
    if color {
        format!("{style}{text}{style:#}")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind, Write};

    use super::{ColorChoice, Printer, has_color};
    use crate::environment::Environment;
    use crate::error::Exit;

    struct Failing(ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(Error::from(self.0))
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_ends_quietly_and_a_full_disk_does_not() {
        let closed = Printer::to_writers(
            Box::new(Failing(ErrorKind::BrokenPipe)),
            Box::new(Vec::new()),
        );
        let failure = closed.line("x").unwrap_err();
        assert_eq!((failure.exit, failure.lines().len()), (Exit::ClosedPipe, 0));
        let full = Printer::to_writers(
            Box::new(Failing(ErrorKind::StorageFull)),
            Box::new(Vec::new()),
        );
        assert_eq!(full.line("x").unwrap_err().exit, Exit::Failure);
    }

    #[test]
    fn colour_needs_a_terminal_and_the_absence_of_no_color() {
        let mut environment = Environment::default();
        assert!(has_color(ColorChoice::Auto, &environment, true));
        assert!(!has_color(ColorChoice::Auto, &environment, false));
        environment
            .variables
            .insert("NO_COLOR".to_owned(), String::new());
        assert!(!has_color(ColorChoice::Auto, &environment, true));
        assert!(has_color(ColorChoice::Always, &environment, false));
    }
}
