//! The Workspace CRD: v1beta1 stored, v1alpha1 served.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition,
};
use kube::CustomResourceExt as _;
use kube::core::crd::merge_crds;
use serde_json::{Value, json};

use super::Error;
use super::limits::{WORKSPACE, WORKSPACE_BETA};
use super::schema::{clean, enforce, limit};
use crate::conditions::{INFERENCE_READY, JOB_STARTED, RESOURCE_READY, WORKSPACE_READY};
use crate::rules::rules;
use crate::workspace::{Workspace, v1alpha1};

/// The Workspace CRD.
///
/// # Errors
/// Only when a table of this crate is wrong; its tests would show that.
pub fn workspace_crd() -> Result<CustomResourceDefinition, Error> {
    let stored = edited(Workspace::crd())?;
    let served = edited(v1alpha1::Workspace::crd())?;
    let mut definition =
        merge_crds(vec![stored, served], "v1beta1").map_err(|source| Error::Merge {
            kind: "Workspace",
            source,
        })?;
    definition
        .spec
        .versions
        .sort_by(|left, right| left.name.cmp(&right.name));
    Ok(definition)
}

/// `definition`, which has one version, with limits, rules and columns.
fn edited(mut definition: CustomResourceDefinition) -> Result<CustomResourceDefinition, Error> {
    for version in &mut definition.spec.versions {
        version.additional_printer_columns = Some(columns());
        let Some(validation) = &mut version.schema else {
            continue;
        };
        let mut schema =
            serde_json::to_value(&validation.open_api_v3_schema).map_err(Error::Shape)?;
        edit(&mut schema, &version.name)?;
        validation.open_api_v3_schema = serde_json::from_value(schema).map_err(Error::Shape)?;
    }
    Ok(definition)
}

fn edit(schema: &mut Value, version: &str) -> Result<(), Error> {
    clean(schema);
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        // All that a CRD may say about metadata; without a bound the rule over the name is refused for its cost.
        let name = json!({"type": "object", "properties": {"name": {"type": "string"}}});
        properties.insert("metadata".to_owned(), name);
    }
    limit(schema, version, WORKSPACE)?;
    if version == "v1beta1" {
        limit(schema, version, WORKSPACE_BETA)?;
    }
    enforce(schema, version, rules())
}

/// `NAME INSTANCE RESOURCEREADY INFERENCEREADY JOBSTARTED WORKSPACEREADY AGE`, and NODES and STATE when wide.
fn columns() -> Vec<CustomResourceColumnDefinition> {
    let ready = |name: &str, kind: &str| {
        let path = format!(".status.conditions[?(@.type==\"{kind}\")].status");
        column(name, "string", &path, None)
    };
    vec![
        column("Instance", "string", ".resource.instanceType", None),
        ready("ResourceReady", RESOURCE_READY),
        ready("InferenceReady", INFERENCE_READY),
        ready("JobStarted", JOB_STARTED),
        ready("WorkspaceReady", WORKSPACE_READY),
        column(
            "TargetNodeCount",
            "integer",
            ".status.targetNodeCount",
            Some(1),
        ),
        column("State", "string", ".status.state", Some(1)),
        column("Age", "date", ".metadata.creationTimestamp", None),
    ]
}

fn column(
    name: &str,
    kind: &str,
    path: &str,
    priority: Option<i32>,
) -> CustomResourceColumnDefinition {
    CustomResourceColumnDefinition {
        name: name.to_owned(),
        type_: kind.to_owned(),
        json_path: path.to_owned(),
        priority,
        ..CustomResourceColumnDefinition::default()
    }
}
