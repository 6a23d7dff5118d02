//! Which of the nodes that would do is best kept for the pods to expect: the packing engine's ratings, for the planner's
//! slots.
//!
//! May not decide whether a member fits; [`fit`](super::fit) does. What the engine sees of nodes is coarser than what the
//! planner sees: memory in steps, so that machines of one type count as alike whatever the kernel kept for itself.

use std::collections::{BTreeMap, BTreeSet};

use super::ledger::{Slot, Stage};
pub(super) use crate::packing::ranking::INDIFFERENT;
use crate::packing::ranking::{self, NodeClass};
use crate::packing::{Amounts, DeviceMode, GpuRequest, NodeShape, Request, RequestId};
use crate::snapshot::{Constraints, Demand, Resources, Snapshot};

/// Bytes in a MiB.
const MIB: u64 = 1 << 20;
/// Memory and storage are told apart in steps of so many MiB (16 GiB); kernels differ by less in what they keep.
const STEP_MIB: u64 = 16 << 10;

/// Ratings of slots; none at all if the snapshot expects nothing.
#[derive(Debug, Default)]
pub(super) struct Ranking {
    engine: Option<ranking::Ranking>,
    /// By position of the slot.
    classes: Vec<Option<NodeClass>>,
}

impl Ranking {
    /// Ratings under what `snapshot` expects for the slots that the books open with.
    pub(super) fn new(snapshot: &Snapshot, slots: &[Slot<'_>]) -> Self {
        if snapshot.expected.is_empty() {
            return Self::default();
        }
        let keys = label_keys(snapshot);
        let shapes: Vec<NodeShape> = slots.iter().map(|slot| shape(slot, &keys)).collect();
        let expected: Vec<(Request, u64)> = snapshot
            .expected
            .iter()
            .map(|one| (request(&one.per_member, &one.constraints), one.pods))
            .collect();
        let (engine, classes) = ranking::Ranking::new(&shapes, &expected);
        Self {
            engine: Some(engine),
            classes,
        }
    }

    /// The engine's number for what a member of `demand` asks.
    pub(super) fn request(&mut self, demand: &Demand) -> Option<RequestId> {
        let engine = self.engine.as_mut()?;
        engine.request(&request(&demand.per_member, &demand.constraints))
    }

    /// How good the slot at `position` is for one more member, with `free` left on it; the greater the better.
    pub(super) fn score(
        &mut self,
        position: usize,
        free: &Resources,
        request: Option<RequestId>,
    ) -> i32 {
        let class = self.classes.get(position).copied().flatten();
        match (self.engine.as_mut(), class, request) {
            (Some(engine), Some(class), Some(request)) => {
                engine.score(class, request, free.gpus, amounts(free))
            }
            _ => INDIFFERENT,
        }
    }
}

/// Labels that anybody asks for: all others do not tell nodes apart.
fn label_keys(snapshot: &Snapshot) -> BTreeSet<&str> {
    let waiting = snapshot.demands.iter().map(|one| &one.constraints);
    let expected = snapshot.expected.iter().map(|one| &one.constraints);
    waiting
        .chain(expected)
        .flat_map(|constraints| constraints.required_labels.keys())
        .map(String::as_str)
        .collect()
}

fn shape(slot: &Slot<'_>, keys: &BTreeSet<&str>) -> NodeShape {
    // Nothing can be kept for anybody on a node that nobody can use.
    let there = slot.stage != Stage::Absent;
    let labels: BTreeMap<String, String> = slot
        .labels
        .iter()
        .filter(|(key, _)| keys.contains(key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    NodeShape {
        name: slot.name.to_owned(),
        model: model(slot.instance_type),
        device_memory_mib: slot.gpu_memory_bytes / MIB,
        devices: u8::try_from(slot.allocatable.gpus)
            .ok()
            .filter(|_| there)
            .unwrap_or(u8::MAX),
        mode: DeviceMode::Shared,
        capacity: amounts(&slot.allocatable),
        labels,
        taints: slot.taints.to_vec(),
        ..NodeShape::default()
    }
}

fn request(each: &Resources, constraints: &Constraints) -> Request {
    Request {
        amounts: amounts(each),
        gpu: match u8::try_from(each.gpus) {
            Ok(0) => GpuRequest::Nothing,
            Ok(count) => GpuRequest::Devices { count, milli: 1000 },
            Err(_) => GpuRequest::Devices {
                count: u8::MAX,
                milli: 1000,
            },
        },
        models: constraints
            .instance_type
            .iter()
            .map(|name| model(Some(name)))
            .collect(),
        device_memory_mib: constraints.gpu_memory_bytes / MIB,
        selector: constraints.required_labels.clone(),
        tolerations: constraints.tolerations.clone(),
    }
}

/// Instance types are compared without case.
fn model(instance_type: Option<&str>) -> String {
    instance_type.unwrap_or_default().to_ascii_lowercase()
}

/// Rounded down on both sides: what fits exactly still fits.
const fn amounts(resources: &Resources) -> Amounts {
    Amounts {
        milli_cpu: resources.milli_cpu,
        memory_mib: steps(resources.memory_bytes),
        ephemeral_mib: steps(resources.ephemeral_bytes),
        pods: resources.pods,
    }
}

const fn steps(bytes: u64) -> u64 {
    bytes / MIB / STEP_MIB * STEP_MIB
}
