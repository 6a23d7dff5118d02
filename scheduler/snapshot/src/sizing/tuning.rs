//! How big a tuning run is: one node, as few of its GPUs as hold base weights, adapter and optimiser.

use kaito_api::catalogue::{self, InstanceTypeInfo, Runtime};
use kaito_api::{Workspace, workspace::TuningSpec};
use kaito_placement::estimate::Gpus;

use super::{
    Error, GIB, OLDEST_COMPUTE_CAPABILITY, Sizing, Surroundings, gpus, requested_type, size_native,
};
use crate::runtime;

/// GPUs for tuning on one node: base weights (NF4 keeps about 0.3 of bfloat16 with its constants and the unquantised
/// embeddings) plus activations, adapter and optimiser state at batch size 1, spread over as few GPUs as hold it.
pub(super) fn size_tuning(
    workspace: &Workspace,
    tuning: &TuningSpec,
    around: &Surroundings,
) -> Result<Sizing, Error> {
    let name = tuning
        .preset
        .as_ref()
        .map(|preset| preset.name.as_str())
        .unwrap_or_default();
    let preset = catalogue::preset(name).ok_or_else(|| Error::UnknownModel(name.to_owned()))?;
    if runtime::choose(workspace, preset, around) == Runtime::Native {
        return Ok(Sizing {
            requests: runtime::native_tuning_requests(preset),
            explanation: format!("{} is small enough to be tuned by CPUs", preset.name),
            ..size_native(workspace, preset)
        });
    }
    let quantized = tuning
        .method
        .as_deref()
        .is_some_and(|m| m.eq_ignore_ascii_case("qlora"));
    let (share, extra) = if quantized {
        (3, 6 * GIB)
    } else {
        (11, 8 * GIB)
    };
    let needed = preset.weight_bytes / 10 * share + extra;
    let shapes = tuning_shapes(workspace, around)?;
    let chosen = shapes.into_iter().find_map(|(shape, info)| {
        let usable = shape.memory_bytes / 100 * 95;
        let gpus = u32::try_from(needed.div_ceil(usable.max(1))).ok()?;
        (gpus <= shape.count).then_some((shape, info, gpus))
    });
    let (shape, info, gpus) = chosen.ok_or_else(|| Error::NothingFits(preset.name.clone()))?;
    let gpus = workspace.spec.resource.gpus.unwrap_or(gpus);
    Ok(Sizing {
        preset: Some(preset),
        replicas: 1,
        gpus,
        instance_type: requested_type(workspace)
            .and(info)
            .map(|info| info.name.clone()),
        gpu_model: shape.model.clone(),
        gpu_memory_bytes: shape.memory_bytes,
        weight_bytes: preset.weight_bytes,
        explanation: format!(
            "tuning {} needs about {} GiB: {gpus} × {} GiB",
            preset.name,
            needed.div_ceil(GIB),
            shape.memory_bytes / GIB
        ),
        ..Sizing::default()
    })
}

type Shape = (Gpus, Option<&'static InstanceTypeInfo>);

/// Shapes that a tuning run may take, in order of preference.
fn tuning_shapes(workspace: &Workspace, around: &Surroundings) -> Result<Vec<Shape>, Error> {
    if let Some(name) = requested_type(workspace) {
        let info = catalogue::instance_type(name)
            .ok_or_else(|| Error::UnknownInstanceType(name.to_owned()))?;
        return Ok(vec![(gpus(info), Some(info))]);
    }
    let own = around.own_gpus.iter().map(|shape| (shape.clone(), None));
    let mut priced: Vec<_> = catalogue::instance_types()
        .iter()
        .filter(|info| info.can_be_bought())
        .filter(|info| info.compute_capability >= OLDEST_COMPUTE_CAPABILITY)
        .filter_map(|info| Some((info.price_micro_dollars?, info)))
        .collect();
    priced.sort_by_key(|(price, info)| (*price, info.name.clone()));
    let bought = priced.into_iter().map(|(_, info)| (gpus(info), Some(info)));
    Ok(own.chain(bought).collect())
}
