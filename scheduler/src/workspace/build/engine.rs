//! Command line of the inference engine (vLLM, or KAITO's transformers server), in a fixed order.

use kaito_api::{Workspace, names};
use kaito_snapshot::sizing::Sizing;

use super::name;

/// Port of the Ray head among the pods of a multi-node Workspace.
const RAY_PORT: u16 = 6379;

/// Where the engine keeps weights.
pub const WEIGHTS_PATH: &str = "/workspace/weights";
/// Where the engine configuration is mounted.
pub const CONFIG_PATH: &str = "/mnt/config";
/// Where adapters are mounted, one folder each; the engine image serves every folder that it finds here.
pub const ADAPTERS_PATH: &str = "/mnt/adapter";

/// Whether the Workspace asks for KAITO's transformers server instead of vLLM.
#[must_use]
pub fn is_transformers(workspace: &Workspace) -> bool {
    annotation(workspace, names::ANNOTATION_RUNTIME) == Some("transformers")
}

fn annotation<'a>(workspace: &'a Workspace, key: &str) -> Option<&'a str> {
    workspace
        .metadata
        .annotations
        .as_ref()?
        .get(key)
        .map(String::as_str)
}

/// The command of the server container.
#[must_use]
pub fn command(workspace: &Workspace, sizing: &Sizing) -> Vec<String> {
    let engine = if is_transformers(workspace) {
        transformers(workspace, sizing)
    } else {
        vllm(workspace, sizing)
    };
    if sizing.replicas > 1 {
        over_nodes(workspace, sizing, &engine)
    } else {
        engine
    }
}

fn transformers(workspace: &Workspace, sizing: &Sizing) -> Vec<String> {
    let mut command = strings(&[
        "accelerate",
        "launch",
        "--num_processes",
        "1",
        "/workspace/tfs/inference_api.py",
        "--pretrained_model_name_or_path",
    ]);
    command.push(model_id(workspace, sizing));
    command
}

fn vllm(workspace: &Workspace, sizing: &Sizing) -> Vec<String> {
    let model = model_id(workspace, sizing);
    let short = model.rsplit('/').next().unwrap_or(&model).to_lowercase();
    let mut command = strings(&["python3", "/workspace/vllm/inference_api.py"]);
    let mut flag = |key: &str, value: String| command.push(format!("--{key}={value}"));
    flag("model", model);
    flag("served-model-name", short);
    flag("download-dir", WEIGHTS_PATH.to_owned());
    if let Some(preset) = sizing.preset {
        if let Some(revision) = preset.revision.as_deref() {
            flag("revision", revision.to_owned());
        }
        let dtype = if preset.is_quantized() {
            "auto"
        } else {
            "bfloat16"
        };
        flag("dtype", dtype.to_owned());
    }
    if let Some(estimate) = sizing.estimate.as_ref() {
        flag("max-model-len", estimate.max_context.to_string());
        flag(
            "gpu-memory-utilization",
            format!("{:.2}", estimate.utilization),
        );
        flag("tensor-parallel-size", estimate.tensor_parallel.to_string());
        flag(
            "pipeline-parallel-size",
            estimate.pipeline_parallel.to_string(),
        );
        if estimate.data_parallel > 1 {
            flag("data-parallel-size", estimate.data_parallel.to_string());
        }
    } else if sizing.gpus > 0 {
        flag("tensor-parallel-size", sizing.gpus.to_string());
    }
    if sizing.replicas > 1 {
        flag("distributed-executor-backend", "ray".to_owned());
    }
    let mode = annotation(workspace, names::ANNOTATION_PERFORMANCE_MODE);
    if let Some(mode) = mode.filter(|mode| *mode != "balanced") {
        flag("performance-mode", mode.to_owned());
    }
    flag("port", super::SERVER_PORT.to_string());
    options(workspace, &mut command);
    command
}

fn options(workspace: &Workspace, command: &mut Vec<String>) {
    let inference = workspace.spec.inference.as_ref();
    if inference
        .and_then(|spec| spec.adapters.as_ref())
        .is_some_and(|list| !list.is_empty())
    {
        command.push("--enable-lora".to_owned());
    }
    if inference.is_some_and(|spec| spec.config.is_some()) {
        command.push(format!(
            "--kaito-config-file={CONFIG_PATH}/inference_config.yaml"
        ));
    }
}

/// The engine image's own script starts Ray as leader or worker by the pod's ordinal, then the engine on the leader.
fn over_nodes(workspace: &Workspace, sizing: &Sizing, engine: &[String]) -> Vec<String> {
    let name = name(workspace);
    let namespace = workspace.metadata.namespace.as_deref().unwrap_or_default();
    let leader = format!("{name}-0.{name}-headless.{namespace}.svc.cluster.local");
    let script = format!(
        "if [ \"$POD_INDEX\" = 0 ]; then /workspace/vllm/multi-node-serving.sh leader \
         --ray_cluster_size={} --ray_port={RAY_PORT} && exec \"$@\"; \
         else exec /workspace/vllm/multi-node-serving.sh worker --ray_address={leader} \
         --ray_port={RAY_PORT}; fi",
        sizing.replicas
    );
    let mut command = vec![
        "/bin/bash".to_owned(),
        "-c".to_owned(),
        script,
        "engine".to_owned(),
    ];
    command.extend(engine.iter().cloned());
    command
}

/// Hub id of the model: the catalogue's spelling, else the user's.
#[must_use]
pub fn model_id(workspace: &Workspace, sizing: &Sizing) -> String {
    sizing.preset.map_or_else(
        || {
            let inference = workspace.spec.inference.as_ref();
            let preset = inference.and_then(|spec| spec.preset.as_ref());
            preset.map(|preset| preset.name.clone()).unwrap_or_default()
        },
        |preset| preset.name.clone(),
    )
}

fn strings(parts: &[&str]) -> Vec<String> {
    parts.iter().map(|part| (*part).to_owned()).collect()
}
