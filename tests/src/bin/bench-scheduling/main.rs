//! Places the same pods on the same simulated nodes twice, one after the other: with `kaito-scheduler` in front of
//! kube-scheduler, and with kube-scheduler alone, set to fill nodes up (`MostAllocated`).
//!
//! Real: etcd, kube-apiserver, kube-controller-manager, kube-scheduler, the scheduler under test with its own
//! ServiceAccount. Played: machines. Nodes are objects that are kept Ready, and a bound pod runs at once.

mod outcome;
mod pods;
mod side;
mod watched;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use kaito_tests::ending;

use outcome::Report;
use side::Side;

/// Compares our placing of pods and gangs with kube-scheduler's on a real control plane.
#[derive(Debug, Clone, Parser)]
#[command(name = "bench-scheduling")]
struct Arguments {
    /// Nodes, each with 8 GPUs
    #[arg(long, default_value_t = 1000)]
    nodes: usize,
    /// Pods that ask for one GPU
    #[arg(long, default_value_t = 5000)]
    pods: usize,
    /// Gangs: pods that are of use only together
    #[arg(long, default_value_t = 300)]
    gangs: usize,
    /// Pods of a gang
    #[arg(long, default_value_t = 8)]
    gang_size: usize,
    /// GPUs that each pod of a gang asks for; with 2, the default numbers ask for more than there is
    #[arg(long, default_value_t = 1)]
    gang_gpus: u32,
    /// Requests per second that kube-scheduler may make, on both sides (its default is 50)
    #[arg(long, default_value_t = 5000)]
    scheduler_qps: u32,
    /// Seconds without a newly bound pod after which the rest counts as not placed
    #[arg(long, default_value_t = 30)]
    quiet: u64,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

#[tokio::main]
async fn main() -> ExitCode {
    ending::of_work(measure(&Arguments::parse()).await)
}

async fn measure(arguments: &Arguments) -> anyhow::Result<()> {
    let mut report = Report::new(arguments);
    for side in [Side::Kaito, Side::KubeSchedulerAlone] {
        let outcome = side::run(side, arguments).await?;
        report.sides.push(outcome);
    }
    let text = match arguments.output {
        Output::Table => report.to_string(),
        Output::Json => serde_json::to_string_pretty(&report)?,
    };
    writeln!(io::stdout(), "{text}")?;
    Ok(())
}
