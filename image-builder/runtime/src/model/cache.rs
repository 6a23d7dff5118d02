//! Keys and values of one sequence.

use super::config::Config;

/// Positions by which a cache grows: doubling would take twice what is reserved.
const GROWTH: usize = 64;

/// Keys and values of one layer, position after position.
#[derive(Clone, Debug, Default)]
pub(super) struct LayerCache {
    pub(super) keys: Vec<f32>,
    pub(super) values: Vec<f32>,
}

/// What a sequence has to remember: keys and values of all its tokens in all layers.
#[derive(Clone, Debug)]
pub struct Cache {
    pub(super) layers: Vec<LayerCache>,
    pub(super) tokens: usize,
    width: usize,
}

impl Cache {
    /// An empty cache.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self {
            layers: vec![LayerCache::default(); config.layers],
            tokens: 0,
            width: config.kv_width(),
        }
    }

    /// Tokens that it holds.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    pub(super) fn append(&mut self, layer: usize, keys: &[f32], values: &[f32]) {
        let step = GROWTH * self.width;
        if let Some(layer) = self.layers.get_mut(layer) {
            grow(&mut layer.keys, keys, step);
            grow(&mut layer.values, values, step);
        }
    }
}

fn grow(all: &mut Vec<f32>, more: &[f32], step: usize) {
    if all.capacity() - all.len() < more.len() {
        all.reserve_exact(more.len().next_multiple_of(step.max(1)));
    }
    all.extend_from_slice(more);
}
