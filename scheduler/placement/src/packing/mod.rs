//! Packing: which node, and which devices of it, each pod gets.
//!
//! A [`Packer`] holds the cluster's state, takes requests one at a time, and keeps what it needs to answer the next in
//! time that depends on what changed, not on the size of the cluster. It knows nothing of the future: what it expects
//! is learnt from the requests that have come. No I/O, no clock; the [random policy](Policy::Random) draws from a seed.
//!
//! # Invariants
//! - No device beyond 1000 thousandths or a MIG slot twice; no node beyond its CPU, memory, storage and pods.
//! - A request is refused only if no node passes the filters.
//! - Same nodes, same calls, same answers, bit for bit: ratings are integers, and ties end in the node's position.

mod class;
mod cluster;
mod config;
mod device;
mod fragment;
mod gang;
mod index;
mod journal;
mod model;
mod outlook;
mod packer;
mod policy;
mod random;
pub(crate) mod ranking;
mod rate;
mod refusal;
mod request;
mod room;
mod topology;
mod typical;
mod verdicts;

pub use device::{Device, DeviceMode, MigProfile, Shape, Taken, WHOLE_MILLI};
pub use gang::GangRefusal;
pub use model::{
    Amounts, Domains, Gang, GpuRequest, Level, MAX_DEVICES, NodeShape, Placement, Request,
};
pub use packer::{Fragmentation, Packer, Settings};
pub use policy::{Policy, UnknownPolicy};
pub use refusal::{Obstacle, Refusal};
pub use request::RequestId;

/// What a packer cannot be told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PackingError {
    /// A node has more devices than the model holds.
    #[error("node {node} has {devices} GPUs, more than the {most} a node may have here")]
    TooManyDevices {
        /// Node.
        node: String,
        /// Its devices.
        devices: u8,
        /// The limit.
        most: u8,
    },
    /// The cluster has too many kinds of GPU.
    #[error("node {node} brings a GPU kind beyond the {most} that one cluster may have")]
    TooManyKinds {
        /// Node.
        node: String,
        /// The limit.
        most: usize,
    },
    /// A request asks for something no node can mean.
    #[error("bad request: {what}")]
    BadRequest {
        /// What is wrong and what would be right.
        what: String,
    },
    /// A request number from another packer.
    #[error("request {} is not known to this packer: register it first", id.0)]
    UnknownRequest {
        /// The number.
        id: RequestId,
    },
    /// Something is given back that the node does not hold.
    #[error("node at position {node} does not hold what is given back: was it released twice?")]
    NotHeld {
        /// The node's position.
        node: u32,
    },
}
