//! Desired children of a Workspace, in full. Pure: from the Workspace and its size to objects, nothing read.
//!
//! The Workspace is used for what it says and for owner references, never for its status.

pub mod engine;
pub mod inference;
pub mod native;
pub mod pod;
pub mod probes;
pub mod service;
pub mod supplies;
pub mod tuning;
pub mod weights;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kaito_api::{Workspace, names};
use kaito_snapshot::sizing::Sizing;
use kube::Resource;
use serde::Serialize;

/// Container port of the inference server.
pub const SERVER_PORT: i32 = 5000;
/// Service port of the inference server.
pub const SERVICE_PORT: i32 = 80;
/// Port of the rendezvous of several nodes.
pub const RENDEZVOUS_PORT: i32 = 29_500;

/// Images that children use.
#[derive(Clone, Debug)]
pub struct Images {
    /// GPU engine (vLLM), for example `mcr.microsoft.com/aks/kaito/kaito-base:0.5.0`.
    pub engine: String,
    /// Our own tools in pods: fetching data, pulling and pushing artifacts.
    pub tools: String,
    /// kaito-runtime, the server of the native runtime.
    pub runtime: String,
    /// The trainer (`image-builder/trainer`).
    pub trainer: String,
}

impl Default for Images {
    fn default() -> Self {
        Self {
            engine: "mcr.microsoft.com/aks/kaito/kaito-base:0.5.0".to_owned(),
            tools: "mcr.microsoft.com/aks/kaito/image-builder:0.1.0".to_owned(),
            runtime: "mcr.microsoft.com/aks/kaito/kaito-runtime:0.1.0".to_owned(),
            trainer: "mcr.microsoft.com/aks/kaito/kaito-trainer:0.1.0".to_owned(),
        }
    }
}

/// Which addresses data sets of tuning may be fetched from. They are named by whoever may create a Workspace, and asked
/// for by a pod inside of the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DataReach {
    /// The public internet: neither the cluster's own services nor a cloud's metadata service.
    #[default]
    Public,
    /// Every address that the pod can reach. Only for clusters whose users may ask each other's services anyway.
    Anywhere,
}

/// What children depend on besides the Workspace and its size.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// Images.
    pub images: Images,
    /// How images of weights and adapters reach pods.
    pub weights: weights::Delivery,
    /// Which addresses data sets may be fetched from.
    pub data_reach: DataReach,
    /// Version of the ConfigMap that the Workspace names; a new version rolls the pods.
    pub config_version: Option<String>,
}

/// The workload of a Workspace.
#[derive(Clone, Debug)]
pub enum Workload {
    /// Inference on one node.
    Deployment(Box<Deployment>),
    /// Inference over several nodes.
    StatefulSet(Box<StatefulSet>),
    /// Tuning.
    Job(Box<Job>),
}

/// Everything that should exist for a Workspace.
#[derive(Clone, Debug)]
pub struct Children {
    /// Services: the front, and the headless one where several nodes need to find each other.
    pub services: Vec<Service>,
    /// The workload.
    pub workload: Workload,
}

/// Builds the children of `workspace`.
#[must_use]
pub fn children(workspace: &Workspace, sizing: &Sizing, context: &Context) -> Children {
    if let Some(spec) = workspace.spec.tuning.as_ref() {
        let job = tuning::job(workspace, spec, sizing, context);
        return Children {
            services: Vec::new(),
            workload: Workload::Job(Box::new(sealed(job))),
        };
    }
    let template = inference::pod_template(workspace, sizing, context);
    let workload = if sizing.replicas > 1 {
        let set = inference::stateful_set(workspace, sizing, template);
        Workload::StatefulSet(Box::new(sealed(set)))
    } else {
        Workload::Deployment(Box::new(sealed(inference::deployment(
            workspace, sizing, template,
        ))))
    };
    let services = service::services(workspace, sizing)
        .into_iter()
        .map(sealed)
        .collect();
    Children { services, workload }
}

/// Name of the Workspace.
#[must_use]
pub fn name(workspace: &Workspace) -> String {
    workspace.metadata.name.clone().unwrap_or_default()
}

/// Labels that tie an object to its Workspace.
#[must_use]
pub fn labels(workspace: &Workspace) -> BTreeMap<String, String> {
    BTreeMap::from([(names::LABEL_WORKSPACE.to_owned(), name(workspace))])
}

/// Metadata of a child called `name`, owned by the Workspace.
#[must_use]
pub fn metadata(workspace: &Workspace, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: workspace.metadata.namespace.clone(),
        labels: Some(labels(workspace)),
        owner_references: owner(workspace).map(|owner| vec![owner]),
        ..ObjectMeta::default()
    }
}

fn owner(workspace: &Workspace) -> Option<OwnerReference> {
    workspace.controller_owner_ref(&())
}

/// The object with a hash of its content, by which a later look sees at once that nothing needs to be sent.
fn sealed<K: Resource + Serialize>(mut object: K) -> K {
    let content = serde_json::to_string(&object).unwrap_or_default();
    let hash = names::digest(&[&content], 16);
    object
        .meta_mut()
        .annotations
        .get_or_insert_default()
        .insert(names::ANNOTATION_CONTENT_HASH.to_owned(), hash);
    object
}

/// The content hash that an object carries.
#[must_use]
pub fn content_hash<K: Resource>(object: &K) -> Option<&str> {
    let annotations = object.meta().annotations.as_ref()?;
    annotations
        .get(names::ANNOTATION_CONTENT_HASH)
        .map(String::as_str)
}
