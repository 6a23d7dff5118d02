//! Packs `kubectl-kaito` for krew, the plugin manager of kubectl, and checks what it packed.
//!
//! krew is a git index of YAML manifests, each naming one archive per platform. This crate builds
//! the archive ([`archive`]), renders the manifest from a template ([`template`]) and applies to
//! both the rules of krew 0.5, of its manifest validator, and of the reviewers of the public index
//! ([`manifest_rules`], [`archive_rules`]).
//!
//! # Invariants
//!
//! - The same binary, version, platform and time give the same archive, byte for byte.
//! - A manifest is never rendered that the rules reject, and its sums are computed, never typed.
//! - Rules report everything they find at once, and each finding says where and what to do.
//!
//! The library neither prints nor reads files or the environment; the program `kaito-krew` does.

pub mod archive;
pub mod archive_rules;
mod executable;
mod file_operations;
pub mod finding;
pub mod manifest;
pub mod manifest_rules;
pub mod platform;
pub mod template;
pub mod version;
