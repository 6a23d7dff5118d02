//! The scheduler of kaito: Workspaces become workloads, their pods get GPUs, nodes are bought and returned.
//!
//! # Invariants
//! - One task decides about places ([`placement`]); it decides by [`kaito_placement`], which is pure.
//! - Changes leave only through [`writer`], and only while this process leads.
//! - Every write can be repeated: names are deterministic, applies are idempotent, patches carry guards.

pub mod cli;
pub mod http;
pub mod lease;
pub mod metrics;
pub mod placement;
pub mod queue;
pub mod replay;
pub mod run;
pub mod shared;
pub mod signals;
pub mod store;
pub mod workspace;
pub mod writer;

/// An error with its sources, `outer: inner: …`, for logs and conditions.
#[must_use]
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}
