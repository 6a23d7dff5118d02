//! The random policy: a baseline that picks among all that fits. The numbers come from the seed it is given.

use super::cluster::{Cluster, Group};
use super::config::Successor;
use super::packer::Packer;
use super::request::Spec;

impl Packer {
    /// Any node that fits, each as likely. Looks at every group: this policy is a baseline, not a product.
    pub(super) fn any_node(&mut self, spec: &Spec) -> Option<u32> {
        let mut fitting: Vec<u32> = Vec::new();
        let Cluster {
            classes,
            configs,
            groups,
            ..
        } = &mut self.cluster;
        for Group { state, members, .. } in groups {
            if !members.is_empty() && self.rater.rate(classes, configs, spec, state).is_some() {
                fitting.extend_from_slice(members);
            }
        }
        if let Some(only) = self.only_node(spec) {
            fitting.retain(|node| *node == only);
        }
        let chosen = self.draw(fitting.len())?;
        fitting.get(chosen).copied()
    }

    pub(super) fn any_device(&mut self, spec: &Spec, node: u32) -> Option<Successor> {
        let state = self.cluster.state_of(node)?;
        let shape = spec.shape_on(state.class)?;
        let successors = self
            .cluster
            .configs
            .successors(state.config, shape)
            .to_vec();
        let (_, devices) = self.cluster.devices_of(node);
        let alike = |successor: &Successor| {
            devices
                .iter()
                .filter(|device| **device == successor.from)
                .count()
                .max(1)
        };
        let counts: Vec<usize> = successors.iter().map(alike).collect();
        let mut chosen = self.draw(counts.iter().sum())?;
        for (successor, count) in successors.into_iter().zip(counts) {
            if chosen < count {
                return Some(successor);
            }
            chosen -= count;
        }
        None
    }

    /// A number below `bound`, from the seed (SplitMix64, Steele et al., OOPSLA 2014).
    fn draw(&mut self, bound: usize) -> Option<usize> {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.random;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^= bits >> 31;
        let scaled = (u128::from(bits) * bound as u128) >> 64;
        usize::try_from(scaled).ok().filter(|_| bound > 0)
    }
}
