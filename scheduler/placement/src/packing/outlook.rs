//! The demand expected, learnt from the pods that have arrived and nothing else.
//!
//! Three figures follow from it. *Typical pods* (see [`typical`](super::typical)). *CPU that a GPU needs*: the CPU of
//! GPU pods per GPU they ask, pods without GPUs left out, because the question is how much CPU must stay beside an idle
//! GPU for it to be of use. *Pressure* on a GPU kind: Σ over pods of gpu·\[kind accepted\] / (GPUs of all kinds the pod
//! accepts), so that pods which accept little press hard on it.
//!
//! They are taken anew at arrivals 1, 2, 3, …, each time when [`GROWTH`] has been exceeded: often while little is known
//! (the first hundred placements decide whether CPU-poor nodes are wasted), rarely later, when every renewal makes all
//! cached ratings void.

use std::sync::Arc;

use super::cluster::signed;
use super::request::{RequestId, Spec};
use super::typical::{Census, KindSet, ONE, PodKind, TypicalPod};

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
    /// Thousandths in the cluster, per kind.
    inventory: Vec<i64>,
    renewed_at: u64,
}

/// What ratings are made with until the next renewal.
#[derive(Clone, Debug, Default)]
pub(super) struct Terms {
    /// Thousandths of a GPU that one millicore keeps useful, in 1/[`ONE`]; absent while no GPU pod has come.
    pub(super) gpu_per_cpu: Option<i64>,
    /// Pressure per kind, mean one, in 1/[`ONE`]; absent for kinds of which there are no devices.
    pub(super) pressure: Vec<Option<i64>>,
}

impl Terms {
    /// Pressure on `kind` above the least among the kinds accepted; 0 if that kind is the least.
    pub(super) fn premium(&self, kind: u16, accepts: KindSet) -> i64 {
        let of = self
            .pressure
            .get(usize::from(kind))
            .copied()
            .flatten()
            .unwrap_or(0);
        let accepted = (0u32..)
            .zip(&self.pressure)
            .filter(|(kind, _)| accepts.checked_shr(*kind).unwrap_or(0) & 1 == 1);
        of - accepted
            .filter_map(|(_, pressure)| *pressure)
            .min()
            .unwrap_or(of)
    }
}

impl Outlook {
    /// Takes note of thousandths that came to a kind, or left it if negative.
    pub(super) fn add_devices(&mut self, kind: u16, milli: i64) {
        let at = usize::from(kind);
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
    pub(super) fn present(&self) -> KindSet {
        let there = (0u32..)
            .zip(&self.inventory)
            .filter(|(_, milli)| **milli > 0);
        there.fold(0, |set, (kind, _)| {
            set | 1u64.checked_shl(kind).unwrap_or(0)
        })
    }

    /// Whether enough has arrived since the last renewal.
    pub(super) const fn is_due(&self) -> bool {
        self.arrived > self.renewed_at && self.arrived * GROWTH.1 >= self.renewed_at * GROWTH.0
    }

    /// Typical pods and terms as known now.
    pub(super) fn renew(&mut self, specs: &[Arc<Spec>]) -> (Vec<TypicalPod>, Terms) {
        self.renewed_at = self.arrived;
        let mut census = Census::default();
        let present = self.present();
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
            sums.add(&spec.pod, signed(*count), &self.inventory);
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
    /// Pressure per kind, in 2^-40.
    pressure: Vec<i128>,
}

impl Sums {
    fn add(&mut self, pod: &PodKind, pods: i64, inventory: &[i64]) {
        let kinds = (0u16..).zip(inventory).filter(|(kind, milli)| {
            **milli > 0 && pod.accepts.checked_shr(u32::from(*kind)).unwrap_or(0) & 1 == 1
        });
        let shapes = kinds.clone().filter_map(|(kind, _)| pod.shape.on(kind));
        let milli = shapes
            .map(|shape| i64::from(shape.total_milli()))
            .max()
            .unwrap_or(0)
            * pods;
        if milli == 0 {
            return;
        }
        self.milli += milli;
        self.milli_cpu += pod.milli_cpu * pods;
        let total: i64 = kinds.clone().map(|(_, milli)| milli).sum();
        let share = (i128::from(milli) << 40)
            .checked_div(i128::from(total))
            .unwrap_or(0);
        for (kind, _) in kinds {
            if let Some(pressure) = self.pressure.get_mut(usize::from(kind)) {
                *pressure += share;
            }
        }
    }

    fn terms(&self, inventory: &[i64]) -> Terms {
        let kept = self.milli_cpu * KEPT_PERCENT / 100;
        let gpu_per_cpu = (self.milli * ONE).checked_div(kept);
        let kinds = inventory.iter().filter(|milli| **milli > 0).count();
        let sum: i128 = self.pressure.iter().sum();
        let normal = |pressure: &i128| {
            let scaled = pressure * i128::from(ONE) * kinds as i128;
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
