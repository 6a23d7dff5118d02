//! Ratings: how good a node in some state is for a request, under each policy. Pure arithmetic on integers.
//!
//! The published policies (idle amounts are those before placement; results are truncated, higher is better):
//!
//! | policy | rating |
//! |---|---|
//! | best-fit | 100·(1 − ½·(C − cpu)/128 cores − ½·(T − gpu)/8 GPUs) |
//! | dot-product | 100·(1 − ½·(C·cpu/128² + T·gpu/8²)) |
//! | gpu-packing | all n devices idle: max(33 − n, n); u wholly idle devices broken: max(50 − u, 33); else max(100 − Σ idle percent / 10, 50) |
//! | gpu-clustering | 25·(8 GPUs − T)/8 GPUs, plus 75 / 50 / 25 for a node that holds only / also / nothing of the pod's size |
//! | fgd | 100·σ(Δ / 1 GPU), Δ = F before − F after |
//!
//! All from the simulator of Weng et al. (USENIX ATC 2023); its BestFit rescales per decision, which keeps the order.
//!
//! Ours is the gradient with two charges inside the quantised rating:
//!
//! ```text
//! Δ' = Δ − (growth of the node's CPU-starved GPUs) − ½ · gpu · (pressure on the make − least among those that hold the pod)
//! CPU-starved GPUs of a node = max(0, T − C / (9/10 · cores a GPU needs))
//! ```
//!
//! The first is charged in full: a GPU whose CPU is gone is as lost as a fragment, and F does not see it, since it asks
//! only whether one more pod fits. The second by half: a scarce node kept free is wanted by a pod that can go nowhere
//! else, or by nobody; which of the two is open. Both vanish where they have nothing to say: with CPU to spare, and where
//! every pod fits every make of node.
//!
//! and equal ratings go to the tightest node. The rating stays coarse on purpose: the gradient is an expectation over
//! pods that have not come, and differences below its noise must not outvote the order in which nodes are filled.

use super::class::Classes;
use super::cluster::{State, pod_class, signed};
use super::config::{Configs, ShapeId, Successor};
use super::device::{Device, Shape, WHOLE_MILLI};
use super::fragment::Fragments;
use super::outlook::Terms;
use super::policy::Policy;
use super::request::Spec;
use super::typical::{ONE, TypicalPod};

/// Ratings run from 0 to this.
const TOP: i32 = 100;
/// The rating of a placement that changes nothing for the pods expected: trunc(100 / (1 + exp 0)).
pub(crate) const INDIFFERENT: i32 = 50;
/// The largest node of the published cluster, by which best-fit and dot-product scale: 128 cores, 8 GPUs.
const SCALE_MILLI_CPU: i64 = 128_000;
const SCALE_MILLI: i64 = 8_000;
/// One part in so many of a make's excess pressure is charged; see the module's text.
const PREMIUM_PART: i64 = 2;

/// How good a node is; the greater the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rating {
    /// The policy's score.
    pub(super) score: i32,
    /// Decides between equal scores.
    pub(super) tightness: i64,
}

/// What ratings depend on besides the node and the request.
#[derive(Debug)]
pub(super) struct Rater {
    pub(super) policy: Policy,
    fragments: Fragments,
    terms: Terms,
    /// `steps[i]`: least Δ, in thousandths times [`ONE`], that is rated i + 1.
    steps: Vec<i64>,
    /// Thousandths that count as much as one millicore when nodes are compared for tightness, times [`ONE`].
    milli_per_cpu: i64,
}

impl Rater {
    /// A rater that expects nothing yet.
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            policy,
            fragments: Fragments::default(),
            terms: Terms::default(),
            steps: score_steps(),
            milli_per_cpu: 0,
        }
    }

    /// Compares CPU and GPU at the ratio of what the whole cluster has of them.
    pub(super) fn weigh_by(&mut self, milli_cpu: i64, milli: i64) {
        self.milli_per_cpu = (milli * ONE).checked_div(milli_cpu).unwrap_or(0);
    }

    /// Takes over a new expectation.
    pub(super) fn expect(&mut self, typical: &[TypicalPod], terms: Terms, kinds: u16) {
        self.fragments = Fragments::new(typical, kinds);
        self.terms = terms;
    }

    /// Rates a state; `None` if the request does not fit.
    pub(super) fn rate(
        &mut self,
        classes: &Classes,
        configs: &mut Configs,
        spec: &Spec,
        state: &State,
    ) -> Option<Rating> {
        let shape = spec.shape_on(state.class)?;
        if !state.idle.holds(&spec.amounts) {
            return None;
        }
        if configs.successors(state.config, shape).is_empty() {
            return None;
        }
        let make = classes.make_of(state.class);
        let at = Place {
            spec,
            state,
            shape,
            make,
        };
        Some(match self.policy {
            Policy::Random => Rating {
                score: 0,
                tightness: 0,
            },
            Policy::KaitoExclusive => {
                let class = classes.list.get(state.class as usize)?;
                if state.idle.pods != class.capacity.pods {
                    return None;
                }
                Rating {
                    score: 0,
                    tightness: -i64::from(class.devices),
                }
            }
            Policy::DotProduct => untied(dot_product(configs, &at)),
            Policy::BestFit => untied(best_fit(configs, &at)),
            Policy::GpuPacking => untied(gpu_packing(configs, &at)),
            Policy::GpuClustering => untied(gpu_clustering(configs, &at)),
            Policy::Fgd => untied(self.best_gradient(configs, &at)),
            Policy::Kaito => Rating {
                score: self.best_gradient(configs, &at),
                tightness: -self.left_over(configs, &at),
            },
        })
    }

    /// What a placement leaves on the node: thousandths times [`ONE`], CPU counted at the cluster's own ratio.
    fn left_over(&self, configs: &Configs, at: &Place<'_>) -> i64 {
        let idle =
            configs.idle_milli(at.state.config) - i64::from(configs.shape(at.shape).total_milli());
        let milli_cpu = signed(at.state.idle.milli_cpu) - at.spec.pod.milli_cpu;
        idle * ONE + milli_cpu * self.milli_per_cpu
    }

    /// The score of the best device; the successors are known by now.
    fn best_gradient(&mut self, configs: &Configs, at: &Place<'_>) -> i32 {
        let before = self.before(configs, at);
        let step = self.step_after(at);
        let mut least = i64::MAX;
        for successor in configs.known_successors(at.state.config, at.shape) {
            least = least.min(self.fragments.of(configs, successor.config, step));
        }
        self.score(before.saturating_sub(least))
    }

    /// The CPU step of the node after the placement.
    fn step_after(&self, at: &Place<'_>) -> usize {
        let left = signed(at.state.idle.milli_cpu) - at.spec.pod.milli_cpu;
        self.fragments.step(left)
    }

    /// F of the node before the placement, less the charges that do not depend on the device.
    fn before(&mut self, configs: &Configs, at: &Place<'_>) -> i64 {
        let milli_cpu = signed(at.state.idle.milli_cpu);
        let step = self.fragments.step(milli_cpu);
        let fragment = self.fragments.of(configs, at.state.config, step);
        if self.policy == Policy::Fgd {
            return fragment;
        }
        let idle = configs.idle_milli(at.state.config);
        let milli = i64::from(configs.shape(at.shape).total_milli());
        let starved_before = self.starved(idle, milli_cpu);
        let starved_after = self.starved(idle - milli, milli_cpu - at.spec.pod.milli_cpu);
        let premium = if milli > 0 {
            self.terms.premium(at.make, &at.spec.makes)
        } else {
            0
        };
        fragment - (starved_after - starved_before) - premium * milli / PREMIUM_PART
    }

    /// Idle GPU without the CPU it will need, in thousandths times [`ONE`].
    fn starved(&self, idle_milli: i64, milli_cpu: i64) -> i64 {
        let served = self
            .terms
            .gpu_per_cpu
            .map_or(i64::MAX, |per_cpu| per_cpu.saturating_mul(milli_cpu));
        (idle_milli * ONE).saturating_sub(served).max(0)
    }

    fn score(&self, gain: i64) -> i32 {
        i32::try_from(self.steps.partition_point(|step| *step <= gain)).unwrap_or(TOP)
    }

    /// Which device of a chosen node. `devices` are the node's own, in their order.
    ///
    /// The gradient policies take the device with the best score, FGD the lowest-numbered among equals, ours the
    /// tightest. All others take the tightest.
    pub(super) fn choose(
        &mut self,
        make: u16,
        configs: &mut Configs,
        spec: &Spec,
        state: &State,
        devices: &[Device],
    ) -> Option<Successor> {
        let shape = spec.shape_on(state.class)?;
        let at = Place {
            spec,
            state,
            shape,
            make,
        };
        let candidates = configs.successors(state.config, shape).to_vec();
        if candidates.len() == 1 || !matches!(self.policy, Policy::Fgd | Policy::Kaito) {
            return candidates.first().copied();
        }
        let before = self.before(configs, &at);
        let step = self.step_after(&at);
        let number = |successor: &Successor| {
            devices
                .iter()
                .position(|device| *device == successor.from)
                .unwrap_or(usize::MAX)
        };
        let by_number = self.policy == Policy::Fgd;
        let scored = candidates
            .into_iter()
            .enumerate()
            .map(|(order, successor)| {
                let gain = before - self.fragments.of(configs, successor.config, step);
                let rank = if by_number { number(&successor) } else { order };
                (self.score(gain), std::cmp::Reverse(rank), successor)
            });
        let best = scored.max_by(|left, right| (left.0, left.1).cmp(&(right.0, right.1)));
        best.map(|(_, _, successor)| successor)
    }
}

/// A request on a node of some state.
struct Place<'a> {
    spec: &'a Spec,
    state: &'a State,
    shape: ShapeId,
    /// Make of the node.
    make: u16,
}

const fn untied(score: i32) -> Rating {
    Rating {
        score,
        tightness: 0,
    }
}

/// Least Δ of every score: the score is trunc(100 / (1 + exp(−Δ / 1 GPU))), so score s begins at −ln(100/s − 1).
fn score_steps() -> Vec<i64> {
    let one_gpu = f64::from(WHOLE_MILLI) * ONE as f64;
    (1..TOP)
        .map(|score| {
            let odds = f64::from(TOP) / f64::from(score) - 1.0;
            #[expect(
                clippy::cast_possible_truncation,
                reason = "|ln| < 5, far inside the range"
            )]
            let step = (-odds.ln() * one_gpu).ceil() as i64;
            step
        })
        .collect()
}

fn truncated(score: i64) -> i32 {
    i32::try_from(score).unwrap_or(i32::MIN)
}

fn best_fit(configs: &Configs, at: &Place<'_>) -> i32 {
    let milli_cpu = signed(at.state.idle.milli_cpu) - at.spec.pod.milli_cpu;
    let milli =
        configs.idle_milli(at.state.config) - i64::from(configs.shape(at.shape).total_milli());
    let weighed = milli_cpu * SCALE_MILLI + milli * SCALE_MILLI_CPU;
    let whole = 2 * SCALE_MILLI_CPU * SCALE_MILLI;
    truncated((100 * (whole - weighed)).div_euclid(whole))
}

fn dot_product(configs: &Configs, at: &Place<'_>) -> i32 {
    let milli_cpu = i128::from(at.state.idle.milli_cpu) * i128::from(at.spec.pod.milli_cpu);
    let milli = i128::from(configs.idle_milli(at.state.config))
        * i128::from(configs.shape(at.shape).total_milli());
    let (cpu_square, gpu_square) = (
        i128::from(SCALE_MILLI_CPU).pow(2),
        i128::from(SCALE_MILLI).pow(2),
    );
    let weighed = milli_cpu * gpu_square + milli * cpu_square;
    let whole = 2 * cpu_square * gpu_square;
    truncated(i64::try_from((100 * (whole - weighed)).div_euclid(whole)).unwrap_or(i64::MIN))
}

fn gpu_packing(configs: &Configs, at: &Place<'_>) -> i32 {
    let shape = configs.shape(at.shape);
    let count = shape.count();
    if count == 0 {
        return 0;
    }
    let devices = &configs.config(at.state.config).devices;
    let wholly_idle = |device: &&Device| device.idle_milli() == WHOLE_MILLI;
    if devices.iter().all(|device| wholly_idle(&device)) {
        let all = i32::try_from(devices.len()).unwrap_or(TOP);
        return (33 - all).max(all);
    }
    let picked = || {
        devices
            .iter()
            .filter(|device| device.fits(shape))
            .take(count)
    };
    let broken = i32::try_from(picked().filter(wholly_idle).count()).unwrap_or(TOP);
    if broken > 0 {
        return (50 - broken).max(33);
    }
    let percent: i32 = picked()
        .map(|device| i32::from(device.idle_milli()) / 10)
        .sum();
    (100 - percent / 10).max(50)
}

fn gpu_clustering(configs: &Configs, at: &Place<'_>) -> i32 {
    let shape = configs.shape(at.shape);
    let milli = match shape {
        Shape::Nothing => return 0,
        Shape::Devices { milli, .. } => milli,
        Shape::Partition(_) => 0,
    };
    let mine = 1u8 << pod_class(shape.count(), milli);
    let used = SCALE_MILLI - configs.idle_milli(at.state.config);
    let base = truncated((25 * used).div_euclid(SCALE_MILLI));
    base + match at.state.held {
        0 => 25,
        held if held == mine => 75,
        held if held & mine != 0 => 50,
        _ => 0,
    }
}
