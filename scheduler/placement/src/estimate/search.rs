//! The search: the first permitted layout that fits, with its numbers, or the reason why there is none.

use super::layout::{self, Layout};
use super::memory::{Account, BLOCK_TOKENS};
use super::target::Target;
use super::{Estimate, Gpus, Model, Request, Shortage, Unfit, advice, gpu};

/// The engine's scheduler runs at most about this many sequences at once by default (vLLM `max-num-seqs`, large GPUs);
/// more would be a number without meaning unless asked for.
const MOST_SEQUENCES: u32 = 1024;
/// GPUs of the widest common nodes, proposed when fewer do not do.
const WIDE_NODE: u32 = 8;
/// Cap on the reported context of models without a known limit, tokens.
const MOST_CONTEXT: u32 = 16 << 20;

/// Finds the layout with the fewest GPUs on which a model runs with the context and concurrency asked for.
///
/// GPUs that the model does not need stay free for other Workspaces; data parallelism is used only when asked for.
/// Fixed sizes are kept; what they risk is told in [`Estimate::warnings`].
///
/// ```
/// use kaito_placement::estimate::{estimate, Gpus, Model, Request};
/// let phi_4 = Model {
///     name: "phi-4".into(),
///     weight_bytes: 29_324_089_098,
///     kv_bytes_per_token: 204_800,
///     context_limit: 16_384,
///     attention_heads: 40,
///     kv_heads: 10,
///     layers: 40,
///     ..Model::default()
/// };
/// let a100 = Gpus { model: "NVIDIA A100".into(), count: 1, memory_bytes: 80 << 30 };
/// let fit = estimate(&phi_4, &a100, &Request::default())?;
/// assert_eq!((fit.nodes, fit.gpus_per_node, fit.max_context), (1, 1, 16_384));
/// # Ok::<(), kaito_placement::estimate::Unfit>(())
/// ```
///
/// # Errors
/// [`Unfit::GpuTooSmall`] if no layout has enough memory, [`Unfit::NeedsMoreNodes`] if only one over several nodes
/// would and the model may not be spread, [`Unfit::TensorParallel`], [`Unfit::InvalidOverride`] and
/// [`Unfit::NoLayout`] for fixed values with which no engine starts, [`Unfit::Unknown`] without weights or GPUs.
pub fn estimate(model: &Model, gpus: &Gpus, request: &Request) -> Result<Estimate, Unfit> {
    known(model, gpus)?;
    let target = Target::new(model, gpus, request)?;
    let layouts = layout::candidates(model, gpus, request)?;
    match first_fit(model, gpus, &target, &layouts) {
        Some(layout) => Ok(report(model, gpus, request, &target, layout)),
        None => Err(diagnose(model, gpus, request, &target, &layouts)),
    }
}

/// Gives the GPUs of the smallest layout, if any fits.
pub(super) fn fewest_gpus(model: &Model, gpus: &Gpus, request: &Request) -> Option<u64> {
    let target = Target::new(model, gpus, request).ok()?;
    let layouts = layout::candidates(model, gpus, request).ok()?;
    first_fit(model, gpus, &target, &layouts).map(Layout::gpus)
}

fn first_fit<'a>(
    model: &Model,
    gpus: &Gpus,
    target: &Target,
    layouts: &'a [Layout],
) -> Option<&'a Layout> {
    layouts
        .iter()
        .filter(|layout| layout::permitted(model, gpus, layout))
        .find(|layout| Account::new(model, gpus, target, layout).fits())
}

fn known(model: &Model, gpus: &Gpus) -> Result<(), Unfit> {
    let unknown = |subject: &str, quantity| Unfit::Unknown {
        subject: subject.to_owned(),
        quantity,
    };
    if model.weight_bytes == 0 {
        return Err(unknown(&model.name, "weight size"));
    }
    if gpus.count == 0 {
        return Err(unknown(&gpus.model, "GPU count per node"));
    }
    if gpus.memory_bytes == 0 {
        return Err(unknown(&gpus.model, "GPU memory"));
    }
    Ok(())
}

fn report(
    model: &Model,
    gpus: &Gpus,
    request: &Request,
    target: &Target,
    layout: &Layout,
) -> Estimate {
    let account = Account::new(model, gpus, target, layout);
    let limit = if model.context_limit == 0 {
        MOST_CONTEXT.max(target.context)
    } else {
        model.context_limit
    };
    let per_replica = account.sequences(target.context, MOST_SEQUENCES.max(target.concurrency));
    let mut estimate = Estimate {
        nodes: layout.nodes,
        gpus_per_node: layout.gpus_per_node,
        tensor_parallel: layout.tensor,
        pipeline_parallel: layout.pipeline,
        data_parallel: layout.data,
        memory_per_gpu: account.split(),
        utilization: target.utilization,
        context: target.context,
        max_context: account.longest_context(limit),
        max_concurrency: per_replica.saturating_mul(layout.data),
        explanation: String::new(),
        warnings: Vec::new(),
    };
    estimate.explanation = advice::explain(gpus, target, &account, &estimate);
    estimate.warnings = advice::warnings(model, gpus, request, &account, layout);
    estimate
}

/// Finds out why nothing fits. `layouts` is never empty.
fn diagnose(
    model: &Model,
    gpus: &Gpus,
    request: &Request,
    target: &Target,
    layouts: &[Layout],
) -> Unfit {
    let accounts = layouts
        .iter()
        .map(|layout| (layout, Account::new(model, gpus, target, layout)));
    let (permitted, forbidden): (Vec<_>, Vec<_>) =
        accounts.partition(|(layout, _)| layout::permitted(model, gpus, layout));
    // A pipeline over slices is no remedy, so for them the slice itself is what is too small.
    let spread = forbidden.iter().find(|(_, account)| account.fits());
    let nearest = permitted.iter().min_by_key(|(_, account)| account.needed());
    match (spread, nearest) {
        (Some((layout, _)), _) if !gpu::is_mig_slice(&gpus.model) => needs_nodes(model, layout),
        (_, Some((layout, account))) => too_small(model, gpus, request, target, layout, account),
        (_, None) => forbidden.first().map_or_else(
            || Unfit::Unknown {
                subject: model.name.clone(),
                quantity: "layout",
            },
            |(layout, _)| needs_nodes(model, layout),
        ),
    }
}

fn needs_nodes(model: &Model, layout: &Layout) -> Unfit {
    Unfit::NeedsMoreNodes {
        model: model.name.clone(),
        nodes: layout.nodes,
        gpus_per_node: layout.gpus_per_node,
    }
}

fn too_small(
    model: &Model,
    gpus: &Gpus,
    request: &Request,
    target: &Target,
    layout: &Layout,
    account: &Account,
) -> Unfit {
    Unfit::GpuTooSmall(Box::new(Shortage {
        model: model.name.clone(),
        gpu: gpus.model.clone(),
        needed: account.needed(),
        available: account.available,
        usable: gpu::usable_memory_bytes(gpus),
        utilization: target.utilization,
        weights: account.weights,
        kv_cache: account.kv_cache,
        overhead: account.overhead,
        context: target.context,
        concurrency: target.concurrency,
        tensor_parallel: layout.tensor,
        pipeline_parallel: layout.pipeline,
        remedy: remedy(model, gpus, request, target, layout, account),
    }))
}

/// What would make the nearest layout fit: only remedies that really do.
fn remedy(
    model: &Model,
    gpus: &Gpus,
    request: &Request,
    target: &Target,
    layout: &Layout,
    account: &Account,
) -> String {
    let mut remedies = Vec::new();
    let half = Target {
        kv_element_bytes: 1,
        ..*target
    };
    if target.kv_element_bytes > 1 && Account::new(model, gpus, &half, layout).fits() {
        remedies.push("an fp8 KV cache".to_owned());
    }
    let one = Target {
        concurrency: 1,
        ..*target
    };
    if target.concurrency > 1 && Account::new(model, gpus, &one, layout).fits() {
        remedies.push(format!(
            "a concurrency of at most {}",
            account
                .sequences(target.context, target.concurrency)
                .saturating_mul(layout.data)
        ));
    }
    let context = account.longest_context(target.context);
    if (BLOCK_TOKENS..target.context).contains(&context) {
        remedies.push(format!("a context of at most {context} tokens"));
    }
    remedies.push(format!(
        "a GPU with {} GiB or more",
        account.usable_gib(target.utilization)
    ));
    let wider = Gpus {
        count: gpus.count.max(WIDE_NODE),
        ..gpus.clone()
    };
    if fewest_gpus(model, &wider, request).is_some() {
        remedies.push(format!("a node with up to {WIDE_NODE} such GPUs"));
    }
    remedies.join(", or ")
}
