//! The life of a NodeClaim: observe → decide → act, level-triggered by the claim's name.
//!
//! [`decide`](fn@decide::decide) and everything it calls is pure: conditions, launch, registration, limits,
//! termination and drain. [`driver`] gathers what decisions read and `writes` does what they say; neither decides.

pub mod conditions;
pub mod decide;
pub mod drain;
pub mod driver;
mod ending;
pub mod initialized;
pub mod step;
pub mod terminate;
mod writes;

#[cfg(test)]
mod schedules;
