//! Runs the openb packing protocol (Weng et al., USENIX ATC 2023) over a node list and a pod list.
//!
//! Pods arrive one at a time, never leave and are never moved, until the demand is a multiple of the cluster's GPUs. The
//! policy sees each pod as it arrives and nothing of those to come.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program: it prints its result and its errors"
)]

mod curve;
mod protocol;
mod report;
mod rng;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use kaito_placement::packing::Policy;

/// Packs a GPU cluster with the pods of a trace and reports how much of it could be allocated.
#[derive(Debug, Parser)]
#[command(name = "openb")]
struct Arguments {
    /// Node list: sn, cpu_milli, memory_mib, gpu, model.
    #[arg(long)]
    nodes: PathBuf,
    /// Pod list: name, cpu_milli, memory_mib, num_gpu, gpu_milli and, if there, gpu_spec.
    #[arg(long)]
    pods: PathBuf,
    /// Policy: random, dot-product, gpu-clustering, gpu-packing, best-fit, fgd, kaito-exclusive or kaito.
    #[arg(long, default_value_t = Policy::default())]
    policy: Policy,
    /// Seeds: one, a list 42,43 or a range 42..51 with both ends.
    #[arg(long, default_value = "42..51", value_parser = parse_seeds)]
    seeds: Seeds,
    /// Demand at the end, as a multiple of the cluster's GPUs.
    #[arg(long, default_value_t = 1.3, value_parser = parse_ratio)]
    ratio: f64,
    /// Output format.
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Json,
    Table,
}

#[derive(Clone, Debug)]
struct Seeds(Vec<u64>);

fn parse_seeds(text: &str) -> Result<Seeds, String> {
    let number = |part: &str| {
        part.trim()
            .parse::<u64>()
            .map_err(|_| format!("{part:?} is not a seed (a whole number)"))
    };
    let mut seeds = Vec::new();
    for part in text.split(',') {
        match part.split_once("..") {
            None => seeds.push(number(part)?),
            Some((from, to)) => {
                let (from, to) = (number(from)?, number(to.trim_start_matches('='))?);
                if from > to || to - from >= 10_000 {
                    return Err(format!(
                        "{part}: a range runs upwards over at most 10,000 seeds"
                    ));
                }
                seeds.extend(from..=to);
            }
        }
    }
    Ok(Seeds(seeds))
}

fn parse_ratio(text: &str) -> Result<f64, String> {
    let ratio: f64 = text
        .parse()
        .map_err(|_| format!("{text:?} is not a number"))?;
    if ratio.is_finite() && ratio > 0.0 && ratio <= 100.0 {
        Ok(ratio)
    } else {
        Err("the ratio is above 0 and at most 100".to_owned())
    }
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

fn run(arguments: &Arguments) -> anyhow::Result<String> {
    let nodes = trace::read_nodes(&arguments.nodes)?;
    let pods = trace::read_pods(&arguments.pods)?;
    let mut runs = Vec::new();
    for seed in &arguments.seeds.0 {
        runs.push(protocol::run(
            &nodes,
            &pods,
            arguments.policy,
            *seed,
            arguments.ratio,
        )?);
    }
    match arguments.output {
        Format::Json => report::json(arguments.policy, &runs),
        Format::Table => Ok(report::table(arguments.policy, &runs)),
    }
}
