//! The I/O seam to the API server: what we see of it ([`mirror`]), when we look ([`agenda`]), how we write
//! ([`write`](mod@write)). No decision is made here.

pub mod agenda;
pub mod mirror;
pub mod write;
