//! Which instance types could run a model, cheapest first.

use super::{Estimate, Gpus, Model, Request, estimate};

/// The engine's kernels start at compute capability 7.0 (Volta); times ten.
const LOWEST_COMPUTE_CAPABILITY: u32 = 70;
/// bfloat16 starts at compute capability 8.0 (Ampere); times ten.
const BFLOAT16_COMPUTE_CAPABILITY: u32 = 80;

/// An instance type that can be had.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Offer {
    /// Name in the cloud's spelling.
    pub instance_type: String,
    /// GPUs of one node.
    pub gpus: Gpus,
    /// CUDA compute capability times ten (8.0 is 80); 0 if unknown or not NVIDIA.
    pub compute_capability: u32,
    /// Price of one node in micro-dollars per hour; absent if not known.
    pub price_micro_dollars: Option<u64>,
}

/// An instance type on which the model runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Name in the cloud's spelling.
    pub instance_type: String,
    /// How it runs there, with warnings about the hardware added.
    pub estimate: Estimate,
    /// Price of all its nodes in micro-dollars per hour.
    pub nodes_price_micro_dollars: u64,
    /// Price of the GPUs that it takes on them, rounded up: what it costs once the rest of the node is used by others.
    pub share_price_micro_dollars: u64,
}

/// Lists the offers on which a model runs, cheapest GPUs first, then cheapest nodes, then by name. May be empty.
///
/// Left out: offers without a price, GPUs that are not NVIDIA's or whose compute capability is below 7.0 or unknown,
/// and those on which it does not fit ([`estimate()`] says why for one of them).
#[must_use]
pub fn rank(model: &Model, request: &Request, offers: &[Offer]) -> Vec<Choice> {
    let mut choices: Vec<_> = offers
        .iter()
        .filter_map(|offer| choice(model, request, offer))
        .collect();
    choices.sort_by(|a, b| {
        let key = |choice: &Choice| {
            (
                choice.share_price_micro_dollars,
                choice.nodes_price_micro_dollars,
            )
        };
        key(a)
            .cmp(&key(b))
            .then_with(|| a.instance_type.cmp(&b.instance_type))
    });
    choices
}

fn choice(model: &Model, request: &Request, offer: &Offer) -> Option<Choice> {
    let node_price = offer.price_micro_dollars?;
    if offer.compute_capability < LOWEST_COMPUTE_CAPABILITY {
        return None;
    }
    let mut estimate = estimate(model, &offer.gpus, request).ok()?;
    estimate.warnings.extend(hardware_warning(model, offer));
    let nodes = u128::from(node_price) * u128::from(estimate.nodes);
    let share = nodes * u128::from(estimate.gpus_per_node);
    Some(Choice {
        instance_type: offer.instance_type.clone(),
        nodes_price_micro_dollars: saturate(nodes),
        share_price_micro_dollars: saturate(share.div_ceil(u128::from(offer.gpus.count.max(1)))),
        estimate,
    })
}

fn hardware_warning(model: &Model, offer: &Offer) -> Option<String> {
    let capability = offer.compute_capability;
    if capability >= BFLOAT16_COMPUTE_CAPABILITY {
        return None;
    }
    let card = format!(
        "{} (compute capability {}.{})",
        offer.gpus.model,
        capability / 10,
        capability % 10
    );
    Some(if model.quantized {
        format!("{card} may have no kernel for this quantisation: check the engine's support table")
    } else {
        format!(
            "{card} has no bfloat16: the engine must run with dtype float16, which may overflow on some models"
        )
    })
}

fn saturate(price: u128) -> u64 {
    u64::try_from(price).unwrap_or(u64::MAX)
}
