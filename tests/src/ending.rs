//! How the programs of this package end: an error is told on standard error, with its causes. Nobody else exits.

use std::io::{self, Write};
use std::process::ExitCode;

/// The exit status of a program that came to this result.
pub fn of(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        // With standard error closed the status is all that is left to tell.
        let _ = writeln!(io::stderr(), "error: {error:#}");
        ExitCode::FAILURE
    })
}

/// The exit status of a program that has nothing to say but whether it did its work.
pub fn of_work(result: anyhow::Result<()>) -> ExitCode {
    of(result.map(|()| ExitCode::SUCCESS))
}
