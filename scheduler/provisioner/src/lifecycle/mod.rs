//! The life of a NodeClaim: observe → decide → act, level-triggered by the claim's name.
//!
//! [`decide`](fn@decide::decide) and everything it calls is pure: conditions, launch, registration, limits,
//! termination and drain. [`driver`] gathers what decisions read and does what they say; it decides nothing.

pub mod conditions;
pub mod decide;
pub mod drain;
pub mod driver;
pub mod initialized;
pub mod step;
pub mod terminate;

#[cfg(test)]
mod schedules;
