//! The vocabulary of kaito: resource types, names, labels, conditions, admission rules, catalogues.
//!
//! This crate is data and pure functions. It may not do I/O, hold a client or read the clock.
//!
//! # Invariants
//! - Every name, label, annotation, finalizer, condition and reason is spelled once, here.
//! - The Workspace schema is exactly KAITO's plus optional fields of ours; a field we accept does something.

#[cfg(feature = "cel")]
pub mod admission;
pub mod catalogue;
pub mod conditions;
pub mod crd;
pub mod eviction;
pub mod names;
pub mod nodeclaim;
pub mod rules;
pub mod workspace;

pub use nodeclaim::NodeClaim;
pub use workspace::Workspace;
