//! Measures `kaito-scheduler` the way KAITO v0.12's controller was measured, and prints both.
//!
//! Real: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, the scheduler under test with its own
//! ServiceAccount. Played: machines. Nodes are there before, and a bound pod is Ready at once, so that what is left
//! is the control path. The packing runs buy nodes from the simulated cloud instead.

mod bed;
mod recorder;
mod run;
mod table;
mod usage;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use kaito_tests::ending;

/// Measures the scheduler on a real control plane, beside KAITO v0.12.
#[derive(Debug, Parser)]
#[command(name = "bench-controller")]
struct Arguments {
    /// Single Workspaces to apply one after the other; their median is shown
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Workspaces to apply at once
    #[arg(long, default_value_t = 100)]
    many: usize,
    /// Seconds to watch the scheduler at rest
    #[arg(long, default_value_t = 30)]
    rest: u64,
    /// Requests per second that kube-controller-manager may make for each of its controllers (its default is 20)
    #[arg(long, default_value_t = 20)]
    controller_manager_qps: u32,
    /// Requests per second that kube-scheduler may make (its default is 50)
    #[arg(long)]
    scheduler_qps: Option<u32>,
    /// Leave out the packing runs
    #[arg(long)]
    no_packing: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    ending::of_work(measure(&Arguments::parse()).await)
}

async fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let mut table = table::Table::new();
    run::own_nodes(arguments, &mut table).await?;
    if !arguments.no_packing {
        for kind in [bed::Kind::Preset, bed::Kind::Template] {
            run::packing(kind, &mut table).await?;
        }
    }
    let mut out = io::stdout();
    writeln!(
        out,
        "kaito-scheduler beside KAITO v0.12.0 (measured 2026-11-23: same servers and versions, 2 cores)\n\
         kube-controller-manager: {} requests/s per controller\n\n{table}",
        arguments.controller_manager_qps
    )?;
    Ok(())
}
