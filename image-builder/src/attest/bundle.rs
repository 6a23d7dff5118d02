//! Signed statements in the form of sigstore bundles, as cosign 3 writes and reads them with a key. Pure.
//!
//! Only bundles are written, not the older signature tags: one form, found through the referrers of an image.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::{Attachment, KeyError, STATEMENT_TYPE, SigningKey, Statement, VerifyingKey};
use crate::digest::Digest;
use crate::oci::Annotations;

/// Media type of a bundle.
pub const BUNDLE_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";

/// Why a bundle says nothing.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It cannot be read.
    #[error("the bundle cannot be read: {0}")]
    Unreadable(String),
    /// It holds something else than a statement.
    #[error("the bundle holds `{0}` instead of an in-toto statement")]
    Content(String),
    /// No signature of the key.
    #[error("the bundle is not signed by the given key")]
    Signature,
    /// It is about something else.
    #[error("the signed statement is about another image than {0}")]
    Subject(Digest),
    /// The key refused to sign.
    #[error("cannot sign: {0}")]
    Key(#[from] KeyError),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    media_type: String,
    verification_material: Material,
    dsse_envelope: Envelope,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    #[serde(skip_serializing_if = "Option::is_none")]
    public_key: Option<PublicKey>,
}

#[derive(Serialize, Deserialize)]
struct PublicKey {
    hint: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Serialize, Deserialize)]
struct Signature {
    sig: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    keyid: String,
}

/// A statement whose signature was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The statement.
    pub statement: Statement,
}

/// Signs a statement; the result is to be attached to what the statement is about.
///
/// # Errors
/// A key that cannot sign.
pub fn sign(statement: &Statement, key: &SigningKey) -> Result<Attachment, BundleError> {
    let unreadable = |error: serde_json::Error| BundleError::Unreadable(error.to_string());
    let payload = serde_json::to_vec(statement).map_err(unreadable)?;
    let signature = key.sign(&signed_bytes(STATEMENT_TYPE, &payload))?;
    let bundle = Bundle {
        media_type: BUNDLE_TYPE.to_owned(),
        verification_material: Material {
            public_key: Some(PublicKey {
                hint: key.verifying().hint(),
            }),
        },
        dsse_envelope: Envelope {
            payload: BASE64.encode(&payload),
            payload_type: STATEMENT_TYPE.to_owned(),
            signatures: vec![Signature {
                sig: BASE64.encode(signature),
                keyid: String::new(),
            }],
        },
    };
    let note = |key: &str, value: &str| (format!("dev.sigstore.bundle.{key}"), value.to_owned());
    Ok(Attachment {
        artifact_type: BUNDLE_TYPE.to_owned(),
        media_type: BUNDLE_TYPE.to_owned(),
        content: serde_json::to_vec(&bundle).map_err(unreadable)?.into(),
        annotations: Annotations::from([
            note("content", "dsse-envelope"),
            note("predicateType", &statement.predicate_type),
        ]),
    })
}

/// Checks a bundle against a key and the digest that it must be about.
///
/// # Errors
/// Anything but a statement about `digest` that `key` has signed.
pub fn verify(bundle: &[u8], key: &VerifyingKey, digest: Digest) -> Result<Signed, BundleError> {
    let unreadable = |error: String| BundleError::Unreadable(error);
    let bundle: Bundle =
        serde_json::from_slice(bundle).map_err(|error| unreadable(error.to_string()))?;
    let envelope = bundle.dsse_envelope;
    if envelope.payload_type != STATEMENT_TYPE {
        return Err(BundleError::Content(envelope.payload_type));
    }
    let payload = BASE64
        .decode(&envelope.payload)
        .map_err(|error| unreadable(error.to_string()))?;
    let message = signed_bytes(&envelope.payload_type, &payload);
    let signed = envelope.signatures.iter().any(|signature| {
        BASE64
            .decode(&signature.sig)
            .is_ok_and(|bytes| key.verifies(&message, &bytes))
    });
    if !signed {
        return Err(BundleError::Signature);
    }
    let statement: Statement =
        serde_json::from_slice(&payload).map_err(|error| unreadable(error.to_string()))?;
    if !statement.is_about(digest) {
        return Err(BundleError::Subject(digest));
    }
    Ok(Signed { statement })
}

/// What is signed: the content with its type and both lengths, so that neither can be taken for the other.
fn signed_bytes(kind: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}
