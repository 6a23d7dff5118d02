//! The demand expected, learnt from the pods that have arrived and nothing else.
//!
//! Three figures follow from it. *Typical pods* (see [`typical`](super::typical)). *CPU that a GPU needs*: the CPU of
//! GPU pods per GPU they ask, pods without GPUs left out, because the question is how much CPU must stay beside an idle
//! GPU for it to be of use. *Pressure* on a make of nodes: Σ over pods of gpu·\[an idle node of the make holds the pod\] /
//! (GPUs of all makes that hold it), so that pods which can go to few nodes press hard on those: pods that name a scarce
//! model, and just so pods that fill a node of which there are few, such as one with more cores than most.
//!
//! They are taken anew at arrivals 1, 2, 3, …, each time when [`GROWTH`] has been exceeded: often while little is known
//! (the first hundred placements decide whether CPU-poor nodes are wasted), rarely later, when every renewal makes all
//! cached ratings void.

use std::sync::Arc;

use super::class::Make;
use super::cluster::signed;
use super::request::{RequestId, Spec};
use super::typical::{Census, KindSet, ONE, TypicalPod};

/// A renewal is due when arrivals have grown by this ratio, three halves, since the last: after the first few, an
/// estimate from two thirds of the sample is as good, and n arrivals cost only log n renewals.
const GROWTH: (u64, u64) = (3, 2);
/// Share of the mean CPU per GPU that must be left, in percent. At the mean or above, half the pods would be too large
/// for what is kept and whole nodes are broken early; nine tenths is the published safe value.
const KEPT_PERCENT: i64 = 90;

/// Everything learnt so far: how often each request came.
#[derive(Debug, Default)]
pub(super) struct Outlook {
    counts: Vec<u64>,
    arrived: u64,
    /// Thousandths in the cluster, per make.
    inventory: Vec<i64>,
    renewed_at: u64,
}

/// What ratings are made with until the next renewal.
#[derive(Clone, Debug, Default)]
pub(super) struct Terms {
    /// Thousandths of a GPU that one millicore keeps useful, in 1/[`ONE`]; absent while no GPU pod has come.
    pub(super) gpu_per_cpu: Option<i64>,
    /// Pressure per make, mean one over all GPUs, in 1/[`ONE`]; absent for makes of which there are no devices.
    pub(super) pressure: Vec<Option<i64>>,
}

impl Terms {
    /// Pressure on `make` above the least among the makes that hold the pod; 0 if it is the least.
    pub(super) fn premium(&self, make: u16, holding: &[u16]) -> i64 {
        let of = |make: &u16| self.pressure.get(usize::from(*make)).copied().flatten();
        let own = of(&make).unwrap_or(0);
        own - holding.iter().filter_map(of).min().unwrap_or(own)
    }
}

impl Outlook {
    /// Takes note of thousandths that came to a make, or left it if negative.
    pub(super) fn add_devices(&mut self, make: u16, milli: i64) {
        let at = usize::from(make);
        if self.inventory.len() <= at {
            self.inventory.resize(at + 1, 0);
        }
        if let Some(inventory) = self.inventory.get_mut(at) {
            *inventory += milli;
        }
    }

    /// Takes note of `pods` equal pods.
    pub(super) fn observe(&mut self, id: RequestId, pods: u64) {
        let at = id.0 as usize;
        if self.counts.len() <= at {
            self.counts.resize(at + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(at) {
            *count += pods;
            self.arrived += pods;
        }
    }

    /// Kinds of which the cluster has devices.
    pub(super) fn present(&self, makes: &[Make]) -> KindSet {
        let there = makes
            .iter()
            .zip(&self.inventory)
            .filter(|(_, milli)| **milli > 0);
        there.fold(0, |set, (make, _)| {
            set | 1u64.checked_shl(u32::from(make.kind)).unwrap_or(0)
        })
    }

    /// Whether enough has arrived since the last renewal.
    pub(super) const fn is_due(&self) -> bool {
        self.arrived > self.renewed_at && self.arrived * GROWTH.1 >= self.renewed_at * GROWTH.0
    }

    /// Typical pods and terms as known now.
    pub(super) fn renew(
        &mut self,
        specs: &[Arc<Spec>],
        makes: &[Make],
    ) -> (Vec<TypicalPod>, Terms) {
        self.renewed_at = self.arrived;
        let mut census = Census::default();
        let present = self.present(makes);
        let mut sums = Sums {
            pressure: vec![0; self.inventory.len()],
            ..Sums::default()
        };
        for (spec, count) in specs
            .iter()
            .zip(&self.counts)
            .filter(|(_, count)| **count > 0)
        {
            census.add(spec.pod.limited_to(present), *count);
            sums.add(spec, signed(*count), makes, &self.inventory);
        }
        (census.typical(), sums.terms(&self.inventory))
    }
}

/// Sums over the pods that asked for GPUs.
#[derive(Debug, Default)]
struct Sums {
    /// Millicores.
    milli_cpu: i64,
    /// Thousandths of GPUs.
    milli: i64,
    /// Pressure per make, in 2^-40.
    pressure: Vec<i128>,
}

impl Sums {
    fn add(&mut self, spec: &Spec, pods: i64, makes: &[Make], inventory: &[i64]) {
        let held = spec.makes.iter().filter_map(|number| {
            let at = usize::from(*number);
            let there = inventory.get(at).copied().filter(|milli| *milli > 0)?;
            Some((at, makes.get(at)?.kind, there))
        });
        let shapes = held
            .clone()
            .filter_map(|(_, kind, _)| spec.pod.shape.on(kind));
        let milli = shapes
            .map(|shape| i64::from(shape.total_milli()))
            .max()
            .unwrap_or(0)
            * pods;
        if milli == 0 {
            return;
        }
        self.milli += milli;
        self.milli_cpu += spec.pod.milli_cpu * pods;
        let total: i64 = held.clone().map(|(_, _, there)| there).sum();
        let share = (i128::from(milli) << 40)
            .checked_div(i128::from(total))
            .unwrap_or(0);
        for (at, _, _) in held {
            if let Some(pressure) = self.pressure.get_mut(at) {
                *pressure += share;
            }
        }
    }

    fn terms(&self, inventory: &[i64]) -> Terms {
        let kept = self.milli_cpu * KEPT_PERCENT / 100;
        let gpu_per_cpu = (self.milli * ONE).checked_div(kept);
        let there = || {
            self.pressure
                .iter()
                .zip(inventory)
                .filter(|(_, milli)| **milli > 0)
        };
        let all: i128 = inventory
            .iter()
            .map(|milli| i128::from(*milli).max(0))
            .sum();
        let sum: i128 = there()
            .map(|(pressure, milli)| *pressure * i128::from(*milli))
            .sum();
        let normal = |pressure: &i128| {
            let scaled = pressure * i128::from(ONE) * all;
            scaled
                .checked_div(sum)
                .and_then(|share| i64::try_from(share).ok())
                .unwrap_or(0)
        };
        let of = |(pressure, milli): (&i128, &i64)| (*milli > 0).then(|| normal(pressure));
        Terms {
            gpu_per_cpu,
            pressure: self.pressure.iter().zip(inventory).map(of).collect(),
        }
    }
}
