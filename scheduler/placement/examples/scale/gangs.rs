//! Gangs of 64 whole nodes on 10,240 nodes: one block required, as few racks as can be; and the same with one rack
//! required, which no rack can hold.

use anyhow::{Result, bail};
use kaito_placement::packing::{
    Amounts, Domains, Gang, GpuRequest, Level, NodeShape, Packer, Request, Settings,
};

use crate::Arguments;
use crate::measure::{Row, Stopwatch};
use crate::rng::Rng;

/// Zones, blocks of each, racks of each, nodes of each.
const SHAPE: [usize; 4] = [5, 8, 16, 16];
const MEMBERS: u32 = 64;

fn nodes() -> Vec<NodeShape> {
    let [zones, blocks, racks, each] = SHAPE;
    let node = |at: usize| NodeShape {
        name: format!("kaito-gpu-pool-h100-{at:012}-vmss"),
        model: "H100".to_owned(),
        device_memory_mib: 81_920,
        devices: 8,
        capacity: Amounts {
            milli_cpu: 96_000,
            memory_mib: 786_432,
            ephemeral_mib: 0,
            pods: 110,
        },
        domains: Domains {
            zone: format!("zone-{}", at / (blocks * racks * each)),
            block: format!("block-{}", at / (racks * each)),
            rack: format!("rack-{}", at / each),
            nvlink: String::new(),
        },
        ..NodeShape::default()
    };
    (0..zones * blocks * racks * each).map(node).collect()
}

fn gang(required: Level, preferred: Option<Level>) -> Gang {
    let amounts = Amounts {
        milli_cpu: 64_000,
        memory_mib: 65_536,
        ephemeral_mib: 0,
        pods: 1,
    };
    let gpu = GpuRequest::Devices {
        count: 8,
        milli: 1000,
    };
    let each = Request {
        amounts,
        gpu,
        ..Request::default()
    };
    Gang {
        members: MEMBERS,
        each,
        required: Some(required),
        preferred,
        spread: false,
    }
}

/// Loads each node: idle with probability 0.30, full with 0.45, else one to seven GPUs taken by one-GPU pods.
fn load(packer: &mut Packer, nodes: &[NodeShape], rng: &mut Rng) -> Result<()> {
    let amounts = Amounts {
        milli_cpu: 4_000,
        memory_mib: 16_384,
        ephemeral_mib: 0,
        pods: 1,
    };
    for node in nodes {
        let pods = match rng.below(100) {
            0..30 => 0,
            30..75 => 8,
            _ => 1 + rng.below(7),
        };
        if pods == 0 {
            continue;
        }
        let selector = [("kubernetes.io/hostname".to_owned(), node.name.clone())].into();
        let gpu = GpuRequest::Devices {
            count: 1,
            milli: 1000,
        };
        let id = packer.register(&Request {
            amounts,
            gpu,
            selector,
            ..Request::default()
        })?;
        for _ in 0..pods {
            if let Err(refusal) = packer.place(id)? {
                bail!("{} cannot take its load: {refusal}", node.name);
            }
        }
    }
    Ok(())
}

/// Places and releases gangs, and asks for impossible ones.
pub(crate) fn run(arguments: &Arguments) -> Result<Vec<Row>> {
    let mut rng = Rng::new(arguments.seed);
    let nodes = nodes();
    let settings = Settings {
        policy: arguments.policy,
        seed: arguments.seed,
    };
    let mut packer = Packer::new(&nodes, &settings)?;
    load(&mut packer, &nodes, &mut rng)?;
    let wanted = gang(Level::Block, Some(Level::Rack));
    let mut watch = Stopwatch::start();
    let mut racks = 0;
    let mut first = String::new();
    for number in 0..arguments.gangs {
        match watch.time(|| packer.place_gang(&wanted))? {
            Err(refusal) => bail!("a gang that fits was refused: {refusal}"),
            Ok(placed) => {
                let each = SHAPE.last().copied().unwrap_or(1);
                let mut used: Vec<usize> = placed
                    .iter()
                    .map(|placement| placement.node as usize / each)
                    .collect();
                used.sort_unstable();
                used.dedup();
                racks += used.len();
                if number == 0 {
                    first = format!("{} members on {} racks", placed.len(), used.len());
                }
                for placement in &placed {
                    packer.release(placement)?;
                }
            }
        }
    }
    let mean = racks as f64 / arguments.gangs.max(1) as f64;
    let note = format!("first: {first}; mean {mean:.1} racks");
    let mut rows = vec![watch.row("gang 64, block", nodes.len(), note)];
    let impossible = gang(Level::Rack, None);
    let mut watch = Stopwatch::start();
    let mut reason = String::new();
    for _ in 0..arguments.gangs {
        match watch.time(|| packer.place_gang(&impossible))? {
            Ok(_) => bail!("64 whole nodes do not fit a rack of 16, yet they were placed"),
            Err(refusal) => reason = refusal.to_string(),
        }
    }
    rows.push(watch.row("gang 64, one rack", nodes.len(), reason));
    Ok(rows)
}
