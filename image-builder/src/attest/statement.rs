//! in-toto statements: a claim (predicate) about something that is named by its digest. Pure.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::digest::Digest;

/// Media type of a statement.
pub const STATEMENT_TYPE: &str = "application/vnd.in-toto+json";
/// `_type` of a statement.
const STATEMENT_VERSION: &str = "https://in-toto.io/Statement/v1";
/// Predicate of provenance.
pub const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
/// Predicate of a bare signature, as cosign 3 writes it.
pub const COSIGN_SIGNATURE: &str = "https://sigstore.dev/cosign/sign/v1";

/// What a statement is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// A name for people.
    #[serde(default)]
    pub name: String,
    /// The digest.
    pub digest: SubjectDigest,
}

/// The digest by its algorithm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubjectDigest {
    /// 64 hexadecimal digits.
    pub sha256: String,
}

/// A statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Statement {
    /// Version of the form.
    #[serde(rename = "_type")]
    pub version: String,
    /// What it is about.
    pub subject: Vec<Subject>,
    /// What kind of claim it is.
    pub predicate_type: String,
    /// The claim.
    #[serde(default)]
    pub predicate: Value,
}

impl Statement {
    /// A claim about one digest.
    #[must_use]
    pub fn about(name: &str, digest: Digest, predicate_type: &str, predicate: Value) -> Self {
        Self {
            version: STATEMENT_VERSION.to_owned(),
            subject: vec![Subject {
                name: name.to_owned(),
                digest: SubjectDigest {
                    sha256: digest.hex(),
                },
            }],
            predicate_type: predicate_type.to_owned(),
            predicate,
        }
    }

    /// Whether the statement is about `digest`.
    #[must_use]
    pub fn is_about(&self, digest: Digest) -> bool {
        let hex = digest.hex();
        self.subject
            .iter()
            .any(|subject| subject.digest.sha256 == hex)
    }
}
