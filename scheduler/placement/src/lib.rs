//! The placement engine: how much a model needs, where it goes, what to buy, and why.
//!
//! Pure: no I/O, no clock, no randomness, no environment, no kube. The same snapshot gives the same plan; every
//! tie-break ends in a name.
//!
//! # Invariants
//! - No GPU is promised twice and no gang is placed in part: [`check`] proves it with code of its own.
//! - Every demand that waits carries a [`plan::Blocker`].

pub mod check;
pub mod estimate;
pub mod eviction;
pub mod explain;
pub mod packing;
pub mod plan;
pub mod planner;
pub mod purchasing;
pub mod replay;
pub mod snapshot;
