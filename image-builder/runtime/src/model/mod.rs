//! The transformer that all four families are, with their small differences as configuration.
//!
//! `load` reads a folder or a file into a [`Model`]; [`Model::forward`] advances any number of sequences at once. May not
//! know about requests, text or HTTP.

mod attention;
pub mod cache;
pub mod config;
mod gguf;
pub mod load;
pub mod lora;
mod rope;
mod safetensors;
mod transformer;

pub use cache::Cache;
pub use config::{Config, Family};
pub use load::{Error, Source};
pub use lora::Adapter;
pub use transformer::{Layer, Linear, Model, Step, Target};
