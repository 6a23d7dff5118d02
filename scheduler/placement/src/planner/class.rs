//! Demands that are alike: what is found out for one of them holds for all.
//!
//! Keeps, per class, the nodes that members fit on, in order of preference, and what could be bought. Only nodes that
//! changed since the last look are looked at again, so that many demands of few classes cost little each.

use std::collections::{BTreeMap, BTreeSet};

use super::gang::{self, Candidate, Packing, Preference};
use super::ledger::Ledger;
use super::purchase::{self, Refusal, Survey};
use super::ranking::Ranking;
use crate::snapshot::{Demand, Purchase, Toleration};

/// What makes two demands alike; nothing else about a demand decides where a member may go or what may be bought.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Likeness<'a> {
    each: [u64; 5],
    gpu_memory_bytes: u64,
    spread: bool,
    accepts_spot: bool,
    purchase: u8,
    instance_type: Option<&'a str>,
    own_labels: &'a BTreeMap<String, String>,
    required_labels: &'a BTreeMap<String, String>,
    tolerations: &'a [Toleration],
    avoided: &'a [String],
}

impl<'a> Likeness<'a> {
    /// The class of a demand.
    pub(crate) fn of(demand: &'a Demand) -> Self {
        let constraints = &demand.constraints;
        Self {
            each: demand.per_member.amounts(),
            gpu_memory_bytes: constraints.gpu_memory_bytes,
            spread: constraints.spread,
            accepts_spot: constraints.accepts_spot,
            purchase: match demand.purchase {
                Purchase::Never => 0,
                Purchase::Fixed => 1,
                Purchase::Cheapest => 2,
            },
            instance_type: constraints.instance_type.as_deref(),
            own_labels: &constraints.own_node_labels,
            required_labels: &constraints.required_labels,
            tolerations: &constraints.tolerations,
            avoided: if constraints.spread {
                &demand.placed_on
            } else {
                &[]
            },
        }
    }
}

/// What is known about one class.
#[derive(Clone, Debug, Default)]
struct Known<'a> {
    queue: BTreeSet<(Preference, usize)>,
    by_slot: BTreeMap<usize, Candidate>,
    /// How many of the ledger's changes have been looked at; nothing at all before the first look.
    seen: Option<usize>,
    survey: Option<Result<Survey<'a>, Refusal<'a>>>,
}

/// What is known about all classes.
#[derive(Clone, Debug, Default)]
pub(super) struct Classes<'a> {
    known: BTreeMap<Likeness<'a>, Known<'a>>,
}

impl<'a> Classes<'a> {
    /// Packs as many members of `demand` as fit on nodes there, on their way, or ordered so far.
    pub(super) fn pack(
        &mut self,
        ledger: &Ledger<'a>,
        ranking: &mut Ranking,
        demand: &'a Demand,
    ) -> Packing {
        let known = self.known.entry(Likeness::of(demand)).or_default();
        known.look(ledger, ranking, demand);
        let candidates = known
            .queue
            .iter()
            .filter_map(|(_, slot)| known.by_slot.get(slot).map(|one| (*slot, *one)));
        let members = demand.members.len() as u64;
        gang::fill(candidates, ledger, ranking, demand, members)
    }

    /// What can be bought for `demand`.
    pub(super) fn survey(
        &mut self,
        ledger: &Ledger<'a>,
        demand: &'a Demand,
    ) -> &Result<Survey<'a>, Refusal<'a>> {
        let known = self.known.entry(Likeness::of(demand)).or_default();
        known
            .survey
            .get_or_insert_with(|| purchase::survey(ledger.snapshot(), demand))
    }

    /// What was found out earlier about what can be bought.
    pub(super) fn surveyed(&self, demand: &'a Demand) -> Option<&Result<Survey<'a>, Refusal<'a>>> {
        self.known.get(&Likeness::of(demand))?.survey.as_ref()
    }

    /// What holds in any ledger of the same snapshot: what can be bought.
    pub(super) fn forgetting_nodes(&self) -> Self {
        let surveys = self.known.iter().map(|(likeness, known)| {
            let known = Known {
                survey: known.survey.clone(),
                ..Known::default()
            };
            (*likeness, known)
        });
        Self {
            known: surveys.collect(),
        }
    }
}

impl<'a> Known<'a> {
    fn look(&mut self, ledger: &Ledger<'a>, ranking: &mut Ranking, demand: &'a Demand) {
        let request = ranking.request(demand);
        let changes = ledger.changes();
        let changed: Vec<usize> = match self.seen {
            None => (0..ledger.slots().len()).collect(),
            Some(seen) => changes.get(seen..).unwrap_or_default().to_vec(),
        };
        self.seen = Some(changes.len());
        for position in changed {
            if let Some(before) = self.by_slot.remove(&position) {
                self.queue.remove(&(before.preference, position));
            }
            let Some(slot) = ledger.slot(position) else {
                continue;
            };
            let score = || ranking.score(position, &slot.free, request);
            if let Some(candidate) = gang::candidate(slot, demand, score) {
                self.queue.insert((candidate.preference, position));
                self.by_slot.insert(position, candidate);
            }
        }
    }
}
