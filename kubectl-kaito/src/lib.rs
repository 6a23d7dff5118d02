//! `kubectl kaito`: deploy, watch and debug AI models on GPUs from kubectl.
//!
//! # Invariants
//! - Only [`output::printer`] writes to stdout or stderr.
//! - Only [`cluster`] builds a client; commands get one from it.
//! - Text that comes from a cluster or a file is escaped before it reaches a terminal ([`output::escape`]).
//! - Every command ends in an [`error::Exit`]; every failure is printed once, here, at the edge.

pub mod cli;
pub mod cluster;
pub mod commands;
pub mod completion;
pub mod environment;
pub mod error;
pub mod logs;
pub mod manifest;
pub mod output;
pub mod readiness;
pub mod view;
pub mod waiting;

use std::sync::Arc;

use crate::cli::{Parsed, connection::ConnectionFlags};
use crate::environment::Environment;
use crate::error::{Exit, Failure};
use crate::output::printer::{ColorChoice, Printer};

/// What every command gets: where it runs, how to connect, where to print.
#[derive(Debug, Clone)]
pub struct Context {
    /// Environment variables, arguments and home directory of the process.
    pub environment: Arc<Environment>,
    /// Connection flags as typed.
    pub connection: ConnectionFlags,
    /// The only way to print.
    pub printer: Printer,
    /// Warnings that servers sent so far.
    pub warnings: cluster::Warnings,
    /// How the program is called in texts: `kubectl kaito` or the file's name.
    pub program: String,
}

/// Parses the arguments, runs the command, prints its failure and returns the exit status.
pub async fn run(environment: Environment) -> Exit {
    let environment = Arc::new(environment);
    if let Some(words) = completion::words(&environment) {
        return completion::run(&words, &environment).await;
    }
    let (cli, program) = match cli::parse(&environment) {
        Parsed::Run(cli, program) => (*cli, program),
        Parsed::Print(text) => return print_and_end(&environment, &text),
        Parsed::Usage(failure) => {
            let printer = Printer::of_process(ColorChoice::Auto, &environment);
            return report(&printer, &failure);
        }
    };
    let context = Context {
        printer: Printer::of_process(cli.global.color, &environment),
        environment,
        connection: cli.connection,
        warnings: cluster::Warnings::default(),
        program,
    };
    let ends_itself = cli.command.handles_signals();
    let result = tokio::select! {
        result = commands::run(cli.command, &context) => result,
        signal = termination(), if !ends_itself => Err(Failure::interrupted(signal)),
    };
    let result = result.and_then(|exit| context.printer.flush().map(|()| exit));
    let exit = match result {
        Ok(exit) => exit,
        Err(failure) => report(&context.printer, &failure),
    };
    cluster::warnings_as_errors(&context, exit)
}

fn print_and_end(environment: &Environment, text: &str) -> Exit {
    let printer = Printer::of_process(ColorChoice::Auto, environment);
    match printer.data(text).and_then(|()| printer.flush()) {
        Ok(()) => Exit::Success,
        Err(failure) => failure.exit,
    }
}

fn report(printer: &Printer, failure: &Failure) -> Exit {
    // A lost stderr cannot be reported anywhere; the exit status still says what happened.
    let _ = printer.flush();
    for line in failure.lines() {
        let _ = printer.note(line);
    }
    failure.exit
}

/// Resolves when the process is told to stop, with the signal's name.
async fn termination() -> &'static str {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let (Ok(mut interrupt), Ok(mut terminate)) = (
            signal(SignalKind::interrupt()),
            signal(SignalKind::terminate()),
        ) {
            return tokio::select! {
                _ = interrupt.recv() => "interrupted",
                _ = terminate.recv() => "terminated",
            };
        }
    }
    match tokio::signal::ctrl_c().await {
        Ok(()) => "interrupted",
        Err(_) => std::future::pending().await,
    }
}
