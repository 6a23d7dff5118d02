//! From a snapshot to a plan: who goes where now, what to buy, what to give back, and why the rest waits.
//!
//! Pure and deterministic. Demands are served one after the other (priority, age, name), each from what those before
//! it have left:
//!
//! 1. on nodes that can be used now, if the whole gang fits: an assignment. Of the nodes that would do it gets those
//!    that the pods to expect can use least, as the packing engine rates them;
//! 2. else on those together with nodes on their way: the gang waits, and its places are held. That includes places on
//!    nodes that are free now; otherwise small gangs would take them one by one and a large gang would never start;
//! 3. else with nodes bought for what is left over: the gang waits for them, and its places are held;
//! 4. else it waits with its blocker and holds nothing, so that it blocks nobody behind it.
//!
//! Then all that is to be bought is looked at once more, together: if some other set of nodes holds all of it for less
//! money, that is bought instead ([`together`]). Nobody loses a place by it.
//!
//! May not do: I/O, read a clock, or leave a choice to the code that applies the plan.

pub(crate) mod class;
pub(crate) mod fit;
mod gang;
pub(crate) mod ledger;
pub(crate) mod purchase;
mod ranking;
mod release;
mod together;

use serde::{Deserialize, Serialize};

use crate::explain;
use crate::plan::{Assignment, Blocker, Hold, MemberAssignment, Plan, Waiting};
use crate::snapshot::{Demand, Snapshot};
use class::Classes;
use gang::Packing;
use ledger::{Ledger, Share, Stage};
use purchase::Order;
use ranking::Ranking;

/// Plans for everything in the snapshot.
///
/// The order of nodes, demands and instance types in the snapshot does not matter as long as their names are unique.
///
/// ```
/// use kaito_placement::planner::plan;
/// use kaito_placement::snapshot::{Demand, Node, Resources, Snapshot};
///
/// let one_gpu = Resources { gpus: 1, pods: 1, ..Resources::default() };
/// let snapshot = Snapshot {
///     nodes: vec![Node {
///         name: "gpu-a".to_owned(),
///         allocatable: Resources { gpus: 2, pods: 110, ..Resources::default() },
///         available: true,
///         ..Node::default()
///     }],
///     demands: vec![Demand {
///         name: "default/phi-4".to_owned(),
///         members: vec!["phi-4-0".to_owned()],
///         per_member: one_gpu,
///         ..Demand::default()
///     }],
///     ..Snapshot::default()
/// };
/// let plan = plan(&snapshot);
/// assert_eq!(plan.assignments[0].members[0].node, "gpu-a");
/// ```
pub fn plan(snapshot: &Snapshot) -> Plan {
    plan_within(snapshot, &Limits::default())
}

/// What bounds the work on one plan. Part of the input: the same limits give the same plan on every machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Steps that the search for cheaper purchases may take; with 0 every gang buys by itself.
    pub purchase_steps: u64,
}

impl Default for Limits {
    /// About a second of one core at most, and only where thousands of pods ask for nodes at once.
    fn default() -> Self {
        Self {
            purchase_steps: 20_000_000,
        }
    }
}

/// Plans within limits other than the usual ones.
pub fn plan_within(snapshot: &Snapshot, limits: &Limits) -> Plan {
    let one_by_one = Pass::one_by_one(snapshot);
    let plan = match together::cheaper(&one_by_one, limits.purchase_steps) {
        Some(together) => together.into_plan(),
        None => one_by_one.into_plan(),
    };
    debug_assert_eq!(crate::check::check(snapshot, &plan), []);
    plan
}

/// All demands served.
struct Pass<'a> {
    ledger: Ledger<'a>,
    ranking: Ranking,
    classes: Classes<'a>,
    fates: Vec<Fate<'a>>,
}

/// How a demand fared, and where it has places.
struct Fate<'a> {
    demand: &'a Demand,
    shares: Vec<Share>,
    served: Served,
}

impl<'a> Pass<'a> {
    fn one_by_one(snapshot: &'a Snapshot) -> Self {
        let ledger = Ledger::open(snapshot);
        let mut pass = Self {
            ranking: Ranking::new(snapshot, ledger.slots()),
            ledger,
            classes: Classes::default(),
            fates: Vec::with_capacity(snapshot.demands.len()),
        };
        for demand in in_order(&snapshot.demands) {
            pass.serve(demand);
        }
        pass
    }

    fn into_plan(self) -> Plan {
        let mut plan = Plan::default();
        for fate in self.fates {
            match fate.served {
                Served::Now(assignment) => plan.assignments.push(assignment),
                Served::Held(waiting, holds) => {
                    plan.waiting.push(waiting);
                    plan.holds.extend(holds);
                }
                Served::Later(waiting) => plan.waiting.push(waiting),
            }
        }
        let idle = release::idle_claims(&self.ledger);
        plan.next_change_seconds = idle
            .next_end_seconds
            .into_iter()
            .chain(plan.waiting.iter().filter_map(retry_seconds))
            .min();
        plan.releases = idle.releases;
        plan.purchases = self.ledger.into_purchases();
        plan
    }

    fn serve(&mut self, demand: &'a Demand) {
        let packing = self.classes.pack(&self.ledger, &mut self.ranking, demand);
        if packing.left_over == 0 {
            return self.hold(demand, packing);
        }
        let survey = self.classes.survey(&self.ledger, demand);
        let order = survey
            .as_ref()
            .map_err(Clone::clone)
            .and_then(|survey| purchase::pick(survey, packing.left_over));
        match order {
            Ok(order) => self.buy(demand, packing, &order),
            Err(refusal) => self.fates.push(Fate {
                demand,
                shares: Vec::new(),
                served: Served::Later(explain::unplaced(&self.ledger, demand, &refusal)),
            }),
        }
    }

    /// Promises nodes that are there or on their way.
    fn hold(&mut self, demand: &'a Demand, packing: Packing) {
        self.ledger.promise(demand, &packing.shares);
        let at_once = packing.latest.is_none_or(|stage| stage == Stage::Available);
        let served = if at_once {
            Served::Now(assign(&self.ledger, demand, &packing.shares))
        } else {
            keep(&self.ledger, demand, &packing.shares)
        };
        self.fates.push(Fate {
            demand,
            shares: packing.shares,
            served,
        });
    }

    /// Orders nodes for the members left over and promises them together with the rest.
    fn buy(&mut self, demand: &'a Demand, packing: Packing, order: &Order<'a>) {
        let reason = explain::bought(&self.ledger, demand, order, packing.left_over);
        let mut shares = packing.shares;
        let mut left_over = packing.left_over;
        for _ in 0..order.nodes {
            let slot = self.ledger.order(demand, order.instance_type, &reason);
            let members = order.members_per_node.min(left_over);
            left_over = left_over.saturating_sub(members);
            shares.push(Share { slot, members });
        }
        self.ledger.promise(demand, &shares);
        let served = keep(&self.ledger, demand, &shares);
        self.fates.push(Fate {
            demand,
            shares,
            served,
        });
    }
}

/// What happens to a demand.
enum Served {
    /// It gets nodes now.
    Now(Assignment),
    /// It waits for nodes; places are kept for it.
    Held(Waiting, Vec<Hold>),
    /// It waits and nothing is kept for it.
    Later(Waiting),
}

fn in_order(demands: &[Demand]) -> Vec<&Demand> {
    let mut ordered: Vec<_> = demands.iter().collect();
    ordered.sort_by(|one, other| {
        other
            .priority
            .cmp(&one.priority)
            .then(one.created_seconds.cmp(&other.created_seconds))
            .then_with(|| one.name.cmp(&other.name))
    });
    ordered
}

fn assign(ledger: &Ledger<'_>, demand: &Demand, shares: &[Share]) -> Assignment {
    let nodes = shares.iter().flat_map(|share| {
        let name = ledger.slot(share.slot).map_or("", |slot| slot.name);
        (0..share.members).map(move |_| name)
    });
    Assignment {
        demand: demand.name.clone(),
        members: demand
            .members
            .iter()
            .zip(nodes)
            .map(|(member, node)| MemberAssignment {
                member: member.clone(),
                node: node.to_owned(),
            })
            .collect(),
        reason: explain::assigned(ledger, demand, shares),
    }
}

fn keep(ledger: &Ledger<'_>, demand: &Demand, shares: &[Share]) -> Served {
    let holds = shares
        .iter()
        .filter_map(|share| {
            Some(Hold {
                demand: demand.name.clone(),
                place: ledger.place(share.slot)?,
                members: share.members,
            })
        })
        .collect();
    Served::Held(explain::launching(ledger, demand, shares), holds)
}

fn retry_seconds(waiting: &Waiting) -> Option<i64> {
    match waiting.blocker {
        Blocker::OffersBlocked { retry_seconds, .. } => Some(retry_seconds),
        Blocker::NodesLaunching { .. }
        | Blocker::NoNodeFits { .. }
        | Blocker::NoInstanceTypeFits { .. }
        | Blocker::UnknownInstanceType { .. } => None,
    }
}
