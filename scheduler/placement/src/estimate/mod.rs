//! How much GPU memory a model needs, and on how many GPUs and nodes it runs.
//!
//! Two answers: [`Estimate`] by an account per GPU that follows the engine (weights, KV cache, overhead), and
//! KAITO's own formula ([`compatibility`]), kept for comparison. Pure arithmetic; the caller supplies model and GPU
//! data. It may not know instance types, prices (except to [`rank`] given ones) or nodes.
//!
//! The account sizes for full attention in every layer: hybrid models (Mamba, linear or sliding-window layers) need
//! less KV cache than estimated, never more.

pub mod compatibility;

mod advice;
mod gpu;
mod layout;
mod memory;
mod rank;
mod search;
mod startup;
mod target;
mod unfit;

use serde::{Deserialize, Serialize};

pub use gpu::{is_mig_slice, usable_memory_bytes, utilization};
pub use rank::{Choice, Offer, rank};
pub use search::estimate;
pub use startup::startup_window_seconds;
pub use unfit::{Shortage, Unfit};

const GIB: u64 = 1 << 30;

/// How attention keys and values are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attention {
    /// Per-head keys and values (multi-head, grouped or multi-query).
    #[default]
    Heads,
    /// Multi-head latent attention: every tensor-parallel rank holds the whole cache.
    Latent,
}

/// What the estimate needs to know of a model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Model {
    /// Catalogue id or the user's name for it.
    pub name: String,
    /// Bytes of the weight files that the engine loads, quantised as they are.
    pub weight_bytes: u64,
    /// KV-cache bytes per token over all layers at two bytes per element.
    pub kv_bytes_per_token: u64,
    /// Longest context in tokens; 0 if unknown.
    pub context_limit: u32,
    /// Attention heads; tensor parallelism must divide it. 0 if unknown: powers of two are tried.
    pub attention_heads: u32,
    /// KV heads; tensor parallelism must divide it, or be a multiple of it, which replicates the cache. 0 if unknown.
    pub kv_heads: u32,
    /// Layers; pipeline stages cannot be more. 0 if unknown.
    pub layers: u32,
    /// Kind of attention.
    pub attention: Attention,
    /// Whether the weights are quantised (fp8, int4, mxfp4, …); they then load on any dtype.
    pub quantized: bool,
    /// May span several nodes.
    pub distributed: bool,
}

/// One node's GPUs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Gpus {
    /// Product, for example `NVIDIA A100`; picks usable memory and utilisation by family. A product with the word
    /// `MIG` (`NVIDIA-A100-SXM4-80GB-MIG-3g.40gb`) is a slice and works alone.
    pub model: String,
    /// GPUs per node.
    pub count: u32,
    /// Nominal memory of one GPU in bytes.
    pub memory_bytes: u64,
}

/// What the user asks for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Request {
    /// Context in tokens that must fit; absent: the model's limit, at most 8192 (stated in the explanation).
    pub context: Option<u32>,
    /// Sequences of that context at once; at least 1.
    pub concurrency: Option<u32>,
    /// Bytes per KV element: 2, or 1 for fp8; absent: 2.
    pub kv_element_bytes: Option<u32>,
    /// GPU memory utilisation, 0.1 to 0.99; absent: by GPU family.
    pub utilization: Option<f64>,
    /// Fixed GPUs per node.
    pub gpus_per_node: Option<u32>,
    /// Fixed node count.
    pub nodes: Option<u32>,
    /// Fixed tensor-parallel size.
    pub tensor_parallel: Option<u32>,
    /// Fixed pipeline-parallel size.
    pub pipeline_parallel: Option<u32>,
    /// Fixed data-parallel size.
    pub data_parallel: Option<u32>,
}

/// Memory of the tightest GPU, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemoryPerGpu {
    /// Weights.
    pub weights: u64,
    /// KV cache for the requested context and concurrency.
    pub kv_cache: u64,
    /// Activations, graphs, runtime.
    pub overhead: u64,
    /// Left of usable memory × utilisation.
    pub free: u64,
}

/// A layout that fits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Estimate {
    /// Nodes, one pod each.
    pub nodes: u32,
    /// GPUs per pod; may be fewer than the node has.
    pub gpus_per_node: u32,
    /// Tensor-parallel size.
    pub tensor_parallel: u32,
    /// Pipeline-parallel size.
    pub pipeline_parallel: u32,
    /// Data-parallel size.
    pub data_parallel: u32,
    /// Memory of the tightest GPU.
    pub memory_per_gpu: MemoryPerGpu,
    /// Utilisation used.
    pub utilization: f64,
    /// Context used, tokens.
    pub context: u32,
    /// Longest context that fits with one sequence, at most the model's limit.
    pub max_context: u32,
    /// Full-context sequences that fit at once.
    pub max_concurrency: u32,
    /// One sentence: the terms and the limiting one.
    pub explanation: String,
    /// What the user's overrides risk, one sentence each.
    pub warnings: Vec<String>,
}
