//! API objects to planner input: Workspaces are sized, nodes, pods and claims become a snapshot.
//!
//! Pure: it may not do I/O, hold a client or read the clock. The scheduler feeds it from its stores, the plugin from
//! lists or a recorded file, so that both decide from the same picture.
//!
//! # Invariants
//! - A pod counts once: on the node it is bound to, else on the node it is pinned to, else as waiting.
//! - What is unknown (GPU memory of an unlabelled node) is passed on as unknown, never guessed.

mod budgets;
mod claims;
pub mod cluster;
pub mod expectation;
pub mod gangs;
pub mod leaving;
pub mod node;
pub mod occupants;
pub mod pod;
pub mod quantity;
pub mod runtime;
pub mod sizing;
mod workspaces;
