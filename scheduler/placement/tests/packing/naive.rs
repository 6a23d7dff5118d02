//! The policies written down a second time, from their formulas: every node looked at, nothing kept, nothing shared with
//! the packer's own arithmetic. Knows thousandths and whole devices only.

use std::collections::BTreeMap;

use kaito_placement::packing::{Amounts, GpuRequest, Policy, Request};

use crate::model::{Model, ModelNode};

/// One in the packer's fixed point.
const ONE: i64 = 1 << 20;

/// A request as numbers: CPU, devices, thousandths of each, accepted models as bits.
pub(crate) type Kind = (i64, i64, i64, u64);

/// Bits of models in the order in which the node list first names them.
pub(crate) fn models(model: &Model) -> Vec<String> {
    let mut models: Vec<String> = Vec::new();
    for node in &model.nodes {
        if !models.contains(&node.shape.model) {
            models.push(node.shape.model.clone());
        }
    }
    models
}

pub(crate) fn kind(request: &Request, models: &[String]) -> Kind {
    let (count, milli) = match request.gpu {
        GpuRequest::Devices { count, milli } => (i64::from(count), i64::from(milli)),
        _ => (0, 0),
    };
    let accepted =
        |model: &String| count == 0 || request.models.is_empty() || request.models.contains(model);
    let bits = models
        .iter()
        .enumerate()
        .filter(|(_, model)| accepted(model));
    let bits = bits.fold(0, |bits, (bit, _)| bits | 1 << bit);
    (request.amounts.milli_cpu as i64, count, milli, bits)
}

/// Nodes of one model, device count and capacity.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Make {
    model: usize,
    devices: i64,
    capacity: Amounts,
    /// Thousandths of all its nodes.
    milli: i64,
}

impl Make {
    /// Whether an idle node of the make holds the pod. No other amount than CPU is asked for in these tests beyond
    /// what every node has.
    fn holds(&self, (cpu, count, _, accepts): &Kind) -> bool {
        (*count == 0 || accepts >> self.model & 1 == 1)
            && *count <= self.devices
            && *cpu <= self.capacity.milli_cpu as i64
    }

    fn is_of(&self, node: &ModelNode, models: &[String]) -> bool {
        models[self.model] == node.shape.model
            && self.devices == i64::from(node.shape.devices)
            && self.capacity == node.shape.capacity
    }
}

/// Makes of the cluster's nodes.
pub(crate) fn makes(model: &Model, models: &[String]) -> Vec<Make> {
    let mut makes: Vec<Make> = Vec::new();
    for node in &model.nodes {
        let milli = i64::from(node.shape.devices) * 1000;
        match makes.iter_mut().find(|make| make.is_of(node, models)) {
            Some(make) => make.milli += milli,
            None => makes.push(Make {
                model: models
                    .iter()
                    .position(|one| *one == node.shape.model)
                    .unwrap(),
                devices: i64::from(node.shape.devices),
                capacity: node.shape.capacity,
                milli,
            }),
        }
    }
    makes
}

/// What a policy expects: typical pods with weights, GPU per CPU, pressure per make of node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Expectation {
    typical: Vec<(i64, Kind)>,
    gpu_per_cpu: Option<i64>,
    makes: Vec<(Make, i64)>,
}

impl Expectation {
    /// The commonest kinds that cover 95 % of the pods, with weights that add up to one.
    fn typical(counts: &BTreeMap<Kind, u64>) -> Vec<(i64, Kind)> {
        let total: u64 = counts.values().sum();
        let mut by_count: Vec<(u64, Kind)> = counts.iter().map(|(kind, n)| (*n, *kind)).collect();
        by_count.sort_by(|left, right| right.cmp(left));
        let mut covered = 0;
        let mut taken: Vec<(u64, Kind)> = Vec::new();
        for (count, kind) in by_count {
            if covered * 100 >= total * 95 {
                break;
            }
            covered += count;
            taken.push((count, kind));
        }
        taken.sort_by_key(|(_, kind)| *kind);
        let mut typical: Vec<(i64, Kind)> = taken
            .iter()
            .map(|(count, kind)| {
                (
                    (*count as i128 * ONE as i128 / covered as i128) as i64,
                    *kind,
                )
            })
            .collect();
        let rest = ONE - typical.iter().map(|one| one.0).sum::<i64>();
        if let Some(heaviest) = typical.iter_mut().max_by_key(|one| one.0) {
            heaviest.0 += rest;
        }
        typical
    }

    /// From counted pods and the makes of nodes.
    pub(crate) fn from(counts: &BTreeMap<Kind, u64>, makes: &[Make]) -> Self {
        let (mut cpu, mut gpu) = (0, 0);
        let mut pressure = vec![0i128; makes.len()];
        for (kind, count) in counts {
            let (milli_cpu, devices, milli, _) = kind;
            let holding: Vec<usize> = (0..makes.len())
                .filter(|make| makes[*make].milli > 0 && makes[*make].holds(kind))
                .collect();
            let asked = devices * milli * *count as i64;
            let available: i64 = holding.iter().map(|make| makes[*make].milli).sum();
            if asked == 0 || available == 0 {
                continue;
            }
            cpu += milli_cpu * *count as i64;
            gpu += asked;
            for make in holding {
                pressure[make] += (i128::from(asked) << 40) / i128::from(available);
            }
        }
        let all: i128 = makes.iter().map(|make| i128::from(make.milli)).sum();
        let weighed = |(make, one): (&Make, &i128)| one * i128::from(make.milli);
        let sum: i128 = makes.iter().zip(&pressure).map(weighed).sum();
        let normal = |one: &i128| {
            if sum == 0 {
                0
            } else {
                (one * ONE as i128 * all / sum) as i64
            }
        };
        Self {
            typical: Self::typical(counts),
            gpu_per_cpu: (gpu * ONE).checked_div(cpu * 90 / 100),
            makes: makes
                .iter()
                .cloned()
                .zip(pressure.iter().map(normal))
                .collect(),
        }
    }

    /// How much more pressed the node's make is than the least pressed one that holds the pod.
    fn premium(&self, node: &ModelNode, models: &[String], pod: &Kind) -> i64 {
        let there = |make: &&(Make, i64)| make.0.milli > 0;
        let makes = || self.makes.iter().filter(there);
        let own = makes().find(|make| make.0.is_of(node, models));
        let own = own.map_or(0, |make| make.1);
        let holding = makes().filter(|make| make.0.holds(pod));
        own - holding.map(|make| make.1).min().unwrap_or(own)
    }

    /// F of a node in thousandths times one.
    fn fragment(&self, model: usize, milli_cpu: i64, idle: &[i64]) -> i64 {
        let total: i64 = idle.iter().sum();
        let of = |(weight, (cpu, count, milli, accepts)): &(i64, Kind)| {
            let fitting = idle.iter().filter(|idle| *idle >= milli).count() as i64;
            let unusable: i64 = idle.iter().filter(|idle| *idle < milli).sum();
            let nothing =
                *count == 0 || accepts >> model & 1 == 0 || milli_cpu < *cpu || fitting < *count;
            weight * if nothing { total } else { unusable }
        };
        if self.typical.is_empty() {
            total * ONE
        } else {
            self.typical.iter().map(of).sum()
        }
    }
}

/// trunc(100 / (1 + exp(−Δ / one GPU))).
fn sigmoid(gain: i64) -> i64 {
    let reached = |score: i64| {
        let least = (-(100.0 / score as f64 - 1.0).ln() * 1000.0 * ONE as f64).ceil() as i64;
        gain >= least
    };
    (1..100).take_while(|score| reached(*score)).count() as i64
}

/// A way to place: which node, which devices, and how good it is.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Choice {
    pub(crate) node: usize,
    pub(crate) devices: Vec<usize>,
    score: (i64, i64),
    device_score: (i64, i64),
}

/// A whole scan by one policy.
pub(crate) struct Naive<'a> {
    pub(crate) policy: Policy,
    pub(crate) model: &'a Model,
    pub(crate) models: &'a [String],
    pub(crate) expectation: &'a Expectation,
    /// Pods of each size per node: a share, 1, 2, 4, 8.
    pub(crate) held: &'a [[u32; 5]],
    /// Whole cluster: thousandths and millicores when idle.
    pub(crate) capacity: (i64, i64),
}

pub(crate) fn size_class(count: i64, milli: i64) -> usize {
    match (count, milli) {
        (1, 0..1000) => 0,
        (1, _) => 1,
        (2, _) => 2,
        (3 | 4, _) => 3,
        _ => 4,
    }
}

impl Naive<'_> {
    /// The best node and devices; the first of equals.
    pub(crate) fn choose(&self, request: &Request) -> Option<Choice> {
        let mut best: Option<Choice> = None;
        for at in 0..self.model.nodes.len() {
            let node = &self.model.nodes[at];
            let taken = node.idle.pods != node.shape.capacity.pods;
            if !node.fits(request) || (self.policy == Policy::KaitoExclusive && taken) {
                continue;
            }
            let found = self.best_on(at, request);
            if best.as_ref().is_none_or(|best| found.score > best.score) {
                best = Some(found);
            }
        }
        best
    }

    fn best_on(&self, at: usize, request: &Request) -> Choice {
        let node = &self.model.nodes[at];
        let (cpu, count, milli, _) = kind(request, self.models);
        let fits = |device: &usize| i64::from(node.devices[*device]) >= milli;
        let mut fitting: Vec<usize> = (0..node.devices.len()).filter(fits).collect();
        fitting.sort_by_key(|device| node.devices[*device]);
        let ways: Vec<Vec<usize>> = match count {
            0 => vec![vec![]],
            1 => fitting.iter().map(|device| vec![*device]).collect(),
            _ => vec![fitting[..count as usize].to_vec()],
        };
        let choices = ways.into_iter().map(|mut devices| {
            devices.sort_unstable();
            let idle: i64 = devices
                .iter()
                .map(|device| i64::from(node.devices[*device]))
                .sum();
            let first = devices.first().map_or(0, |device| *device as i64);
            let gradient = self.gradient(node, request, &devices);
            let device_score = match self.policy {
                Policy::Fgd => (gradient, -first),
                Policy::Kaito => (gradient, -idle * 100 - first),
                _ => (0, -idle * 100 - first),
            };
            Choice {
                node: at,
                devices,
                score: (0, 0),
                device_score,
            }
        });
        let mut best = choices.max_by_key(|choice| choice.device_score).unwrap();
        best.score = self.score(at, request, cpu, count * milli, best.device_score.0);
        best
    }

    fn gradient(&self, node: &ModelNode, request: &Request, devices: &[usize]) -> i64 {
        let pod = kind(request, self.models);
        let (cpu, count, milli, _) = pod;
        let model = self
            .models
            .iter()
            .position(|model| *model == node.shape.model)
            .unwrap();
        let before: Vec<i64> = node.devices.iter().map(|idle| i64::from(*idle)).collect();
        let mut after = before.clone();
        devices.iter().for_each(|device| after[*device] -= milli);
        let idle_cpu = node.idle.milli_cpu as i64;
        let mut gain = self.expectation.fragment(model, idle_cpu, &before)
            - self.expectation.fragment(model, idle_cpu - cpu, &after);
        if self.policy == Policy::Kaito {
            let starved = |idle: &[i64], cpu: i64| {
                let total: i64 = idle.iter().sum();
                self.expectation
                    .gpu_per_cpu
                    .map_or(0, |per_cpu| (total * ONE - per_cpu * cpu).max(0))
            };
            gain -= starved(&after, idle_cpu - cpu) - starved(&before, idle_cpu);
            gain -= self.expectation.premium(node, self.models, &pod) * count * milli / 2;
        }
        sigmoid(gain)
    }

    fn score(&self, at: usize, request: &Request, cpu: i64, gpu: i64, gradient: i64) -> (i64, i64) {
        let node = &self.model.nodes[at];
        let idle_cpu = node.idle.milli_cpu as i64;
        let idle_gpu = node.idle_milli() as i64;
        let floor = |value: i128, by: i128| value.div_euclid(by) as i64;
        match self.policy {
            Policy::Fgd => (gradient, 0),
            Policy::Kaito => {
                let (milli, milli_cpu) = self.capacity;
                let per_cpu = milli * ONE / milli_cpu.max(1);
                (
                    gradient,
                    -((idle_gpu - gpu) * ONE + (idle_cpu - cpu) * per_cpu),
                )
            }
            Policy::KaitoExclusive => (0, -i64::from(node.shape.devices)),
            Policy::BestFit => {
                let left =
                    i128::from(idle_cpu - cpu) * 8_000 + i128::from(idle_gpu - gpu) * 128_000;
                let whole = 2 * 128_000 * 8_000;
                (floor(100 * (whole - left), whole), 0)
            }
            Policy::DotProduct => {
                let squares = (128_000i128.pow(2), 8_000i128.pow(2));
                let left =
                    i128::from(idle_cpu * cpu) * squares.1 + i128::from(idle_gpu * gpu) * squares.0;
                let whole = 2 * squares.0 * squares.1;
                (floor(100 * (whole - left), whole), 0)
            }
            Policy::GpuPacking => (self.packing(node, request), 0),
            _ => (self.clustering(at, request), 0),
        }
    }

    fn packing(&self, node: &ModelNode, request: &Request) -> i64 {
        let (_, count, milli, _) = kind(request, self.models);
        let all = node.devices.len() as i64;
        if count == 0 {
            return 0;
        }
        if node.devices.iter().all(|idle| *idle == 1000) {
            return (33 - all).max(all);
        }
        let mut fitting: Vec<i64> = node.devices.iter().map(|idle| i64::from(*idle)).collect();
        fitting.retain(|idle| *idle >= milli);
        fitting.sort_unstable();
        fitting.truncate(count as usize);
        let broken = fitting.iter().filter(|idle| **idle == 1000).count() as i64;
        if broken > 0 {
            return (50 - broken).max(33);
        }
        (100 - fitting.iter().map(|idle| idle / 10).sum::<i64>() / 10).max(50)
    }

    fn clustering(&self, at: usize, request: &Request) -> i64 {
        let (_, count, milli, _) = kind(request, self.models);
        if count == 0 {
            return 0;
        }
        let used = 8_000 - self.model.nodes[at].idle_milli() as i64;
        let mine = size_class(count, milli);
        let held = &self.held[at];
        let others = (0..5).any(|class| class != mine && held[class] > 0);
        25 * used / 8_000
            + match (held[mine] > 0, others) {
                (true, false) => 75,
                (true, true) => 50,
                (false, false) => 25,
                (false, true) => 0,
            }
    }
}
