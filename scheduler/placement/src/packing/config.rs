//! Device configurations: the multiset of what is idle on a node's devices, numbered, with what each shape makes of it.
//!
//! A few hundred configurations cover a cluster of thousands of nodes, so whatever is worked out for one serves all
//! nodes that share it. Which device of a node carries which idle amount is the cluster's business, not this module's.
#![expect(
    clippy::indexing_slicing,
    reason = "configuration and shape numbers are handed out by this module and never shrink while it lives"
)]

use std::collections::HashMap;

use super::device::{Device, Shape};

/// Number of a configuration.
pub(super) type ConfigId = u32;
/// Number of a shape.
pub(super) type ShapeId = u32;
/// A transition that has not been worked out yet.
const UNKNOWN: u32 = u32::MAX;

/// What is idle on the devices of a node of one GPU kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Config {
    /// GPU kind of the node.
    pub(super) kind: u16,
    /// Ascending.
    pub(super) devices: Box<[Device]>,
}

/// One way to place a shape.
#[derive(Clone, Copy, Debug)]
pub(super) struct Successor {
    /// Configuration afterwards.
    pub(super) config: ConfigId,
    /// The device it goes to, before and after; for several devices, the first.
    pub(super) from: Device,
    /// That device afterwards.
    pub(super) to: Device,
}

/// Every configuration met so far.
#[derive(Debug, Default)]
pub(super) struct Configs {
    numbers: HashMap<Config, ConfigId>,
    list: Vec<Config>,
    idle: Vec<i64>,
    shape_numbers: HashMap<Shape, ShapeId>,
    shapes: Vec<Shape>,
    /// Per shape and configuration, where its successors begin in `successors`; their count precedes them in `counts`.
    spans: Vec<Vec<(u32, u32)>>,
    successors: Vec<Successor>,
}

impl Configs {
    pub(super) fn config(&self, id: ConfigId) -> &Config {
        &self.list[id as usize]
    }

    /// Idle thousandths in all.
    pub(super) fn idle_milli(&self, id: ConfigId) -> i64 {
        self.idle[id as usize]
    }

    pub(super) fn shape(&self, id: ShapeId) -> Shape {
        self.shapes[id as usize]
    }

    pub(super) fn intern_shape(&mut self, shape: Shape) -> ShapeId {
        if let Some(id) = self.shape_numbers.get(&shape) {
            return *id;
        }
        let id = u32::try_from(self.shapes.len()).unwrap_or(UNKNOWN);
        self.shapes.push(shape);
        self.spans.push(Vec::new());
        self.shape_numbers.insert(shape, id);
        id
    }

    /// The number of the configuration of `devices`, in any order.
    pub(super) fn intern(&mut self, kind: u16, devices: &[Device]) -> ConfigId {
        let mut sorted: Box<[Device]> = devices.into();
        sorted.sort_unstable();
        self.intern_sorted(Config {
            kind,
            devices: sorted,
        })
    }

    fn intern_sorted(&mut self, config: Config) -> ConfigId {
        if let Some(id) = self.numbers.get(&config) {
            return *id;
        }
        let id = u32::try_from(self.list.len()).unwrap_or(UNKNOWN);
        self.idle.push(
            config
                .devices
                .iter()
                .map(|device| i64::from(device.idle_milli()))
                .sum(),
        );
        self.numbers.insert(config.clone(), id);
        self.list.push(config);
        id
    }

    /// Every way to place the shape, tightest device first; empty if it does not fit.
    ///
    /// A shape of one device may go to any that holds it. A shape of several takes the fullest devices that suffice:
    /// whole devices are alike, and the rule for the rest is the published one.
    pub(super) fn successors(&mut self, config: ConfigId, shape: ShapeId) -> &[Successor] {
        let known = self.spans[shape as usize].get(config as usize).copied();
        let (start, count) = match known {
            Some((start, count)) if start != UNKNOWN => (start, count),
            _ => self.work_out(config, shape),
        };
        &self.successors[start as usize..(start + count) as usize]
    }

    /// [`Configs::successors`] of a pair that was asked for before; empty otherwise.
    pub(super) fn known_successors(&self, config: ConfigId, shape: ShapeId) -> &[Successor] {
        match self.spans[shape as usize].get(config as usize) {
            Some((start, count)) if *start != UNKNOWN => {
                &self.successors[*start as usize..(start + count) as usize]
            }
            _ => &[],
        }
    }

    fn work_out(&mut self, config: ConfigId, shape: ShapeId) -> (u32, u32) {
        let found = self.enumerate(config, self.shapes[shape as usize]);
        let span = (
            u32::try_from(self.successors.len()).unwrap_or(UNKNOWN),
            u32::try_from(found.len()).unwrap_or(0),
        );
        self.successors.extend(found);
        let spans = &mut self.spans[shape as usize];
        if spans.len() <= config as usize {
            spans.resize(config as usize + 1, (UNKNOWN, 0));
        }
        spans[config as usize] = span;
        span
    }

    fn enumerate(&mut self, id: ConfigId, shape: Shape) -> Vec<Successor> {
        let Config { kind, devices } = self.list[id as usize].clone();
        let count = shape.count();
        if count == 0 {
            let nothing = Device::idle(super::device::DeviceMode::Shared);
            return vec![Successor {
                config: id,
                from: nothing,
                to: nothing,
            }];
        }
        let fitting: Vec<usize> = (0..devices.len())
            .filter(|at| devices[*at].fits(shape))
            .collect();
        if fitting.len() < count {
            return Vec::new();
        }
        if count > 1 {
            return vec![self.fill_several(kind, &devices, &fitting[..count], shape)];
        }
        let mut found: Vec<Successor> = Vec::new();
        for at in fitting {
            if at > 0 && devices[at - 1] == devices[at] {
                continue;
            }
            for to in devices[at].after(shape) {
                let mut after = devices.clone();
                after[at] = to;
                let config = self.intern(kind, &after);
                found.push(Successor {
                    config,
                    from: devices[at],
                    to,
                });
            }
        }
        found.sort_by_key(|successor| successor.from.idle_milli());
        found
    }

    fn fill_several(
        &mut self,
        kind: u16,
        devices: &[Device],
        chosen: &[usize],
        shape: Shape,
    ) -> Successor {
        let mut after = devices.to_vec();
        for at in chosen {
            after[*at] = devices[*at].after(shape).next().unwrap_or(devices[*at]);
        }
        let first = chosen[0];
        let config = self.intern(kind, &after);
        Successor {
            config,
            from: devices[first],
            to: after[first],
        }
    }
}
