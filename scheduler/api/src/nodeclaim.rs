//! Karpenter's NodeClaim (`karpenter.sh/v1`): the request for one node, made by the scheduler and served by a
//! provisioner. Field rules: karpenter.sh v1 API.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Condition: the cloud accepted the machine.
pub const LAUNCHED: &str = "Launched";
/// Condition: the node has joined.
pub const REGISTERED: &str = "Registered";
/// Condition: the node is ready and shows its resources.
pub const INITIALIZED: &str = "Initialized";
/// Condition: all three.
pub const READY: &str = "Ready";
/// Reason on [`LAUNCHED`] of a claim that is given up for lack of capacity or quota.
pub const INSUFFICIENT_CAPACITY: &str = "InsufficientCapacity";

/// Request for one node.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "karpenter.sh",
    version = "v1",
    kind = "NodeClaim",
    plural = "nodeclaims",
    singular = "nodeclaim",
    category = "karpenter",
    status = "NodeClaimStatus",
    derive = "Default",
    derive = "PartialEq",
    printcolumn = r#"{"name":"Type","type":"string","jsonPath":".metadata.labels.node\\.kubernetes\\.io/instance-type"}"#,
    printcolumn = r#"{"name":"Capacity","type":"string","jsonPath":".metadata.labels.karpenter\\.sh/capacity-type"}"#,
    printcolumn = r#"{"name":"Zone","type":"string","jsonPath":".metadata.labels.topology\\.kubernetes\\.io/zone"}"#,
    printcolumn = r#"{"name":"Node","type":"string","jsonPath":".status.nodeName"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct NodeClaimSpec {
    /// Provider configuration; also selects the provisioner.
    pub node_class_ref: NodeClassReference,
    /// Constraints on the node's labels, all of which must hold.
    pub requirements: Vec<Requirement>,
    /// Minimum that the node must offer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<ResourceRequests>,
    /// Put on the node at registration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taints: Option<Vec<Taint>>,
    /// Put on the node; removed by somebody else; they block Initialized.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub startup_taints: Option<Vec<Taint>>,
    /// Longest life from creation, a Go duration or `Never`; the default is `720h`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expire_after: Option<String>,
    /// Longest drain, a Go duration; absent is unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub termination_grace_period: Option<String>,
}

/// Reference to provider configuration; all three parts are required and non-empty.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeClassReference {
    /// API group, without a slash.
    pub group: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// One constraint on a node label.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// In, NotIn, Exists, DoesNotExist, Gt, Lt, Gte or Lte.
    pub operator: String,
    /// Values for the operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub values: Option<Vec<String>>,
    /// Fewest distinct values the launch must keep open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_values: Option<i32>,
}

/// Minimum resources.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceRequests {
    /// Resource name to quantity.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<BTreeMap<String, Quantity>>,
}

/// Observed state of a NodeClaim.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeClaimStatus {
    /// Cloud id of the machine, equal to the node's `spec.providerID`.
    #[serde(rename = "providerID", skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
    /// Image of the machine.
    #[serde(rename = "imageID", skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    /// Name of the node once registered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// What the instance type has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<BTreeMap<String, Quantity>>,
    /// What pods can use of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocatable: Option<BTreeMap<String, Quantity>>,
    /// Launched, Registered, Initialized, Ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub conditions: Option<Vec<Condition>>,
    /// When a pod was last bound, ended or began to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_pod_event_time: Option<String>,
}

impl NodeClaim {
    /// Instance type that the claim asks for: the single value of its instance-type requirement, else its label.
    #[must_use]
    pub fn instance_type(&self) -> Option<&str> {
        let key = crate::names::LABEL_INSTANCE_TYPE;
        self.spec
            .requirements
            .iter()
            .find(|requirement| requirement.key == key && requirement.operator == "In")
            .and_then(|requirement| requirement.values.as_deref())
            .and_then(|values| values.first())
            .or_else(|| {
                self.metadata
                    .labels
                    .as_ref()
                    .and_then(|labels| labels.get(key))
            })
            .map(String::as_str)
    }

    /// Conditions, empty before the first status write.
    #[must_use]
    pub fn conditions(&self) -> &[Condition] {
        self.status
            .as_ref()
            .and_then(|status| status.conditions.as_deref())
            .unwrap_or_default()
    }
}
