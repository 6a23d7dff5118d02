//! Chooses machines for many pods at once, for the least money that can be found within a budget of steps.
//!
//! The problem is variable-size vector bin packing: kinds of pods, offers with capacities and prices, and the wish to
//! hold everything for the smallest sum. The way: a linear relaxation over *patterns* (what one machine may hold),
//! whose columns are made on demand by filling machines with whatever is worth most at the current prices of the pods;
//! rounding it down and solving what is left again; then taking apart the machines that waste most and rebuilding
//! them. No clock: the budget counts steps, so that the same problem gives the same answer everywhere.
//!
//! Knows nothing of demands, labels or plans; [`crate::planner`] translates.

mod fill;
mod market;
mod polish;
mod round;
mod simplex;

use crate::snapshot::Resources;
use market::Market;

/// Pods that are alike in what they need and where they may go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kind {
    /// What one pod needs.
    pub each: Resources,
    /// Positions of the offers that suit it, whatever their capacity.
    pub suits: Vec<usize>,
}

/// Pods of one kind that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lot {
    /// Position of their kind.
    pub kind: usize,
    /// How many.
    pub members: u64,
    /// No two of this lot on one machine.
    pub spread: bool,
}

/// A machine that can be bought any number of times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// What pods can use of it.
    pub capacity: Resources,
    /// Micro-dollars per hour.
    pub micro_dollars: u64,
}

/// What is to be held by what. Among equals the offer that comes first is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problem {
    /// Kinds of pods.
    pub kinds: Vec<Kind>,
    /// Pods.
    pub lots: Vec<Lot>,
    /// Offers.
    pub offers: Vec<Offer>,
}

/// One machine to buy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Position of its offer.
    pub offer: usize,
    /// Lots by position, and how many members of each it holds; each lot at most once.
    pub holds: Vec<(usize, u64)>,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Solution {
    /// The machines; those that hold the first lots come first.
    pub machines: Vec<Machine>,
    /// What they cost together, micro-dollars per hour.
    pub micro_dollars: u64,
    /// Steps spent. A step is one look at one kind of pods for one machine.
    pub steps: u64,
    /// Whether the search ended by itself, not because the budget did.
    pub complete: bool,
}

/// Steps that are left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    limit: u64,
    spent: u64,
}

impl Budget {
    /// A budget of so many steps.
    const fn new(limit: u64) -> Self {
        Self { limit, spent: 0 }
    }

    /// Counts steps that were made.
    const fn spend(&mut self, steps: u64) {
        self.spent = self.spent.saturating_add(steps);
    }

    /// Whether more than `share` percent of it is gone.
    const fn is_beyond(&self, share: u64) -> bool {
        self.spent >= self.limit / 100 * share
    }
}

/// Solves `problem` in about `steps` steps: a first answer is always found, improvement ends with the budget.
///
/// `None` if some pod fits no offer that suits it.
///
/// ```
/// use kaito_placement::purchasing::{Kind, Lot, Offer, Problem, solve};
/// use kaito_placement::snapshot::Resources;
///
/// let gpus = |gpus| Resources { gpus, ..Resources::default() };
/// let problem = Problem {
///     kinds: vec![Kind { each: gpus(1), suits: vec![0, 1] }],
///     lots: vec![Lot { kind: 0, members: 5, spread: false }],
///     offers: vec![
///         Offer { capacity: gpus(1), micro_dollars: 3_000_000 },
///         Offer { capacity: gpus(4), micro_dollars: 8_000_000 },
///     ],
/// };
/// let solution = solve(&problem, 1_000_000).unwrap();
/// assert_eq!(solution.micro_dollars, 11_000_000);
/// ```
#[must_use]
pub fn solve(problem: &Problem, steps: u64) -> Option<Solution> {
    let market = Market::new(problem)?;
    let mut budget = Budget::new(steps);
    let mut best = round::apart(&market);
    let relaxed = round::relaxed(&market, &mut budget);
    let values = relaxed.values.clone();
    let dived = round::dive(&market, relaxed, &mut budget);
    let greedy = round::greedy(&market, &values, market.counts(), &mut budget);
    for other in [dived, greedy] {
        if market.cost(&other) < market.cost(&best) {
            best = other;
        }
    }
    let complete = polish::polish(&market, &values, &mut best, &mut budget);
    Some(Solution {
        micro_dollars: market.cost(&best),
        machines: market.into_machines(best),
        steps: budget.spent,
        complete,
    })
}
