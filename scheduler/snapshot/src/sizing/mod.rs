//! How big a Workspace is: pods, GPUs per pod, the instance type that decides it, and why.
//!
//! Sizing is a function of the Workspace, its engine configuration and the GPU shapes at hand, never of what is free:
//! a busy cluster must not change the shape of a workload that runs.

use kaito_api::catalogue::{self, Preset, Runtime};
use kaito_api::{Workspace, workspace::InferenceSpec};
use kaito_placement::estimate::{self, Estimate, Gpus, Model, Request};
use kaito_placement::snapshot::{Purchase, Resources};

use self::tuning::size_tuning;
pub use self::views::{gpus, instance_type, model};
use crate::runtime;

mod tuning;
mod views;

const GIB: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// Oldest compute capability (times ten) that the engine runs on at all (vLLM's installation page: 7.0).
const OLDEST_COMPUTE_CAPABILITY: u32 = 70;
/// Oldest compute capability (times ten) with bfloat16, which unquantised presets are served in.
const BFLOAT16_COMPUTE_CAPABILITY: u32 = 80;

/// Where nodes come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeMode {
    /// Existing nodes first, bought ones when none fits.
    #[default]
    Auto,
    /// Existing nodes only.
    OwnNodes,
}

/// What the size depends on besides the Workspace.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Where nodes come from.
    pub mode: NodeMode,
    /// Distinct GPU shapes of existing nodes that match the Workspace's labels, in name order of their nodes.
    pub own_gpus: Vec<Gpus>,
    /// Whether any existing node matches the Workspace's labels, with GPUs or without.
    pub has_own_nodes: bool,
    /// `max-model-len` of the engine configuration, tokens.
    pub max_model_len: Option<u32>,
}

/// The size of a Workspace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sizing {
    /// Catalogue entry of the model; absent for templates and models outside the catalogue.
    pub preset: Option<&'static Preset>,
    /// Engine that serves it; means nothing for templates and tuning.
    pub runtime: Runtime,
    /// Pods, one per node.
    pub replicas: u32,
    /// GPUs per pod.
    pub gpus: u32,
    /// The memory account behind it; absent where nothing is known of the model.
    pub estimate: Option<Estimate>,
    /// Instance type that the pods need, canonical spelling; absent: any with enough GPU memory.
    pub instance_type: Option<String>,
    /// Product of the GPUs that the size was worked out for; empty if unknown.
    pub gpu_model: String,
    /// Least nominal memory per GPU in bytes; 0 if any will do.
    pub gpu_memory_bytes: u64,
    /// What may be bought.
    pub purchase: Purchase,
    /// Bytes of weights; 0 if unknown.
    pub weight_bytes: u64,
    /// CPU and memory that each pod asks for.
    pub requests: Resources,
    /// Why this size, one sentence.
    pub explanation: String,
    /// What overrides risk.
    pub warnings: Vec<String>,
}

/// Why a Workspace cannot be sized. Terminal until it is changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither inference nor tuning.
    #[error("the Workspace has neither inference nor tuning; add one")]
    NoWorkload,
    /// Not in the catalogue.
    #[error(
        "instance type {0:?} is not in the table, so its GPUs are unknown; name one of the table, or leave it out"
    )]
    UnknownInstanceType(String),
    /// No weights known for it.
    #[error("model {0:?} is not in the catalogue; name an instance type and set resource.gpus")]
    UnknownModel(String),
    /// The named type, or the user's nodes, cannot hold it.
    #[error("{model} does not fit {place}")]
    Unfit {
        /// Model.
        model: String,
        /// Instance type or nodes.
        place: String,
        /// Numbers and remedy.
        #[source]
        source: estimate::Unfit,
    },
    /// No type of the table can hold it.
    #[error("{0} fits no instance type of the table; ask for a smaller context")]
    NothingFits(String),
}

/// Sizes a Workspace.
///
/// # Errors
/// [`Error`] when it cannot run as written on anything that is known.
pub fn size(workspace: &Workspace, around: &Surroundings) -> Result<Sizing, Error> {
    let mut sizing = match (&workspace.spec.inference, &workspace.spec.tuning) {
        (Some(inference), _) => size_inference(workspace, inference, around)?,
        (None, Some(tuning)) => size_tuning(workspace, tuning, around)?,
        (None, None) => return Err(Error::NoWorkload),
    };
    sizing.purchase = match around.mode {
        NodeMode::OwnNodes => Purchase::Never,
        NodeMode::Auto if requested_type(workspace).is_some() => Purchase::Fixed,
        NodeMode::Auto => Purchase::Cheapest,
    };
    if sizing.requests == Resources::default() {
        sizing.requests = requests(&sizing);
    }
    Ok(sizing)
}

/// The instance type that the user names; an empty text counts as absent.
#[must_use]
pub fn requested_type(workspace: &Workspace) -> Option<&str> {
    workspace
        .spec
        .resource
        .instance_type
        .as_deref()
        .filter(|name| !name.is_empty())
}

fn size_inference(
    workspace: &Workspace,
    inference: &InferenceSpec,
    around: &Surroundings,
) -> Result<Sizing, Error> {
    let Some(preset) = inference.preset.as_ref() else {
        return Ok(size_template(workspace, inference));
    };
    match catalogue::preset(&preset.name) {
        Some(known) => size_known(workspace, known, around),
        None => size_unknown(workspace, &preset.name),
    }
}

fn size_known(
    workspace: &Workspace,
    preset: &'static Preset,
    around: &Surroundings,
) -> Result<Sizing, Error> {
    let runtime = runtime::choose(workspace, preset, around);
    if runtime == Runtime::Native {
        return Ok(size_native(workspace, preset));
    }
    let sizing = size_on_gpus(workspace, preset, around)?;
    Ok(Sizing { runtime, ..sizing })
}

/// The native engine needs no GPU, and one pod.
fn size_native(workspace: &Workspace, preset: &'static Preset) -> Sizing {
    Sizing {
        preset: Some(preset),
        runtime: Runtime::Native,
        replicas: 1,
        instance_type: requested_type(workspace).map(canonical),
        weight_bytes: preset.weight_bytes,
        requests: runtime::native_requests(preset),
        explanation: format!("{} is small enough to be served by CPUs", preset.name),
        ..Sizing::default()
    }
}

fn size_on_gpus(
    workspace: &Workspace,
    preset: &'static Preset,
    around: &Surroundings,
) -> Result<Sizing, Error> {
    let model = model(preset);
    let request = request(workspace, around);
    if let Some(name) = requested_type(workspace) {
        let info = catalogue::instance_type(name)
            .ok_or_else(|| Error::UnknownInstanceType(name.to_owned()))?;
        let shape = gpus(info);
        let found = fit(&model, &shape, &request, &info.name)?;
        return Ok(sized(preset, &shape, found, Some(info.name.clone())));
    }
    let mut refused = None;
    for shape in &around.own_gpus {
        match fit(&model, shape, &request, "the nodes that match its labels") {
            Ok(found) => return Ok(sized(preset, shape, found, None)),
            Err(error) => refused = Some(error),
        }
    }
    match (around.mode, refused) {
        (NodeMode::OwnNodes, Some(error)) => Err(error),
        _ => cheapest(preset, &model, &request),
    }
}

fn fit(model: &Model, shape: &Gpus, request: &Request, place: &str) -> Result<Estimate, Error> {
    estimate::estimate(model, shape, request).map_err(|source| Error::Unfit {
        model: model.name.clone(),
        place: place.to_owned(),
        source,
    })
}

/// The cheapest priced type by whole nodes, then by GPUs, then by name. An unquantised model wants bfloat16.
fn cheapest(preset: &'static Preset, model: &Model, request: &Request) -> Result<Sizing, Error> {
    let oldest = if model.quantized {
        OLDEST_COMPUTE_CAPABILITY
    } else {
        BFLOAT16_COMPUTE_CAPABILITY
    };
    catalogue::instance_types()
        .iter()
        .filter(|info| info.can_be_bought() && info.compute_capability >= oldest)
        .filter_map(|info| {
            let price = info.price_micro_dollars?;
            let shape = gpus(info);
            let found = estimate::estimate(model, &shape, request).ok()?;
            let cost = price.saturating_mul(u64::from(found.nodes));
            Some((
                (cost, found.gpus_per_node, info.name.as_str()),
                shape,
                found,
            ))
        })
        .min_by(|left, right| left.0.cmp(&right.0))
        .map(|(_, shape, found)| sized(preset, &shape, found, None))
        .ok_or_else(|| Error::NothingFits(model.name.clone()))
}

fn sized(
    preset: &'static Preset,
    shape: &Gpus,
    found: Estimate,
    instance_type: Option<String>,
) -> Sizing {
    Sizing {
        preset: Some(preset),
        replicas: found.nodes.max(1),
        gpus: found.gpus_per_node,
        instance_type,
        gpu_model: shape.model.clone(),
        gpu_memory_bytes: shape.memory_bytes,
        weight_bytes: preset.weight_bytes,
        explanation: found.explanation.clone(),
        warnings: found.warnings.clone(),
        estimate: Some(found),
        ..Sizing::default()
    }
}

/// What the user and the engine configuration ask for.
#[must_use]
pub fn request(workspace: &Workspace, around: &Surroundings) -> Request {
    let resource = &workspace.spec.resource;
    Request {
        context: resource.context_length.or(around.max_model_len),
        concurrency: resource.concurrency,
        gpus_per_node: resource.gpus,
        ..Request::default()
    }
}

/// A model outside the catalogue takes whole nodes of the named type unless `resource.gpus` says otherwise: nothing
/// is known of its memory.
fn size_unknown(workspace: &Workspace, name: &str) -> Result<Sizing, Error> {
    let asked = requested_type(workspace).ok_or_else(|| Error::UnknownModel(name.to_owned()))?;
    let info = catalogue::instance_type(asked)
        .ok_or_else(|| Error::UnknownInstanceType(asked.to_owned()))?;
    let gpus = workspace.spec.resource.gpus.unwrap_or(info.gpu_count);
    Ok(Sizing {
        replicas: node_count(workspace),
        gpus,
        instance_type: Some(info.name.clone()),
        gpu_model: info.gpu_model.clone(),
        gpu_memory_bytes: u64::from(info.gpu_memory_gib) * GIB,
        explanation: format!(
            "{name} is not in the catalogue, so it takes {gpus} GPUs of each {} without an estimate",
            info.name
        ),
        ..Sizing::default()
    })
}

fn node_count(workspace: &Workspace) -> u32 {
    workspace
        .spec
        .resource
        .count
        .and_then(|count| u32::try_from(count).ok())
        .unwrap_or(1)
        .max(1)
}

fn size_template(workspace: &Workspace, inference: &InferenceSpec) -> Sizing {
    let needs = inference
        .template
        .as_ref()
        .and_then(|template| template.spec.as_ref())
        .map(crate::pod::resources)
        .unwrap_or_default();
    let gpus = u32::try_from(needs.gpus).unwrap_or(u32::MAX);
    Sizing {
        replicas: node_count(workspace),
        gpus,
        instance_type: requested_type(workspace).map(canonical),
        requests: needs,
        explanation: format!("the pod template asks for {gpus} GPUs"),
        ..Sizing::default()
    }
}

fn canonical(name: &str) -> String {
    catalogue::instance_type(name).map_or_else(|| name.to_owned(), |info| info.name.clone())
}

/// CPU and memory of a pod: enough to load and serve, never more than 80 % of its GPUs' share of the node, so that
/// every GPU of a node can be used. Memory grows with the weights because loading goes through host memory.
fn requests(sizing: &Sizing) -> Resources {
    let gpus = u64::from(sizing.gpus.max(1));
    let wanted_cpu = 2_000 * gpus;
    let wanted_memory = 4 * GIB + sizing.weight_bytes / 4;
    let named = sizing
        .instance_type
        .as_deref()
        .and_then(catalogue::instance_type);
    let (share_cpu, share_memory) = named.map_or((wanted_cpu, wanted_memory), |info| {
        let count = u64::from(info.gpu_count.max(1));
        (
            u64::from(info.vcpu) * 800 * gpus / count,
            u64::from(info.memory_gib) * GIB / 10 * 8 * gpus / count,
        )
    });
    Resources {
        milli_cpu: wanted_cpu.min(share_cpu),
        memory_bytes: wanted_memory.min(share_memory) / MIB * MIB,
        ephemeral_bytes: 0,
        pods: 1,
        gpus: u64::from(sizing.gpus),
    }
}
