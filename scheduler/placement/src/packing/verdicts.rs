//! What every node lacks for a request, kept up to date from the nodes that changed, so that a refusal costs no look at
//! the whole cluster.
#![expect(
    clippy::indexing_slicing,
    reason = "node positions come from the cluster; verdicts are below the number of counters by construction"
)]

use std::collections::HashMap;

use super::cluster::Cluster;
use super::refusal::{Obstacle, Refusal, explain, obstacle};
use super::request::Spec;

/// Counters: one per obstacle, then nodes that fit and nodes that are gone.
const COUNTERS: usize = 16;
const FITS: u8 = 14;
const GONE: u8 = 15;
const _: () = assert!(Obstacle::ALL.len() <= FITS as usize);
/// Most requests whose verdicts are kept, one byte per node each; beyond it all are dropped and made anew as needed.
const MOST_KEPT: usize = 512;

/// Verdicts of all requests that were refused lately.
#[derive(Debug, Default)]
pub(super) struct Reasons {
    /// By request number; `None` for a request that was refused once, which is not worth a record.
    kept: HashMap<u32, Option<Verdicts>>,
}

/// The verdict on every node for one request.
#[derive(Debug, Default)]
struct Verdicts {
    per_node: Vec<u8>,
    counts: [u32; COUNTERS],
    /// Position in the cluster's record of changed nodes up to which this is true.
    seen: u64,
}

impl Reasons {
    /// Counts what every node lacks. Nodes that would hold the request are counted under `fitting`, or left out.
    pub(super) fn explain(
        &mut self,
        cluster: &mut Cluster,
        id: u32,
        spec: &Spec,
        fitting: Option<Obstacle>,
    ) -> Refusal {
        if self.kept.len() > MOST_KEPT {
            self.kept.clear();
        }
        let Some(kept) = self.kept.get_mut(&id) else {
            self.kept.insert(id, None);
            return explain(cluster, spec, fitting);
        };
        let verdicts = kept.get_or_insert_default();
        verdicts.catch_up(cluster, spec);
        verdicts.refusal(fitting)
    }
}

impl Verdicts {
    fn catch_up(&mut self, cluster: &mut Cluster, spec: &Spec) {
        let changed = cluster.changed_nodes.since(self.seen).map(<[u32]>::to_vec);
        match changed {
            Some(changed) if self.per_node.len() == cluster.node_count() => {
                for node in changed {
                    let state = cluster.state_of(node);
                    let verdict = state.map_or(GONE, |state| {
                        obstacle(cluster, spec, &state).map_or(FITS, |obstacle| obstacle as u8)
                    });
                    let before = std::mem::replace(&mut self.per_node[node as usize], verdict);
                    self.counts[usize::from(before)] -= 1;
                    self.counts[usize::from(verdict)] += 1;
                }
            }
            _ => self.rebuild(cluster, spec),
        }
        self.seen = cluster.changed_nodes.now();
    }

    fn rebuild(&mut self, cluster: &mut Cluster, spec: &Spec) {
        self.per_node = vec![GONE; cluster.node_count()];
        self.counts = [0; COUNTERS];
        let groups: Vec<u32> = cluster.live().map(|(id, _)| id).collect();
        for id in groups {
            let state = cluster.groups[id as usize].state;
            let verdict = obstacle(cluster, spec, &state).map_or(FITS, |obstacle| obstacle as u8);
            for node in &cluster.groups[id as usize].members {
                self.per_node[*node as usize] = verdict;
                self.counts[usize::from(verdict)] += 1;
            }
        }
        let known: u32 = self.counts.iter().sum();
        let all = u32::try_from(self.per_node.len()).unwrap_or(u32::MAX);
        self.counts[usize::from(GONE)] = all - known;
    }

    fn refusal(&self, fitting: Option<Obstacle>) -> Refusal {
        let mut refusal = Refusal::default();
        let obstacles = Obstacle::ALL
            .into_iter()
            .map(|obstacle| (Some(obstacle), obstacle as u8));
        for (obstacle, verdict) in obstacles.chain([(fitting, FITS)]) {
            let count = self.counts[usize::from(verdict)];
            if let Some(obstacle) = obstacle.filter(|_| count > 0) {
                *refusal.excluded.entry(obstacle).or_default() += count;
            }
        }
        refusal
    }
}
