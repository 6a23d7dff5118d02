//! The HTTP face: `/chat`, the OpenAI-compatible `/v1/*`, `/health` and `/metrics`, the same before both engines.
//!
//! Handlers translate; they compute nothing and hold no state of a request beyond its connection. A request whose client
//! goes away is dropped by the connection, and with it everything downstream.

pub mod error;
pub mod keys;
mod native;
mod openai;
mod proxy;
mod router;
pub mod server;
mod simple;

pub use keys::Keys;
pub use native::{Native, Served};
pub use proxy::Proxy;
pub use router::{App, Backend, Settings};
