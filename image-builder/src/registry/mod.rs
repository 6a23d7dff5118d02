//! Registries: names, credentials, connections, and the requests of the OCI distribution protocol.
//!
//! Moves bytes and tells what was answered. What to upload, in which order and how often, is decided by
//! [`push`](crate::push) and [`pull`](crate::pull).

mod answer;
mod auth;
mod client;
mod error;
mod form;
mod manifests;
mod reference;
mod referrers;
mod repository;
mod retry;
mod transport;
mod upload;

pub use auth::{AuthError, AzureOptions, CommandLine, Credential, CredentialOptions, DockerFiles};
pub use client::{Client, ClientOptions, Scheme};
pub use error::{Class, RegistryError};
pub use form::UploadForm;
pub use manifests::SubjectListing;
pub use reference::{DEFAULT_TAG, Reference, ReferenceError, api_host, is_loopback};
pub use referrers::Attached;
pub use repository::{BlobAnswer, BlobStream, Repository};
pub use retry::RetryPolicy;
pub use transport::{CertificateCheck, TransportError, TransportOptions};

pub(crate) use referrers::entry as referrer_entry;
pub(crate) use retry::retrying;
pub(crate) use transport::{Item, OnSent, RequestBody, StreamBody};
pub(crate) use upload::{Mount, Patched, Upload};
