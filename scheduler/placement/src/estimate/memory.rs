//! The account of one GPU: what the engine puts on it, in bytes.
//!
//! Integer arithmetic that saturates: no input makes it wrap or panic. It decides nothing.

use super::layout::Layout;
use super::target::Target;
use super::{Attention, GIB, Gpus, MemoryPerGpu, Model, gpu};

/// Loaded weights take 2 % more than their files: padding, norms and buffers that every rank holds in full (KAITO
/// v0.12 uses the same factor). Quantised weights are counted as they are: their files already hold the padded blocks
/// and scales, and gpt-oss-120b (61 GiB) is known to start on one A100-80, which it would not with 2 % on top.
const WEIGHT_EXPANSION_DIVISOR: u64 = 50;
/// CUDA context, NCCL and allocator, outside of the weights: 0.6 GiB (KAITO v0.12's estimator).
const RUNTIME_BYTES: u64 = 6 * GIB / 10;
/// Activations and CUDA graphs on data-centre cards: 1.7 GiB (KAITO v0.12's estimator), with the above 2.3 GiB.
const ACTIVATION_BYTES: u64 = 17 * GIB / 10;
/// On smaller cards activations and graphs take 3 % of the card: the engine captures and batches less there.
/// Calibrated: phi-4-mini has room for about 83,640 tokens on an A10, and Llama-3.1-8B starts on one; with a flat
/// 2.3 GiB it would be 69,600 tokens, and Llama would not start.
const ACTIVATION_PERCENT_OF_CARD: u64 = 3;
/// Workspaces and fragmentation grow by 5 % of the weights on the GPU (KAITO v0.12's estimator).
const OVERHEAD_WEIGHT_DIVISOR: u64 = 20;
/// The engine hands out KV cache in blocks of 16 tokens (vLLM's default).
pub(super) const BLOCK_TOKENS: u32 = 16;
/// Layers assumed when a model does not say: the commonest count in the catalogue.
pub(super) const ASSUMED_LAYERS: u32 = 32;
/// The KV figure of a model counts two bytes per element.
const MODEL_KV_ELEMENT_BYTES: u128 = 2;

/// What the tightest GPU of a layout holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    /// Usable memory × utilisation.
    pub(super) available: u64,
    pub(super) weights: u64,
    pub(super) overhead: u64,
    /// The part of the overhead that depends on the card.
    activations: u64,
    /// KV cache of one block of one sequence.
    block: u64,
    /// KV cache of what is asked for.
    pub(super) kv_cache: u64,
}

impl Account {
    /// Opens the account of the tightest GPU.
    pub(super) fn new(model: &Model, gpus: &Gpus, target: &Target, layout: &Layout) -> Self {
        let usable = gpu::usable_memory_bytes(gpus);
        let weights = weight_share(model, layout);
        let block = block_bytes(model, target, layout);
        let activations = activation_bytes(usable);
        let sequences = target.concurrency.div_ceil(layout.data.max(1));
        let blocks = u64::from(target.context.div_ceil(BLOCK_TOKENS));
        Self {
            available: target.share_of(usable),
            weights,
            overhead: RUNTIME_BYTES + activations + weights.div_ceil(OVERHEAD_WEIGHT_DIVISOR),
            activations,
            block,
            kv_cache: block
                .saturating_mul(blocks)
                .saturating_mul(u64::from(sequences)),
        }
    }

    pub(super) fn needed(&self) -> u64 {
        self.weights
            .saturating_add(self.overhead)
            .saturating_add(self.kv_cache)
    }

    pub(super) fn fits(&self) -> bool {
        self.needed() <= self.available
    }

    /// Usable memory in whole GiB, rounded up, of a card on which all this would fit.
    pub(super) fn usable_gib(&self, utilization: f64) -> f64 {
        // The card holds the fixed part and the smaller of two activation terms, so the smaller solution holds.
        let fixed = self.needed().saturating_sub(self.activations) as f64;
        let on_big_card = (fixed + ACTIVATION_BYTES as f64) / utilization;
        let on_small_card = fixed / (utilization - ACTIVATION_PERCENT_OF_CARD as f64 / 100.0);
        (on_big_card.min(on_small_card) / GIB as f64).ceil()
    }

    /// The KV cache's room.
    fn room(&self) -> u64 {
        self.available
            .saturating_sub(self.weights.saturating_add(self.overhead))
    }

    /// Tokens of one sequence that fit, whole blocks, at most `limit`.
    pub(super) fn longest_context(&self, limit: u32) -> u32 {
        let Some(blocks) = self.room().checked_div(self.block) else {
            return limit;
        };
        let tokens = blocks.saturating_mul(u64::from(BLOCK_TOKENS));
        u32::try_from(tokens).unwrap_or(u32::MAX).min(limit)
    }

    /// Sequences of `context` tokens that fit at once, at most `limit`.
    pub(super) fn sequences(&self, context: u32, limit: u32) -> u32 {
        let one = self
            .block
            .saturating_mul(u64::from(context.div_ceil(BLOCK_TOKENS)));
        match self.room().checked_div(one) {
            Some(count) => u32::try_from(count).unwrap_or(u32::MAX).min(limit),
            None => limit,
        }
    }

    pub(super) fn split(&self) -> MemoryPerGpu {
        MemoryPerGpu {
            weights: self.weights,
            kv_cache: self.kv_cache,
            overhead: self.overhead,
            free: self.available.saturating_sub(self.needed()),
        }
    }
}

/// Weight bytes of the heaviest rank.
///
/// A pipeline's end stages also hold the embedding or the output head with its logits, and the engine gives left-over
/// layers to stages of its own choosing, so the heaviest stage counts as one layer more than an even split. That
/// matches two measurements (KAITO #2139: 6.6 GiB where 4.34 were estimated on the last of two DeepSeek-R1 stages;
/// #1956: Mistral-Large-3 runs out of memory on five stages of 2×H100-94 and runs on six).
fn weight_share(model: &Model, layout: &Layout) -> u64 {
    let loaded = if model.quantized {
        model.weight_bytes
    } else {
        model
            .weight_bytes
            .saturating_add(model.weight_bytes.div_ceil(WEIGHT_EXPANSION_DIVISOR))
    };
    let layers = layer_count(model);
    let mut stage = stage_layers(layers, layout.pipeline);
    if layout.pipeline > 1 {
        stage = stage.saturating_add(1).min(layers);
    }
    let ranks = u128::from(layers) * u128::from(layout.tensor.max(1));
    saturate((u128::from(loaded) * u128::from(stage)).div_ceil(ranks))
}

/// KV bytes of one block on the rank that holds most of it.
///
/// Heads: a rank holds ⌈KV heads / TP⌉ of them, at least one, so the cache is replicated beyond the KV heads. Latent
/// attention: every rank holds the whole latent vector. Pipeline stages hold their own layers' cache only.
fn block_bytes(model: &Model, target: &Target, layout: &Layout) -> u64 {
    let layers = layer_count(model);
    let stage = u128::from(stage_layers(layers, layout.pipeline));
    let (held, heads) = match model.attention {
        Attention::Latent => (1, 1),
        Attention::Heads => {
            let heads = [model.kv_heads, model.attention_heads]
                .into_iter()
                .find(|&heads| heads > 0);
            let heads = heads.unwrap_or(layout.tensor).max(1);
            (heads.div_ceil(layout.tensor.max(1)), heads)
        }
    };
    // 2^64 · 16 · 2 · 2^32 stays below 2^128; times the heads it would not, hence the saturation in between.
    let per_block = u128::from(model.kv_bytes_per_token)
        * u128::from(BLOCK_TOKENS)
        * u128::from(target.kv_element_bytes);
    let per_stage = (per_block * stage).div_ceil(u128::from(layers) * MODEL_KV_ELEMENT_BYTES);
    saturate((u128::from(saturate(per_stage)) * u128::from(held)).div_ceil(u128::from(heads)))
}

fn activation_bytes(usable: u64) -> u64 {
    (usable / 100 * ACTIVATION_PERCENT_OF_CARD).min(ACTIVATION_BYTES)
}

pub(super) fn layer_count(model: &Model) -> u32 {
    if model.layers == 0 {
        ASSUMED_LAYERS
    } else {
        model.layers
    }
}

fn stage_layers(layers: u32, pipeline: u32) -> u32 {
    layers.div_ceil(pipeline.max(1))
}

fn saturate(bytes: u128) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}
