//! What Workspaces cost when they are packed and bought for together, against two simple ways.
//!
//! `cargo run --release -p kaito-placement --example economics -- [--pods FILE] [--workspaces N] [--seed N]`. Without a file the mix is a summary of a production trace; the recipe is printed.
#![expect(
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    reason = "an example prints, reads the file it is given, and may fail loudly"
)]

#[path = "../purchases/cases.rs"]
#[expect(dead_code, reason = "the other cases belong to the other example")]
mod cases;
mod ways;

use anyhow::Context;
use cases::Random;
use clap::Parser;
use kaito_placement::check::check;
use kaito_placement::planner;
use kaito_placement::snapshot::{Constraints, Demand, InstanceType, Purchase, Resources, Snapshot};
use std::collections::BTreeMap;

const GIB: u64 = 1 << 30;
/// Smallest share of a GPU that is handed out: an eighth.
const PARTS: u64 = 8;

#[derive(Debug, Parser)]
struct Args {
    /// Pod list with the columns cpu_milli, memory_mib, num_gpu, gpu_milli and, optionally, count
    #[arg(long)]
    pods: Option<std::path::PathBuf>,
    /// How many Workspaces to draw
    #[arg(long, default_value_t = 1_000)]
    workspaces: usize,
    /// Seed
    #[arg(long, default_value_t = 42)]
    seed: u64,
}

/// What one pod of the list asks for, and how often it is drawn.
#[derive(Clone, Copy, Debug)]
struct Wish {
    milli_cpu: u64,
    mib: u64,
    gpus: u64,
    milli_gpu: u64,
    count: u64,
}

/// Whether Workspaces may share a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    /// Whole GPUs only: what the scheduler hands out today.
    WholeGpus,
    /// Halves, quarters and eighths. Because they nest, what fits in sum fits on devices.
    Shares,
}

fn wishes(text: &str) -> anyhow::Result<Vec<Wish>> {
    let mut reader = csv::ReaderBuilder::new()
        .comment(Some(b'#'))
        .from_reader(text.as_bytes());
    let mut wishes = Vec::new();
    for row in reader.deserialize::<BTreeMap<String, String>>() {
        let row = row.context("reading the pod list")?;
        let number = |name: &str| row.get(name).and_then(|cell| cell.parse::<u64>().ok());
        let wish = Wish {
            milli_cpu: number("cpu_milli").context("no cpu_milli")?,
            mib: number("memory_mib").context("no memory_mib")?,
            gpus: number("num_gpu").context("no num_gpu")?,
            milli_gpu: number("gpu_milli").context("no gpu_milli")?,
            count: number("count").unwrap_or(1),
        };
        if wish.gpus > 0 {
            wishes.push(wish);
        }
    }
    Ok(wishes)
}

/// A share of one GPU as eighths, rounded up to the next half, quarter or eighth.
fn parts(milli: u64) -> u64 {
    [1, 2, 4]
        .into_iter()
        .find(|parts| milli * PARTS <= parts * 1_000)
        .unwrap_or(PARTS)
}

/// Draws Workspaces. GPUs are counted in eighths throughout.
fn demands(wishes: &[Wish], args: &Args, sharing: Sharing, offers: &[InstanceType]) -> Vec<Demand> {
    let mut random = Random(args.seed);
    let total: u64 = wishes.iter().map(|wish| wish.count).sum();
    let mut demands = Vec::new();
    while demands.len() < args.workspaces {
        let mut ticket = random.next() % total;
        let drawn = wishes.iter().find(|wish| {
            let found = ticket < wish.count;
            ticket = ticket.wrapping_sub(wish.count);
            found
        });
        let Some(wish) = drawn else { continue };
        let floor = match wish.milli_gpu {
            1_000 => random.of(&[16, 24, 24, 40, 80]),
            part => (part * 40).div_ceil(1_000),
        };
        let gpus = match (sharing, wish.milli_gpu) {
            (Sharing::Shares, ..1_000) => parts(wish.milli_gpu),
            _ => wish.gpus * PARTS,
        };
        let name = format!("default/w{:05}", demands.len());
        let demand = Demand {
            uid: name.clone(),
            members: vec![format!("{name}-0")],
            name,
            per_member: Resources {
                milli_cpu: wish.milli_cpu,
                memory_bytes: wish.mib << 20,
                ephemeral_bytes: 0,
                pods: 1,
                gpus,
            },
            constraints: Constraints {
                gpu_memory_bytes: floor * GIB,
                ..Constraints::default()
            },
            purchase: Purchase::Cheapest,
            ..Demand::default()
        };
        // What no type of this cloud can run is not a Workspace that anybody could have there.
        if offers.iter().any(|offer| ways::suits(&demand, offer)) {
            demands.push(demand);
        }
    }
    demands
}

fn catalogue() -> Vec<InstanceType> {
    let skus = cases::sku_offers().into_iter();
    skus.map(|(name, gib, offer)| InstanceType {
        name,
        gpu_memory_bytes: gib * GIB,
        allocatable: Resources {
            gpus: offer.capacity.gpus * PARTS,
            ..offer.capacity
        },
        price_micro_dollars: Some(offer.micro_dollars),
        ..InstanceType::default()
    })
    .collect()
}

fn compare(wishes: &[Wish], args: &Args, sharing: Sharing) -> anyhow::Result<()> {
    let catalogue = catalogue();
    let demands = demands(wishes, args, sharing, &catalogue);
    let snapshot = Snapshot {
        catalogue,
        demands,
        ..Snapshot::default()
    };
    let plan = planner::plan(&snapshot);
    let faults = check(&snapshot, &plan);
    anyhow::ensure!(faults.is_empty(), "the plan is not sound: {faults:?}");
    let ours = ways::cost(&snapshot, &plan);
    let alone = ways::one_per_node(&snapshot);
    let first_fit = ways::first_fit_decreasing(&snapshot);
    let bound = ways::bound(&snapshot);
    let day = |micro: u64| micro as f64 * 24.0 / 1e6;
    let below = |other: u64| (1.0 - ours as f64 / other as f64) * 100.0;
    println!(
        "\n{sharing:?}: {} Workspaces on {} types",
        snapshot.demands.len(),
        snapshot.catalogue.len()
    );
    println!("  one Workspace per node      ${:>12.2}/day", day(alone));
    println!(
        "  first fit, decreasing price ${:>12.2}/day",
        day(first_fit)
    );
    println!(
        "  ours                        ${:>12.2}/day on {} nodes: {:.1} % below one per node, {:.1} % below first fit",
        day(ours),
        plan.purchases.len(),
        below(alone),
        below(first_fit),
    );
    println!(
        "  lower bound                 ${:>12.2}/day: ours is {:.1} % above it; nobody can be more than {:.1} % below \
         one per node or {:.1} % below first fit",
        day(bound),
        (ours as f64 / bound as f64 - 1.0) * 100.0,
        (1.0 - bound as f64 / alone as f64) * 100.0,
        (1.0 - bound as f64 / first_fit as f64) * 100.0,
    );
    Ok(())
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let text = match &args.pods {
        Some(path) => {
            std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?
        }
        None => include_str!("mix.csv").to_owned(),
    };
    let wishes = wishes(&text)?;
    println!(
        "recipe: {} Workspaces drawn from the GPU pods of {} with seed {}; CPU, memory and GPUs as listed; GPU memory \
         floor: 40 GiB × share for pods that ask for a share of a GPU, else one of 16, 24, 24, 40, 80 GiB; bought on \
         demand from the price list (Azure, eastus); nothing runs yet",
        args.workspaces,
        args.pods.as_ref().map_or_else(
            || "the summary inside".to_owned(),
            |path| path.display().to_string()
        ),
        args.seed,
    );
    println!(
        "bound: every node's price shared out over GPU, CPU and memory by fixed weights, each pod paying at its cheapest \
         type; the best weights of a grid of tenths"
    );
    compare(&wishes, &args, Sharing::WholeGpus)?;
    compare(&wishes, &args, Sharing::Shares)
}
