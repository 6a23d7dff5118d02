//! The bill of materials: CycloneDX 1.6 with a machine-learning component. Pure.

use serde_json::{Map, Value, json};

use super::{Attachment, Facts};
use crate::digest::Digest;
use crate::oci::Annotations;

/// Media type of the document.
pub const SBOM_TYPE: &str = "application/vnd.cyclonedx+json";

/// The bill of materials of the image `digest`.
///
/// # Errors
/// None in practice: the value has only texts as keys.
pub fn sbom(facts: &Facts, digest: Digest) -> Result<Attachment, serde_json::Error> {
    let components: Vec<Value> = facts
        .materials
        .iter()
        .map(|file| {
            json!({
                "type": "file", "bom-ref": format!("file:{}", file.path), "name": file.path,
                "hashes": [{"alg": "SHA-256", "content": file.digest.hex()}],
                "properties": [{"name": "kaito:size", "value": file.size.to_string()}],
            })
        })
        .collect();
    let references: Vec<String> = facts
        .materials
        .iter()
        .map(|file| format!("file:{}", file.path))
        .collect();
    let document = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": format!("urn:uuid:{}", uuid_of(digest)),
        "version": 1,
        "metadata": {
            "tools": {"components": [
                {"type": "application", "name": "image-builder", "version": env!("CARGO_PKG_VERSION")},
            ]},
            "component": model(facts, digest),
        },
        "components": components,
        "dependencies": [{"ref": "model", "dependsOn": references}],
    });
    Ok(Attachment {
        artifact_type: SBOM_TYPE.to_owned(),
        media_type: SBOM_TYPE.to_owned(),
        content: serde_json::to_vec(&document)?.into(),
        annotations: Annotations::new(),
    })
}

fn model(facts: &Facts, digest: Digest) -> Value {
    let mut model = Map::new();
    let mut set = |key: &str, value: Value| model.insert(key.to_owned(), value);
    set("type", json!("machine-learning-model"));
    set("bom-ref", json!("model"));
    set("name", json!(facts.name));
    if let Some(revision) = &facts.revision {
        set("version", json!(revision));
    }
    set(
        "hashes",
        json!([{"alg": "SHA-256", "content": digest.hex()}]),
    );
    let licenses: Vec<Value> = facts
        .licenses
        .iter()
        .map(|name| json!({"license": {"name": name}}))
        .collect();
    if !licenses.is_empty() {
        set("licenses", json!(licenses));
    }
    if facts.source.starts_with("http") {
        set(
            "externalReferences",
            json!([{"type": "distribution", "url": facts.source}]),
        );
    }
    let mut parameters = Map::new();
    parameters.insert("task".to_owned(), json!("text-generation"));
    if let Some(architecture) = &facts.architecture {
        parameters.insert("architectureFamily".to_owned(), json!(architecture));
    }
    set("modelCard", json!({"modelParameters": parameters}));
    let properties: Vec<Value> = [
        ("kaito:format", &facts.format),
        ("kaito:parameters", &facts.parameters),
        ("kaito:precision", &facts.precision),
        ("kaito:quantization", &facts.quantization),
        ("kaito:base-model", &facts.base_model),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some(json!({"name": name, "value": value.as_ref()?})))
    .collect();
    if !properties.is_empty() {
        set("properties", json!(properties));
    }
    Value::Object(model)
}

/// A UUID (version 8: made by a rule of our own) from the digest, so that the same image has the same serial number.
fn uuid_of(digest: Digest) -> String {
    let hex = digest.hex();
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!(
        "{}-{}-8{}-8{}-{}",
        part(0, 8),
        part(8, 12),
        part(12, 15),
        part(15, 18),
        part(18, 30)
    )
}
