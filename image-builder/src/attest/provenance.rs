//! Where an image comes from, as a SLSA predicate. Pure.

use serde_json::{Map, Value, json};

use super::{Facts, PROVENANCE, Statement};
use crate::digest::Digest;

/// What kind of build it is: a reader finds its parameters explained there.
const BUILD_TYPE: &str = "https://github.com/kaito-rs/kaito/image-builder/v1";

/// The statement about the image `digest`.
#[must_use]
pub fn provenance(facts: &Facts, digest: Digest) -> Statement {
    let mut parameters = Map::new();
    parameters.insert("source".to_owned(), json!(facts.source));
    parameters.insert("artifact".to_owned(), json!(facts.artifact));
    if let Some(revision) = &facts.revision {
        parameters.insert("revision".to_owned(), json!(revision));
    }
    let predicate = json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": parameters,
            "resolvedDependencies": dependencies(facts),
        },
        "runDetails": {
            "builder": {
                "id": "https://github.com/kaito-rs/kaito/image-builder",
                "version": {"image-builder": env!("CARGO_PKG_VERSION")},
            },
        },
    });
    Statement::about(&facts.repository, digest, PROVENANCE, predicate)
}

/// The commit, then each file by its digest.
fn dependencies(facts: &Facts) -> Vec<Value> {
    let commit = facts.revision.as_ref().map(|revision| {
        json!({"uri": format!("{}@{revision}", facts.source), "digest": {"gitCommit": revision}})
    });
    let files = facts
        .materials
        .iter()
        .map(|file| json!({"name": file.path, "digest": {"sha256": file.digest.hex()}}));
    commit.into_iter().chain(files).collect()
}
