//! A plain model of a cluster: every node, every device, every filter spelled out. It places nothing; it checks.

use std::collections::BTreeMap;

use kaito_placement::packing::{
    Amounts, DeviceMode, GpuRequest, NodeShape, Placement, Request, Taken,
};
use kaito_placement::snapshot::TaintEffect;

/// A node as the model sees it.
#[derive(Clone, Debug)]
pub(crate) struct ModelNode {
    pub(crate) shape: NodeShape,
    pub(crate) idle: Amounts,
    /// Idle thousandths of a shared device, or the taken slots of a partitioned one.
    pub(crate) devices: Vec<u16>,
}

/// All nodes.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) nodes: Vec<ModelNode>,
}

/// Memory slots of a profile and where it may start, on a device of so many MiB.
fn geometry(profile: &str, device_mib: u64) -> Option<(u32, &'static [u32])> {
    let table: &[(&str, u64, u32, &[u32])] = &[
        ("1g.5gb", 40_960, 1, &[0, 1, 2, 3, 4, 5, 6]),
        ("1g.10gb", 40_960, 2, &[0, 2, 4, 6]),
        ("2g.10gb", 40_960, 2, &[0, 2, 4]),
        ("3g.20gb", 40_960, 4, &[0, 4]),
        ("4g.20gb", 40_960, 4, &[0]),
        ("7g.40gb", 40_960, 8, &[0]),
        ("1g.10gb", 81_920, 1, &[0, 1, 2, 3, 4, 5, 6]),
        ("1g.20gb", 81_920, 2, &[0, 2, 4, 6]),
        ("2g.20gb", 81_920, 2, &[0, 2, 4]),
        ("3g.40gb", 81_920, 4, &[0, 4]),
        ("7g.80gb", 81_920, 8, &[0]),
    ];
    let found = table
        .iter()
        .find(|row| row.0 == profile && row.1 == device_mib);
    found.map(|row| (row.2, row.3))
}

impl ModelNode {
    fn is_partitioned(&self) -> bool {
        self.shape.mode == DeviceMode::Partitioned
    }

    fn slots_free(&self, slots: u32, starts: &[u32]) -> bool {
        let width = (1u16 << slots) - 1;
        self.devices
            .iter()
            .any(|taken| starts.iter().any(|start| taken & (width << start) == 0))
    }

    fn gpu_fits(&self, request: &Request) -> bool {
        let holding = |milli: u64| {
            self.devices
                .iter()
                .filter(|idle| u64::from(**idle) >= milli)
                .count()
        };
        let partitioned = self.is_partitioned();
        match &request.gpu {
            GpuRequest::Nothing => true,
            GpuRequest::Devices { count, milli } => {
                !partitioned && holding(u64::from(*milli)) >= usize::from(*count)
            }
            GpuRequest::Memory { mib } => {
                let milli = (mib * 1000).div_ceil(self.shape.device_memory_mib.max(1));
                !partitioned && milli <= 1000 && holding(milli) >= 1
            }
            GpuRequest::Partition { profile } => {
                partitioned
                    && geometry(profile, self.shape.device_memory_mib)
                        .is_some_and(|(slots, starts)| self.slots_free(slots, starts))
            }
        }
    }

    /// Every filter.
    pub(crate) fn fits(&self, request: &Request) -> bool {
        let tolerated = self.shape.taints.iter().all(|taint| {
            taint.effect == TaintEffect::PreferNoSchedule
                || request.tolerations.iter().any(|toleration| {
                    (toleration.key.is_empty() || toleration.key == taint.key)
                        && toleration
                            .value
                            .as_ref()
                            .is_none_or(|value| *value == taint.value)
                        && toleration
                            .effect
                            .is_none_or(|effect| effect == taint.effect)
                })
        });
        let labelled = request.selector.iter().all(|(key, value)| {
            if key == "kubernetes.io/hostname" {
                *value == self.shape.name
            } else {
                self.shape.labels.get(key) == Some(value)
            }
        });
        let model = request.gpu == GpuRequest::Nothing
            || ((request.models.is_empty() || request.models.contains(&self.shape.model))
                && (self.shape.device_memory_mib == 0
                    || self.shape.device_memory_mib >= request.device_memory_mib));
        let need = &request.amounts;
        tolerated
            && labelled
            && model
            && self.idle.milli_cpu >= need.milli_cpu
            && self.idle.memory_mib >= need.memory_mib
            && self.idle.ephemeral_mib >= need.ephemeral_mib
            && self.idle.pods >= need.pods
            && self.gpu_fits(request)
    }

    /// Idle thousandths, an eighth of a device per MIG slot.
    pub(crate) fn idle_milli(&self) -> u64 {
        let of = |device: &u16| {
            if self.is_partitioned() {
                u64::from(8 - device.count_ones()) * 125
            } else {
                u64::from(*device)
            }
        };
        self.devices.iter().map(of).sum()
    }

    fn take(&mut self, device: u8, taken: Taken) {
        let partitioned = self.is_partitioned();
        let state = &mut self.devices[usize::from(device)];
        match taken.slots() {
            Some(slots) => {
                assert!(partitioned, "slots on a shared device");
                assert_eq!(*state & u16::from(slots), 0, "a slot is given twice");
                *state |= u16::from(slots);
            }
            None => {
                assert!(!partitioned, "thousandths of a partitioned device");
                assert!(*state >= taken.milli(), "a device beyond 1000");
                *state -= taken.milli();
            }
        }
    }

    fn give_back(&mut self, device: u8, taken: Taken) {
        let state = &mut self.devices[usize::from(device)];
        match taken.slots() {
            Some(slots) => *state &= !u16::from(slots),
            None => *state += taken.milli(),
        }
    }
}

impl Model {
    pub(crate) fn new(shapes: &[NodeShape]) -> Self {
        let nodes = shapes
            .iter()
            .map(|shape| ModelNode {
                shape: shape.clone(),
                idle: shape.capacity,
                devices: vec![
                    if shape.mode == DeviceMode::Partitioned {
                        0
                    } else {
                        1000
                    };
                    usize::from(shape.devices)
                ],
            })
            .collect();
        Self { nodes }
    }

    /// Positions of nodes that pass every filter.
    pub(crate) fn fitting(&self, request: &Request) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|at| self.nodes[*at].fits(request))
            .collect()
    }

    /// Takes over a placement, and asserts that it is what was asked and that there was room for it.
    pub(crate) fn place(&mut self, request: &Request, placement: &Placement) {
        let node = &mut self.nodes[placement.node as usize];
        assert!(node.fits(request), "the node does not pass the filters");
        assert_eq!(placement.amounts, request.amounts);
        let mut distinct: BTreeMap<u8, Taken> = BTreeMap::new();
        for (device, taken) in &placement.devices {
            assert!(
                distinct.insert(*device, *taken).is_none(),
                "one device twice"
            );
            node.take(*device, *taken);
        }
        let milli: Vec<u64> = placement
            .devices
            .iter()
            .map(|one| u64::from(one.1.milli()))
            .collect();
        match &request.gpu {
            GpuRequest::Nothing => assert!(milli.is_empty()),
            GpuRequest::Devices { count, milli: each } => {
                assert_eq!(milli, vec![u64::from(*each); usize::from(*count)]);
            }
            GpuRequest::Memory { mib } => {
                assert_eq!(
                    milli,
                    [(mib * 1000).div_ceil(node.shape.device_memory_mib.max(1))]
                );
            }
            GpuRequest::Partition { profile } => {
                let (slots, starts) = geometry(profile, node.shape.device_memory_mib).unwrap();
                let held = placement.devices[0].1.slots().unwrap();
                let width = ((1u16 << slots) - 1) as u8;
                assert!(
                    starts.iter().any(|start| held == width << start),
                    "no such instance"
                );
            }
        }
        let need = &request.amounts;
        node.idle.milli_cpu -= need.milli_cpu;
        node.idle.memory_mib -= need.memory_mib;
        node.idle.ephemeral_mib -= need.ephemeral_mib;
        node.idle.pods -= need.pods;
    }

    /// Takes a placement out again.
    pub(crate) fn release(&mut self, placement: &Placement) {
        let node = &mut self.nodes[placement.node as usize];
        for (device, taken) in &placement.devices {
            node.give_back(*device, *taken);
        }
        node.idle.milli_cpu += placement.amounts.milli_cpu;
        node.idle.memory_mib += placement.amounts.memory_mib;
        node.idle.ephemeral_mib += placement.amounts.ephemeral_mib;
        node.idle.pods += placement.amounts.pods;
    }

    pub(crate) fn idle_milli(&self) -> u64 {
        self.nodes.iter().map(ModelNode::idle_milli).sum()
    }
}

impl ModelNode {
    /// Puts one more pod anywhere on the node; the node passes the filters.
    pub(crate) fn put_somewhere(&mut self, request: &Request) {
        let memory = self.shape.device_memory_mib;
        let need = &request.amounts;
        self.idle.milli_cpu -= need.milli_cpu;
        self.idle.memory_mib -= need.memory_mib;
        self.idle.ephemeral_mib -= need.ephemeral_mib;
        self.idle.pods -= need.pods;
        let (mut count, milli) = match &request.gpu {
            GpuRequest::Nothing => return,
            GpuRequest::Devices { count, milli } => (*count, *milli),
            GpuRequest::Memory { mib } => (1, (mib * 1000).div_ceil(memory.max(1)) as u16),
            GpuRequest::Partition { profile } => {
                let (slots, starts) = geometry(profile, memory).unwrap();
                let width = (1u16 << slots) - 1;
                for device in &mut self.devices {
                    if let Some(start) = starts
                        .iter()
                        .find(|start| *device & (width << **start) == 0)
                    {
                        *device |= width << start;
                        return;
                    }
                }
                return;
            }
        };
        for idle in &mut self.devices {
            if count > 0 && *idle >= milli {
                *idle -= milli;
                count -= 1;
            }
        }
    }
}
