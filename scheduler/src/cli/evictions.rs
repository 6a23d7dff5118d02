//! Flags that say whom the scheduler may evict, and how often.

use std::time::Duration;

use clap::{Args, ValueEnum};
use kaito_snapshot::occupants::{Preemption, Rules};

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Switch {
    /// On
    On,
    /// Off
    Off,
}

/// Flags about evictions.
#[derive(Debug, Args)]
pub(super) struct EvictionArgs {
    /// Evict pods of lower priority for those that wait and find no room. Nobody of equal priority is ever evicted, and
    /// all have priority 0 unless they say otherwise
    #[arg(long, value_enum, value_name = "ON|OFF", default_value = "on")]
    preemption: Switch,
    /// Move inference servers together and give back the bought nodes that become empty. Each server that is moved
    /// starts anew
    #[arg(long, value_enum, value_name = "ON|OFF", default_value = "off")]
    consolidation: Switch,
    /// Most pods that consolidation moves at a time
    #[arg(long, value_name = "N", default_value_t = 4)]
    consolidation_moves: u32,
    /// Least seconds between two times that consolidation moves pods
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    consolidation_pause: u32,
    /// Seconds that consolidation leaves a pod alone after its start
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    consolidation_min_runtime: u32,
}

impl EvictionArgs {
    /// What is allowed.
    pub(super) const fn rules(&self) -> Rules {
        Rules {
            preemption: match self.preemption {
                Switch::On => Preemption::On,
                Switch::Off => Preemption::Off,
            },
            most_moves: match self.consolidation {
                Switch::On => self.consolidation_moves as u64,
                Switch::Off => 0,
            },
            settled_after_seconds: self.consolidation_min_runtime as i64,
        }
    }

    /// The least time between two times that pods are moved.
    pub(super) const fn pause_between_moves(&self) -> Duration {
        // Never zero: the loop looks again after it.
        let seconds = match self.consolidation_pause {
            0 => 1,
            some => some,
        };
        Duration::from_secs(seconds as u64)
    }
}
