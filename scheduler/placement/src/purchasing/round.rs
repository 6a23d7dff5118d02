//! From fractions to machines: a first answer by greed, and a better one by solving, rounding down, and solving again.

use std::collections::BTreeSet;

use super::Budget;
use super::fill::{self, Filling};
use super::market::{Market, Pattern};
use super::simplex::Master;

/// Most groups for which the relaxation is solved: an exchange in the basis costs the square of it.
const MOST_GROUPS: usize = 640;
/// Most exchanges for one relaxation.
const MOST_EXCHANGES: usize = 4_000;
/// A pattern comes in if it is worth this much more than it costs; less is noise.
const GAIN: f64 = 1.0 + 1e-6;
/// A search for patterns ends when it has found so many.
const ENOUGH_FOUND: usize = 4_096;
/// Most patterns that are remembered for the next exchanges.
const MOST_KEPT: usize = 512;

/// The relaxation of the whole problem, as far as the budget went.
#[derive(Clone, Debug)]
pub(super) struct Relaxed {
    /// What a pod of each group is worth.
    pub(super) values: Vec<f64>,
    usage: Vec<(f64, Pattern)>,
    pool: Pool,
}

/// Patterns to choose from, and which machine is filled next in search of more.
#[derive(Clone, Debug, Default)]
struct Pool {
    patterns: BTreeSet<Pattern>,
    next: usize,
}

/// Every group on machines of its own: poor, but found at once.
pub(super) fn apart(market: &Market) -> Vec<Pattern> {
    finish(market, market.counts())
}

/// Solves the relaxation; without, pods are worth what they cost alone.
pub(super) fn relaxed(market: &Market, budget: &mut Budget) -> Relaxed {
    let mut pool = Pool::default();
    if market.groups.len() > MOST_GROUPS {
        return Relaxed {
            values: alone(market),
            usage: Vec::new(),
            pool,
        };
    }
    let mut master = relax(market, &market.counts(), &mut pool, budget, 45);
    Relaxed {
        values: master.settle(),
        usage: master.usage(),
        pool,
    }
}

/// What a pod costs if its group has machines of its own.
fn alone(market: &Market) -> Vec<f64> {
    let mut values = vec![f64::INFINITY; market.groups.len()];
    for bin in &market.bins {
        for item in &bin.menu {
            let each = bin.price as f64 / item.most as f64;
            if let Some(value) = values.get_mut(item.group) {
                *value = value.min(each);
            }
        }
    }
    values
}

/// The rest without any more thought: every group apart.
fn finish(market: &Market, mut left: Vec<u64>) -> Vec<Pattern> {
    let mut nodes = Vec::new();
    for single in singles(market) {
        while buy(market, &single, &mut left, &mut nodes) {}
    }
    nodes
}

/// Buys the machine that holds most for its price until nothing is left; equal machines at once.
pub(super) fn greedy(
    market: &Market,
    values: &[f64],
    mut left: Vec<u64>,
    budget: &mut Budget,
) -> Vec<Pattern> {
    let mut nodes = Vec::new();
    // A pod that is worth nothing must find its place too.
    let floor = values.iter().copied().fold(0.0, f64::max).max(1.0) * 1e-6;
    let values: Vec<f64> = values.iter().map(|value| value.max(floor)).collect();
    while left.iter().any(|count| *count > 0) {
        let best = if budget.is_beyond(100) {
            None
        } else {
            best_filling(market, &values, &left, budget)
        };
        let Some(best) = best else {
            nodes.extend(finish(market, left));
            break;
        };
        let copies = copies(&best.pattern, &left);
        for (group, count) in &best.pattern.counts {
            if let Some(left) = left.get_mut(*group) {
                *left = left.saturating_sub(count.saturating_mul(copies));
            }
        }
        nodes.extend((0..copies).map(|_| best.pattern.clone()));
    }
    nodes
}

fn best_filling(
    market: &Market,
    values: &[f64],
    left: &[u64],
    budget: &mut Budget,
) -> Option<Filling> {
    let mut best: Option<(f64, Filling)> = None;
    for (position, bin) in market.bins.iter().enumerate() {
        let promising = best
            .as_ref()
            .map_or(0.0, |(most, _)| most * bin.price as f64);
        let Some(filling) = fill::fill(position, bin, (values, left), promising, budget) else {
            continue;
        };
        let ratio = filling.value / (bin.price.max(1)) as f64;
        let better = best
            .as_ref()
            .is_none_or(|(most, _)| ratio > most * (1.0 + 1e-9));
        if better {
            best = Some((ratio, filling));
        }
    }
    best.map(|(_, filling)| filling)
}

fn copies(pattern: &Pattern, left: &[u64]) -> u64 {
    pattern
        .counts
        .iter()
        .filter_map(|(group, count)| left.get(*group)?.checked_div(*count))
        .min()
        .unwrap_or(1)
        .max(1)
}

/// Solves the relaxation for `left` pods, using and adding to `pool`, with at most `share` percent of the budget gone.
fn relax(
    market: &Market,
    left: &[u64],
    pool: &mut Pool,
    budget: &mut Budget,
    share: u64,
) -> Master {
    let mut master = Master::new(market, &singles(market), left);
    let size = market.groups.len() as u64;
    for _ in 0..MOST_EXCHANGES {
        if budget.is_beyond(share) {
            break;
        }
        let values = master.settle();
        budget.spend(size.saturating_mul(size) / 8);
        budget.spend(pool.patterns.len() as u64);
        let best = pool
            .patterns
            .iter()
            .map(|pattern| (worth(market, pattern, &values), pattern))
            .max_by(|one, other| one.0.total_cmp(&other.0).then_with(|| other.1.cmp(one.1)))
            .filter(|(ratio, _)| *ratio > GAIN)
            .map(|(_, pattern)| pattern.clone());
        let Some(pattern) = best else {
            if price_anew(market, &values, pool, budget) {
                continue;
            }
            break;
        };
        if !master.enter(&pattern, market.price(pattern.bin)) {
            pool.patterns.remove(&pattern);
        }
    }
    master
}

/// Fills machines at these values until some contents worth more than their price are found, going on where the last
/// search ended; whether any were.
fn price_anew(market: &Market, values: &[f64], pool: &mut Pool, budget: &mut Budget) -> bool {
    let counts = market.counts();
    if pool.patterns.len() > MOST_KEPT {
        pool.patterns.clear();
    }
    let mut found = 0;
    for _ in 0..market.bins.len() {
        let position = pool.next % market.bins.len();
        pool.next = position + 1;
        let Some(bin) = market.bins.get(position) else {
            break;
        };
        let goal = bin.price as f64 * GAIN;
        if let Some(filling) = fill::fill(position, bin, (values, &counts), goal, budget)
            && filling.value > goal
            && pool.patterns.insert(filling.pattern)
        {
            found += 1;
            if found >= ENOUGH_FOUND {
                break;
            }
        }
    }
    found > 0
}

fn worth(market: &Market, pattern: &Pattern, values: &[f64]) -> f64 {
    let value: f64 = pattern
        .counts
        .iter()
        .map(|(group, count)| values.get(*group).copied().unwrap_or_default() * *count as f64)
        .sum();
    value / (market.price(pattern.bin).max(1)) as f64
}

/// By group, the pattern that holds it alone for the least money per pod.
fn singles(market: &Market) -> Vec<Pattern> {
    let mut best: Vec<Option<(f64, Pattern)>> = vec![None; market.groups.len()];
    for (position, bin) in market.bins.iter().enumerate() {
        for item in &bin.menu {
            let each = bin.price as f64 / item.most as f64;
            if let Some(place) = best.get_mut(item.group)
                && place.as_ref().is_none_or(|(least, _)| each < *least)
            {
                let pattern = Pattern {
                    bin: position,
                    counts: vec![(item.group, item.most)],
                };
                *place = Some((each, pattern));
            }
        }
    }
    best.into_iter().flatten().map(|(_, one)| one).collect()
}

/// Keeps the whole machines of the relaxation and solves again for what is left, until nothing is or it no longer pays.
pub(super) fn dive(market: &Market, relaxed: Relaxed, budget: &mut Budget) -> Vec<Pattern> {
    let Relaxed {
        mut values,
        mut usage,
        mut pool,
    } = relaxed;
    let mut left = market.counts();
    let mut nodes = Vec::new();
    while left.iter().any(|count| *count > 0) {
        let mut bought = false;
        for (amount, pattern) in &usage {
            for _ in 0..whole(*amount) {
                bought |= buy(market, pattern, &mut left, &mut nodes);
            }
        }
        let fullest = usage.iter().max_by(|one, other| {
            fraction(one.0)
                .total_cmp(&fraction(other.0))
                .then_with(|| other.1.cmp(&one.1))
        });
        let bought = bought
            || fullest.is_some_and(|(_, pattern)| buy(market, pattern, &mut left, &mut nodes));
        if !bought || budget.is_beyond(65) {
            nodes.extend(greedy(market, &values, left, budget));
            break;
        }
        let mut master = relax(market, &left, &mut pool, budget, 65);
        values = master.settle();
        usage = master.usage();
    }
    nodes
}

/// Buys one machine for what is left of a pattern; not if nothing is.
fn buy(market: &Market, pattern: &Pattern, left: &mut [u64], nodes: &mut Vec<Pattern>) -> bool {
    let mut counts = Vec::with_capacity(pattern.counts.len());
    for (group, count) in &pattern.counts {
        if let Some(left) = left.get_mut(*group) {
            let taken = (*count).min(*left);
            *left -= taken;
            if taken > 0 {
                counts.push((*group, taken));
            }
        }
    }
    if counts.is_empty() {
        return false;
    }
    let fits = |bin: &&usize| {
        market
            .bins
            .get(**bin)
            .is_some_and(|bin| market.holds(bin, &counts))
    };
    // Bins are ordered by price: the first that holds it is the cheapest.
    let candidates: Vec<usize> = (0..=pattern.bin).collect();
    let bin = candidates.iter().find(fits).copied().unwrap_or(pattern.bin);
    nodes.push(Pattern { bin, counts });
    true
}

/// The whole part of an amount that is never negative and far below 2^53.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the amount is a count of machines: not negative, and never near the end of the range"
)]
fn whole(amount: f64) -> u64 {
    (amount + 1e-6).max(0.0).floor() as u64
}

fn fraction(amount: f64) -> f64 {
    amount - amount.floor()
}
