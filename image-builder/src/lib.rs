//! Model weights and adapters as OCI images: plan, hash, push, pull, verify.
//!
//! Data flows one way. A [`source`] lists files; `plan` turns the list into blobs and manifests without reading a weight;
//! the push engine reads each byte once, hashes it while it is sent and verifies what arrived; the pull engine goes the
//! other way. Pure modules ([`digest`], [`oci`], [`content`], `model`, `plan`) do no I/O; only `source`, `registry` and
//! `layout` do; only `command` prints.

#![cfg_attr(
    test,
    expect(
        clippy::cast_possible_truncation,
        clippy::single_range_in_vec_init,
        reason = "tests make small numbers and compare lists of one range"
    )
)]

pub mod archive;
pub mod attest;
pub mod cache;
pub mod command;
pub mod content;
pub mod digest;
pub mod findings;
pub mod layout;
pub mod model;
pub mod oci;
pub mod plan;
pub mod progress;
pub mod pull;
pub mod push;
pub mod registry;
pub mod source;
