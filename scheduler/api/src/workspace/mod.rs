//! The Workspace: one model put to work, as `v1beta1` (stored) and `v1alpha1` (served).

pub mod v1alpha1;
pub mod v1beta1;

pub use v1beta1::{
    AccessMode, AdapterSpec, DataDestination, DataSource, InferenceSpec, Metric, PartitionMode,
    PartitionSpec, PerformanceStatus, PlanStatus, PresetOptions, PresetSpec, ResourceSpec,
    SchedulingSpec, TuningSpec, Workspace, WorkspaceSpec, WorkspaceStatus,
};
