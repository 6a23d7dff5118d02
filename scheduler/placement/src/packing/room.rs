//! How many members of a gang every node and every domain can hold, kept up to date from the nodes that changed.
#![expect(
    clippy::indexing_slicing,
    reason = "node positions come from the cluster; sums are made as long as the level's domain list"
)]

use super::cluster::{Cluster, State};
use super::config::Configs;
use super::device::{Shape, WHOLE_MILLI};
use super::model::{Amounts, Level};
use super::request::Spec;
use super::topology::{LEVELS, NOWHERE, Topology};

/// Most members counted on one node: beyond any pod limit, and it bounds the counting of odd shapes.
const MOST_PER_NODE: u64 = 4096;
/// Levels of which sums are kept. A node's own capacity is its sum.
const SUMMED: [Level; 4] = [Level::Nvlink, Level::Rack, Level::Block, Level::Zone];

/// What limits a gang's members besides resources.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Most members on one node.
    pub(super) per_node: u32,
    /// The only node allowed, if the request names one; [`NOWHERE`] if there is no such node.
    pub(super) only: Option<u32>,
}

impl Limits {
    fn apply(self, node: u32, room: u32) -> u32 {
        if self.only.is_some_and(|only| only != node) {
            0
        } else {
            room.min(self.per_node)
        }
    }
}

/// Room for one request.
#[derive(Clone, Debug, Default)]
pub(super) struct Room {
    per_node: Vec<u32>,
    sums: [Vec<u64>; LEVELS],
    total: u64,
    /// Position in the cluster's record of changed nodes up to which this is true.
    seen: u64,
    /// When it was last used, for forgetting.
    pub(super) last_used: u64,
}

impl Room {
    /// Members a node can hold.
    pub(super) fn on(&self, node: u32) -> u32 {
        self.per_node[node as usize]
    }

    /// Members a domain can hold; of the whole cluster without one.
    pub(super) fn within(&self, domain: Option<(Level, u32)>) -> u64 {
        match domain {
            None => self.total,
            Some((Level::Node, node)) => u64::from(self.on(node)),
            Some((level, domain)) => self.sums[level as usize][domain as usize],
        }
    }

    /// Brings it up to date: from the changed nodes, or from every group of equal nodes when that is less.
    pub(super) fn catch_up(
        &mut self,
        cluster: &mut Cluster,
        topology: &Topology,
        spec: &Spec,
        limits: Limits,
    ) {
        let changed = cluster.changed_nodes.since(self.seen).map(<[u32]>::to_vec);
        match changed {
            Some(changed) if self.per_node.len() == cluster.node_count() => {
                for node in changed {
                    let state = cluster.state_of(node);
                    let room =
                        state.map_or(0, |state| capacity(&mut cluster.configs, spec, &state));
                    self.set(topology, node, limits.apply(node, room));
                }
            }
            _ => self.rebuild(cluster, topology, spec, limits),
        }
        self.seen = cluster.changed_nodes.now();
    }

    fn rebuild(&mut self, cluster: &mut Cluster, topology: &Topology, spec: &Spec, limits: Limits) {
        self.per_node = vec![0; cluster.node_count()];
        self.total = 0;
        for level in SUMMED {
            self.sums[level as usize] = vec![0; topology.count(level)];
        }
        let Cluster {
            groups, configs, ..
        } = cluster;
        for group in groups.iter().filter(|group| !group.members.is_empty()) {
            let room = capacity(configs, spec, &group.state);
            for node in &group.members {
                self.set(topology, *node, limits.apply(*node, room));
            }
        }
    }

    fn set(&mut self, topology: &Topology, node: u32, room: u32) {
        let before = std::mem::replace(&mut self.per_node[node as usize], room);
        self.total = self.total + u64::from(room) - u64::from(before);
        for level in SUMMED {
            let domain = topology.domain_of(level, node);
            if domain != NOWHERE {
                let sum = &mut self.sums[level as usize][domain as usize];
                *sum = *sum + u64::from(room) - u64::from(before);
            }
        }
    }
}

/// How many equal members a node in this state can hold.
fn capacity(configs: &mut Configs, spec: &Spec, state: &State) -> u32 {
    let Some(shape) = spec.shape_on(state.class) else {
        return 0;
    };
    let by_amounts = fits_times(&state.idle, &spec.amounts).min(MOST_PER_NODE);
    let devices = &configs.config(state.config).devices;
    let by_devices = match configs.shape(shape) {
        Shape::Nothing => by_amounts,
        Shape::Devices { count: 1, milli } => devices
            .iter()
            .filter(|device| device.fits(configs.shape(shape)))
            .map(|device| u64::from(device.idle_milli() / milli))
            .sum(),
        Shape::Devices {
            count,
            milli: WHOLE_MILLI,
        } => {
            let whole = devices
                .iter()
                .filter(|device| device.fits(configs.shape(shape)));
            whole.count() as u64 / u64::from(count)
        }
        Shape::Devices { .. } | Shape::Partition(_) => {
            let mut times = 0;
            let mut config = state.config;
            while let Some(next) = configs
                .successors(config, shape)
                .first()
                .map(|next| next.config)
            {
                if times >= by_amounts {
                    break;
                }
                config = next;
                times += 1;
            }
            times
        }
    };
    u32::try_from(by_amounts.min(by_devices)).unwrap_or(u32::MAX)
}

fn fits_times(idle: &Amounts, need: &Amounts) -> u64 {
    let pairs = [
        (idle.milli_cpu, need.milli_cpu),
        (idle.memory_mib, need.memory_mib),
        (idle.ephemeral_mib, need.ephemeral_mib),
        (idle.pods, need.pods),
    ];
    pairs
        .into_iter()
        .filter_map(|(idle, need)| idle.checked_div(need))
        .min()
        .unwrap_or(u64::MAX)
}
