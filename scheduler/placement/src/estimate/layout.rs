//! Which ways of splitting a model are worth trying, from the fewest GPUs up.
//!
//! Knows of divisibility and of the user's fixed sizes; whether a layout has enough memory is not its business.

use super::target::{at_least_one, invalid};
use super::{Attention, Gpus, Model, Request, Unfit, gpu, memory};

/// More pipeline stages than this are not tried: each adds a network hop to every token.
const MOST_STAGES: u32 = 128;
/// Bound on GPUs of one replica set, so that absurd overrides end quickly. Far above any deployment.
const MOST_GPUS: u64 = 4096;
/// No machine has more GPUs in one node; bounds the search for odd input.
const MOST_GPUS_PER_NODE: u32 = 256;

/// One way of splitting a model. GPUs: tensor × pipeline × data = nodes × GPUs per node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) tensor: u32,
    pub(super) pipeline: u32,
    pub(super) data: u32,
    pub(super) nodes: u32,
    pub(super) gpus_per_node: u32,
}

impl Layout {
    /// Whether tensor-parallel groups reach over nodes.
    pub(super) fn tensor_spans_nodes(&self) -> bool {
        self.tensor > self.gpus_per_node
    }

    pub(super) fn gpus(&self) -> u64 {
        u64::from(self.nodes).saturating_mul(u64::from(self.gpus_per_node))
    }
}

/// GPUs of one node that can work together: a MIG slice only works alone.
pub(super) fn gpus_of_node(gpus: &Gpus) -> u32 {
    if gpu::is_mig_slice(&gpus.model) {
        gpus.count.min(1)
    } else {
        gpus.count.min(MOST_GPUS_PER_NODE)
    }
}

/// Whether a layout may be used at all: spreading and stages need a model made for it and whole GPUs.
pub(super) fn permitted(model: &Model, gpus: &Gpus, layout: &Layout) -> bool {
    let spreads = layout.nodes > 1 || layout.pipeline > 1;
    !spreads || (model.distributed && !gpu::is_mig_slice(&gpus.model))
}

/// Lists the layouts to try, best first, never empty.
///
/// Without overrides: tensor parallelism inside one node from the fewest GPUs up, then the widest of those with more
/// and more pipeline stages (in the node while they fit there, then over nodes). GPUs only ever grow along the list,
/// so the first that fits takes the fewest; a pipeline uses whole nodes as far as the heads allow, since each further
/// node is one more machine that must come up and one more slow hop.
pub(super) fn candidates(
    model: &Model,
    gpus: &Gpus,
    request: &Request,
) -> Result<Vec<Layout>, Unfit> {
    check(model, gpus, request)?;
    let tensors = tensor_sizes(model, gpus, request);
    let mut layouts: Vec<Layout> = Vec::new();
    for pipeline in pipeline_sizes(model, request) {
        let widths = if layouts.is_empty() {
            tensors.as_slice()
        } else {
            widest(&tensors)
        };
        layouts.extend(
            widths
                .iter()
                .filter_map(|&tensor| place(tensor, pipeline, gpus, request)),
        );
    }
    if layouts.is_empty() {
        return Err(Unfit::NoLayout {
            model: model.name.clone(),
            gpus: gpus_of_node(gpus),
            overrides: describe(request),
        });
    }
    Ok(layouts)
}

/// Lists the tensor-parallel sizes up to `limit` that split the model's heads evenly, ascending.
fn even_splits(model: &Model, limit: u32) -> Vec<u32> {
    (1..=limit)
        .filter(|&size| splits_evenly(model, size))
        .collect()
}

/// Whether every rank gets the same number of attention heads, and of KV heads or copies of them (the engine asserts
/// both; a latent cache has no heads to split). Without a head count powers of two, which suit nearly every model.
fn splits_evenly(model: &Model, size: u32) -> bool {
    let attention = match model.attention_heads {
        0 => size.is_power_of_two(),
        heads => heads.is_multiple_of(size),
    };
    attention && splits_kv_heads(model, size)
}

fn splits_kv_heads(model: &Model, size: u32) -> bool {
    let heads = model.kv_heads;
    heads == 0
        || model.attention == Attention::Latent
        || heads.is_multiple_of(size)
        || size.is_multiple_of(heads)
}

fn tensor_sizes(model: &Model, gpus: &Gpus, request: &Request) -> Vec<u32> {
    if let Some(size) = request.tensor_parallel {
        return vec![size];
    }
    let mut sizes = even_splits(model, gpus_of_node(gpus));
    if let Some(fixed) = request.gpus_per_node {
        sizes.retain(|&size| fixed.is_multiple_of(size));
    }
    sizes
}

fn pipeline_sizes(model: &Model, request: &Request) -> std::ops::RangeInclusive<u32> {
    match request.pipeline_parallel {
        Some(size) => size..=size,
        None => 1..=memory::layer_count(model).min(MOST_STAGES),
    }
}

fn widest(tensors: &[u32]) -> &[u32] {
    tensors.split_at(tensors.len().saturating_sub(1)).1
}

/// Puts the parallel sizes onto the fewest nodes that match the fixed counts, each holding the same number of GPUs
/// and, unless the user fixed a wider one, whole tensor-parallel groups.
fn place(tensor: u32, pipeline: u32, gpus: &Gpus, request: &Request) -> Option<Layout> {
    let data = request.data_parallel.unwrap_or(1);
    let count = gpus_of_node(gpus);
    let total = u64::from(tensor)
        .checked_mul(u64::from(pipeline))?
        .checked_mul(u64::from(data))?;
    let total = u32::try_from(total)
        .ok()
        .filter(|&total| u64::from(total) <= MOST_GPUS)?;
    let suits = |&nodes: &u32| {
        let per_node = total / nodes;
        total.is_multiple_of(nodes)
            && per_node <= count
            && request.gpus_per_node.is_none_or(|fixed| fixed == per_node)
            && (per_node.is_multiple_of(tensor)
                || (tensor > per_node && tensor.is_multiple_of(per_node)))
            && (tensor <= per_node || request.tensor_parallel.is_some())
    };
    let nodes = match request.nodes {
        Some(fixed) => Some(fixed).filter(|&nodes| nodes <= total).filter(suits),
        None => (1..=total).find(suits),
    }?;
    Some(Layout {
        tensor,
        pipeline,
        data,
        nodes,
        gpus_per_node: total / nodes,
    })
}

/// Refuses fixed sizes with which no engine starts.
fn check(model: &Model, gpus: &Gpus, request: &Request) -> Result<(), Unfit> {
    at_least_one("node count", request.nodes)?;
    at_least_one("GPUs per node", request.gpus_per_node)?;
    at_least_one("tensor parallel", request.tensor_parallel)?;
    at_least_one("pipeline parallel", request.pipeline_parallel)?;
    at_least_one("data parallel", request.data_parallel)?;
    let count = gpus_of_node(gpus);
    if let Some(fixed) = request.gpus_per_node.filter(|&fixed| fixed > count) {
        return Err(invalid(
            "GPUs per node",
            fixed,
            format!("one node offers {count}"),
        ));
    }
    if let Some(stages) = request.pipeline_parallel {
        check_stages(model, stages)?;
    }
    match request.tensor_parallel {
        Some(size) => check_tensor(model, size, count),
        None => Ok(()),
    }
}

fn check_tensor(model: &Model, size: u32, count: u32) -> Result<(), Unfit> {
    // Of a model without a head count any size is believed.
    let attention = model.attention_heads.is_multiple_of(size);
    if attention && splits_kv_heads(model, size) {
        return Ok(());
    }
    Err(Unfit::TensorParallel {
        model: model.name.clone(),
        tensor_parallel: size,
        attention_heads: model.attention_heads,
        kv_heads: model.kv_heads,
        allowed: even_splits(model, count),
    })
}

fn check_stages(model: &Model, stages: u32) -> Result<(), Unfit> {
    if model.layers > 0 && stages > model.layers {
        let rule = format!(
            "{} has {} layers and a stage needs one",
            model.name, model.layers
        );
        return Err(invalid("pipeline parallel", stages, rule));
    }
    Ok(())
}

/// The fixed sizes in words.
fn describe(request: &Request) -> String {
    let fixed = [
        ("nodes", request.nodes),
        ("GPUs per node", request.gpus_per_node),
        ("tensor parallel", request.tensor_parallel),
        ("pipeline parallel", request.pipeline_parallel),
        ("data parallel", request.data_parallel),
    ];
    let words: Vec<_> = fixed
        .iter()
        .filter_map(|(name, value)| value.map(|value| format!("{name} {value}")))
        .collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpus(count: u32) -> Gpus {
        Gpus {
            model: "NVIDIA A100".into(),
            count,
            memory_bytes: 80 << 30,
        }
    }

    fn shapes(heads: u32, count: u32, request: &Request) -> Vec<(u32, u32, u32, u32)> {
        let model = Model {
            attention_heads: heads,
            layers: 4,
            distributed: true,
            ..Model::default()
        };
        candidates(&model, &gpus(count), request)
            .unwrap()
            .iter()
            .map(|l| (l.tensor, l.pipeline, l.nodes, l.gpus_per_node))
            .collect()
    }

    #[test]
    fn tensor_parallelism_grows_inside_the_node_before_stages_grow_over_nodes() {
        assert_eq!(
            shapes(64, 4, &Request::default()),
            [
                (1, 1, 1, 1),
                (2, 1, 1, 2),
                (4, 1, 1, 4),
                (4, 2, 2, 4),
                (4, 3, 3, 4),
                (4, 4, 4, 4)
            ]
        );
    }

    #[test]
    fn heads_that_do_not_divide_use_stages_inside_the_node() {
        assert_eq!(
            shapes(71, 2, &Request::default()),
            [(1, 1, 1, 1), (1, 2, 1, 2), (1, 3, 3, 1), (1, 4, 2, 2)]
        );
    }

    #[test]
    fn unknown_heads_are_split_by_powers_of_two() {
        let widths: Vec<_> = shapes(0, 6, &Request::default())
            .iter()
            .map(|l| l.0)
            .collect();
        assert_eq!(widths, [1, 2, 4, 4, 4, 4]);
    }

    #[test]
    fn kv_heads_are_split_or_copied_evenly() {
        let model = |kv_heads| Model {
            attention_heads: 96,
            kv_heads,
            ..Model::default()
        };
        assert_eq!(even_splits(&model(8), 8), [1, 2, 4, 8]);
        assert_eq!(even_splits(&model(2), 8), [1, 2, 4, 6, 8]);
        let latent = Model {
            attention: Attention::Latent,
            ..model(8)
        };
        assert_eq!(even_splits(&latent, 8), [1, 2, 3, 4, 6, 8]);
    }

    #[test]
    fn fixed_gpus_per_node_are_all_used() {
        let three = Request {
            gpus_per_node: Some(3),
            ..Request::default()
        };
        assert_eq!(shapes(64, 4, &three), [(1, 3, 1, 3)]);
        let two = Request {
            gpus_per_node: Some(2),
            ..Request::default()
        };
        assert_eq!(shapes(64, 4, &two).first(), Some(&(2, 1, 1, 2)));
    }

    #[test]
    fn fixed_nodes_each_get_a_stage() {
        let two = Request {
            nodes: Some(2),
            ..Request::default()
        };
        assert_eq!(shapes(64, 2, &two).first(), Some(&(1, 2, 2, 1)));
        let spanning = Request {
            nodes: Some(2),
            tensor_parallel: Some(8),
            ..Request::default()
        };
        assert_eq!(shapes(64, 4, &spanning).first(), Some(&(8, 1, 2, 4)));
    }

    #[test]
    fn data_parallel_replicas_sit_side_by_side_and_then_on_more_nodes() {
        let two = Request {
            data_parallel: Some(2),
            ..Request::default()
        };
        assert_eq!(
            shapes(64, 2, &two).get(..2),
            Some(&[(1, 1, 1, 2), (2, 1, 2, 2)][..])
        );
    }
}
