//! The answer as one JSON or YAML document. Fields are only ever added within a version.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::view::document::document;

use super::choice::{Answer, Choice, Rejected};
use super::question::Question;
use super::text;

const GIB: f64 = 1_073_741_824.0;

/// One layout.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Layout {
    instance_type: String,
    gpu: String,
    nodes: u32,
    gpus_per_node: u32,
    tensor_parallel: u32,
    pipeline_parallel: u32,
    data_parallel: u32,
    #[serde(rename = "memoryPerGpuGiB")]
    memory_per_gpu: Memory,
    gpu_memory_utilization: f64,
    context: u32,
    max_context: u32,
    max_concurrency: u32,
    price_per_hour: Option<f64>,
    share_price_per_hour: Option<f64>,
    explanation: String,
    warnings: Vec<String>,
}

/// Memory of the tightest GPU, GiB.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    weights: f64,
    kv_cache: f64,
    overhead: f64,
    free: f64,
}

/// The document of an answer.
#[must_use]
pub fn answer(question: &Question, answer: &Answer, now: Timestamp) -> Value {
    let mut fields = Map::new();
    fields.insert("model".to_owned(), json!(question.model.name));
    fields.insert("fits".to_owned(), json!(!answer.choices.is_empty()));
    match answer.choices.as_slice() {
        [] => {
            fields.insert("reason".to_owned(), json!(text::reason(question, answer)));
        }
        [only] if question.is_single() => {
            if let Value::Object(layout) = json!(layout(only)) {
                fields.extend(layout);
            }
        }
        several => {
            let shown: Vec<Layout> = several.iter().take(question.top).map(layout).collect();
            fields.insert("choices".to_owned(), json!(shown));
        }
    }
    if question.named && !answer.rejected.is_empty() {
        let rejected: Vec<Value> = answer.rejected.iter().map(rejected).collect();
        fields.insert("rejected".to_owned(), json!(rejected));
    }
    document("Plan", now, &Value::Object(fields))
}

fn rejected(item: &Rejected) -> Value {
    json!({"instanceType": item.info.name, "reason": item.reason.to_string()})
}

/// The public form of a choice.
#[must_use]
pub fn layout(choice: &Choice) -> Layout {
    let estimate = &choice.estimate;
    let memory = &estimate.memory_per_gpu;
    Layout {
        instance_type: choice.info.name.clone(),
        gpu: choice.info.gpu_model.clone(),
        nodes: estimate.nodes,
        gpus_per_node: estimate.gpus_per_node,
        tensor_parallel: estimate.tensor_parallel,
        pipeline_parallel: estimate.pipeline_parallel,
        data_parallel: estimate.data_parallel,
        memory_per_gpu: Memory {
            weights: gib(memory.weights),
            kv_cache: gib(memory.kv_cache),
            overhead: gib(memory.overhead),
            free: gib(memory.free),
        },
        gpu_memory_utilization: estimate.utilization,
        context: estimate.context,
        max_context: estimate.max_context,
        max_concurrency: estimate.max_concurrency,
        price_per_hour: choice.price_micro_dollars().map(dollars),
        share_price_per_hour: choice.share_micro_dollars().map(dollars),
        explanation: estimate.explanation.clone(),
        warnings: choice.warnings.clone(),
    }
}

/// Bytes as GiB to three decimals.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "three decimals of a GiB need far fewer than 53 bits"
)]
pub fn gib(bytes: u64) -> f64 {
    (bytes as f64 / GIB * 1000.0).round() / 1000.0
}

/// Micro-dollars as dollars.
#[must_use]
#[expect(
    clippy::cast_precision_loss,
    reason = "prices are below a billion dollars"
)]
pub fn dollars(micro: u64) -> f64 {
    micro as f64 / 1e6
}
