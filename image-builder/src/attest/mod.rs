//! What is said about an image beside it: a bill of materials, its provenance, a signature. Pure: takes facts and gives
//! documents; others attach and fetch them.
//!
//! Nothing here tells when or where something was built, so that the same input gives the same documents (a signature
//! excepted: its nonce is random).

mod bundle;
mod facts;
mod key;
mod provenance;
mod sbom;
mod statement;

#[cfg(test)]
mod tests;

use bytes::Bytes;

use crate::oci::{Annotations, Descriptor, Document, Manifest, media_type};

pub use bundle::{BUNDLE_TYPE, BundleError, Signed, sign, verify};
pub use facts::{Facts, Material};
pub use key::{KeyError, SigningKey, VerifyingKey};
pub use provenance::provenance;
pub use sbom::{SBOM_TYPE, sbom};
pub use statement::{COSIGN_SIGNATURE, PROVENANCE, STATEMENT_TYPE, Statement, Subject};

/// A document that is stored beside an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// What the artifact is; readers look for it.
    pub artifact_type: String,
    /// Media type of the content.
    pub media_type: String,
    /// The content.
    pub content: Bytes,
    /// Annotations of the manifest.
    pub annotations: Annotations,
}

/// The blob `{}`, which every artifact without a configuration names.
pub const EMPTY_BLOB: &[u8] = b"{}";

impl Attachment {
    /// The manifest that ties the document to `subject`. It names two blobs: the content and [`EMPTY_BLOB`].
    ///
    /// # Errors
    /// None in practice: the value has only texts as keys.
    pub fn manifest(&self, subject: &Descriptor) -> Result<Document, serde_json::Error> {
        let blob =
            |media_type: &str, bytes: &Bytes| Document::new(media_type, bytes.clone()).descriptor();
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::MANIFEST.to_owned()),
            artifact_type: Some(self.artifact_type.clone()),
            config: blob(media_type::EMPTY, &Bytes::from_static(EMPTY_BLOB)),
            layers: vec![blob(&self.media_type, &self.content)],
            subject: Some(Descriptor {
                artifact_type: None,
                platform: None,
                annotations: None,
                ..subject.clone()
            }),
            annotations: (!self.annotations.is_empty()).then(|| self.annotations.clone()),
        };
        Document::from_value(media_type::MANIFEST, &manifest)
    }
}
