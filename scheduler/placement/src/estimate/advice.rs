//! An estimate in words: the terms in one sentence, and what the user's overrides risk.

use super::layout::Layout;
use super::memory::Account;
use super::target::{ContextSource, Target};
use super::unfit::gib;
use super::{Attention, Estimate, Gpus, Model, Request, gpu, search};

/// Above this share other users of the GPU (display, monitoring, a second process) make the start fail.
const RISKY_UTILIZATION: f64 = 0.95;
/// A tighter fit than one tenth leaves nothing for what the account does not know.
const TIGHT_DIVISOR: u64 = 10;
/// Sequences at once that the engine schedules by default on most GPUs (vLLM `max-num-seqs`).
const DEFAULT_SEQUENCES: u32 = 256;

/// Says what the tightest GPU holds and what limits it.
pub(super) fn explain(
    gpus: &Gpus,
    target: &Target,
    account: &Account,
    estimate: &Estimate,
) -> String {
    let terms = [
        ("weights", account.weights),
        ("KV cache", account.kv_cache),
        ("overhead", account.overhead),
    ];
    let largest = terms
        .iter()
        .max_by_key(|(_, bytes)| bytes)
        .map_or("weights", |(name, _)| name);
    let assumed = match target.context_source {
        ContextSource::Given => "",
        ContextSource::Assumed => " (assumed)",
    };
    let tightest = if estimate.pipeline_parallel > 1 {
        "the tightest stage's GPU"
    } else {
        "each GPU"
    };
    format!(
        "{} × {} of {} {} GPUs (TP {}, PP {}, DP {}): {tightest} holds {} GiB weights + {} GiB KV cache for {} × {} \
         tokens{assumed} + {} GiB overhead = {} of {} GiB ({} usable × {}); most is {largest}; one sequence may reach \
         {} tokens",
        plural(u64::from(estimate.nodes), "node"),
        estimate.gpus_per_node,
        gpus.count,
        gpus.model,
        estimate.tensor_parallel,
        estimate.pipeline_parallel,
        estimate.data_parallel,
        gib(account.weights),
        gib(account.kv_cache),
        target.concurrency,
        target.context,
        gib(account.overhead),
        gib(account.needed()),
        gib(account.available),
        gib(gpu::usable_memory_bytes(gpus)),
        target.utilization,
        estimate.max_context,
    )
}

/// Lists what the overrides risk; empty without overrides.
pub(super) fn warnings(
    model: &Model,
    gpus: &Gpus,
    request: &Request,
    account: &Account,
    layout: &Layout,
) -> Vec<String> {
    [
        high_utilization(gpus, request),
        long_context(model, request),
        many_sequences(request),
        small_cache_elements(request),
        tensor_over_nodes(layout),
        replicated_cache(model, request, layout),
        stages_in_node(request, layout),
        replicas(request),
        tight(request, account),
        surplus(model, gpus, request, layout),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn high_utilization(gpus: &Gpus, request: &Request) -> Option<String> {
    let asked = request.utilization?;
    let usual = gpu::utilization(&gpus.model);
    if asked > RISKY_UTILIZATION {
        return Some(format!(
            "utilization {asked} leaves almost nothing for the driver and other processes: the engine may run out of \
             memory at start or under load (usual: {usual})"
        ));
    }
    (asked > usual).then(|| {
        format!(
            "utilization {asked} is above the {usual} that is used for this GPU: less is left for CUDA graphs and \
             fragmentation"
        )
    })
}

fn long_context(model: &Model, request: &Request) -> Option<String> {
    let asked = request.context?;
    (model.context_limit > 0 && asked > model.context_limit).then(|| {
        format!(
            "context {asked} is above the model's limit of {}: the engine refuses it unless told to allow longer \
             contexts, and answers degrade beyond the limit",
            model.context_limit
        )
    })
}

fn many_sequences(request: &Request) -> Option<String> {
    let asked = request.concurrency?;
    (asked > DEFAULT_SEQUENCES).then(|| {
        format!(
            "concurrency {asked} is above the {DEFAULT_SEQUENCES} sequences that the engine runs at once by default: \
             raise max-num-seqs, which also takes more memory for logits"
        )
    })
}

fn small_cache_elements(request: &Request) -> Option<String> {
    (request.kv_element_bytes == Some(1)).then(|| {
        "an fp8 KV cache must also be set on the engine (kv-cache-dtype) and may cost accuracy on long contexts"
            .to_owned()
    })
}

fn tensor_over_nodes(layout: &Layout) -> Option<String> {
    layout.tensor_spans_nodes().then(|| {
        format!(
            "tensor parallel {} over nodes of {} GPUs sends every layer's activations through the network: expect a \
             fraction of the speed without InfiniBand",
            layout.tensor, layout.gpus_per_node
        )
    })
}

fn replicated_cache(model: &Model, request: &Request, layout: &Layout) -> Option<String> {
    request.tensor_parallel?;
    if layout.tensor < 2 {
        return None;
    }
    match model.attention {
        Attention::Latent => Some(format!(
            "all {} tensor-parallel ranks hold the whole latent cache: more of them add no room for context",
            layout.tensor
        )),
        Attention::Heads => {
            (model.kv_heads > 0 && layout.tensor > model.kv_heads).then(|| {
                format!(
                    "tensor parallel {} is more than the {} KV heads: the cache is replicated and gains no room \
                     beyond them",
                    layout.tensor, model.kv_heads
                )
            })
        }
    }
}

fn stages_in_node(request: &Request, layout: &Layout) -> Option<String> {
    let fixed = request
        .pipeline_parallel
        .or(request.gpus_per_node)
        .is_some();
    (fixed && layout.pipeline > layout.nodes).then(|| {
        format!(
            "{} pipeline stages on {}: one request is no faster than on one stage; tensor parallelism inside a node \
             is",
            layout.pipeline,
            plural(u64::from(layout.nodes), "node")
        )
    })
}

fn replicas(request: &Request) -> Option<String> {
    let copies = request.data_parallel.filter(|&copies| copies > 1)?;
    Some(format!(
        "data parallel {copies} loads the weights {copies} times: it adds throughput, not room for longer contexts"
    ))
}

fn tight(request: &Request, account: &Account) -> Option<String> {
    let fixed = fixes_layout(request) || request.utilization.is_some();
    let free = account.available.saturating_sub(account.needed());
    (fixed && free < account.available / TIGHT_DIVISOR).then(|| {
        format!(
            "only {} of {} GiB per GPU stay free (less than 10 %): adapters, long prompts or a newer engine may not \
             fit any more",
            gib(free),
            gib(account.available)
        )
    })
}

fn surplus(model: &Model, gpus: &Gpus, request: &Request, layout: &Layout) -> Option<String> {
    if !fixes_layout(request) {
        return None;
    }
    let free = Request {
        gpus_per_node: None,
        nodes: None,
        tensor_parallel: None,
        pipeline_parallel: None,
        ..request.clone()
    };
    let fewest = search::fewest_gpus(model, gpus, &free)?;
    (layout.gpus() > fewest).then(|| {
        format!(
            "the fixed layout takes {}; {fewest} would do for this context and concurrency",
            plural(layout.gpus(), "GPU")
        )
    })
}

fn fixes_layout(request: &Request) -> bool {
    request.gpus_per_node.is_some()
        || request.nodes.is_some()
        || request.tensor_parallel.is_some()
        || request.pipeline_parallel.is_some()
}

fn plural(count: u64, noun: &str) -> String {
    if count == 1 {
        format!("1 {noun}")
    } else {
        format!("{count} {noun}s")
    }
}
