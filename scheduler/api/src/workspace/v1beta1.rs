//! `kaito.sh/v1beta1` Workspace: KAITO's fields, and ours under `resource.*`, `scheduling` and `status.plan`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PodTemplateSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A model put to work: inference or tuning, and the GPUs it may use.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kaito.sh",
    version = "v1beta1",
    kind = "Workspace",
    plural = "workspaces",
    singular = "workspace",
    shortname = "wk",
    shortname = "wks",
    category = "workspace",
    namespaced,
    no_spec,
    status = "WorkspaceStatus",
    derive = "Default",
    derive = "PartialEq"
)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceSpec {
    /// GPU node request.
    #[serde(default)]
    pub resource: ResourceSpec,
    /// Inference workload; excludes tuning.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inference: Option<InferenceSpec>,
    /// Fine-tuning workload; excludes inference.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tuning: Option<TuningSpec>,
    /// How this Workspace competes for GPUs. An extension of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduling: Option<SchedulingSpec>,
}

/// GPU node request.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceSpec {
    /// Requested node count; deprecated, ignored for vLLM presets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
    /// Cloud instance type; absent lets the scheduler choose by price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,
    /// Labels put on bought nodes and required of existing ones.
    pub label_selector: LabelSelector,
    /// Deprecated; without effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferred_nodes: Option<Vec<String>>,
    /// GPU partition on existing nodes; immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<PartitionSpec>,
    /// GPUs per pod; overrides the estimate. An extension of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus: Option<u32>,
    /// Context length in tokens that the estimate must make room for. An extension of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u32>,
    /// Concurrent full-context requests that the estimate must make room for. An extension of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
}

/// GPU partition on existing nodes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PartitionSpec {
    /// Partition technique.
    pub mode: PartitionMode,
    /// MIG profile such as `1g.10gb`; mig mode only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// Whole GPUs to take, at least 1; accelerator mode only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
}

/// Partition technique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PartitionMode {
    /// A MIG slice.
    Mig,
    /// Some whole GPUs of the node.
    Accelerator,
}

/// How a Workspace competes for GPUs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SchedulingSpec {
    /// Higher goes first and has lower ones evicted; by default that of its pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i32>,
}

/// Inference workload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InferenceSpec {
    /// Model with built-in settings; excludes template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<PresetSpec>,
    /// Free pod template; excludes preset.
    #[serde(
        default,
        deserialize_with = "or_empty",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "any_object")]
    pub template: Option<PodTemplateSpec>,
    /// ConfigMap with key `inference_config.yaml`, same namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// LoRA adapters, ten at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapters: Option<Vec<AdapterSpec>>,
}

/// Model with built-in settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PresetSpec {
    /// Catalogue id, legacy alias or any `org/model` id.
    pub name: String,
    /// Image access; meaningful in v1alpha1 only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_mode: Option<AccessMode>,
    /// Options of the preset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset_options: Option<PresetOptions>,
}

/// Where the model image may be pulled from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AccessMode {
    /// Public image.
    Public,
    /// Private image, named in the options.
    Private,
}

/// Options of a preset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PresetOptions {
    /// Image with the model's weights, as image-builder makes it; with accessMode private, the whole server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Pull secrets of that image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_secrets: Option<Vec<String>>,
    /// Secret with key `HF_TOKEN` for gated models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_access_secret: Option<String>,
}

/// One LoRA adapter.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AdapterSpec {
    /// Origin of the adapter files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<DataSource>,
    /// Weight 0 to 1 as text, default `1.0`; transformers runtime only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strength: Option<String>,
}

/// Where data comes from: exactly one of `urls`, `image`, `volumeSource`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataSource {
    /// Name of the data set or adapter; immutable for tuning input.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Public http or https links to data files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub urls: Option<Vec<String>>,
    /// Image holding the files under `/data`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Pull secrets of the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_secrets: Option<Vec<String>>,
    /// Pod volume holding the files.
    #[serde(
        default,
        deserialize_with = "or_empty",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "any_object")]
    pub volume_source: Option<Volume>,
}

/// Where results go: exactly one of `image`, `volumeSource`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DataDestination {
    /// Image reference that the adapter is pushed to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Docker config secret for the push; required with image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_push_secret: Option<String>,
    /// Pod volume receiving the results.
    #[serde(
        default,
        deserialize_with = "or_empty",
        skip_serializing_if = "Option::is_none"
    )]
    #[schemars(schema_with = "any_object")]
    pub volume_source: Option<Volume>,
}

/// Fine-tuning workload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TuningSpec {
    /// Model to tune.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset: Option<PresetSpec>,
    /// `lora` or `qlora`, any case; immutable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// ConfigMap with key `training_config.yaml`, same namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<String>,
    /// Training data; exactly one source.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<DataSource>,
    /// Result destination; exactly one kind.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<DataDestination>,
}

/// Observed state of a Workspace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkspaceStatus {
    /// Names of the nodes that its pods run on or are pinned to, sorted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_nodes: Option<Vec<String>>,
    /// Pending, Ready, NotReady, Running, Succeeded or Failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Planned node count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_node_count: Option<i32>,
    /// Standard condition list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// Start-up benchmark results.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub performance: Option<PerformanceStatus>,
    /// What was decided and why. An extension of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanStatus>,
}

/// What the scheduler decided for a Workspace.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanStatus {
    /// Instance type chosen or given; absent for existing nodes of unknown type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,
    /// Pods (one per node).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// GPUs per pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpus_per_replica: Option<u32>,
    /// Tensor-parallel size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tensor_parallel: Option<u32>,
    /// Pipeline-parallel size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pipeline_parallel: Option<u32>,
    /// Largest context in tokens that fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_context: Option<u32>,
    /// Why: the estimate's terms in one sentence, or the true blocker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Start-up benchmark results.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PerformanceStatus {
    /// Metric name to measurement.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics: Option<BTreeMap<String, Metric>>,
}

/// One measurement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Metric {
    /// Measured value as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Unit, for example `tokens/min`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// Load pattern.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Benchmark parameters and engine details.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<BTreeMap<String, String>>,
}

/// Schema of a field whose content Kubernetes validates elsewhere: any object, nothing pruned.
pub(super) fn any_object(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "nullable": true,
        "x-kubernetes-preserve-unknown-fields": true,
    })
}

/// Reads a part whose content the schema leaves open. One that does not parse reads as empty: an error would fail the
/// whole list that the object came in, and with it every other Workspace.
pub(super) fn or_empty<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: serde::de::DeserializeOwned + Default,
{
    let value = Option::<serde_json::Value>::deserialize(deserializer)?;
    Ok(value.map(|value| serde_json::from_value(value).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::Workspace;

    #[test]
    fn a_template_that_is_no_pod_template_reads_as_an_empty_one() {
        let object = serde_json::json!({
            "apiVersion": "kaito.sh/v1beta1", "kind": "Workspace", "metadata": {"name": "a"},
            "resource": {"labelSelector": {}},
            "inference": {"template": {"spec": 5}},
        });
        let workspace: Workspace = serde_json::from_value(object).unwrap();
        let template = workspace.spec.inference.unwrap().template.unwrap();
        assert!(template.spec.is_none());
    }
}
