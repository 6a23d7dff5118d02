//! The packer from outside: what it decides, checked by code that shares nothing with it.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "test helpers are outside of the in-tests switch, and the amounts of small clusters are small"
)]

mod facts;
mod gangs;
mod generate;
mod model;
mod naive;
mod properties;
mod scan;
