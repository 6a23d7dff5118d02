//! Rates single nodes for a caller that keeps the cluster's books itself: the planner.
//!
//! The ratings are the packer's own (see [`rate`](super::rate)), under a demand that is told at the start. May not
//! remember what is idle on a node, and may not choose one.

use super::class::Classes;
use super::cluster::{State, signed};
use super::config::Configs;
use super::device::{Device, DeviceMode, Shape, WHOLE_MILLI};
use super::model::{Amounts, MAX_DEVICES, NodeShape, Request};
use super::outlook::Outlook;
use super::policy::Policy;
pub(crate) use super::rate::INDIFFERENT;
use super::rate::Rater;
use super::request::{RequestId, Specs};

/// Number of the class of a node: nodes of one class differ only in what is idle on them.
pub(crate) type NodeClass = u32;

/// Rates nodes under one expectation.
#[derive(Debug)]
pub(crate) struct Ranking {
    classes: Classes,
    configs: Configs,
    specs: Specs,
    rater: Rater,
}

impl Ranking {
    /// A ranking for these nodes, if so many of each request are to be expected; and the class of each node. A node that
    /// the model does not hold (too many devices, one GPU kind too many) has none.
    pub(crate) fn new(
        nodes: &[NodeShape],
        expected: &[(Request, u64)],
    ) -> (Self, Vec<Option<NodeClass>>) {
        let mut ranking = Self {
            classes: Classes::default(),
            configs: Configs::default(),
            specs: Specs::default(),
            rater: Rater::new(Policy::Kaito),
        };
        let mut outlook = Outlook::default();
        let mut capacity = (0, 0);
        let mut found = Vec::with_capacity(nodes.len());
        for node in nodes {
            let class = Some(node)
                .filter(|node| node.devices <= MAX_DEVICES)
                .and_then(|node| ranking.classes.admit(node).ok());
            if let Some(class) = class {
                let milli = i64::from(node.devices) * i64::from(WHOLE_MILLI);
                outlook.add_devices(ranking.classes.make_of(class), milli);
                capacity.0 += signed(node.capacity.milli_cpu);
                capacity.1 += milli;
            }
            found.push(class);
        }
        ranking.rater.weigh_by(capacity.0, capacity.1);
        ranking.expect(outlook, expected);
        (ranking, found)
    }

    fn expect(&mut self, mut outlook: Outlook, expected: &[(Request, u64)]) {
        for (request, pods) in expected {
            if let Some(id) = self.request(request) {
                outlook.observe(id, *pods);
            }
        }
        let (typical, terms) = outlook.renew(&self.specs.list, &self.classes.makes);
        self.rater
            .expect(&typical, terms, self.classes.kind_count());
    }

    /// The number of a request; `None` if no node can mean it, such as more GPUs than the model holds.
    pub(crate) fn request(&mut self, request: &Request) -> Option<RequestId> {
        self.specs
            .intern(&self.classes, &mut self.configs, request)
            .ok()
    }

    /// How good a node of this class is for one more pod, 0–100, with so many devices and amounts idle. What cannot be
    /// rated is as good as a node on which the pod changes nothing for the pods expected.
    pub(crate) fn score(
        &mut self,
        class: NodeClass,
        request: RequestId,
        idle_devices: u64,
        idle: Amounts,
    ) -> i32 {
        self.rate(class, request, idle_devices, idle)
            .unwrap_or(INDIFFERENT)
    }

    fn rate(
        &mut self,
        class: NodeClass,
        request: RequestId,
        idle_devices: u64,
        idle: Amounts,
    ) -> Option<i32> {
        let spec = self.specs.spec(request)?;
        let known = self.classes.list.get(class as usize)?;
        let idle_device = Device::idle(DeviceMode::Shared);
        let whole = Shape::Devices {
            count: 1,
            milli: WHOLE_MILLI,
        };
        let taken = idle_device.after(whole).next()?;
        let devices: Vec<Device> = (0..u64::from(known.devices))
            .map(|number| {
                if number < idle_devices {
                    idle_device
                } else {
                    taken
                }
            })
            .collect();
        let state = State {
            class,
            config: self.configs.intern(known.kind, &devices),
            idle,
            held: 0,
        };
        let rating = self
            .rater
            .rate(&self.classes, &mut self.configs, spec, &state)?;
        Some(rating.score)
    }
}
