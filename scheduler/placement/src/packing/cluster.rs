//! The state of all nodes, kept in groups of nodes that are alike, and the record of which groups changed.
//!
//! Takes and returns what others have decided; never chooses. Nodes are known by their position, and the lowest position
//! of a group stands for it.
#![expect(
    clippy::indexing_slicing,
    reason = "node positions are checked on entry; group and class numbers are handed out by this module"
)]

use std::collections::HashMap;

use super::PackingError;
use super::class::Classes;
use super::config::{ConfigId, Configs, Successor};
use super::device::{Device, Shape, WHOLE_MILLI};
use super::journal::Journal;
use super::model::{Amounts, MAX_DEVICES, NodeShape, Placement};

/// Number of a group of nodes in one state. Numbers are used again once a group is empty.
pub(super) type GroupId = u32;

/// What nodes of a group have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct State {
    pub(super) class: u32,
    pub(super) config: ConfigId,
    pub(super) idle: Amounts,
    /// Classes of GPU pods it holds, one bit each; always 0 unless [`Cluster::keep_pod_classes`] was called.
    pub(super) held: u8,
}

/// Nodes in one state.
#[derive(Clone, Debug)]
pub(super) struct Group {
    pub(super) state: State,
    /// Positions, descending: the lowest is last.
    pub(super) members: Vec<u32>,
    /// Differs each time its lowest member or its state changes.
    pub(super) stamp: u32,
}

/// The group of a node that was removed.
const GONE: GroupId = GroupId::MAX;

/// A node's own devices, in their order.
#[derive(Clone, Debug)]
struct NodeState {
    group: GroupId,
    devices: Box<[Device]>,
}

/// All nodes.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    pub(super) classes: Classes,
    pub(super) configs: Configs,
    pub(super) groups: Vec<Group>,
    numbers: HashMap<State, GroupId>,
    free: Vec<GroupId>,
    nodes: Vec<NodeState>,
    /// Groups that changed.
    pub(super) changed_groups: Journal,
    /// Nodes that changed, for those who look at nodes one by one.
    pub(super) changed_nodes: Journal,
    /// Idle millicores and thousandths of all nodes.
    pub(super) idle_milli_cpu: i64,
    pub(super) idle_milli: i64,
    /// Per node, pods of each class; absent unless wanted.
    held: Option<Vec<[u32; POD_CLASSES]>>,
}

/// Classes of GPU pods that the gpu-clustering policy keeps together: a share, then 1, 2, 4 and 8 GPUs.
const POD_CLASSES: usize = 5;

/// The class of a pod of `count` devices of `milli` each, as a number below [`POD_CLASSES`].
pub(super) const fn pod_class(count: usize, milli: u16) -> usize {
    match (count, milli) {
        (1, milli) if milli < WHOLE_MILLI => 0,
        (1, _) => 1,
        (2, _) => 2,
        (3 | 4, _) => 3,
        _ => 4,
    }
}

impl Cluster {
    pub(super) fn new(shapes: &[NodeShape]) -> Result<Self, PackingError> {
        let mut cluster = Self::default();
        for shape in shapes {
            let group = cluster.append(shape)?;
            let position = cluster.nodes.len() - 1;
            let position = u32::try_from(position).unwrap_or(u32::MAX);
            cluster.groups[group as usize].members.push(position);
        }
        // Appending leaves members ascending; they are kept the other way round.
        for group in &mut cluster.groups {
            group.members.reverse();
        }
        Ok(cluster)
    }

    /// Adds an idle node behind all others and returns its position.
    pub(super) fn add(&mut self, shape: &NodeShape) -> Result<u32, PackingError> {
        let group = self.append(shape)?;
        let position = u32::try_from(self.nodes.len() - 1).unwrap_or(u32::MAX);
        self.join(group, position);
        let most = self.journal_limit();
        self.changed_nodes.note(position, most);
        Ok(position)
    }

    /// Makes a node known without putting it in its group.
    fn append(&mut self, shape: &NodeShape) -> Result<GroupId, PackingError> {
        if shape.devices > MAX_DEVICES {
            return Err(PackingError::TooManyDevices {
                node: shape.name.clone(),
                devices: shape.devices,
                most: MAX_DEVICES,
            });
        }
        let class = self.classes.admit(shape)?;
        let kind = self.classes.list[class as usize].kind;
        let devices = vec![Device::idle(shape.mode); usize::from(shape.devices)].into_boxed_slice();
        let config = self.configs.intern(kind, &devices);
        let group = self.group_of(State {
            class,
            config,
            idle: shape.capacity,
            held: 0,
        });
        self.nodes.push(NodeState { group, devices });
        if let Some(held) = &mut self.held {
            held.push([0; POD_CLASSES]);
        }
        self.idle_milli_cpu += signed(shape.capacity.milli_cpu);
        self.idle_milli += self.configs.idle_milli(config);
        Ok(group)
    }

    /// Takes a node out; what ran there is gone with it.
    pub(super) fn remove(&mut self, node: u32) -> Result<State, PackingError> {
        let state = self.state_of(node).ok_or(PackingError::NotHeld { node })?;
        self.classes.dismiss(state.class);
        self.idle_milli_cpu -= signed(state.idle.milli_cpu);
        self.idle_milli -= self.configs.idle_milli(state.config);
        let group = std::mem::replace(&mut self.nodes[node as usize].group, GONE);
        self.leave(group, node);
        let most = self.journal_limit();
        self.changed_nodes.note(node, most);
        Ok(state)
    }

    /// From now on groups also tell nodes apart by the classes of GPU pods they hold.
    pub(super) fn keep_pod_classes(&mut self) {
        self.held = Some(vec![[0; POD_CLASSES]; self.nodes.len()]);
    }

    /// Counts a pod in or out, and says which classes the node holds then.
    fn count_class(&mut self, placement: &Placement, change: i32) -> u8 {
        let held = self.held.as_mut();
        let Some(counts) = held.and_then(|held| held.get_mut(placement.node as usize)) else {
            return 0;
        };
        if let Some((_, first)) = placement.devices.first() {
            let count = &mut counts[pod_class(placement.devices.len(), first.milli())];
            *count = count.saturating_add_signed(change);
        }
        (0..)
            .zip(counts.iter())
            .fold(0, |held, (bit, count)| held | (u8::from(*count > 0) << bit))
    }

    pub(super) fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Groups that have members.
    pub(super) fn live(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        (0..)
            .zip(&self.groups)
            .filter(|(_, group)| !group.members.is_empty())
    }

    /// How many groups have members.
    pub(super) fn live_count(&self) -> usize {
        self.groups.len() - self.free.len()
    }

    /// The state of a node; `None` for one that was removed or never was.
    pub(super) fn state_of(&self, node: u32) -> Option<State> {
        let group = self.nodes.get(node as usize)?.group;
        self.groups.get(group as usize).map(|group| group.state)
    }

    /// The configurations, and a node's own devices in their order.
    pub(super) fn devices_of(&mut self, node: u32) -> (&mut Configs, &[Device]) {
        (&mut self.configs, &self.nodes[node as usize].devices)
    }

    /// Places `shape` on a node as `successor` says.
    pub(super) fn take(
        &mut self,
        node: u32,
        amounts: &Amounts,
        shape: Shape,
        successor: Successor,
    ) -> Option<Placement> {
        let state = self.state_of(node)?;
        let single = shape.count() == 1;
        let mut left = shape.count();
        let mut devices = Vec::with_capacity(left);
        // Several devices: the fullest that suffice; those sort first among the devices that fit.
        let worst = if single {
            None
        } else {
            self.last_needed(state.config, shape)
        };
        for pass in [Pass::Fuller, Pass::Last] {
            for (number, device) in (0u8..).zip(self.nodes[node as usize].devices.iter_mut()) {
                let wanted = match (worst, pass) {
                    (None, Pass::Fuller) => false,
                    (None, Pass::Last) => *device == successor.from,
                    (Some(worst), Pass::Fuller) => device.fits(shape) && *device < worst,
                    (Some(worst), Pass::Last) => *device == worst,
                };
                if left == 0 || !wanted || devices.iter().any(|(taken, _)| *taken == number) {
                    continue;
                }
                let after = if single {
                    successor.to
                } else {
                    device.after(shape).next().unwrap_or(*device)
                };
                devices.push((number, device.taken_by(after)));
                *device = after;
                left -= 1;
            }
        }
        devices.sort_unstable_by_key(|(number, _)| *number);
        let idle = state.idle.less(amounts).unwrap_or_default();
        let placement = Placement {
            node,
            amounts: *amounts,
            devices,
        };
        let held = self.count_class(&placement, 1);
        self.move_node(
            node,
            state,
            State {
                config: successor.config,
                idle,
                held,
                ..state
            },
        );
        Some(placement)
    }

    /// The idlest of the devices that a shape of several takes.
    fn last_needed(&self, config: ConfigId, shape: Shape) -> Option<Device> {
        let fitting = self
            .configs
            .config(config)
            .devices
            .iter()
            .filter(|device| device.fits(shape));
        fitting.take(shape.count()).last().copied()
    }

    /// Gives back what `placement` holds.
    pub(super) fn give_back(&mut self, placement: &Placement) -> Result<(), PackingError> {
        let node = placement.node;
        let wrong = || PackingError::NotHeld { node };
        let state = self.state_of(node).ok_or_else(wrong)?;
        let mut devices = self.nodes[node as usize].devices.clone();
        for (number, taken) in &placement.devices {
            let device = devices.get_mut(usize::from(*number)).ok_or_else(wrong)?;
            *device = device.give_back(*taken).ok_or_else(wrong)?;
        }
        let idle = state.idle.plus(&placement.amounts);
        let class = &self.classes.list[state.class as usize];
        if !class.capacity.holds(&idle) {
            return Err(wrong());
        }
        let config = self.configs.intern(class.kind, &devices);
        self.nodes[node as usize].devices = devices;
        let held = self.count_class(placement, -1);
        self.move_node(
            node,
            state,
            State {
                config,
                idle,
                held,
                ..state
            },
        );
        Ok(())
    }

    fn move_node(&mut self, node: u32, from: State, to: State) {
        self.idle_milli_cpu += signed(to.idle.milli_cpu) - signed(from.idle.milli_cpu);
        self.idle_milli +=
            self.configs.idle_milli(to.config) - self.configs.idle_milli(from.config);
        let old = self.nodes[node as usize].group;
        self.leave(old, node);
        let new = self.group_of(to);
        self.nodes[node as usize].group = new;
        self.join(new, node);
        let most = self.journal_limit();
        self.changed_nodes.note(node, most);
    }

    fn group_of(&mut self, state: State) -> GroupId {
        if let Some(group) = self.numbers.get(&state) {
            return *group;
        }
        let group = if let Some(group) = self.free.pop() {
            let reused = &mut self.groups[group as usize];
            reused.state = state;
            reused.stamp = reused.stamp.wrapping_add(1);
            group
        } else {
            self.groups.push(Group {
                state,
                members: Vec::new(),
                stamp: 0,
            });
            u32::try_from(self.groups.len() - 1).unwrap_or(u32::MAX)
        };
        self.numbers.insert(state, group);
        group
    }

    /// Changes beyond which looking at everything is cheaper than catching up.
    const fn journal_limit(&self) -> usize {
        4 * self.nodes.len() + 1024
    }

    fn leave(&mut self, id: GroupId, node: u32) {
        let most = self.journal_limit();
        let group = &mut self.groups[id as usize];
        let lowest = group.members.last() == Some(&node);
        if lowest {
            group.members.pop();
        } else if let Ok(at) = group.members.binary_search_by(|member| node.cmp(member)) {
            group.members.remove(at);
        }
        if group.members.is_empty() {
            self.numbers.remove(&group.state);
            self.free.push(id);
        }
        if lowest {
            group.stamp = group.stamp.wrapping_add(1);
            self.changed_groups.note(id, most);
        }
    }

    fn join(&mut self, id: GroupId, node: u32) {
        let most = self.journal_limit();
        let group = &mut self.groups[id as usize];
        let at = group.members.partition_point(|member| *member > node);
        group.members.insert(at, node);
        if at + 1 == group.members.len() {
            group.stamp = group.stamp.wrapping_add(1);
            self.changed_groups.note(id, most);
        }
    }
}

/// The two rounds in which a shape of several devices picks them.
#[derive(Clone, Copy)]
enum Pass {
    Fuller,
    Last,
}

/// An amount as a signed number; amounts of real machines are far below the limit.
pub(super) fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}
