//! Messages of kubelet's device plugin interface, version v1beta1, as far as this plugin uses them.
//!
//! Field numbers are those of `api.proto` in module k8s.io/kubelet v0.36.3; fields that are left out are ignored by
//! either end.

use std::collections::HashMap;

/// Nothing.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct Empty {}

/// What kubelet has to call besides the obligatory: nothing.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct Options {}

/// Announces a plugin.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct RegisterRequest {
    /// Of the interface.
    #[prost(string, tag = "1")]
    pub(super) version: String,
    /// File name of the plugin's socket.
    #[prost(string, tag = "2")]
    pub(super) endpoint: String,
    /// Such as `nvidia.com/gpu`.
    #[prost(string, tag = "3")]
    pub(super) resource_name: String,
    /// See [`Options`].
    #[prost(message, optional, tag = "4")]
    pub(super) options: Option<Options>,
}

/// All devices of a plugin.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct ListAndWatchResponse {
    /// In any order.
    #[prost(message, repeated, tag = "1")]
    pub(super) devices: Vec<Device>,
}

/// One device.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct Device {
    /// At most 63 characters.
    #[prost(string, tag = "1")]
    pub(super) id: String,
    /// `Healthy` or `Unhealthy`.
    #[prost(string, tag = "2")]
    pub(super) health: String,
}

/// Asks for devices that kubelet has chosen.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct AllocateRequest {
    /// One per container.
    #[prost(message, repeated, tag = "1")]
    pub(super) containers: Vec<ContainerRequest>,
}

/// Devices of one container.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct ContainerRequest {
    /// Their ids.
    #[prost(string, repeated, tag = "1")]
    pub(super) devices: Vec<String>,
}

/// Says what containers need to use their devices.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct AllocateResponse {
    /// One per container, in the order of the request.
    #[prost(message, repeated, tag = "1")]
    pub(super) containers: Vec<ContainerResponse>,
}

/// What one container needs.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct ContainerResponse {
    /// Environment variables.
    #[prost(map = "string, string", tag = "1")]
    pub(super) variables: HashMap<String, String>,
}
