//! Reclaim in KAI's shape: a full cluster of one-GPU jobs of queue A makes way for as many of queue B.
//!
//! `cargo run --release -p kaito-placement --example reclaim -- [NODES]` (500 by default, 8 GPUs each). Prints the time of
//! one planning pass, plan included, and by how much it raised the process's peak resident memory.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::panic,
    reason = "an example prints, measures, and fails loudly"
)]

use kaito_placement::check::check_evictions;
use kaito_placement::eviction::{self, Occupants, Running, RunningMember};
use kaito_placement::planner;
use kaito_placement::snapshot::{Demand, Node, Resources, Snapshot};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// GPUs of a node.
const GPUS: u64 = 8;

fn pod(gpus: u64) -> Resources {
    Resources {
        milli_cpu: 1_000 * gpus,
        memory_bytes: gpus << 30,
        ephemeral_bytes: 0,
        pods: 1,
        gpus,
    }
}

fn cluster(nodes: u64) -> Vec<Node> {
    (0..nodes)
        .map(|index| Node {
            name: format!("node-{index:04}"),
            allocatable: Resources {
                pods: 110,
                ..pod(GPUS * 2)
            },
            used: Resources {
                pods: GPUS,
                ..pod(GPUS)
            },
            available: true,
            ..Node::default()
        })
        .map(|mut node| {
            node.allocatable.gpus = GPUS;
            node
        })
        .collect()
}

/// Queue A: one job per GPU, job i on node i mod `nodes`, 60 s old.
fn running(nodes: u64, minimum_runtime_seconds: i64) -> Vec<Running> {
    (0..nodes * GPUS)
        .map(|index| Running {
            name: format!("a/job-{index:05}"),
            preemptible: true,
            started_seconds: -60,
            minimum_runtime_seconds,
            queue: "a".to_owned(),
            members: vec![RunningMember {
                pod: format!("job-{index:05}-0"),
                node: format!("node-{:04}", index % nodes),
            }],
            per_member: pod(1),
            ..Running::default()
        })
        .collect()
}

fn gang(name: String, members: u64, gpus: u64) -> Demand {
    Demand {
        uid: name.clone(),
        members: (0..members)
            .map(|index| format!("{name}-{index}"))
            .collect(),
        name,
        per_member: pod(gpus),
        ..Demand::default()
    }
}

/// `VmHWM` or `VmRSS` of this process, MiB; 0 where the kernel does not tell.
fn resident_mib(field: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(field));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    number.unwrap_or(0.0) / 1024.0
}

fn processor_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let first = text
        .split(' ')
        .next()
        .and_then(|number| number.parse::<f64>().ok());
    first.unwrap_or(0.0) / 1e9
}

struct Case {
    name: &'static str,
    demands: Vec<Demand>,
    minimum_runtime_seconds: i64,
    surplus: u64,
    victims: usize,
}

fn run(nodes: u64, case: Case) {
    let snapshot = Snapshot {
        nodes: cluster(nodes),
        demands: case.demands,
        ..Snapshot::default()
    };
    let reclaiming: BTreeSet<String> = snapshot
        .demands
        .iter()
        .map(|one| one.name.clone())
        .collect();
    let occupants = Occupants {
        running: running(nodes, case.minimum_runtime_seconds),
        surplus_gpus: BTreeMap::from([("a".to_owned(), case.surplus)]),
        reclaiming,
        ..Occupants::default()
    };
    let before = resident_mib("VmRSS");
    let (started, used) = (Instant::now(), processor_seconds());
    let plan = planner::plan(&snapshot);
    let evictions = eviction::plan(&snapshot, &plan, &occupants);
    let (wall, used) = (started.elapsed().as_secs_f64(), processor_seconds() - used);
    let after = resident_mib("VmHWM");
    let victims: usize = evictions
        .preemptions
        .iter()
        .map(|one| one.victims.len())
        .sum();
    let placed: usize = evictions
        .preemptions
        .iter()
        .map(|one| one.members.len())
        .sum();
    println!(
        "{:<44} {used:>7.3} s ({wall:.3} wall)  peak memory +{:.0} MiB  {victims} victims, {placed} pods placed, {} \
         refused",
        case.name,
        (after - before).max(0.0),
        evictions.refusals.len(),
    );
    if let Some(refusal) = evictions.refusals.first() {
        println!("    {}", refusal.reason);
    }
    let faults = check_evictions(&snapshot, &plan, &occupants, &evictions);
    assert!(faults.is_empty(), "not sound: {:?}", faults.first());
    assert_eq!(victims, case.victims, "{}", case.name);
}

fn main() {
    let nodes: u64 = std::env::args().nth(1).map_or(500, |text| {
        text.parse()
            .unwrap_or_else(|error| panic!("{text}: {error}"))
    });
    let jobs = nodes * GPUS;
    let singles = || {
        (0..jobs)
            .map(|index| gang(format!("b/job-{index:05}"), 1, 1))
            .collect()
    };
    let all = usize::try_from(jobs).unwrap_or(usize::MAX);
    println!("{nodes} nodes × {GPUS} GPUs, full of one-GPU jobs; processor time of one pass");
    let cases = [
        Case {
            name: "as many one-GPU jobs",
            demands: singles(),
            minimum_runtime_seconds: 30,
            surplus: jobs,
            victims: all,
        },
        Case {
            name: "victims younger than their minimum runtime",
            demands: singles(),
            minimum_runtime_seconds: 70,
            surplus: jobs,
            victims: 0,
        },
        Case {
            name: "one gang on half of the nodes",
            demands: vec![gang("b/large".to_owned(), nodes / 2, GPUS)],
            minimum_runtime_seconds: 30,
            surplus: jobs,
            victims: all / 2,
        },
        Case {
            name: "ten nodes, one GPU more than A's surplus",
            demands: vec![gang("b/large".to_owned(), 10, GPUS)],
            minimum_runtime_seconds: 30,
            surplus: 79,
            victims: 0,
        },
    ];
    for case in cases {
        run(nodes, case);
    }
}
