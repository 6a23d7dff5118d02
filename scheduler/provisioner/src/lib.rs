//! Turns NodeClaims (`karpenter.sh/v1`) into nodes: the claim lifecycle, the clouds behind it, and for the simulated
//! cloud the machines themselves.
//!
//! ```text
//! NodeClaim ── lifecycle (observe → decide → act) ── Cloud trait ── simulated: a pure model
//!                     │                                                   │
//!                     └── Node ◄── plane: nodes, leases, pods, logs ◄─────┘
//! ```
//!
//! # Invariants
//! - At most one machine per claim at any time; none after the claim is gone. Machines are keyed by the claim's UID,
//!   so a crash between any two writes repeats a step and never duplicates one.
//! - [`lifecycle::decide`](mod@lifecycle::decide), [`plane::pods`], [`plane::node`] and the model of
//!   [`cloud::simulated`] are pure: no client, no clock, no randomness but the seed.
//! - Only [`cluster`], the `driver` modules and [`plane::kubelet`] hold a client.
//! - Whatever is simulated says so: label `kaito.sh/simulated=true`, versions, messages, logs.

pub mod cloud;
pub mod cluster;
pub mod lifecycle;
pub mod plane;
pub mod recovery;
pub mod scenario;

mod duration;
mod run;

pub use duration::{DurationError, parse_duration};
pub use run::{Error, Options, run};
pub use scenario::{Scenario, ScenarioError};
