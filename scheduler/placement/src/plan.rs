//! What the planner decides. A plan leaves no choice to the code that applies it.

use serde::{Deserialize, Serialize};

use crate::snapshot::CapacityType;

/// Everything that should happen now, and why the rest waits.
#[must_use]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Gangs that get nodes now, in planning order.
    pub assignments: Vec<Assignment>,
    /// Nodes to order, in planning order.
    pub purchases: Vec<PlannedNode>,
    /// Places kept free for gangs that wait for nodes being launched, in planning order.
    #[serde(default)]
    pub holds: Vec<Hold>,
    /// Claims that serve nobody and whose grace is over, by name.
    pub releases: Vec<Release>,
    /// Gangs that wait, in planning order.
    pub waiting: Vec<Waiting>,
    /// When to plan again though nothing changed (an offer unblocks, a grace ends), seconds since the epoch.
    pub next_change_seconds: Option<i64>,
}

/// One gang's nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// `namespace/name` of the Workspace.
    pub demand: String,
    /// One entry per member of the demand, in its order.
    pub members: Vec<MemberAssignment>,
    /// Why these nodes, one short sentence.
    pub reason: String,
}

/// One pod's node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MemberAssignment {
    /// Pod name.
    pub member: String,
    /// Node name.
    pub node: String,
}

/// A part of a waiting gang and the place that is kept for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hold {
    /// `namespace/name` of the Workspace.
    pub demand: String,
    /// Where.
    pub place: Place,
    /// How many of its members, at least one.
    pub members: u64,
}

/// A node of the snapshot or one that the plan orders.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(
    rename_all = "camelCase",
    rename_all_fields = "camelCase",
    tag = "kind"
)]
pub enum Place {
    /// A node of the snapshot.
    Node {
        /// Its name.
        name: String,
    },
    /// A purchase of this plan.
    Purchase {
        /// UID of the buyer.
        buyer_uid: String,
        /// Ordinal among the buyer's purchases.
        ordinal: u32,
    },
}

/// A node to order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedNode {
    /// Workspace that pays: the first demand that it is bought for, `namespace/name`.
    pub buyer: String,
    /// UID of the buyer.
    pub buyer_uid: String,
    /// Ordinal among the buyer's purchases; claim name = f(uid, ordinal).
    pub ordinal: u32,
    /// Instance type.
    pub instance_type: String,
    /// Zone to buy it in; empty if the cloud chooses.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
    /// Terms.
    #[serde(default, skip_serializing_if = "is_default")]
    pub capacity_type: CapacityType,
    /// Demands that are to share it, buyer first.
    pub for_demands: Vec<String>,
    /// Why this type and this many.
    pub reason: String,
}

/// A claim to give back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Release {
    /// Claim name.
    pub claim: String,
    /// Why.
    pub reason: String,
}

/// A gang that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// `namespace/name` of the Workspace.
    pub demand: String,
    /// What for.
    pub blocker: Blocker,
    /// The blocker in one sentence for people, with counts and the cheapest unblock.
    pub message: String,
}

/// What a waiting gang waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Blocker {
    /// Nodes ordered earlier or in this plan, or nodes that pods are leaving; they have been promised.
    NodesLaunching {
        /// Claims (existing) it waits for, by name.
        claims: Vec<String>,
        /// Nodes ordered by this very plan.
        ordered: u32,
        /// Nodes that pods have yet to leave, by name.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        leaving: Vec<String>,
    },
    /// No node fits and nothing may be bought.
    NoNodeFits {
        /// How many nodes each constraint excludes; a node counts once, at the first constraint it fails.
        excluded: Vec<Excluded>,
        /// Members that would fit now; fewer than the gang has.
        fitting_members: u32,
    },
    /// No instance type can ever hold a member.
    NoInstanceTypeFits {
        /// How many types each constraint excludes.
        excluded: Vec<Excluded>,
    },
    /// The instance type asked for is not in the catalogue.
    UnknownInstanceType {
        /// The name asked for.
        instance_type: String,
    },
    /// Suitable offers were refused by the cloud for now.
    OffersBlocked {
        /// Instance types with the cloud's reasons.
        offers: Vec<RefusedOffer>,
        /// When the first is tried again, seconds since the epoch.
        retry_seconds: i64,
    },
}

/// Nodes or types excluded by one constraint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Excluded {
    /// The constraint with its numbers, for example `GPU memory 24 < 40 GiB`,
    /// `taint sku=gpu:NoSchedule not tolerated`,
    /// `fragmented: largest free block 1 of 2 GPUs`.
    pub constraint: String,
    /// How many nodes or types.
    pub count: u32,
}

/// An instance type that the cloud refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedOffer {
    /// Instance type.
    pub instance_type: String,
    /// The cloud's words.
    pub reason: String,
}

/// Who should leave their places, for whom, and where those go. Carried out by eviction only.
#[must_use]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EvictionPlan {
    /// Places made for gangs that wait, in planning order.
    pub preemptions: Vec<Preemption>,
    /// Gangs for which nobody may or need be evicted, in planning order.
    pub refusals: Vec<Refusal>,
    /// Nodes to empty, in the order in which they should be.
    pub consolidations: Vec<Consolidation>,
}

/// Workloads that make place for one gang.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Preemption {
    /// `namespace/name` of the Workspace that gets the places.
    pub demand: String,
    /// Workloads to evict whole, cheapest first; without any one of them the gang would not fit.
    pub victims: Vec<Victim>,
    /// Where the members go once the victims are gone; kept for them until then.
    pub members: Vec<MemberAssignment>,
    /// Why these victims.
    pub reason: String,
}

/// A workload to evict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Victim {
    /// `namespace/name` of the workload.
    pub workload: String,
    /// All its pods.
    pub pods: Vec<String>,
    /// Why it may be evicted.
    pub reason: String,
}

/// A gang that nobody makes place for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// `namespace/name` of the Workspace.
    pub demand: String,
    /// Why, with counts.
    pub reason: String,
}

/// A node to empty so that it can be given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Consolidation {
    /// Node.
    pub node: String,
    /// Its claim.
    pub claim: String,
    /// Every pod on it, with the place that is kept for its successor.
    pub moves: Vec<Move>,
    /// Why this node.
    pub reason: String,
}

/// One pod's move: it is evicted, and its successor is placed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Move {
    /// `namespace/name` of the workload.
    pub workload: String,
    /// Pod.
    pub pod: String,
    /// Node that its successor goes to.
    pub to: String,
}

fn is_default(capacity_type: &CapacityType) -> bool {
    *capacity_type == CapacityType::default()
}
