//! What the packer is told: nodes, requests, gangs. Numbers and names only; no decision is made here.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::device::{DeviceMode, Taken};
use crate::snapshot::{Taint, Toleration};

/// Amounts of what pods share on a node besides GPUs.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "camelCase", default)]
pub struct Amounts {
    /// CPU in millicores.
    pub milli_cpu: u64,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Ephemeral storage in MiB.
    pub ephemeral_mib: u64,
    /// Pods.
    pub pods: u64,
}

impl Amounts {
    /// Whether `need` fits in what `self` has.
    #[must_use]
    pub const fn holds(&self, need: &Self) -> bool {
        self.milli_cpu >= need.milli_cpu
            && self.memory_mib >= need.memory_mib
            && self.ephemeral_mib >= need.ephemeral_mib
            && self.pods >= need.pods
    }

    /// `self` less `taken`; `None` if that would go below zero.
    #[must_use]
    pub fn less(&self, taken: &Self) -> Option<Self> {
        Some(Self {
            milli_cpu: self.milli_cpu.checked_sub(taken.milli_cpu)?,
            memory_mib: self.memory_mib.checked_sub(taken.memory_mib)?,
            ephemeral_mib: self.ephemeral_mib.checked_sub(taken.ephemeral_mib)?,
            pods: self.pods.checked_sub(taken.pods)?,
        })
    }

    /// `self` and `returned` together.
    #[must_use]
    pub const fn plus(&self, returned: &Self) -> Self {
        Self {
            milli_cpu: self.milli_cpu.saturating_add(returned.milli_cpu),
            memory_mib: self.memory_mib.saturating_add(returned.memory_mib),
            ephemeral_mib: self.ephemeral_mib.saturating_add(returned.ephemeral_mib),
            pods: self.pods.saturating_add(returned.pods),
        }
    }
}

/// Where a node stands. An empty name means that the node is in no such domain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Domains {
    /// Zone.
    pub zone: String,
    /// Block: racks joined by one spine.
    pub block: String,
    /// Rack.
    pub rack: String,
    /// Nodes joined by one NVLink fabric.
    pub nvlink: String,
}

/// A node as it is when nothing runs on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeShape {
    /// Unique name.
    pub name: String,
    /// GPU model; empty for a node without GPUs.
    pub model: String,
    /// Memory of one GPU in MiB; 0 if unknown.
    pub device_memory_mib: u64,
    /// Devices, at most [`MAX_DEVICES`].
    pub devices: u8,
    /// How its devices are handed out.
    pub mode: DeviceMode,
    /// What pods can use of the rest.
    pub capacity: Amounts,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Taints.
    pub taints: Vec<Taint>,
    /// Where it stands.
    pub domains: Domains,
}

/// Most devices of one node; larger nodes are refused, never cut.
pub const MAX_DEVICES: u8 = 16;

/// What a pod asks of GPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum GpuRequest {
    /// Nothing.
    #[default]
    Nothing,
    /// `count` devices, `milli` thousandths of each: whole GPUs with 1000, a fraction of one below.
    #[serde(rename_all = "camelCase")]
    Devices {
        /// Devices, at least 1.
        count: u8,
        /// Thousandths of each, 1–1000.
        milli: u16,
    },
    /// So much memory of one device, in MiB; what share that is depends on the device.
    #[serde(rename_all = "camelCase")]
    Memory {
        /// MiB, at least 1.
        mib: u64,
    },
    /// One MIG instance.
    #[serde(rename_all = "camelCase")]
    Partition {
        /// Profile, for example `3g.40gb`.
        profile: String,
    },
}

/// What one pod needs.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Request {
    /// CPU, memory, storage, and pods (1 for an ordinary pod).
    pub amounts: Amounts,
    /// GPUs.
    pub gpu: GpuRequest,
    /// Accepted GPU models, empty for any. Counts only for requests with a GPU.
    pub models: BTreeSet<String>,
    /// Fewest MiB per device; nodes of unknown memory pass.
    pub device_memory_mib: u64,
    /// Labels the node must carry.
    pub selector: BTreeMap<String, String>,
    /// Tolerated taints.
    pub tolerations: Vec<Toleration>,
}

/// A kind of place that the members of a gang can share, closest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Level {
    /// One node.
    Node,
    /// One NVLink fabric.
    Nvlink,
    /// One rack.
    Rack,
    /// One block.
    Block,
    /// One zone.
    Zone,
}

/// Equal pods that are placed all or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Gang {
    /// Members, at least 1.
    pub members: u32,
    /// What each needs.
    pub each: Request,
    /// All members in one domain of this level, or no placement.
    pub required: Option<Level>,
    /// As few domains of this level as can be.
    pub preferred: Option<Level>,
    /// No two members on one node.
    pub spread: bool,
}

/// What one pod holds: give it back with [`Packer::release`](super::Packer::release).
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Placement {
    /// Position of the node in the list the packer was made of.
    pub node: u32,
    /// CPU, memory, storage and pods.
    pub amounts: Amounts,
    /// Device numbers, ascending, and what is taken of each.
    pub devices: Vec<(u8, Taken)>,
}

impl Placement {
    /// Thousandths of GPUs held.
    #[must_use]
    pub fn milli(&self) -> u64 {
        self.devices
            .iter()
            .map(|(_, taken)| u64::from(taken.milli()))
            .sum()
    }
}
