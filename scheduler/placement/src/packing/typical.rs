//! Typical pods: the demand a policy expects, as the few kinds of pod that make up most of what it knows of.
//!
//! From Weng et al., "Beware of Fragmentation" (USENIX ATC 2023), section 4: kinds sorted by how often they occur, the
//! most frequent taken until they cover 95 % of pods, weights renormalised to one. Memory takes no part.
//! [`Census`] counts pods as they arrive, so that the list can be learnt instead of told.

use std::collections::BTreeMap;

use super::device::Shape;

/// Share of pods, in percent, that typical pods must cover (FGD, section 4).
const COVERED_PERCENT: u64 = 95;
/// One in fixed point. Weights and fragments are integers of this unit, so that sums do not depend on their order.
pub(super) const ONE: i64 = 1 << 20;
/// Most distinct CPU requests that are told apart; above it they are rounded up to ever coarser steps. Bounds the cost
/// of a node's row (one number per CPU step) whatever the diversity of requests.
const MOST_CPU_STEPS: usize = 128;
/// First rounding step in millicores, doubled while there are too many steps.
const FIRST_STEP_MILLI_CPU: i64 = 100;

/// Set of GPU kinds, one bit each.
pub(super) type KindSet = u64;

/// A kind of pod, as fragments see it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct PodKind {
    /// CPU in millicores.
    pub(super) milli_cpu: i64,
    /// GPUs, one shape per GPU kind on which it differs; see [`ShapeOn`].
    pub(super) shape: ShapeOn,
    /// GPU kinds it accepts.
    pub(super) accepts: KindSet,
}

impl PodKind {
    /// The same pod in a cluster that has these kinds only.
    pub(super) fn limited_to(&self, present: KindSet) -> Self {
        let is_present = |kind: u32| present.checked_shr(kind).unwrap_or(0) & 1 == 1;
        let shape = match &self.shape {
            ShapeOn::Every(shape) => ShapeOn::Every(*shape),
            ShapeOn::Each(shapes) => ShapeOn::Each(
                (0u32..)
                    .zip(shapes)
                    .map(|(kind, shape)| shape.filter(|_| is_present(kind)))
                    .collect(),
            ),
        };
        Self {
            milli_cpu: self.milli_cpu,
            shape,
            accepts: self.accepts & present,
        }
    }
}

/// The shape of a request on each GPU kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum ShapeOn {
    /// The same everywhere.
    Every(Shape),
    /// By GPU kind; `None` where the request cannot be met (memory or profile too large).
    Each(Box<[Option<Shape>]>),
}

impl ShapeOn {
    /// The shape on one kind.
    #[must_use]
    pub(super) fn on(&self, kind: u16) -> Option<Shape> {
        match self {
            Self::Every(shape) => Some(*shape),
            Self::Each(shapes) => shapes.get(usize::from(kind)).copied().flatten(),
        }
    }
}

/// A typical pod and its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TypicalPod {
    /// What it asks.
    pub(super) pod: PodKind,
    /// Its share among typical pods in units of 1/[`ONE`].
    pub(super) weight: i64,
}

/// How many pods of each kind have been seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Census {
    counts: BTreeMap<PodKind, u64>,
    pods: u64,
}

impl Census {
    /// Counts `pods` equal pods.
    pub(super) fn add(&mut self, pod: PodKind, pods: u64) {
        self.pods += pods;
        *self.counts.entry(pod).or_default() += pods;
    }

    /// The typical pods of what has been counted; empty if nothing has.
    #[must_use]
    pub(super) fn typical(&self) -> Vec<TypicalPod> {
        let mut kinds: Vec<(u64, &PodKind)> = self
            .counts
            .iter()
            .map(|(pod, count)| (*count, pod))
            .collect();
        kinds.sort_by(|left, right| right.cmp(left));
        let mut covered = 0;
        let wanted = self.pods.saturating_mul(COVERED_PERCENT);
        let taken = kinds
            .iter()
            .take_while(|(count, _)| {
                let before = covered;
                covered += count;
                before * 100 < wanted
            })
            .count();
        kinds.truncate(taken);
        weighted(&coarsen(&kinds))
    }
}

/// Merges kinds that differ only below the CPU step, if there are too many CPU steps.
fn coarsen(kinds: &[(u64, &PodKind)]) -> Vec<(u64, PodKind)> {
    let mut step = 1;
    loop {
        let mut merged: BTreeMap<PodKind, u64> = BTreeMap::new();
        for (count, pod) in kinds {
            let milli_cpu = (pod.milli_cpu + step - 1) / step * step;
            *merged
                .entry(PodKind {
                    milli_cpu,
                    ..(*pod).clone()
                })
                .or_default() += count;
        }
        let mut steps: Vec<i64> = merged.keys().map(|pod| pod.milli_cpu).collect();
        steps.dedup();
        if steps.len() <= MOST_CPU_STEPS {
            return merged
                .into_iter()
                .map(|(pod, count)| (count, pod))
                .collect();
        }
        step = (step * 2).max(FIRST_STEP_MILLI_CPU);
    }
}

/// Shares of one in fixed point; what rounding leaves over goes to the most frequent.
fn weighted(kinds: &[(u64, PodKind)]) -> Vec<TypicalPod> {
    let total: u64 = kinds.iter().map(|(count, _)| count).sum();
    let share = |count: u64| {
        let scaled = u128::from(count) * u128::from(ONE.unsigned_abs());
        scaled
            .checked_div(u128::from(total))
            .and_then(|part| i64::try_from(part).ok())
            .unwrap_or(0)
    };
    let mut typical: Vec<TypicalPod> = kinds
        .iter()
        .map(|(count, pod)| TypicalPod {
            pod: pod.clone(),
            weight: share(*count),
        })
        .collect();
    let rest = ONE - typical.iter().map(|pod| pod.weight).sum::<i64>();
    if let Some(first) = typical.iter_mut().max_by_key(|pod| pod.weight) {
        first.weight += rest;
    }
    typical
}
