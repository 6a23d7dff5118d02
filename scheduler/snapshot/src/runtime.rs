//! Which engine serves a Workspace, and what the one without GPUs needs. Pure.

use kaito_api::catalogue::{Preset, Runtime};
use kaito_api::{Workspace, names};
use kaito_placement::snapshot::Resources;

use crate::sizing::{NodeMode, Surroundings, requested_type};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Memory of the native engine besides weights and cache: program, tokenizer, activations of a batch.
const NATIVE_BASE_BYTES: u64 = 256 * MIB;
/// Most memory that keys and values get by default.
const LARGEST_CACHE_BYTES: u64 = GIB;
/// Sequences of full length that the cache should hold.
const CACHED_SEQUENCES: u64 = 4;

/// The engine for `preset`. What the annotation names, else the native one where the preset is small enough for it
/// and no GPU is in sight: none asked for by instance type, and none among the user's nodes.
#[must_use]
pub fn choose(workspace: &Workspace, preset: &Preset, around: &Surroundings) -> Runtime {
    let annotations = workspace.metadata.annotations.as_ref();
    let asked = annotations.and_then(|all| all.get(names::ANNOTATION_RUNTIME));
    match asked.map(String::as_str) {
        Some("native") => Runtime::Native,
        Some("transformers") => Runtime::Transformers,
        Some(_) => Runtime::Vllm,
        None if preset.supports(Runtime::Native) && has_no_gpu(workspace, around) => {
            Runtime::Native
        }
        None => Runtime::Vllm,
    }
}

fn has_no_gpu(workspace: &Workspace, around: &Surroundings) -> bool {
    let own = around.has_own_nodes || around.mode == NodeMode::OwnNodes;
    own && around.own_gpus.is_empty() && requested_type(workspace).is_none()
}

/// Bytes for keys and values of the native engine: four sequences of full length, at most 1 GiB.
#[must_use]
pub fn native_cache_bytes(preset: &Preset) -> u64 {
    let sequence = preset.kv_bytes_per_token * u64::from(preset.context_length);
    (sequence * CACHED_SEQUENCES).clamp(64 * MIB, LARGEST_CACHE_BYTES)
}

/// CPU and memory that a pod of the native engine asks for: half a core for each half GiB of weights, at most four;
/// weights once, a quarter of them again while they are read, and the cache.
#[must_use]
pub fn native_requests(preset: &Preset) -> Resources {
    let weights = preset.weight_bytes;
    let memory = weights + weights / 4 + native_cache_bytes(preset) + NATIVE_BASE_BYTES;
    Resources {
        milli_cpu: (500 * weights.div_ceil(GIB / 2)).clamp(500, 4_000),
        memory_bytes: memory / MIB * MIB,
        ephemeral_bytes: 0,
        pods: 1,
        gpus: 0,
    }
}

/// CPU and memory of a tuning run without a GPU: one core at least; four times the weights for activations and the
/// optimiser's state at batch size 1, and 1.5 GiB for the libraries (measured with the trainer: 1.2 GiB in all for a
/// model of 0.25 GiB).
#[must_use]
pub fn native_tuning_requests(preset: &Preset) -> Resources {
    Resources {
        milli_cpu: native_requests(preset).milli_cpu.max(1_000),
        memory_bytes: (preset.weight_bytes * 4 + GIB + GIB / 2) / MIB * MIB,
        ..native_requests(preset)
    }
}

#[cfg(test)]
mod tests {
    use kaito_api::catalogue::{self, Runtime};
    use kaito_api::{Workspace, names};
    use kaito_placement::estimate::Gpus;

    use super::{choose, native_requests};
    use crate::sizing::{NodeMode, Surroundings};

    fn chosen(model: &str, runtime: Option<&str>, around: &Surroundings) -> Runtime {
        let mut workspace = Workspace::default();
        if let Some(runtime) = runtime {
            workspace
                .metadata
                .annotations
                .get_or_insert_default()
                .insert(names::ANNOTATION_RUNTIME.to_owned(), runtime.to_owned());
        }
        choose(&workspace, catalogue::preset(model).unwrap(), around)
    }

    fn cpu_nodes() -> Surroundings {
        Surroundings {
            has_own_nodes: true,
            ..Surroundings::default()
        }
    }

    #[test]
    fn a_small_preset_runs_natively_where_nodes_have_no_gpu() {
        let small = "smollm2-135m-instruct";
        assert_eq!(chosen(small, None, &cpu_nodes()), Runtime::Native);
        assert_eq!(chosen(small, None, &Surroundings::default()), Runtime::Vllm);
        let with_gpu = Surroundings {
            own_gpus: vec![Gpus {
                model: "NVIDIA A100".to_owned(),
                count: 1,
                memory_bytes: 80 << 30,
            }],
            mode: NodeMode::OwnNodes,
            ..cpu_nodes()
        };
        assert_eq!(chosen(small, None, &with_gpu), Runtime::Vllm);
        assert_eq!(chosen("phi-4", None, &cpu_nodes()), Runtime::Vllm);
    }

    #[test]
    fn the_annotation_wins() {
        let small = "smollm2-135m-instruct";
        let nowhere = Surroundings::default();
        assert_eq!(chosen(small, Some("native"), &nowhere), Runtime::Native);
        assert_eq!(chosen(small, Some("vllm"), &cpu_nodes()), Runtime::Vllm);
    }

    #[test]
    fn a_native_pod_asks_for_no_gpu_and_little_else() {
        let needs = native_requests(catalogue::preset("smollm2-135m-instruct").unwrap());
        assert_eq!((needs.gpus, needs.milli_cpu), (0, 500));
        assert!(needs.memory_bytes < 2 << 30);
    }
}
