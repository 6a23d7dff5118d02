//! Node classes: what never changes about a node, shared by all nodes that are alike in it.

use std::collections::{BTreeMap, BTreeSet};

use super::PackingError;
use super::device::{DeviceMode, MigProfile, Shape, WHOLE_MILLI};
use super::model::{Amounts, Domains, GpuRequest, NodeShape, Request};
use super::typical::{KindSet, ShapeOn};
use crate::snapshot::{Taint, TaintEffect, Toleration};

/// Most GPU kinds of one cluster: sets of them are bits of one word.
const MOST_KINDS: usize = KindSet::BITS as usize;
/// The label that is different on every node; requests that name it are matched against the node's own name.
pub(super) const HOSTNAME_LABEL: &str = "kubernetes.io/hostname";

/// A GPU model with its memory and the way it is handed out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Kind {
    pub(super) model: String,
    pub(super) device_memory_mib: u64,
    pub(super) mode: DeviceMode,
}

/// What decides how much a node can ever hold: nodes of one make differ only in labels, taints and where they stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Make {
    pub(super) kind: u16,
    devices: u8,
    capacity: Amounts,
}

/// What nodes of a class have in common.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class {
    pub(super) kind: u16,
    pub(super) devices: u8,
    pub(super) capacity: Amounts,
    labels: BTreeMap<String, String>,
    taints: Vec<Taint>,
    domains: Domains,
}

/// Why no node of a class can ever take a request, whatever is idle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ClassRefusal {
    Taint,
    Selector,
    Model,
    DeviceMemory,
    DeviceMode,
}

/// All classes and kinds.
#[derive(Debug, Default)]
pub(super) struct Classes {
    pub(super) kinds: Vec<Kind>,
    pub(super) list: Vec<Class>,
    pub(super) makes: Vec<Make>,
    /// Per class, the number of its make.
    make_numbers: Vec<u16>,
    /// Per class, how many nodes are of it now.
    nodes: Vec<u32>,
    /// How many classes have nodes.
    inhabited: usize,
    numbers: BTreeMap<Class, u32>,
}

impl Classes {
    /// The class of a node that comes, which counts as there from now on.
    pub(super) fn admit(&mut self, node: &NodeShape) -> Result<u32, PackingError> {
        let number = self.intern(node)?;
        if let Some(nodes) = self.nodes.get_mut(number as usize) {
            self.inhabited += usize::from(*nodes == 0);
            *nodes = nodes.saturating_add(1);
        }
        Ok(number)
    }

    /// A node of this class went.
    pub(super) fn dismiss(&mut self, class: u32) {
        if let Some(nodes) = self.nodes.get_mut(class as usize) {
            self.inhabited -= usize::from(*nodes == 1);
            *nodes = nodes.saturating_sub(1);
        }
    }

    /// How many classes have nodes. What requests are judged by changes with it.
    pub(super) const fn inhabited(&self) -> usize {
        self.inhabited
    }

    fn intern(&mut self, node: &NodeShape) -> Result<u32, PackingError> {
        let kind = Kind {
            model: node.model.clone(),
            device_memory_mib: node.device_memory_mib,
            mode: node.mode,
        };
        let at = match self.kinds.iter().position(|known| *known == kind) {
            Some(at) => at,
            None if self.kinds.len() == MOST_KINDS => {
                return Err(PackingError::TooManyKinds {
                    node: node.name.clone(),
                    most: MOST_KINDS,
                });
            }
            None => {
                self.kinds.push(kind);
                self.kinds.len() - 1
            }
        };
        let mut labels = node.labels.clone();
        labels.remove(HOSTNAME_LABEL);
        let class = Class {
            kind: u16::try_from(at).unwrap_or(u16::MAX),
            devices: node.devices,
            capacity: node.capacity,
            labels,
            taints: node.taints.clone(),
            domains: node.domains.clone(),
        };
        if let Some(number) = self.numbers.get(&class) {
            return Ok(*number);
        }
        let number = u32::try_from(self.list.len()).unwrap_or(u32::MAX);
        let make = self.intern_make(&class);
        self.make_numbers.push(make);
        self.nodes.push(0);
        self.list.push(class.clone());
        self.numbers.insert(class, number);
        Ok(number)
    }

    fn intern_make(&mut self, class: &Class) -> u16 {
        let make = Make {
            kind: class.kind,
            devices: class.devices,
            capacity: class.capacity,
        };
        let known = self.makes.iter().position(|known| *known == make);
        let at = known.unwrap_or_else(|| {
            self.makes.push(make);
            self.makes.len() - 1
        });
        u16::try_from(at).unwrap_or(u16::MAX)
    }

    /// The number of a class's make.
    pub(super) fn make_of(&self, class: u32) -> u16 {
        let known = self.make_numbers.get(class as usize);
        known.copied().unwrap_or(u16::MAX)
    }

    /// Makes whose idle nodes hold a request of these amounts and this many devices, of the classes that have nodes and on
    /// which `devices_on` says how many; ascending.
    pub(super) fn makes_for(
        &self,
        amounts: &Amounts,
        devices_on: impl Fn(u32) -> Option<usize>,
    ) -> Box<[u16]> {
        let mut found: Vec<u16> = (0u32..)
            .zip(&self.list)
            .zip(&self.nodes)
            .filter(|(_, nodes)| **nodes > 0)
            .map(|(one, _)| one)
            .filter(|(number, class)| {
                devices_on(*number).is_some_and(|devices| devices <= usize::from(class.devices))
                    && class.capacity.holds(amounts)
            })
            .map(|(number, _)| self.make_of(number))
            .collect();
        found.sort_unstable();
        found.dedup();
        found.into()
    }

    /// GPU kinds a request accepts. A request without GPUs accepts all.
    pub(super) fn accepted(&self, request: &Request) -> KindSet {
        let mut set = 0;
        for (bit, kind) in self.kinds.iter().enumerate() {
            if accepts_model(&request.models, &request.gpu, &kind.model) {
                set |= 1 << bit;
            }
        }
        set
    }

    /// The request's shape on every kind.
    pub(super) fn shape_on(&self, request: &Request) -> ShapeOn {
        match &request.gpu {
            GpuRequest::Nothing => ShapeOn::Every(Shape::Nothing),
            GpuRequest::Devices { count, milli } => ShapeOn::Every(Shape::Devices {
                count: *count,
                milli: *milli,
            }),
            GpuRequest::Memory { .. } | GpuRequest::Partition { .. } => ShapeOn::Each(
                self.kinds
                    .iter()
                    .map(|kind| shape_on_kind(&request.gpu, kind))
                    .collect(),
            ),
        }
    }

    /// The request's shape on nodes of `class`, or why they can never take it.
    pub(super) fn judge(&self, class: &Class, request: &Request) -> Result<Shape, ClassRefusal> {
        let repelled = |taint: &&Taint| {
            taint.effect != TaintEffect::PreferNoSchedule
                && !request
                    .tolerations
                    .iter()
                    .any(|toleration| tolerates(toleration, taint))
        };
        if class.taints.iter().any(|taint| repelled(&taint)) {
            return Err(ClassRefusal::Taint);
        }
        let missing = |(key, value): (&String, &String)| {
            key != HOSTNAME_LABEL && class.labels.get(key) != Some(value)
        };
        if request.selector.iter().any(missing) {
            return Err(ClassRefusal::Selector);
        }
        if request.gpu == GpuRequest::Nothing {
            return Ok(Shape::Nothing);
        }
        let Some(kind) = self.kinds.get(usize::from(class.kind)) else {
            return Err(ClassRefusal::Model);
        };
        if class.devices == 0 || !accepts_model(&request.models, &request.gpu, &kind.model) {
            return Err(ClassRefusal::Model);
        }
        if kind.device_memory_mib > 0 && kind.device_memory_mib < request.device_memory_mib {
            return Err(ClassRefusal::DeviceMemory);
        }
        let partitioned = matches!(request.gpu, GpuRequest::Partition { .. });
        if partitioned != (kind.mode == DeviceMode::Partitioned) {
            return Err(ClassRefusal::DeviceMode);
        }
        shape_on_kind(&request.gpu, kind).ok_or(ClassRefusal::DeviceMemory)
    }

    pub(super) fn kind_count(&self) -> u16 {
        u16::try_from(self.kinds.len()).unwrap_or(u16::MAX)
    }
}

fn accepts_model(models: &BTreeSet<String>, gpu: &GpuRequest, model: &str) -> bool {
    *gpu == GpuRequest::Nothing || models.is_empty() || models.contains(model)
}

fn shape_on_kind(gpu: &GpuRequest, kind: &Kind) -> Option<Shape> {
    match gpu {
        GpuRequest::Nothing => Some(Shape::Nothing),
        GpuRequest::Devices { count, milli } => Some(Shape::Devices {
            count: *count,
            milli: *milli,
        }),
        GpuRequest::Memory { mib } => {
            let share = (mib * u64::from(WHOLE_MILLI)).div_ceil(kind.device_memory_mib.max(1));
            let milli = u16::try_from(share)
                .ok()
                .filter(|milli| *milli <= WHOLE_MILLI)?;
            Some(Shape::Devices { count: 1, milli })
        }
        GpuRequest::Partition { profile } => {
            MigProfile::parse(profile, kind.device_memory_mib).map(Shape::Partition)
        }
    }
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    (toleration.key.is_empty() || toleration.key == taint.key)
        && toleration
            .value
            .as_ref()
            .is_none_or(|value| *value == taint.value)
        && toleration
            .effect
            .is_none_or(|effect| effect == taint.effect)
}
