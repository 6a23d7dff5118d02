//! Tests that need a whole model: a tiny one of each family, made here from a fixed seed.

mod engine;
mod fixture;
mod http;
mod lora;
mod malformed;
mod model;
mod proxy;
mod reference;
mod smollm2;
