//! The planner from outside: what it decides, what it says about it, and what must hold for every snapshot.

#![expect(
    clippy::indexing_slicing,
    clippy::semicolon_if_nothing_returned,
    reason = "generators and tables of tests, which fail by panicking"
)]

mod blockers;
mod buying;
mod checker;
mod evicting;
mod fixtures;
mod packing;
mod properties;
mod ranking;
mod releasing;
mod snapshots;
mod waiting;
