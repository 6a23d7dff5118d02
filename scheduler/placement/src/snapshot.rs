//! What the planner sees: nodes, nodes on their way, demands, and the price list. Numbers and names only.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Label that says in which zone a node is.
pub const LABEL_ZONE: &str = "topology.kubernetes.io/zone";
/// Label that says on what terms a node is had: `on-demand` or `spot`.
pub const LABEL_CAPACITY_TYPE: &str = "karpenter.sh/capacity-type";

/// An amount of each resource that pods compete for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// CPU in millicores.
    pub milli_cpu: u64,
    /// Memory in bytes.
    pub memory_bytes: u64,
    /// Ephemeral storage in bytes.
    pub ephemeral_bytes: u64,
    /// Pods.
    pub pods: u64,
    /// Whole GPUs.
    pub gpus: u64,
}

impl Resources {
    /// Every amount in a fixed order: GPUs, pods, CPU, memory, ephemeral storage.
    pub const fn amounts(&self) -> [u64; 5] {
        [
            self.gpus,
            self.pods,
            self.milli_cpu,
            self.memory_bytes,
            self.ephemeral_bytes,
        ]
    }

    /// What is left when `other` is taken away, never below zero.
    #[must_use]
    pub const fn saturating_sub(&self, other: &Self) -> Self {
        Self {
            milli_cpu: self.milli_cpu.saturating_sub(other.milli_cpu),
            memory_bytes: self.memory_bytes.saturating_sub(other.memory_bytes),
            ephemeral_bytes: self.ephemeral_bytes.saturating_sub(other.ephemeral_bytes),
            pods: self.pods.saturating_sub(other.pods),
            gpus: self.gpus.saturating_sub(other.gpus),
        }
    }

    /// Both together, clamped to `u64::MAX`.
    #[must_use]
    pub const fn saturating_add(&self, other: &Self) -> Self {
        Self {
            milli_cpu: self.milli_cpu.saturating_add(other.milli_cpu),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            ephemeral_bytes: self.ephemeral_bytes.saturating_add(other.ephemeral_bytes),
            pods: self.pods.saturating_add(other.pods),
            gpus: self.gpus.saturating_add(other.gpus),
        }
    }

    /// The lesser of each amount.
    #[must_use]
    pub fn least(&self, other: &Self) -> Self {
        Self {
            milli_cpu: self.milli_cpu.min(other.milli_cpu),
            memory_bytes: self.memory_bytes.min(other.memory_bytes),
            ephemeral_bytes: self.ephemeral_bytes.min(other.ephemeral_bytes),
            pods: self.pods.min(other.pods),
            gpus: self.gpus.min(other.gpus),
        }
    }

    /// The amounts of `count` such shares, clamped to `u64::MAX`.
    #[must_use]
    pub const fn times(&self, count: u64) -> Self {
        Self {
            milli_cpu: self.milli_cpu.saturating_mul(count),
            memory_bytes: self.memory_bytes.saturating_mul(count),
            ephemeral_bytes: self.ephemeral_bytes.saturating_mul(count),
            pods: self.pods.saturating_mul(count),
            gpus: self.gpus.saturating_mul(count),
        }
    }

    /// How many shares of `each` fit; `u64::MAX` if a share needs nothing.
    pub fn holds(&self, each: &Self) -> u64 {
        self.amounts()
            .into_iter()
            .zip(each.amounts())
            .filter_map(|(have, need)| have.checked_div(need))
            .min()
            .unwrap_or(u64::MAX)
    }
}

/// How a taint acts on pods that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TaintEffect {
    /// New pods are refused.
    NoSchedule,
    /// New pods are discouraged; the planner ignores it.
    PreferNoSchedule,
    /// New pods are refused and running ones evicted.
    NoExecute,
}

/// A node's taint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value, may be empty.
    #[serde(default)]
    pub value: String,
    /// Effect.
    pub effect: TaintEffect,
}

/// A pod's toleration. An empty key tolerates every key; an absent value tolerates every value (`Exists`); an
/// absent effect tolerates every effect.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Toleration {
    /// Key, empty for all.
    pub key: String,
    /// Value to equal, absent for `Exists`.
    #[serde(default)]
    pub value: Option<String>,
    /// Effect, absent for all.
    #[serde(default)]
    pub effect: Option<TaintEffect>,
}

/// A node that exists, or one that has been ordered and is not there yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    /// Node name; for an ordered node the name of its claim. Unique among all nodes of a snapshot.
    pub name: String,
    /// Labels, also the expected ones of an ordered node.
    pub labels: BTreeMap<String, String>,
    /// Taints that count (the caller leaves out those that every pod of ours tolerates by start-up).
    pub taints: Vec<Taint>,
    /// Instance type, if known.
    pub instance_type: Option<String>,
    /// Nominal memory of one GPU in bytes; 0 if unknown.
    pub gpu_memory_bytes: u64,
    /// What pods can use in all.
    pub allocatable: Resources,
    /// What pods bound or promised to it already use.
    pub used: Resources,
    /// Ready and not cordoned: pods can be sent there now. An ordered node is `false`.
    pub available: bool,
    /// Why it is not available (`cordoned`, `not ready`, `being launched`); empty when available.
    pub unavailable_reason: String,
    /// Ordered and expected to come: demands may be held for it. `false` for broken or cordoned nodes.
    pub expected: bool,
    /// Name of the claim that bought it; absent for nodes that were not bought by us.
    pub claim: Option<String>,
    /// Pods that leave it. Where there are any, what they hold is no part of `used`, and the node is expected instead of
    /// available: nobody can go there yet, but the room can be promised.
    #[serde(skip_serializing_if = "is_none")]
    pub leaving_pods: u64,
}

/// What one pod of a demand needs of its node besides resources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Constraints {
    /// Labels that a node not bought by us must carry (`labelSelector` of the Workspace).
    pub own_node_labels: BTreeMap<String, String>,
    /// Labels that every node must carry (the pod's own node selector).
    pub required_labels: BTreeMap<String, String>,
    /// Instance type that the node must have, compared without case.
    pub instance_type: Option<String>,
    /// Fewest bytes per GPU; nodes of unknown GPU memory pass.
    pub gpu_memory_bytes: u64,
    /// Tolerated taints.
    pub tolerations: Vec<Toleration>,
    /// No two members on one node.
    pub spread: bool,
    /// Whether a machine that the cloud may take back at any time (spot) may be bought for it.
    pub accepts_spot: bool,
}

/// Whether and what may be bought for a demand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Purchase {
    /// Bring your own nodes: nothing.
    #[default]
    Never,
    /// Only the instance type of the constraints.
    Fixed,
    /// The cheapest suitable instance type of the catalogue.
    Cheapest,
}

/// A gang of equal pods that is placed whole or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Demand {
    /// `namespace/name` of the Workspace, `namespace/gang:name` or `namespace/pod:name` of pods without one; unique among
    /// the demands of a snapshot.
    pub name: String,
    /// UID of the Workspace; names of purchases derive from it.
    pub uid: String,
    /// Higher goes first.
    pub priority: i32,
    /// Creation time in seconds since the epoch; the older goes first among equals.
    pub created_seconds: i64,
    /// Names of the pods that wait for a node, in the order of their ordinals.
    pub members: Vec<String>,
    /// What each member needs.
    pub per_member: Resources,
    /// Where members may go.
    pub constraints: Constraints,
    /// What may be bought.
    pub purchase: Purchase,
    /// Nodes that members placed earlier run on (they count for spread).
    pub placed_on: Vec<String>,
}

/// Pods of one kind that the cluster has now. Nodes are ranked for the demand that they let expect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExpectedPods {
    /// How many there are, running and waiting.
    pub pods: u64,
    /// What each of them needs.
    pub per_member: Resources,
    /// Where they may go; `own_node_labels`, `spread` and `accepts_spot` do not count here.
    pub constraints: Constraints,
}

/// On what terms a machine is had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CapacityType {
    /// Kept until it is given back.
    #[default]
    OnDemand,
    /// Cheaper; the cloud may take it back at any time.
    Spot,
}

impl CapacityType {
    /// Value of [`LABEL_CAPACITY_TYPE`].
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::OnDemand => "on-demand",
            Self::Spot => "spot",
        }
    }
}

/// An instance type that can be bought, in one zone and on one set of terms. A type that is sold in several zones or
/// both ways is in the catalogue several times; name, zone and terms together are unique.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InstanceType {
    /// Name in the cloud's spelling.
    pub name: String,
    /// GPU product, for example `NVIDIA A100`.
    pub gpu_model: String,
    /// Nominal memory of one GPU in bytes.
    pub gpu_memory_bytes: u64,
    /// CUDA compute capability times ten, 0 if unknown or not NVIDIA.
    pub compute_capability: u32,
    /// What pods can use of a fresh node (after system reservations).
    pub allocatable: Resources,
    /// On-demand price in micro-dollars per hour; absent if not known. Types without a price are never chosen by
    /// price but may be asked for by name.
    pub price_micro_dollars: Option<u64>,
    /// Not to be bought until then (seconds since the epoch), with the cloud's reason: quota or capacity.
    pub blocked: Option<BlockedOffer>,
    /// Zone that it is sold in; empty if the cloud chooses.
    pub zone: String,
    /// Terms.
    pub capacity_type: CapacityType,
}

/// An offer that the cloud refused recently.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BlockedOffer {
    /// When it may be tried again, seconds since the epoch.
    pub until_seconds: i64,
    /// The cloud's words.
    pub reason: String,
}

/// Everything a plan depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Snapshot {
    /// When it was taken, seconds since the epoch.
    pub now_seconds: i64,
    /// Nodes there and nodes on their way.
    pub nodes: Vec<Node>,
    /// Gangs that wait.
    pub demands: Vec<Demand>,
    /// What more is to be expected: among nodes that would do, those are preferred that it can use least. Empty for no
    /// expectation; then the tightest node is preferred.
    pub expected: Vec<ExpectedPods>,
    /// What can be bought; taints and labels of a fresh node are the same for all types.
    pub catalogue: Vec<InstanceType>,
    /// Taints that a bought node carries.
    pub purchase_taints: Vec<Taint>,
    /// Labels that a bought node is known to carry, the same for all types.
    pub purchase_labels: BTreeMap<String, String>,
    /// How many purchases each Workspace UID has made so far whose claims still exist: ordinals already taken.
    pub ordinals_taken: BTreeMap<String, Vec<u32>>,
    /// How long a claim that serves nobody is kept, seconds; `idle_since` says since when.
    pub idle_grace_seconds: i64,
    /// Idle claims and since when each has served nobody, seconds since the epoch. A claim that is not named here is
    /// in use, whatever its GPUs: the caller knows of pods that need none.
    pub idle_since: BTreeMap<String, i64>,
}

const fn is_none(count: &u64) -> bool {
    *count == 0
}
