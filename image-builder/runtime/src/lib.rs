//! `kaito-runtime`: the HTTP inference server that images carry.
//!
//! One face (`/chat`, the OpenAI-compatible `/v1/*`, `/health`, `/metrics`) before two engines: `native` runs Llama,
//! Mistral, Qwen2 and Phi-3 on the CPU, from safetensors or GGUF, with LoRA adapters; `proxy` passes to another server
//! on the same machine, such as vLLM.
//!
//! ```text
//! http ──► engine ──► model ──► kernel          requests, steps, layers, loops
//!   └────► text                                 tokens, templates, sampling
//! ```
//!
//! **Invariants.** What a request gets does not depend on who else is being served: products are summed in an order that
//! only the weights decide. Memory is bounded: by connections × body size, by the queue, and by the bytes set aside for
//! keys and values. A request whose client has gone is dropped at the next step. Nothing a client sends ends the process.

pub mod bench;
pub mod cli;
pub mod engine;
pub mod http;
pub mod kernel;
pub mod metrics;
pub mod model;
pub mod text;

#[cfg(test)]
mod tests;
