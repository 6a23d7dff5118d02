//! The real things that the suites run against: a control plane built from pinned Go modules, our own programs as
//! child processes, and the few steps that every end-to-end test repeats.
//!
//! Nothing in the product depends on this package. It may start processes and write to the cache folder and to
//! temporary folders; it never touches the user's kubeconfig or a cluster that it did not start.
//!
//! # Invariants
//! - No process outlives the one that asked for it, even when that one is killed: see [`supervise`].
//! - A binary in the cache is whole: it gets its name only after the build has ended well.
//! - What is missing is an error that says what to install or run, never a test that quietly passes.

pub mod binaries;
pub mod cluster;
pub mod control_plane;
#[cfg(target_os = "linux")]
pub mod device_plugin;
pub mod ending;
pub mod fault_proxy;
pub mod file_error;
pub mod fixture;
pub mod model;
#[cfg(target_os = "linux")]
pub mod node;
pub mod player;
pub mod programs;
pub mod registry;
pub mod reported;
pub mod supervise;
pub mod wait;

pub use control_plane::{ControlPlane, Options};
