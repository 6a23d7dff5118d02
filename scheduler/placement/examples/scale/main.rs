//! How the cost of a decision grows with the cluster: single pods, diverse pods, churn, gangs.
//!
//! Clusters are copies of a node list, pods are drawn from a pod list; without files, both come from a seeded mix in the
//! proportions of the published trace. Everything is resident while it is measured: names and labels included.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program: it prints its result and its errors"
)]

mod gangs;
mod measure;
mod mix;
mod pods;
#[path = "../openb/rng.rs"]
mod rng;
#[path = "../openb/trace.rs"]
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use kaito_placement::packing::Policy;
use serde_json::json;

use crate::measure::Row;

/// Measures decisions per second, latencies and memory over cluster sizes.
#[derive(Debug, Parser)]
#[command(name = "scale")]
struct Arguments {
    /// Node list (columns as for openb); without it, a seeded mix.
    #[arg(long, requires = "pods")]
    nodes: Option<PathBuf>,
    /// Pod list (columns as for openb).
    #[arg(long, requires = "nodes")]
    pods: Option<PathBuf>,
    /// Cluster sizes in nodes.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "100,1000,1213,10000,10917,100000"
    )]
    sizes: Vec<usize>,
    /// Policy.
    #[arg(long, default_value_t = Policy::default())]
    policy: Policy,
    /// Seed of all draws.
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Departures and arrivals of the churn run.
    #[arg(long, default_value_t = 100_000)]
    churn_steps: usize,
    /// Gangs of the gang run.
    #[arg(long, default_value_t = 1000)]
    gangs: usize,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Json,
    Table,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<String> {
    let (nodes, list) = match (&arguments.nodes, &arguments.pods) {
        (Some(nodes), Some(pods)) => (trace::read_nodes(nodes)?, trace::read_pods(pods)?),
        _ => (mix::nodes(arguments.seed), mix::pods(arguments.seed)),
    };
    if arguments.sizes.contains(&0) {
        bail!("a cluster of 0 nodes has nothing to measure: give sizes of at least 1");
    }
    let mut rows = Vec::new();
    for size in &arguments.sizes {
        rows.push(pods::fill(
            &nodes,
            &list,
            *size,
            pods::Diversity::AsListed,
            arguments,
        )?);
    }
    for size in arguments
        .sizes
        .iter()
        .filter(|size| (1_000..=2_000).contains(*size))
    {
        rows.push(pods::fill(
            &nodes,
            &list,
            *size,
            pods::Diversity::High,
            arguments,
        )?);
    }
    if let Some(size) = arguments.sizes.iter().filter(|size| **size <= 20_000).max() {
        rows.push(pods::churn(&nodes, &list, *size, arguments)?);
    }
    rows.extend(gangs::run(arguments)?);
    match arguments.output {
        Format::Json => serde_json::to_string_pretty(&json!({
            "policy": arguments.policy.name(),
            "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
        }))
        .context("cannot write the report as JSON"),
        Format::Table => Ok(measure::table(&rows)),
    }
}
