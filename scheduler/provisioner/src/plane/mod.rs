//! The node plane: plays the machines of the simulated cloud towards Kubernetes, as their kubelets would.
//!
//! [`node`] and [`pods`] are pure; [`driver`] writes nodes and leases, [`kubelet`] writes pods, [`server`] answers
//! for logs and exec. Nothing here decides about claims.

pub mod addresses;
pub mod driver;
pub mod kubelet;
pub mod node;
pub mod overcommitment;
pub mod pods;
pub mod server;
mod statuses;
