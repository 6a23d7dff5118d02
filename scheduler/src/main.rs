//! `kaito-scheduler`: the scheduler, the provisioner, and the manifests they need.

use std::process::ExitCode;

fn main() -> ExitCode {
    kaito_scheduler::cli::main()
}
