//! `kaito.sh/v1alpha1` Workspace: the older served form. Stored objects are v1beta1; only `apiVersion` is rewritten.
//!
//! Differences from v1beta1: `presetOptions.image` and `accessMode` take effect; no `resource.partition`, no
//! `presetOptions.modelAccessSecret`, no `status.performance`. KAITO gives `resource.instanceType` a default here; we
//! do not, because it would put an instance type on every object that means to run on existing nodes or to be bought
//! by price, and a default cannot be told from a wish.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::v1beta1::{
    self, AccessMode, AdapterSpec, DataDestination, DataSource, PlanStatus, SchedulingSpec,
    any_object, or_empty,
};

/// A model put to work: inference or tuning, and the GPUs it may use.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "kaito.sh",
    version = "v1alpha1",
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
    /// Requested node count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
    /// Cloud instance type; absent lets the scheduler choose by price.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,
    /// Labels put on bought nodes and required of existing ones.
    pub label_selector: LabelSelector,
    /// Without effect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preferred_nodes: Option<Vec<String>>,
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
    pub template: Option<k8s_openapi::api::core::v1::PodTemplateSpec>,
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
    /// Where the model image may be pulled from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_mode: Option<AccessMode>,
    /// Options of the preset.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preset_options: Option<PresetOptions>,
}

/// Options of a preset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PresetOptions {
    /// Private model image; required with access mode `private`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Pull secrets of that image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_pull_secrets: Option<Vec<String>>,
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

/// Observed state of a Workspace. `state`, `targetNodeCount` and `plan` are extensions of ours in this version, so
/// that its printer columns show them.
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
    /// What was decided and why. An extension of ours.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanStatus>,
}

impl From<Workspace> for v1beta1::Workspace {
    fn from(old: Workspace) -> Self {
        Self {
            metadata: old.metadata,
            spec: v1beta1::WorkspaceSpec {
                resource: old.spec.resource.into(),
                inference: old.spec.inference.map(Into::into),
                tuning: old.spec.tuning.map(Into::into),
                scheduling: old.spec.scheduling,
            },
            status: old.status.map(Into::into),
        }
    }
}

impl From<ResourceSpec> for v1beta1::ResourceSpec {
    fn from(old: ResourceSpec) -> Self {
        Self {
            count: old.count,
            instance_type: old.instance_type,
            label_selector: old.label_selector,
            preferred_nodes: old.preferred_nodes,
            partition: None,
            gpus: old.gpus,
            context_length: old.context_length,
            concurrency: old.concurrency,
        }
    }
}

impl From<InferenceSpec> for v1beta1::InferenceSpec {
    fn from(old: InferenceSpec) -> Self {
        Self {
            preset: old.preset.map(Into::into),
            template: old.template,
            config: old.config,
            adapters: old.adapters,
        }
    }
}

impl From<PresetSpec> for v1beta1::PresetSpec {
    fn from(old: PresetSpec) -> Self {
        Self {
            name: old.name,
            access_mode: old.access_mode,
            preset_options: old.preset_options.map(|options| v1beta1::PresetOptions {
                image: options.image,
                image_pull_secrets: options.image_pull_secrets,
                model_access_secret: None,
            }),
        }
    }
}

impl From<TuningSpec> for v1beta1::TuningSpec {
    fn from(old: TuningSpec) -> Self {
        Self {
            preset: old.preset.map(Into::into),
            method: old.method,
            config: old.config,
            input: old.input,
            output: old.output,
        }
    }
}

impl From<WorkspaceStatus> for v1beta1::WorkspaceStatus {
    fn from(old: WorkspaceStatus) -> Self {
        Self {
            worker_nodes: old.worker_nodes,
            state: old.state,
            target_node_count: old.target_node_count,
            conditions: old.conditions,
            performance: None,
            plan: old.plan,
        }
    }
}
