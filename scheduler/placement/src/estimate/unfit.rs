//! Why a model does not run on given GPUs, in numbers, and what to do next.

use super::GIB;

/// A model, GPUs and overrides that do not go together. Every message ends in a remedy.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// No permitted layout fits; the numbers are those of the one that comes nearest.
    #[error(transparent)]
    GpuTooSmall(Box<Shortage>),
    /// It would fit on several nodes, but may not be spread.
    #[error(
        "{model} needs {nodes} nodes of {gpus_per_node} GPUs, but it cannot be spread over nodes or pipeline stages; \
         use a bigger GPU, a node with more GPUs, or a smaller context"
    )]
    NeedsMoreNodes {
        /// Model name.
        model: String,
        /// Nodes that it would take.
        nodes: u32,
        /// GPUs on each.
        gpus_per_node: u32,
    },
    /// The fixed tensor-parallel size cannot split the heads evenly.
    #[error(
        "tensor parallel {tensor_parallel} does not divide the {attention_heads} attention and {kv_heads} KV heads of \
         {model}; use one of {}", list(.allowed)
    )]
    TensorParallel {
        /// Model name.
        model: String,
        /// Size asked for.
        tensor_parallel: u32,
        /// Attention heads.
        attention_heads: u32,
        /// KV heads; those may also be a divisor of the size.
        kv_heads: u32,
        /// Sizes up to the node's GPUs that divide them.
        allowed: Vec<u32>,
    },
    /// An override is outside of what the engine can start with.
    #[error("{field} is {value}, but {rule}; change it or leave it out")]
    InvalidOverride {
        /// Field of [`super::Request`], in words.
        field: &'static str,
        /// Value asked for.
        value: String,
        /// What holds instead, with its numbers.
        rule: String,
    },
    /// The overrides contradict one another.
    #[error(
        "no layout of {model} on nodes of {gpus} GPUs has {overrides}: nodes × GPUs per node must equal tensor × \
         pipeline × data parallel; leave one of them out"
    )]
    NoLayout {
        /// Model name.
        model: String,
        /// GPUs that one node offers.
        gpus: u32,
        /// The fixed values, in words.
        overrides: String,
    },
    /// A quantity without which there is no estimate.
    #[error("cannot estimate {subject}: its {quantity} is unknown; give it explicitly")]
    Unknown {
        /// Model or GPU product.
        subject: String,
        /// What is missing.
        quantity: &'static str,
    },
}

/// How much one GPU lacks.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "{model} needs {} GiB on each GPU ({} weights, {} KV cache for {concurrency} × {context} tokens, {} overhead) \
     at tensor parallel {tensor_parallel} × pipeline parallel {pipeline_parallel}, but {gpu} gives {} GiB \
     ({} usable × {utilization}); use {remedy}",
    gib(*.needed), gib(*.weights), gib(*.kv_cache), gib(*.overhead), gib(*.available), gib(*.usable)
)]
pub struct Shortage {
    /// Model name.
    pub model: String,
    /// GPU product.
    pub gpu: String,
    /// Bytes needed on the tightest GPU.
    pub needed: u64,
    /// Bytes that the engine may take: usable × utilisation.
    pub available: u64,
    /// Bytes that the driver reports.
    pub usable: u64,
    /// Utilisation.
    pub utilization: f64,
    /// Weight bytes on the tightest GPU.
    pub weights: u64,
    /// KV cache bytes on the tightest GPU.
    pub kv_cache: u64,
    /// Overhead bytes on the tightest GPU.
    pub overhead: u64,
    /// Context in tokens.
    pub context: u32,
    /// Sequences at once.
    pub concurrency: u32,
    /// Tensor-parallel size of the nearest layout.
    pub tensor_parallel: u32,
    /// Pipeline-parallel size of the nearest layout.
    pub pipeline_parallel: u32,
    /// What would make it fit.
    pub remedy: String,
}

/// Bytes as GiB with two decimals.
pub(super) fn gib(bytes: u64) -> String {
    format!("{:.2}", bytes as f64 / GIB as f64)
}

fn list(sizes: &[u32]) -> String {
    sizes
        .iter()
        .map(u32::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}
