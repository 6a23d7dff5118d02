//! The best node for a request without looking at every node: per request a heap of rated groups, brought up to date
//! from the groups that changed since it was last asked.
//!
//! A group's rating depends on its state only, so it stays true until the group's stamp changes; entries with an old
//! stamp are dropped when they surface. A request met for the first time is answered by one pass over the *groups* (a
//! cluster of equal nodes is one group) and gets a heap only if it comes again. Memory is bounded: when all heaps
//! together exceed a budget, those not asked for longest are given up and would be made anew.
#![expect(
    clippy::indexing_slicing,
    reason = "group numbers come from the cluster's own journal; marks are grown to the group count first"
)]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use super::cluster::{Cluster, Group, GroupId};
use super::rate::{Rater, Rating};
use super::request::Spec;

/// Heap entries, 32 bytes each, that are always allowed: 48 MB.
const ENTRIES_ALLOWED: usize = 1_500_000;
/// Full heaps that are allowed whatever the size of the cluster. The published trace has 151 kinds of pod; with fewer
/// heaps than kinds in turn, each decision would make its heap anew.
const HEAPS_ALLOWED: usize = 192;

/// A rated group. Greater is better: rating, then the lowest position among its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    rating: Rating,
    first: Reverse<u32>,
    group: GroupId,
    stamp: u32,
}

/// Rated groups of one request.
#[derive(Debug, Default)]
struct Heap {
    entries: BinaryHeap<Entry>,
    /// Journal position up to which it is true.
    seen: u64,
    /// Expectation its ratings were made under.
    renewal: u64,
    last_asked: u64,
}

/// All heaps.
#[derive(Debug, Default)]
pub(super) struct Index {
    heaps: HashMap<u32, Heap>,
    /// Requests that came once under the present expectation or an earlier one.
    met: Vec<bool>,
    /// Groups already looked at in the present catching-up.
    marks: Vec<u64>,
    asked: u64,
    entries: usize,
    renewal: u64,
}

impl Index {
    /// All ratings made so far are void.
    pub(super) const fn renew(&mut self) {
        self.renewal += 1;
    }

    /// The best group for request number `id`, and its node to use; `None` if no node fits.
    pub(super) fn best(
        &mut self,
        cluster: &mut Cluster,
        rater: &mut Rater,
        id: u32,
        spec: &Spec,
    ) -> Option<(GroupId, u32)> {
        self.asked += 1;
        if !self.is_met(id) {
            return look_at_all(cluster, rater, spec);
        }
        let mut heap = self.heaps.remove(&id).unwrap_or_default();
        self.entries -= heap.entries.len();
        self.catch_up(&mut heap, cluster, rater, spec);
        let best = surface(&mut heap, cluster);
        heap.last_asked = self.asked;
        self.entries += heap.entries.len();
        self.heaps.insert(id, heap);
        if self.entries > ENTRIES_ALLOWED.max(HEAPS_ALLOWED * cluster.live_count()) {
            self.give_up_half();
        }
        best
    }

    fn is_met(&mut self, id: u32) -> bool {
        let at = id as usize;
        if self.met.len() <= at {
            self.met.resize(at + 1, false);
        }
        std::mem::replace(&mut self.met[at], true)
    }

    fn catch_up(&mut self, heap: &mut Heap, cluster: &mut Cluster, rater: &mut Rater, spec: &Spec) {
        let most = 2 * cluster.live_count() + 64;
        let stale = heap.renewal != self.renewal || heap.last_asked == 0;
        let changed = cluster.changed_groups.since(heap.seen);
        let known = changed.filter(|changed| !stale && changed.len() <= most);
        match known.map(<[GroupId]>::to_vec) {
            Some(changed) if heap.entries.len() + changed.len() <= 2 * most => {
                self.marks
                    .resize(cluster.groups.len().max(self.marks.len()), 0);
                for group in changed {
                    if std::mem::replace(&mut self.marks[group as usize], self.asked) != self.asked
                    {
                        heap.entries.extend(rated(cluster, rater, spec, group));
                    }
                }
            }
            _ => {
                let live: Vec<GroupId> = cluster.live().map(|(group, _)| group).collect();
                let mut entries = std::mem::take(&mut heap.entries).into_vec();
                entries.clear();
                entries.extend(
                    live.into_iter()
                        .filter_map(|group| rated(cluster, rater, spec, group)),
                );
                heap.entries = entries.into();
                heap.renewal = self.renewal;
            }
        }
        heap.seen = cluster.changed_groups.now();
    }

    fn give_up_half(&mut self) {
        let mut asked: Vec<u64> = self.heaps.values().map(|heap| heap.last_asked).collect();
        asked.sort_unstable();
        let middle = asked.get(asked.len() / 2).copied().unwrap_or(0);
        self.heaps.retain(|_, heap| heap.last_asked > middle);
        self.entries = self.heaps.values().map(|heap| heap.entries.len()).sum();
    }
}

fn rated(cluster: &mut Cluster, rater: &mut Rater, spec: &Spec, id: GroupId) -> Option<Entry> {
    let Group {
        state,
        members,
        stamp,
    } = &cluster.groups[id as usize];
    let first = Reverse(*members.last()?);
    let rating = rater.rate(&cluster.classes, &mut cluster.configs, spec, state)?;
    Some(Entry {
        rating,
        first,
        group: id,
        stamp: *stamp,
    })
}

/// The best entry that is still true; drops those above it that are not.
fn surface(heap: &mut Heap, cluster: &Cluster) -> Option<(GroupId, u32)> {
    loop {
        let top = heap.entries.peek()?;
        let group = &cluster.groups[top.group as usize];
        if group.stamp == top.stamp && !group.members.is_empty() {
            return Some((top.group, top.first.0));
        }
        heap.entries.pop();
    }
}

fn look_at_all(cluster: &mut Cluster, rater: &mut Rater, spec: &Spec) -> Option<(GroupId, u32)> {
    let mut best: Option<Entry> = None;
    for id in 0..u32::try_from(cluster.groups.len()).unwrap_or(u32::MAX) {
        best = best.max(rated(cluster, rater, spec, id));
    }
    best.map(|entry| (entry.group, entry.first.0))
}
