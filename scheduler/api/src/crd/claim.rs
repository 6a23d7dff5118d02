//! The NodeClaim CRD, for clusters without Karpenter's own: one version with Karpenter's rules.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition,
};
use kube::CustomResourceExt as _;

use super::Error;
use super::limits::NODE_CLAIM;
use super::schema::{clean, limit};
use crate::NodeClaim;

/// Columns that `-o wide` adds: name and path.
const WIDE: [(&str, &str); 5] = [
    ("ImageID", ".status.imageID"),
    ("ID", ".status.providerID"),
    ("NodePool", r".metadata.labels.karpenter\.sh/nodepool"),
    ("NodeClass", ".spec.nodeClassRef.name"),
    (
        "Drifted",
        r#".status.conditions[?(@.type=="Drifted")].status"#,
    ),
];

/// The NodeClaim CRD.
///
/// # Errors
/// Only when a table of this crate is wrong; its tests would show that.
pub fn nodeclaim_crd() -> Result<CustomResourceDefinition, Error> {
    let mut definition = NodeClaim::crd();
    for version in &mut definition.spec.versions {
        let columns = version.additional_printer_columns.get_or_insert_default();
        columns.extend(WIDE.map(|(name, path)| CustomResourceColumnDefinition {
            name: name.to_owned(),
            type_: "string".to_owned(),
            json_path: path.to_owned(),
            priority: Some(1),
            ..CustomResourceColumnDefinition::default()
        }));
        let Some(validation) = &mut version.schema else {
            continue;
        };
        let mut schema =
            serde_json::to_value(&validation.open_api_v3_schema).map_err(Error::Shape)?;
        clean(&mut schema);
        limit(&mut schema, &version.name, NODE_CLAIM)?;
        validation.open_api_v3_schema = serde_json::from_value(schema).map_err(Error::Shape)?;
    }
    Ok(definition)
}
