//! Pods one at a time: filling a cluster, and turning over a full one.

use std::collections::BTreeMap;

use anyhow::Result;
use kaito_placement::packing::{NodeShape, Packer, Placement, RequestId, Settings};

use crate::Arguments;
use crate::measure::{Row, Stopwatch};
use crate::rng::Rng;
use crate::trace::Pod;

/// Whether pods ask what the list says or each something of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Diversity {
    AsListed,
    /// CPU and memory times a uniform factor between 0.9 and 1.1.
    High,
}

/// Demand at the end, in tenths of the cluster's GPUs.
const DEMAND_TENTHS: u64 = 13;
/// Clusters up to this size keep a record of every pod's name and labels, as a live scheduler would.
const RECORDED_NODES: usize = 20_000;

/// `size` nodes like those given, with long names and ten labels each.
fn cluster(nodes: &[NodeShape], size: usize, seed: u64) -> Vec<NodeShape> {
    let mut copies: Vec<NodeShape> = nodes.iter().cycle().take(size).cloned().collect();
    for (number, node) in copies.iter_mut().enumerate() {
        node.name = format!(
            "kaito-gpu-pool-{}-{number:012}-vmss",
            node.model.to_lowercase()
        );
        node.labels = (0..10)
            .map(|label| {
                (
                    format!("scale.kaito.sh/label-{label}"),
                    format!("{}-{label}", node.model),
                )
            })
            .collect();
    }
    Rng::new(seed).shuffle(&mut copies);
    copies
}

/// Pods in the order of arrival until the demand is reached, by their place in the list.
fn arrivals(list: &[Pod], nodes: &[NodeShape], rng: &mut Rng) -> Vec<usize> {
    let capacity: u64 = nodes
        .iter()
        .map(|node| u64::from(node.devices) * 1000)
        .sum();
    let demand = |at: &usize| list.get(*at).map_or(0, |pod| pod.count * pod.milli);
    let limit = capacity * DEMAND_TENTHS / 10;
    let once: u64 = (0..list.len()).map(|at| demand(&at)).sum();
    // Whole copies of the list up to the cluster's size, then single draws.
    let copies = capacity.checked_div(once).unwrap_or(0);
    let mut order: Vec<usize> = (0..copies).flat_map(|_| 0..list.len()).collect();
    rng.shuffle(&mut order);
    let mut total: u64 = order.iter().map(demand).sum();
    loop {
        let drawn = rng.below(list.len());
        if total + demand(&drawn) > limit {
            return order;
        }
        total += demand(&drawn);
        order.push(drawn);
    }
}

/// What a live scheduler keeps of a pod.
#[derive(Debug)]
struct PodRecord {
    name: String,
    labels: Vec<(String, String)>,
}

fn record(number: usize) -> PodRecord {
    let labels = (0..5).map(|at| (format!("scale.kaito.sh/pod-{at}"), format!("{number}-{at}")));
    PodRecord {
        name: format!("workspace-{number:08}-inference-0"),
        labels: labels.collect(),
    }
}

fn diverse(pod: &Pod, rng: &mut Rng) -> Pod {
    let mut pod = pod.clone();
    let mut vary = |amount: u64| amount * (900 + rng.below(201) as u64) / 1000 / 10 * 10;
    let amounts = &mut pod.request.amounts;
    amounts.milli_cpu = vary(amounts.milli_cpu);
    amounts.memory_mib = vary(amounts.memory_mib);
    pod
}

/// Fills a cluster and times every decision.
pub(crate) fn fill(
    nodes: &[NodeShape],
    list: &[Pod],
    size: usize,
    diversity: Diversity,
    arguments: &Arguments,
) -> Result<Row> {
    let mut rng = Rng::new(arguments.seed);
    let nodes = cluster(nodes, size, arguments.seed);
    let settings = Settings {
        policy: arguments.policy,
        seed: arguments.seed,
    };
    let mut packer = Packer::new(&nodes, &settings)?;
    let order = arrivals(list, &nodes, &mut rng);
    let mut ids: BTreeMap<RequestId, u32> = BTreeMap::new();
    let mut queue: Vec<RequestId> = Vec::with_capacity(order.len());
    for pod in order.iter().filter_map(|at| list.get(*at)) {
        let id = match diversity {
            Diversity::AsListed => packer.register(&pod.request)?,
            Diversity::High => packer.register(&diverse(pod, &mut rng).request)?,
        };
        *ids.entry(id).or_default() += 1;
        queue.push(id);
    }
    packer.tell(&queue);
    let recorded = if size <= RECORDED_NODES {
        queue.len()
    } else {
        0
    };
    let records: Vec<PodRecord> = (0..recorded).map(record).collect();
    let capacity = packer.idle_milli() as f64;
    let mut running: Vec<Placement> = Vec::new();
    let mut watch = Stopwatch::start();
    for id in queue {
        running.extend(watch.time(|| packer.place(id))?);
    }
    let allocated = 100.0 - 100.0 * packer.idle_milli() as f64 / capacity;
    let shape = if diversity == Diversity::High {
        "fill, diverse"
    } else {
        "fill"
    };
    let kept = records
        .iter()
        .filter(|record| !record.name.is_empty() && !record.labels.is_empty());
    let note = format!(
        "{} kinds of pod, {} placed, {} with names and labels, {allocated:.2} % allocated",
        ids.len(),
        running.len(),
        kept.count()
    );
    Ok(watch.row(shape, size, note))
}

/// One pod leaves and one comes, again and again, on a cluster that is nine tenths full.
pub(crate) fn churn(
    nodes: &[NodeShape],
    list: &[Pod],
    size: usize,
    arguments: &Arguments,
) -> Result<Row> {
    let mut rng = Rng::new(arguments.seed);
    let nodes = cluster(nodes, size, arguments.seed);
    let settings = Settings {
        policy: arguments.policy,
        seed: arguments.seed,
    };
    let mut packer = Packer::new(&nodes, &settings)?;
    let ids: Vec<RequestId> = list
        .iter()
        .map(|pod| packer.register(&pod.request))
        .collect::<Result<_, _>>()?;
    packer.tell(&ids);
    let full = packer.idle_milli() / 10;
    let mut running: Vec<Placement> = Vec::new();
    let mut misses = 0;
    while packer.idle_milli() > full && misses < 1000 {
        if let Some(id) = ids.get(rng.below(ids.len())) {
            match packer.place(*id)? {
                Ok(placement) => running.push(placement),
                Err(_) => misses += 1,
            }
        }
    }
    let mut watch = Stopwatch::start();
    let mut refused = 0;
    for _ in 0..arguments.churn_steps {
        let leaving = (!running.is_empty()).then(|| running.swap_remove(rng.below(running.len())));
        let Some(id) = ids.get(rng.below(ids.len())) else {
            break;
        };
        let placed = watch.time(|| {
            leaving.map_or(Ok(()), |leaving| packer.release(&leaving))?;
            packer.place(*id)
        })?;
        match placed {
            Ok(placement) => running.push(placement),
            Err(_) => refused += 1,
        }
    }
    Ok(watch.row(
        "churn at 90 %",
        size,
        format!("{} running, {refused} refused", running.len()),
    ))
}
