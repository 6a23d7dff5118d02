//! `kaito-runtime`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    kaito_runtime::cli::main()
}
