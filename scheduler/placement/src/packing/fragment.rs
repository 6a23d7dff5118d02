//! How much of a node's idle GPU the expected demand cannot use: the fragmentation measure of FGD.
//!
//! Weng et al., "Beware of Fragmentation" (USENIX ATC 2023), section 3. For a node with idle thousandths R\[g\] per
//! device, T = Σ R\[g\], idle CPU C, and a typical pod m asking CPU c and k devices of d thousandths:
//!
//! ```text
//! F(n, m) = T                         if m asks no GPU, or not this model, or C < c, or fewer than k devices have R ≥ d
//!         = Σ R[g] over R[g] < d      otherwise
//! F(n)    = Σ p(m) · F(n, m)
//! ```
//!
//! With usable(s) = Σ R\[g\] over R\[g\] ≥ d if at least k devices have that much, else 0, and W(s, C) the weight of
//! the pods of GPU shape s that ask no more CPU than C, this is T − Σ W(s, C) · usable(s). Only the CPU requests of
//! typical pods matter, so a row per device configuration, one number per CPU step, holds every value of F.
#![expect(
    clippy::indexing_slicing,
    reason = "rows are as long as the step list they are made from; configuration numbers come from Configs"
)]

use super::config::{ConfigId, Configs};
use super::device::{Device, Shape};
use super::typical::{ONE, TypicalPod};

/// A row that has not been worked out yet.
const UNKNOWN: u32 = u32::MAX;

/// F for every configuration and CPU step met so far, under one list of typical pods.
#[derive(Debug, Default)]
pub(super) struct Fragments {
    /// Distinct CPU requests of typical pods with a GPU, ascending.
    steps: Vec<i64>,
    /// Per GPU kind, the shapes expected there and their weight by CPU step.
    expected: Vec<Vec<Expected>>,
    rows: Vec<i64>,
    row_of: Vec<u32>,
}

#[derive(Debug)]
struct Expected {
    shape: Shape,
    /// `by_step[i]`: weight of pods that ask no more than the CPU of a node between step i − 1 and step i.
    by_step: Vec<i64>,
}

impl Fragments {
    /// The measure under `typical` for `kinds` GPU kinds.
    pub(super) fn new(typical: &[TypicalPod], kinds: u16) -> Self {
        let mut steps: Vec<i64> = typical
            .iter()
            .map(|typical| typical.pod.milli_cpu)
            .collect();
        steps.sort_unstable();
        steps.dedup();
        let expected = (0..kinds)
            .map(|kind| expected_on(kind, typical, &steps))
            .collect();
        Self {
            steps,
            expected,
            rows: Vec::new(),
            row_of: Vec::new(),
        }
    }

    /// The step of a node with so many idle millicores.
    pub(super) fn step(&self, milli_cpu: i64) -> usize {
        self.steps.partition_point(|step| *step <= milli_cpu)
    }

    /// F of a node in thousandths times [`ONE`].
    pub(super) fn of(&mut self, configs: &Configs, config: ConfigId, step: usize) -> i64 {
        let width = self.steps.len() + 1;
        let row = match self.row_of.get(config as usize) {
            Some(row) if *row != UNKNOWN => *row,
            _ => self.fill(configs, config),
        };
        self.rows[row as usize * width + step]
    }

    fn fill(&mut self, configs: &Configs, id: ConfigId) -> u32 {
        let width = self.steps.len() + 1;
        let row = u32::try_from(self.rows.len() / width).unwrap_or(UNKNOWN);
        let config = configs.config(id);
        self.rows
            .resize(self.rows.len() + width, configs.idle_milli(id) * ONE);
        let start = self.rows.len() - width;
        let values = &mut self.rows[start..];
        for expected in self
            .expected
            .get(usize::from(config.kind))
            .into_iter()
            .flatten()
        {
            let usable = usable_milli(&config.devices, expected.shape);
            if usable > 0 {
                for (value, weight) in values.iter_mut().zip(&expected.by_step) {
                    *value -= weight * usable;
                }
            }
        }
        if self.row_of.len() <= id as usize {
            self.row_of.resize(id as usize + 1, UNKNOWN);
        }
        self.row_of[id as usize] = row;
        row
    }
}

fn expected_on(kind: u16, typical: &[TypicalPod], steps: &[i64]) -> Vec<Expected> {
    let mut shapes: Vec<Expected> = Vec::new();
    for TypicalPod { pod, weight } in typical {
        let accepted = pod.accepts.checked_shr(u32::from(kind)).unwrap_or(0) & 1 == 1;
        let Some(shape) = pod
            .shape
            .on(kind)
            .filter(|shape| accepted && shape.count() > 0)
        else {
            continue;
        };
        let at = shapes
            .iter()
            .position(|expected| expected.shape == shape)
            .unwrap_or_else(|| {
                shapes.push(Expected {
                    shape,
                    by_step: vec![0; steps.len() + 1],
                });
                shapes.len() - 1
            });
        let from = steps.partition_point(|step| *step <= pod.milli_cpu);
        for slot in &mut shapes[at].by_step[from..] {
            *slot += weight;
        }
    }
    shapes
}

/// Idle thousandths on devices that hold one part of `shape`; 0 if there are too few of them.
fn usable_milli(devices: &[Device], shape: Shape) -> i64 {
    let fitting = devices.iter().filter(|device| device.fits(shape));
    let (count, idle) = fitting.fold((0, 0), |(count, idle), device| {
        (count + 1, idle + i64::from(device.idle_milli()))
    });
    if count < shape.count() { 0 } else { idle }
}
