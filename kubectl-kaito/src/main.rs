//! Entry point of `kubectl-kaito`; only collects what the process was given and sets the exit status.

use std::process::ExitCode;

use kubectl_kaito::environment::Environment;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    kubectl_kaito::run(Environment::of_process()).await.into()
}
