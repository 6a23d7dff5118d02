//! A registry in memory, for tests and benches of the push and pull engines.
//!
//! It speaks the OCI distribution protocol (uploads in all forms, mounts, ranges, referrers, tags, deletion, bearer tokens)
//! and is as lean as it can be: blobs are hashed as they arrive and need not be kept. With a [`Fault`] per request it
//! misbehaves as real registries, proxies and networks do. It writes nothing to disk and is no registry to rely on.

mod auth;
mod blobs;
mod body;
mod faults;
mod manifests;
mod server;
mod state;
mod uploads;

pub use auth::{Access, Azure};
pub use faults::{Fault, Faults, Seen};
pub use server::{Options, Sink};
pub use state::{Keep, Record, Referrers};
