//! One run: shuffle, inflate, arrive, measure.
#![expect(
    clippy::disallowed_methods,
    reason = "an example measures time and its own memory"
)]

use std::time::Instant;

use anyhow::Result;
use kaito_placement::packing::{NodeShape, Packer, Policy, RequestId, Settings};

use crate::curve::{Curve, POINTS, is_read, quantile};
use crate::rng::Rng;
use crate::trace::Pod;

/// What one seed gave.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) arrivals: usize,
    pub(crate) placed: usize,
    pub(crate) allocation: [Option<f64>; POINTS.len()],
    pub(crate) fragmentation: [Option<f64>; POINTS.len()],
    pub(crate) first_rejection: Option<f64>,
    pub(crate) decisions_per_second: f64,
    pub(crate) p50_micros: f64,
    pub(crate) p99_micros: f64,
    pub(crate) max_micros: f64,
    pub(crate) peak_rss_mib: f64,
}

/// The arrivals of a seed: pods by their place in the list, in order, inflated or cut to `limit` thousandths.
fn arrivals(pods: &[Pod], rng: &mut Rng, limit: u64) -> Vec<usize> {
    let demand = |at: &usize| pods.get(*at).map_or(0, |pod| pod.count * pod.milli);
    let mut order: Vec<usize> = (0..pods.len()).collect();
    rng.shuffle(&mut order);
    let mut total: u64 = order.iter().map(demand).sum();
    if total > limit {
        while total > limit {
            let removed = order.remove(rng.below(order.len()));
            total -= demand(&removed);
        }
        return order;
    }
    loop {
        let drawn = rng.below(pods.len());
        let one_device = pods.get(drawn).map_or(0, |pod| pod.milli);
        if total + one_device > limit {
            return order;
        }
        total += demand(&drawn);
        order.push(drawn);
    }
}

/// Runs the protocol once.
pub(crate) fn run(
    nodes: &[NodeShape],
    pods: &[Pod],
    policy: Policy,
    seed: u64,
    ratio: f64,
) -> Result<Run> {
    let mut rng = Rng::new(seed);
    let capacity: u64 = nodes
        .iter()
        .map(|node| u64::from(node.devices) * 1000)
        .sum();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "positive and far below the limit"
    )]
    let limit = (capacity as f64 * ratio) as u64;
    let order = arrivals(pods, &mut rng, limit);
    let mut nodes = nodes.to_vec();
    rng.shuffle(&mut nodes);
    let mut packer = Packer::new(&nodes, &Settings { policy, seed })?;
    let list: Vec<RequestId> = pods
        .iter()
        .map(|pod| packer.register(&pod.request))
        .collect::<Result<_, _>>()?;
    packer.tell(&list);
    packer.measure_under(&list);
    let mut record = Record::new(capacity, order.len());
    for at in order {
        if let (Some(pod), Some(id)) = (pods.get(at), list.get(at)) {
            record.arrive(&mut packer, pod, *id)?;
        }
    }
    Ok(record.finish(seed))
}

struct Record {
    capacity: f64,
    arrived: u64,
    used: u64,
    placed: usize,
    allocation: Curve,
    fragmentation: Curve,
    first_rejection: Option<f64>,
    nanos: Vec<u64>,
}

impl Record {
    fn new(capacity: u64, arrivals: usize) -> Self {
        Self {
            capacity: capacity as f64,
            arrived: 0,
            used: 0,
            placed: 0,
            allocation: Curve::default(),
            fragmentation: Curve::default(),
            first_rejection: None,
            nanos: Vec::with_capacity(arrivals),
        }
    }

    fn arrive(&mut self, packer: &mut Packer, pod: &Pod, id: RequestId) -> Result<()> {
        self.arrived += pod.count * pod.milli;
        let arrived_percent = 100.0 * self.arrived as f64 / self.capacity;
        let start = Instant::now();
        let placed = packer.place(id)?;
        self.nanos
            .push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
        match placed {
            Ok(placement) => {
                self.placed += 1;
                self.used += placement.milli();
            }
            Err(refusal) if self.first_rejection.is_none() && refusal.could_fit() => {
                self.first_rejection = Some(arrived_percent);
            }
            Err(_) => {}
        }
        let used_percent = (10_000.0 * self.used as f64 / self.capacity).round() / 100.0;
        self.allocation.record(arrived_percent, used_percent);
        if is_read(arrived_percent) {
            let now = packer.fragmentation();
            self.fragmentation.record(arrived_percent, now.percent());
        }
        Ok(())
    }

    fn finish(mut self, seed: u64) -> Run {
        let total: u64 = self.nanos.iter().sum();
        self.nanos.sort_unstable();
        let micros = |thousandths: usize| quantile(&self.nanos, thousandths) as f64 / 1e3;
        Run {
            seed,
            arrivals: self.nanos.len(),
            placed: self.placed,
            allocation: POINTS.map(|point| self.allocation.at(point)),
            fragmentation: POINTS.map(|point| self.fragmentation.at(point)),
            first_rejection: self.first_rejection,
            decisions_per_second: self.nanos.len() as f64 * 1e9 / (total.max(1) as f64),
            p50_micros: micros(500),
            p99_micros: micros(990),
            max_micros: micros(1000),
            peak_rss_mib: peak_rss_mib(),
        }
    }
}

/// The most memory this process has held, in MiB; 0 where the kernel does not say.
fn peak_rss_mib() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}
