//! The pure half of the builder as its callers use it: plans, formats, archives, layouts, readers.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::type_complexity,
    reason = "tests fail by panicking, and are tables"
)]

mod archives;
mod formats;
mod layout;
mod plan;
mod readers;
mod support;
