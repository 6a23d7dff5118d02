//! Why a request was refused: how many nodes each constraint excludes. Counts only; never decides.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::class::ClassRefusal;
use super::cluster::{Cluster, State};
use super::model::Amounts;
use super::request::Spec;

/// The first constraint a node fails, in the order of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Obstacle {
    /// It has a taint that is not tolerated.
    Taint,
    /// It lacks a label, or is not the node asked for.
    Selector,
    /// Its GPU model is not accepted, or it has no GPU.
    Model,
    /// Its devices have too little memory, or lack the MIG profile.
    DeviceMemory,
    /// Its devices are partitioned and should not be, or the other way round.
    DeviceMode,
    /// It never has enough CPU, memory, storage, pods or devices, even when idle.
    Size,
    /// No pod more.
    Pods,
    /// Too little idle CPU.
    Cpu,
    /// Too little idle memory.
    Memory,
    /// Too little idle ephemeral storage.
    EphemeralStorage,
    /// Too little idle GPU in all.
    Gpu,
    /// Enough idle GPU, but in pieces too small.
    Fragmented,
    /// It serves another workload (one workload per node only).
    Occupied,
}

impl Obstacle {
    /// Every obstacle, in the order in which they are looked for.
    pub const ALL: [Self; 13] = [
        Self::Taint,
        Self::Selector,
        Self::Model,
        Self::DeviceMemory,
        Self::DeviceMode,
        Self::Size,
        Self::Pods,
        Self::Cpu,
        Self::Memory,
        Self::EphemeralStorage,
        Self::Gpu,
        Self::Fragmented,
        Self::Occupied,
    ];
}

impl fmt::Display for Obstacle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Taint => "taint not tolerated",
            Self::Selector => "label missing",
            Self::Model => "GPU model not accepted",
            Self::DeviceMemory => "GPU memory too small",
            Self::DeviceMode => "GPU partitioned otherwise",
            Self::Size => "node too small",
            Self::Pods => "no pod slot",
            Self::Cpu => "CPU taken",
            Self::Memory => "memory taken",
            Self::EphemeralStorage => "ephemeral storage taken",
            Self::Gpu => "GPUs taken",
            Self::Fragmented => "GPUs fragmented",
            Self::Occupied => "serves another workload",
        })
    }
}

/// A request that fits no node, and what each node lacks.
#[must_use]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// Nodes excluded, by the first constraint each fails. Empty for a cluster without nodes.
    pub excluded: BTreeMap<Obstacle, u32>,
}

impl Refusal {
    /// Whether a change of what runs could admit the request: some node would hold it when idle.
    #[must_use]
    pub fn could_fit(&self) -> bool {
        self.excluded
            .keys()
            .any(|obstacle| *obstacle >= Obstacle::Pods)
    }
}

impl Refusal {
    /// The counts in words, the most frequent first; empty if nothing is excluded.
    #[must_use]
    pub fn counts(&self) -> String {
        let mut parts: Vec<(&Obstacle, &u32)> = self.excluded.iter().collect();
        parts.sort_by(|left, right| right.1.cmp(left.1));
        let worded = parts.into_iter().map(|(obstacle, count)| {
            let nodes = if *count == 1 { "node" } else { "nodes" };
            format!("{count} {nodes}: {obstacle}")
        });
        worded.collect::<Vec<_>>().join("; ")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.excluded.is_empty() {
            return formatter.write_str("there is no node");
        }
        write!(formatter, "no node fits: {}", self.counts())
    }
}

/// Counts what every node lacks: one look at each group of equal nodes. Nodes that would hold the request are counted
/// under `fitting`, or left out.
pub(super) fn explain(cluster: &mut Cluster, spec: &Spec, fitting: Option<Obstacle>) -> Refusal {
    let mut refusal = Refusal::default();
    let states: Vec<(State, usize)> = cluster
        .live()
        .map(|(_, group)| (group.state, group.members.len()))
        .collect();
    for (state, count) in states {
        if let Some(obstacle) = obstacle(cluster, spec, &state).or(fitting) {
            let nodes = u32::try_from(count).unwrap_or(u32::MAX);
            *refusal.excluded.entry(obstacle).or_default() += nodes;
        }
    }
    refusal
}

/// What keeps the request off a node in this state; `None` if it fits.
pub(super) fn obstacle(cluster: &mut Cluster, spec: &Spec, state: &State) -> Option<Obstacle> {
    let verdict = spec.by_class.get(state.class as usize)?;
    let class = cluster.classes.list.get(state.class as usize)?;
    let shape = match verdict {
        Ok(shape) => *shape,
        Err(ClassRefusal::Taint) => return Some(Obstacle::Taint),
        Err(ClassRefusal::Selector) => return Some(Obstacle::Selector),
        Err(ClassRefusal::Model) => return Some(Obstacle::Model),
        Err(ClassRefusal::DeviceMemory) => return Some(Obstacle::DeviceMemory),
        Err(ClassRefusal::DeviceMode) => return Some(Obstacle::DeviceMode),
    };
    let asked = cluster.configs.shape(shape);
    if !class.capacity.holds(&spec.amounts) || usize::from(class.devices) < asked.count() {
        return Some(Obstacle::Size);
    }
    if let Some(lacking) = lacking(&state.idle, &spec.amounts) {
        return Some(lacking);
    }
    if !cluster.configs.successors(state.config, shape).is_empty() {
        return None;
    }
    let idle = cluster.configs.idle_milli(state.config);
    Some(if idle < i64::from(asked.total_milli()) {
        Obstacle::Gpu
    } else {
        Obstacle::Fragmented
    })
}

const fn lacking(idle: &Amounts, need: &Amounts) -> Option<Obstacle> {
    if idle.pods < need.pods {
        Some(Obstacle::Pods)
    } else if idle.milli_cpu < need.milli_cpu {
        Some(Obstacle::Cpu)
    } else if idle.memory_mib < need.memory_mib {
        Some(Obstacle::Memory)
    } else if idle.ephemeral_mib < need.ephemeral_mib {
        Some(Obstacle::EphemeralStorage)
    } else {
        None
    }
}
