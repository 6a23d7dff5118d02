//! Files behind HTTP: ranges that resume, redirects without credentials, parallel parts in order.
//!
//! Shared by the hub and plain addresses. Knows nothing about registries.

mod client;
mod fetch;
mod http;
mod parts;
pub mod reach;
pub(super) mod retry;

#[cfg(test)]
pub(crate) mod tests;

pub use client::{ClientError, ClientOptions, client};
pub(super) use fetch::{Refusal, RemoteFile, chain, shown};
pub use http::HttpSource;
pub(super) use parts::read;
pub use reach::Reach;
