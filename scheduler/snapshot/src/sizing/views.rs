//! The catalogue's entries as the estimator and the planner want them. Nothing is chosen here.

use kaito_api::catalogue::{InstanceTypeInfo, Preset};
use kaito_placement::estimate::{Attention, Gpus, Model};
use kaito_placement::snapshot::{InstanceType, Resources};

use super::{GIB, MIB};

/// The estimator's view of a preset. A catalogue entry without heads or layers passes zeros, which mean unknown.
#[must_use]
pub fn model(preset: &Preset) -> Model {
    Model {
        name: preset.name.clone(),
        weight_bytes: preset.weight_bytes,
        kv_bytes_per_token: preset.kv_bytes_per_token,
        context_limit: preset.context_length,
        attention_heads: preset.attention_heads,
        kv_heads: preset.kv_heads,
        layers: preset.layers,
        attention: if preset.kv_lora_rank > 0 {
            Attention::Latent
        } else {
            Attention::Heads
        },
        quantized: preset.is_quantized(),
        distributed: true,
    }
}

/// The estimator's view of an instance type.
#[must_use]
pub fn gpus(info: &InstanceTypeInfo) -> Gpus {
    Gpus {
        model: info.gpu_model.clone(),
        count: info.gpu_count,
        memory_bytes: u64::from(info.gpu_memory_gib) * GIB,
    }
}

/// The planner's view of an instance type. Reserved for the system: 140 millicores and 1 % of CPU, 750 MiB and 5 %
/// of memory, after AKS' published reservations; 110 pods; ephemeral storage as the claim asks for (1 TiB).
#[must_use]
pub fn instance_type(info: &InstanceTypeInfo) -> InstanceType {
    let cpu = u64::from(info.vcpu) * 1_000;
    let memory = u64::from(info.memory_gib) * GIB;
    InstanceType {
        name: info.name.clone(),
        gpu_model: info.gpu_model.clone(),
        gpu_memory_bytes: u64::from(info.gpu_memory_gib) * GIB,
        compute_capability: info.compute_capability,
        allocatable: Resources {
            milli_cpu: cpu.saturating_sub(140 + cpu / 100),
            memory_bytes: memory.saturating_sub(750 * MIB + memory / 20),
            ephemeral_bytes: 1024 * GIB / 100 * 85,
            pods: 110,
            gpus: u64::from(info.gpu_count),
        },
        price_micro_dollars: info.price_micro_dollars,
        ..InstanceType::default()
    }
}
