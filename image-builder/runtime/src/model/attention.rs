//! Attention of new tokens to all tokens of their sequence.

use rayon::prelude::*;

use super::cache::LayerCache;
use super::config::Config;
use crate::kernel::vector::{LANES, accumulate, dot_inline, exp_inline};
use crate::kernel::{Kernel, MulAdd, run};

/// Multiplications that are worth a task of their own.
const TASK: usize = 64 * 1024;

/// New tokens of one sequence in one layer.
pub(super) struct Attention<'a> {
    pub(super) config: &'a Config,
    pub(super) cache: &'a LayerCache,
    /// Position of the first new token.
    pub(super) start: usize,
    /// Queries of all heads, token after token.
    pub(super) queries: &'a [f32],
}

impl Attention<'_> {
    /// Writes the attended values of all heads, token after token.
    pub(super) fn compute(&self, out: &mut [f32]) {
        let Config { head, heads, .. } = *self.config;
        let last = self.start + self.queries.len() / (head * heads).max(1);
        let cost = (2 * head * last).max(1);
        out.par_chunks_mut(head)
            .zip(self.queries.par_chunks(head))
            .enumerate()
            .with_min_len((TASK / cost).max(1))
            .for_each_init(Vec::new, |scores, (at, (out, query))| {
                self.head(at / heads, at % heads, query, scores, out);
            });
    }

    fn head(
        &self,
        token: usize,
        head: usize,
        query: &[f32],
        scores: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let config = self.config;
        let end = self.start + token + 1;
        let first = config.window.map_or(0, |window| end.saturating_sub(window));
        let width = config.kv_width();
        let offset = head / (config.heads / config.kv_heads) * config.head;
        scores.clear();
        scores.resize(end - first, 0.0);
        run(Head {
            query,
            keys: self
                .cache
                .keys
                .get(first * width..end * width)
                .unwrap_or_default(),
            values: self
                .cache
                .values
                .get(first * width..end * width)
                .unwrap_or_default(),
            width,
            offset,
            scores,
            out,
        });
    }
}

struct Head<'a> {
    query: &'a [f32],
    keys: &'a [f32],
    values: &'a [f32],
    width: usize,
    offset: usize,
    scores: &'a mut [f32],
    out: &'a mut [f32],
}

impl Kernel for Head<'_> {
    type Output = ();
    #[inline(always)]
    fn run<M: MulAdd>(self) {
        let scale = 1.0 / (self.query.len() as f32).sqrt();
        let span = self.offset..self.offset + self.query.len();
        let mut largest = f32::NEG_INFINITY;
        for (score, keys) in self
            .scores
            .iter_mut()
            .zip(self.keys.chunks_exact(self.width))
        {
            let key = keys.get(span.clone()).unwrap_or_default();
            *score = dot_inline::<M>(self.query, key) * scale;
            largest = largest.max(*score);
        }
        for score in self.scores.iter_mut() {
            *score = exp_inline::<M>(*score - largest);
        }
        let total: f32 = self.scores.iter().sum();
        let inverse = 1.0 / total;
        for (part, out) in self.out.chunks_mut(4 * LANES).enumerate() {
            let offset = self.offset + part * 4 * LANES;
            let values = self.values.chunks_exact(self.width);
            let span = offset..offset + out.len();
            let values = values.map(|values| values.get(span.clone()));
            mix::<M>(self.scores, values, inverse, out);
        }
    }
}

/// Weighted sum of at most 32 values of each position.
#[inline(always)]
fn mix<'a, M: MulAdd>(
    scores: &[f32],
    values: impl Iterator<Item = Option<&'a [f32]>>,
    inverse: f32,
    out: &mut [f32],
) {
    let mut sums = [[0.0_f32; LANES]; 4];
    let mut tail = [0.0_f32; LANES];
    for (score, values) in scores.iter().zip(values) {
        let (chunks, rest) = values.unwrap_or_default().as_chunks::<LANES>();
        let weight = [*score; LANES];
        for (sum, chunk) in sums.iter_mut().zip(chunks) {
            accumulate::<M>(sum, &weight, chunk);
        }
        for (sum, value) in tail.iter_mut().zip(rest) {
            *sum += score * value;
        }
    }
    let whole = out.len() / LANES * LANES;
    let lanes = sums.iter().flatten().take(whole).chain(&tail);
    for (out, sum) in out.iter_mut().zip(lanes) {
        *out = sum * inverse;
    }
}
