//! The planner from outside: what it decides, what it says about it, and what must hold for every snapshot.

mod blockers;
mod buying;
mod checker;
mod evicting;
mod fixtures;
mod packing;
mod properties;
mod releasing;
mod snapshots;
mod waiting;
