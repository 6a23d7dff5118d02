//! Whether one member of a demand may go on one node, and if not, why not.
//!
//! The only place of the planner that knows constraints. The order of the checks is fixed, so that a node that fails
//! several is always counted under the same one.

use std::fmt;

use super::ledger::{Slot, Stage};
use crate::snapshot::{
    CapacityType, Demand, LABEL_CAPACITY_TYPE, LABEL_ZONE, Taint, TaintEffect, Toleration,
};

/// The resources in the order of [`crate::snapshot::Resources::amounts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Resource {
    /// Whole GPUs.
    Gpus,
    /// Pods.
    Pods,
    /// CPU in millicores.
    Cpu,
    /// Memory in bytes.
    Memory,
    /// Ephemeral storage in bytes.
    Ephemeral,
}

const RESOURCES: [Resource; 5] = [
    Resource::Gpus,
    Resource::Pods,
    Resource::Cpu,
    Resource::Memory,
    Resource::Ephemeral,
];

/// Why a member may not go on a node or an instance type. `Display` is the constraint with its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Obstacle<'a> {
    /// Nothing may be promised on the node.
    Absent(&'a str),
    /// A taint that is not tolerated.
    Taint(&'a Taint),
    /// A label of the Workspace's selector that the node lacks.
    OwnLabel(&'a str, &'a str),
    /// A label of the pod's node selector that the node lacks.
    RequiredLabel(&'a str, &'a str),
    /// The node is of another instance type than wanted, or of an unknown one.
    InstanceType(Option<&'a str>, &'a str),
    /// Too little memory per GPU: there, wanted, in bytes.
    GpuMemory(u64, u64),
    /// Another member is there already.
    Spread,
    /// The node is too small even when empty: there, wanted.
    TooSmall(Resource, u64, u64),
    /// The node is too full: free, wanted.
    TooFull(Resource, u64, u64),
    /// Enough GPUs are free, but on several nodes: largest free block, wanted.
    Fragmented(u64, u64),
    /// Memory per GPU is not known, and money is at stake.
    GpuMemoryUnknown(u64),
    /// The price is not known, so the type cannot be the cheapest.
    Unpriced,
    /// The machine may be taken back at any time, and the demand does not accept that.
    Spot,
}

impl Obstacle<'_> {
    /// The verb between a count of nodes and this obstacle in a sentence, with a blank behind it; may be empty.
    pub(crate) fn verb(&self, count: u64) -> &'static str {
        match (self, count) {
            (Self::Absent(_) | Self::Fragmented(..), _) => "",
            (_, 1) => "has ",
            _ => "have ",
        }
    }
}

impl fmt::Display for Obstacle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Absent("") => f.write_str("not available"),
            Self::Absent(reason) => f.write_str(reason),
            Self::Taint(taint) => {
                f.write_str("taint ")?;
                f.write_str(&taint.key)?;
                if !taint.value.is_empty() {
                    write!(f, "={}", taint.value)?;
                }
                write!(f, ":{:?} not tolerated", taint.effect)
            }
            Self::OwnLabel(key, value) => write!(f, "no label {key}={value}"),
            Self::RequiredLabel(key, value) => {
                write!(f, "no label {key}={value} (pod's node selector)")
            }
            Self::InstanceType(None, wanted) => {
                write!(f, "unknown instance type, not {wanted}")
            }
            Self::InstanceType(Some(has), wanted) => {
                write!(f, "instance type {has}, not {wanted}")
            }
            Self::GpuMemory(has, wanted) => write!(f, "GPU memory {}", Shortfall::gib(has, wanted)),
            Self::Spread => f.write_str("a member already (one per node)"),
            Self::TooSmall(resource, has, wanted) => {
                write!(f, "{}", Shortfall::of(resource, has, wanted))
            }
            Self::TooFull(resource, free, wanted) => {
                write!(f, "free {}", Shortfall::of(resource, free, wanted))
            }
            Self::Fragmented(largest, wanted) => write!(
                f,
                "fragmented: largest free block {largest} of {wanted} GPUs"
            ),
            Self::GpuMemoryUnknown(wanted) => {
                write!(f, "unknown GPU memory, ≥ {} wanted", gib_up(wanted))
            }
            Self::Unpriced => f.write_str("no known price"),
            Self::Spot => f.write_str("spot machines only"),
        }
    }
}

/// All reasons against a member of `demand` on `slot`, in the fixed order; none means that it fits.
pub(crate) fn obstacles<'a>(
    slot: &Slot<'a>,
    demand: &'a Demand,
) -> impl Iterator<Item = Obstacle<'a>> {
    type Check = for<'s, 'a> fn(&'s Slot<'a>, &'a Demand) -> Option<Obstacle<'a>>;
    const CHECKS: [Check; 10] = [
        absent,
        untolerated_taint,
        own_label,
        required_label,
        instance_type,
        gpu_memory,
        spot,
        spread,
        too_small,
        too_full,
    ];
    CHECKS.into_iter().filter_map(|check| check(slot, demand))
}

/// How many members of `demand` fit on `slot` besides each other: 0 if a constraint forbids it.
pub(crate) fn members_that_fit(slot: &Slot<'_>, demand: &Demand) -> u64 {
    // The arithmetic first: on a full cluster it dismisses most nodes without looking at a string.
    let room = room(slot, demand);
    if room == 0 || obstacles(slot, demand).next().is_some() {
        return 0;
    }
    room
}

/// How many members find resources on `slot`, whatever else forbids them.
pub(crate) fn room(slot: &Slot<'_>, demand: &Demand) -> u64 {
    let most = if demand.constraints.spread {
        1
    } else {
        u64::MAX
    };
    slot.free.holds(&demand.per_member).min(most)
}

fn absent<'a>(slot: &Slot<'a>, _: &'a Demand) -> Option<Obstacle<'a>> {
    (slot.stage == Stage::Absent).then_some(Obstacle::Absent(slot.unavailable_reason))
}

fn untolerated_taint<'a>(slot: &Slot<'a>, demand: &'a Demand) -> Option<Obstacle<'a>> {
    let tolerations = &demand.constraints.tolerations;
    slot.taints
        .iter()
        .filter(|taint| taint.effect != TaintEffect::PreferNoSchedule)
        .filter(|taint| !tolerations.iter().any(|one| tolerates(one, taint)))
        .min()
        .map(Obstacle::Taint)
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let key = toleration.key.is_empty() || toleration.key == taint.key;
    let value = toleration
        .value
        .as_ref()
        .is_none_or(|value| *value == taint.value);
    let effect = toleration
        .effect
        .is_none_or(|effect| effect == taint.effect);
    key && value && effect
}

/// A node bought by us serves every Workspace, whatever its selector: that is how Workspaces share purchases.
fn own_label<'a>(slot: &Slot<'a>, demand: &'a Demand) -> Option<Obstacle<'a>> {
    if slot.bought {
        return None;
    }
    let wanted = &demand.constraints.own_node_labels;
    missing_label(slot, wanted).map(|(key, value)| Obstacle::OwnLabel(key, value))
}

fn required_label<'a>(slot: &Slot<'a>, demand: &'a Demand) -> Option<Obstacle<'a>> {
    let wanted = &demand.constraints.required_labels;
    missing_label(slot, wanted).map(|(key, value)| Obstacle::RequiredLabel(key, value))
}

fn missing_label<'a>(
    slot: &Slot<'_>,
    wanted: &'a std::collections::BTreeMap<String, String>,
) -> Option<(&'a str, &'a str)> {
    wanted
        .iter()
        .find(|(key, value)| slot.labels.get(*key) != Some(*value) && !sold_as(slot, key, value))
        .map(|(key, value)| (key.as_str(), value.as_str()))
}

/// Whether the offer itself promises the label.
fn sold_as(slot: &Slot<'_>, key: &str, value: &str) -> bool {
    match key {
        LABEL_ZONE => !value.is_empty() && slot.zone == value,
        LABEL_CAPACITY_TYPE => slot
            .capacity_type
            .is_some_and(|terms| terms.label() == value),
        _ => false,
    }
}

fn spot<'a>(slot: &Slot<'a>, demand: &'a Demand) -> Option<Obstacle<'a>> {
    let is_spot = slot.capacity_type == Some(CapacityType::Spot);
    (is_spot && !demand.constraints.accepts_spot).then_some(Obstacle::Spot)
}

fn instance_type<'a>(slot: &Slot<'a>, demand: &'a Demand) -> Option<Obstacle<'a>> {
    let wanted = demand.constraints.instance_type.as_deref()?;
    let same = slot
        .instance_type
        .is_some_and(|has| has.eq_ignore_ascii_case(wanted));
    (!same).then_some(Obstacle::InstanceType(slot.instance_type, wanted))
}

fn gpu_memory<'a>(slot: &Slot<'a>, demand: &'a Demand) -> Option<Obstacle<'a>> {
    let (has, wanted) = (slot.gpu_memory_bytes, demand.constraints.gpu_memory_bytes);
    (has != 0 && has < wanted).then_some(Obstacle::GpuMemory(has, wanted))
}

fn spread<'a>(slot: &Slot<'a>, demand: &'a Demand) -> Option<Obstacle<'a>> {
    // A node ordered by this plan has no name yet, so nothing can be there already.
    let named = !matches!(slot.stage, Stage::Ordered(_));
    let there = || demand.placed_on.iter().any(|node| node == slot.name);
    (demand.constraints.spread && named && there()).then_some(Obstacle::Spread)
}

fn too_small<'a>(slot: &Slot<'a>, demand: &'a Demand) -> Option<Obstacle<'a>> {
    let (resource, has, wanted) =
        first_shortage(slot.allocatable.amounts(), demand.per_member.amounts())?;
    Some(Obstacle::TooSmall(resource, has, wanted))
}

fn too_full<'a>(slot: &Slot<'a>, demand: &'a Demand) -> Option<Obstacle<'a>> {
    let (resource, free, wanted) =
        first_shortage(slot.free.amounts(), demand.per_member.amounts())?;
    Some(Obstacle::TooFull(resource, free, wanted))
}

fn first_shortage(has: [u64; 5], wanted: [u64; 5]) -> Option<(Resource, u64, u64)> {
    RESOURCES
        .into_iter()
        .zip(has.into_iter().zip(wanted))
        .find(|(_, (has, wanted))| has < wanted)
        .map(|(resource, (has, wanted))| (resource, has, wanted))
}

/// "has < wanted" with the unit once, rounded so that the two numbers never look equal.
struct Shortfall {
    what: &'static str,
    has: String,
    wanted: String,
    unit: &'static str,
}

impl Shortfall {
    fn of(resource: Resource, has: u64, wanted: u64) -> Self {
        match resource {
            Resource::Gpus => Self::plain("GPUs ", has, wanted),
            Resource::Pods => Self::plain("pods ", has, wanted),
            Resource::Cpu => Self {
                what: "CPU ",
                has: cores(has),
                wanted: cores(wanted),
                unit: " cores",
            },
            Resource::Memory => Self {
                what: "memory ",
                ..Self::gib(has, wanted)
            },
            Resource::Ephemeral => Self {
                what: "ephemeral storage ",
                ..Self::gib(has, wanted)
            },
        }
    }

    fn plain(what: &'static str, has: u64, wanted: u64) -> Self {
        Self {
            what,
            has: has.to_string(),
            wanted: wanted.to_string(),
            unit: "",
        }
    }

    fn gib(has: u64, wanted: u64) -> Self {
        Self {
            what: "",
            has: tenths(u128::from(has) * 10 / GIB),
            wanted: gib_number_up(wanted),
            unit: " GiB",
        }
    }
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            what,
            has,
            wanted,
            unit,
        } = self;
        write!(f, "{what}{has} < {wanted}{unit}")
    }
}

const GIB: u128 = 1 << 30;

/// Bytes as GiB with at most one decimal, rounded up, with the unit.
pub(crate) fn gib_up(bytes: u64) -> String {
    format!("{} GiB", gib_number_up(bytes))
}

fn gib_number_up(bytes: u64) -> String {
    tenths((u128::from(bytes) * 10).div_ceil(GIB))
}

fn tenths(tenths: u128) -> String {
    match tenths % 10 {
        0 => (tenths / 10).to_string(),
        rest => format!("{}.{rest}", tenths / 10),
    }
}

/// Millicores as cores without trailing zeros.
pub(crate) fn cores(milli: u64) -> String {
    match milli % 1000 {
        0 => (milli / 1000).to_string(),
        rest => format!("{}.{rest:03}", milli / 1000)
            .trim_end_matches('0')
            .to_owned(),
    }
}
