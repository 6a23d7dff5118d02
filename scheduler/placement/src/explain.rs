//! Says in a sentence what a plan decided and why: the texts of assignments, purchases and waiting gangs.
//!
//! Reads the planner's ledger as it stood when the decision was made; decides nothing. All texts are stable: counts in
//! descending order, equal counts by text.

use std::collections::BTreeMap;

use crate::plan::{Blocker, Excluded, RefusedOffer, Waiting};
use crate::planner::fit::{self, Obstacle, Resource};
use crate::planner::ledger::{Ledger, Share, Stage};
use crate::planner::purchase::Refusal;
use crate::snapshot::{Demand, InstanceType};

mod purchase;
mod unblock;

pub(crate) use purchase::{Saving, bought};

/// What a gang needs, in pods and what each of them asks for.
///
/// ```
/// use kaito_placement::explain::needs;
/// use kaito_placement::snapshot::{Constraints, Demand, Resources};
///
/// let demand = Demand {
///     members: vec!["a-0".to_owned(), "a-1".to_owned()],
///     per_member: Resources { gpus: 1, pods: 1, ..Resources::default() },
///     constraints: Constraints { gpu_memory_bytes: 40 << 30, ..Constraints::default() },
///     ..Demand::default()
/// };
/// assert_eq!(needs(&demand), "2 pods × 1 GPU of ≥ 40 GiB");
/// ```
pub fn needs(demand: &Demand) -> String {
    let pods = counted(demand.members.len() as u64, "pod");
    let each = &demand.per_member;
    if each.gpus == 0 {
        let cores = fit::cores(each.milli_cpu);
        return format!("{pods} × {cores} CPU, {}", fit::gib_up(each.memory_bytes));
    }
    let gpus = counted(each.gpus, "GPU");
    match demand.constraints.gpu_memory_bytes {
        0 => format!("{pods} × {gpus}"),
        bytes => format!("{pods} × {gpus} of ≥ {}", fit::gib_up(bytes)),
    }
}

/// A price in dollars per hour, from micro-dollars per hour; tenths of a cent are shown where there are any.
///
/// ```
/// use kaito_placement::explain::price;
///
/// assert_eq!(price(Some(3_670_000)), "$3.67/h");
/// assert_eq!(price(Some(27_197_400)), "$27.197/h");
/// assert_eq!(price(None), "unknown price");
/// ```
pub fn price(micro_dollars: Option<u64>) -> String {
    let Some(micro) = micro_dollars else {
        return "unknown price".to_owned();
    };
    let mills = micro.saturating_add(500) / 1000;
    let (dollars, rest) = (mills / 1000, mills % 1000);
    match rest % 10 {
        0 => format!("${dollars}.{:02}/h", rest / 10),
        _ => format!("${dollars}.{rest:03}/h"),
    }
}

/// Why a gang goes where it goes.
pub(crate) fn assigned(ledger: &Ledger<'_>, demand: &Demand, shares: &[Share]) -> String {
    let left: u64 = slots_of(ledger, shares).map(|slot| slot.free.gpus).sum();
    let nodes = counted(shares.len() as u64, "node");
    let expected = ledger.snapshot().expected.len() as u64;
    let rule = match expected {
        0 => "tightest fit".to_owned(),
        kinds => format!(
            "least loss to {} expected, then tightest fit",
            counted(kinds, "pod kind")
        ),
    };
    format!(
        "{} on {nodes} that can be used now; {rule}, leaves {} free there",
        needs(demand),
        counted(left, "GPU"),
    )
}

/// A gang whose places are held on nodes that are not there yet.
pub(crate) fn launching(ledger: &Ledger<'_>, demand: &Demand, shares: &[Share]) -> Waiting {
    let expected = || slots_of(ledger, shares).filter(|slot| slot.stage == Stage::Expected);
    let mut claims: Vec<_> = expected()
        .filter(|slot| slot.leaving_pods == 0)
        .map(|slot| slot.claim.unwrap_or(slot.name).to_owned())
        .collect();
    claims.sort();
    let mut leaving: Vec<_> = expected()
        .filter(|slot| slot.leaving_pods > 0)
        .map(|slot| slot.name.to_owned())
        .collect();
    leaving.sort();
    let types: Vec<_> = slots_of(ledger, shares)
        .filter(|slot| matches!(slot.stage, Stage::Ordered(_)))
        .map(|slot| slot.name)
        .collect();
    let mut parts = Vec::new();
    if !claims.is_empty() {
        let count = counted(claims.len() as u64, "node");
        parts.push(format!("{count} being launched ({})", claims.join(", ")));
    }
    if !types.is_empty() {
        parts.push(format!("{} ordered now", tallied(&types)));
    }
    if !leaving.is_empty() {
        let pods = expected().map(|slot| slot.leaving_pods).sum();
        let pods = counted(pods, "pod");
        parts.push(format!("{pods} to leave {}", leaving.join(", ")));
    }
    Waiting {
        demand: demand.name.clone(),
        message: format!("needs {}; waits for {}", needs(demand), parts.join(" and ")),
        blocker: Blocker::NodesLaunching {
            ordered: u32::try_from(types.len()).unwrap_or(u32::MAX),
            claims,
            leaving,
        },
    }
}

/// A gang that nothing was promised to.
pub(crate) fn unplaced(ledger: &Ledger<'_>, demand: &Demand, refusal: &Refusal<'_>) -> Waiting {
    let nodes = judge_nodes(ledger, demand);
    let (blocker, refused) = match refusal {
        Refusal::NotWanted => (
            Blocker::NoNodeFits {
                excluded: excluded(&nodes.tally),
                fitting_members: u32::try_from(nodes.fitting).unwrap_or(u32::MAX),
            },
            None,
        ),
        Refusal::Unknown(name) => unknown_type(name),
        Refusal::NothingFits(tally) => no_type_fits(tally),
        Refusal::Blocked(types) => blocked(ledger, types),
    };
    let mut parts = vec![format!("needs {}", needs(demand)), nodes.sentence(demand)];
    parts.extend(refused);
    parts.extend(
        unblock::cheapest(ledger, demand, refusal, nodes.fitting)
            .map(|way| format!("cheapest unblock: {way}")),
    );
    Waiting {
        demand: demand.name.clone(),
        blocker,
        message: parts.join("; "),
    }
}

fn unknown_type(name: &str) -> (Blocker, Option<String>) {
    let blocker = Blocker::UnknownInstanceType {
        instance_type: name.to_owned(),
    };
    let sentence = format!("instance type {name} is not in the catalogue");
    (blocker, Some(sentence))
}

fn no_type_fits(tally: &BTreeMap<Obstacle<'_>, u32>) -> (Blocker, Option<String>) {
    let types: u64 = tally.values().copied().map(u64::from).sum();
    let sentence = match types {
        0 => "the catalogue is empty".to_owned(),
        _ => format!("{}: {}", counted(types, "instance type"), listed(tally)),
    };
    let blocker = Blocker::NoInstanceTypeFits {
        excluded: excluded(tally),
    };
    (blocker, Some(sentence))
}

fn blocked(ledger: &Ledger<'_>, types: &[&InstanceType]) -> (Blocker, Option<String>) {
    let refusals = || {
        types
            .iter()
            .filter_map(|one| one.blocked.as_ref().map(|blocked| (one, blocked)))
    };
    let now_seconds = ledger.snapshot().now_seconds;
    let retry_seconds = refusals()
        .map(|(_, blocked)| blocked.until_seconds)
        .min()
        .unwrap_or(now_seconds);
    let offers: Vec<_> = refusals()
        .map(|(one, blocked)| RefusedOffer {
            instance_type: one.name.clone(),
            reason: blocked.reason.clone(),
        })
        .collect();
    let named: Vec<_> = offers
        .iter()
        .map(|offer| format!("{} ({})", offer.instance_type, offer.reason))
        .collect();
    let sentence = format!(
        "refused by the cloud: {}; next try in {} s",
        named.join(", "),
        retry_seconds.saturating_sub(now_seconds)
    );
    let blocker = Blocker::OffersBlocked {
        offers,
        retry_seconds,
    };
    (blocker, Some(sentence))
}

/// What stands against a gang on the nodes there are.
struct NodesJudged<'a> {
    /// How many nodes each obstacle excludes; a node counts once, at the first obstacle.
    tally: BTreeMap<Obstacle<'a>, u32>,
    /// Nodes in all, those ordered by this plan included.
    nodes: u64,
    /// Members that would fit.
    fitting: u64,
}

impl NodesJudged<'_> {
    fn sentence(&self, demand: &Demand) -> String {
        let fitting = match self.fitting {
            0 => String::new(),
            some => format!(
                ", {some} of {} would fit",
                counted(demand.members.len() as u64, "pod")
            ),
        };
        match (self.nodes, self.tally.is_empty()) {
            (0, _) => "no nodes".to_owned(),
            (nodes, true) => format!("{}{fitting}", counted(nodes, "node")),
            (nodes, false) => {
                let listed = listed(&self.tally);
                format!("{}: {listed}{fitting}", counted(nodes, "node"))
            }
        }
    }
}

fn judge_nodes<'a>(ledger: &Ledger<'a>, demand: &'a Demand) -> NodesJudged<'a> {
    let mut judged = NodesJudged {
        tally: BTreeMap::new(),
        nodes: ledger.slots().len() as u64,
        fitting: 0,
    };
    for slot in ledger.slots() {
        if let Some(obstacle) = fit::obstacles(slot, demand).next() {
            let count = judged.tally.entry(obstacle).or_default();
            *count = count.saturating_add(1);
        } else {
            judged.fitting = judged.fitting.saturating_add(fit::room(slot, demand));
        }
    }
    judged.fitting = judged.fitting.min(demand.members.len() as u64);
    name_fragmentation(&mut judged, demand);
    judged
}

/// Where the free GPUs of too full nodes would do together, it is their scatter that is in the way.
fn name_fragmentation(judged: &mut NodesJudged<'_>, demand: &Demand) {
    let wanted = demand.per_member.gpus;
    let scattered: Vec<_> = judged
        .tally
        .iter()
        .filter_map(|(obstacle, count)| match *obstacle {
            Obstacle::TooFull(Resource::Gpus, free @ 1.., _) => Some((free, *count)),
            _ => None,
        })
        .collect();
    let total = scattered
        .iter()
        .map(|(free, count)| free.saturating_mul(u64::from(*count)))
        .fold(0, u64::saturating_add);
    let enough = wanted.saturating_mul(demand.members.len() as u64);
    let Some(largest) = scattered.iter().map(|(free, _)| *free).max() else {
        return;
    };
    if judged.fitting > 0 || total < enough {
        return;
    }
    for (free, count) in scattered {
        let full = Obstacle::TooFull(Resource::Gpus, free, wanted);
        judged.tally.remove(&full);
        let entry = judged
            .tally
            .entry(Obstacle::Fragmented(largest, wanted))
            .or_default();
        *entry = entry.saturating_add(count);
    }
}

fn in_rank<'t, 'a>(tally: &'t BTreeMap<Obstacle<'a>, u32>) -> Vec<(u32, &'t Obstacle<'a>, String)> {
    let mut ranked: Vec<_> = tally
        .iter()
        .map(|(obstacle, count)| (*count, obstacle, obstacle.to_string()))
        .collect();
    ranked.sort_by(|one, other| other.0.cmp(&one.0).then_with(|| one.2.cmp(&other.2)));
    ranked
}

fn excluded(tally: &BTreeMap<Obstacle<'_>, u32>) -> Vec<Excluded> {
    in_rank(tally)
        .into_iter()
        .map(|(count, _, constraint)| Excluded { constraint, count })
        .collect()
}

fn listed(tally: &BTreeMap<Obstacle<'_>, u32>) -> String {
    let parts: Vec<_> = in_rank(tally)
        .into_iter()
        .map(|(count, obstacle, text)| format!("{count} {}{text}", obstacle.verb(count.into())))
        .collect();
    parts.join(", ")
}

fn slots_of<'l, 'a>(
    ledger: &'l Ledger<'a>,
    shares: &'l [Share],
) -> impl Iterator<Item = &'l crate::planner::ledger::Slot<'a>> {
    shares.iter().filter_map(|share| ledger.slot(share.slot))
}

/// `2 × A, 1 × B`.
fn tallied(names: &[&str]) -> String {
    let mut counts = BTreeMap::<&str, u64>::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    let parts: Vec<_> = counts
        .iter()
        .map(|(name, count)| format!("{count} × {name}"))
        .collect();
    parts.join(", ")
}

/// `1 node`, `2 nodes`.
pub(crate) fn counted(count: u64, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}
