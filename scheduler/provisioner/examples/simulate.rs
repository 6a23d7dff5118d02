//! Runs the provisioner with the simulated cloud against the cluster of the current kubeconfig, until Ctrl-C.
//!
//! `cargo run -p kaito-provisioner --example simulate -- [SCENARIO.yaml] [TIME_SCALE]`

use std::path::Path;

use kaito_provisioner::{Options, Scenario};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let mut options = Options::default();
    let mut arguments = std::env::args().skip(1);
    if let Some(file) = arguments.next() {
        options.scenario = Scenario::read(Path::new(&file))?;
    }
    if let Some(scale) = arguments.next() {
        options.time_scale = scale.parse()?;
    }
    let shutdown = CancellationToken::new();
    let interrupted = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            interrupted.cancel();
        }
    });
    kaito_provisioner::run(kube::Client::try_default().await?, options, shutdown).await?;
    Ok(())
}
