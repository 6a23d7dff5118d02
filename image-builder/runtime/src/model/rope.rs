//! Angles of the rotary position embedding.

use super::config::{Config, Scaling};

/// Cosines and sines of every position, computed once.
#[derive(Clone, Debug)]
pub(super) struct Rope {
    pairs: usize,
    cosines: Vec<f32>,
    sines: Vec<f32>,
}

impl Rope {
    /// Angles for `positions` positions.
    pub(super) fn new(config: &Config, positions: usize) -> Self {
        let pairs = config.rotated / 2;
        let (frequencies, scale) = frequencies(config, positions);
        let mut rope = Self {
            pairs,
            cosines: Vec::with_capacity(pairs * positions),
            sines: Vec::with_capacity(pairs * positions),
        };
        for position in 0..positions {
            for frequency in &frequencies {
                let angle = position as f64 * frequency;
                rope.cosines.push(narrow(angle.cos() * scale));
                rope.sines.push(narrow(angle.sin() * scale));
            }
        }
        rope
    }

    /// Cosines and sines of one position; empty past the end.
    pub(super) fn at(&self, position: usize) -> (&[f32], &[f32]) {
        let span = position * self.pairs..(position + 1) * self.pairs;
        (
            self.cosines.get(span.clone()).unwrap_or_default(),
            self.sines.get(span).unwrap_or_default(),
        )
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a sine loses digits, not its size"
)]
fn narrow(value: f64) -> f32 {
    value as f32
}

/// Angle of each pair for one step, and the factor of sines and cosines.
fn frequencies(config: &Config, positions: usize) -> (Vec<f64>, f64) {
    let pairs = config.rotated / 2;
    let plain = (0..pairs).map(|pair| {
        let exponent = 2.0 * pair as f64 / config.rotated as f64;
        config.rope_base.powf(exponent).recip()
    });
    match &config.scaling {
        Scaling::None => (plain.collect(), 1.0),
        Scaling::Linear { factor } => (plain.map(|frequency| frequency / factor).collect(), 1.0),
        Scaling::Llama3 {
            factor,
            low,
            high,
            original,
        } => {
            let stretch = |frequency: f64| {
                let turns = original * frequency / std::f64::consts::TAU;
                let blend = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                frequency * (blend + (1.0 - blend) / factor)
            };
            (plain.map(stretch).collect(), 1.0)
        }
        Scaling::Factors {
            short,
            long,
            original,
            attention,
        } => {
            let factors = if positions > *original { long } else { short };
            let factors = factors.iter().copied().chain(std::iter::repeat(1.0));
            let divided = plain
                .zip(factors)
                .map(|(frequency, factor)| frequency / factor);
            (divided.collect(), *attention)
        }
    }
}
