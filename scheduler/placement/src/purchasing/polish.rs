//! Makes an answer cheaper by small steps: smaller machines, fewer machines, and rebuilding the most wasteful ones.

use std::collections::BTreeMap;

use super::Budget;
use super::market::{Market, Pattern, room, take};
use super::round;

/// Attempts without gain after which the search ends.
const PATIENCE: u32 = 100;
/// The search ends when the machines cost no more than this times what the relaxation says that the pods are worth.
const GOOD_ENOUGH: f64 = 1.003;
/// Above this many machines only the cheap steps are tried.
const MOST_MACHINES: usize = 4_000;

/// Improves `nodes` until the budget is spent or nothing helps any more; whether it was the latter.
pub(super) fn polish(
    market: &Market,
    values: &[f64],
    nodes: &mut Vec<Pattern>,
    budget: &mut Budget,
) -> bool {
    shrink(market, nodes, budget);
    if nodes.len() > MOST_MACHINES {
        return true;
    }
    dissolve(market, nodes, budget);
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let mut failures = 0_u32;
    sort_by_waste(market, values, nodes);
    let worth: f64 = values
        .iter()
        .zip(market.counts())
        .map(|(value, count)| value * count as f64)
        .sum();
    while failures < PATIENCE && nodes.len() > 1 {
        if market.cost(nodes) as f64 <= worth * GOOD_ENOUGH {
            break;
        }
        if budget.is_beyond(100) {
            return false;
        }
        if rebuild_some(market, values, nodes, &mut dice, budget) {
            failures = 0;
            sort_by_waste(market, values, nodes);
        } else {
            failures = failures.saturating_add(1);
        }
    }
    true
}

/// The cheapest machine for the contents of each.
fn shrink(market: &Market, nodes: &mut [Pattern], budget: &mut Budget) {
    let mut known: BTreeMap<Pattern, usize> = BTreeMap::new();
    for node in nodes {
        let bin = known.get(node).copied().unwrap_or_else(|| {
            let cheapest = market.bins.iter().take(node.bin);
            let found = cheapest
                .enumerate()
                .find(|(_, bin)| market.holds(bin, &node.counts));
            budget.spend(node.bin as u64);
            let bin = found.map_or(node.bin, |(position, _)| position);
            known.insert(node.clone(), bin);
            bin
        });
        node.bin = bin;
    }
}

/// Moves all that a machine holds to free places of others, the emptiest machine per dollar first.
fn dissolve(market: &Market, nodes: &mut Vec<Pattern>, budget: &mut Budget) {
    let mut at = 0;
    while at < nodes.len() && !budget.is_beyond(90) {
        budget.spend(nodes.len() as u64);
        match without(market, nodes, at) {
            Some(fewer) => *nodes = fewer,
            None => at += 1,
        }
    }
}

fn without(market: &Market, nodes: &[Pattern], at: usize) -> Option<Vec<Pattern>> {
    let gone = nodes.get(at)?;
    let mut changed: BTreeMap<usize, Pattern> = BTreeMap::new();
    for (group, count) in &gone.counts {
        let mut left = *count;
        for (position, node) in nodes
            .iter()
            .enumerate()
            .filter(|(position, _)| *position != at)
        {
            if left == 0 {
                break;
            }
            let current = changed.get(&position).unwrap_or(node);
            if let Some((more, taken)) = with_more(market, current, *group, left) {
                left -= taken;
                changed.insert(position, more);
            }
        }
        if left > 0 {
            return None;
        }
    }
    let rest = nodes
        .iter()
        .enumerate()
        .filter(|(position, _)| *position != at);
    Some(
        rest.map(|(position, node)| changed.get(&position).unwrap_or(node).clone())
            .collect(),
    )
}

/// The machine with as many more of a group as fit, at most `left`.
fn with_more(market: &Market, node: &Pattern, group: usize, left: u64) -> Option<(Pattern, u64)> {
    let bin = market.bins.get(node.bin)?;
    let item = bin.menu.iter().find(|item| item.group == group)?;
    let mut free = bin.capacity;
    let mut already = 0;
    for (other, count) in &node.counts {
        take(&mut free, &market.groups.get(*other)?.need, *count).then_some(())?;
        if *other == group {
            already = *count;
        }
    }
    let taken = room(&free, &item.need)
        .min(left)
        .min(item.most.saturating_sub(already));
    if taken == 0 {
        return None;
    }
    let mut counts = node.counts.clone();
    counts.retain(|(other, _)| *other != group);
    counts.push((group, already + taken));
    counts.sort_unstable();
    let bin = node.bin;
    Some((Pattern { bin, counts }, taken))
}

/// Takes some machines apart, the wasteful ones rather than others, and builds them anew; whether that saved money.
fn rebuild_some(
    market: &Market,
    values: &[f64],
    nodes: &mut Vec<Pattern>,
    dice: &mut Dice,
    budget: &mut Budget,
) -> bool {
    let chosen = choose(nodes.len(), dice);
    let mut left = vec![0_u64; market.groups.len()];
    let mut old: Vec<Pattern> = Vec::new();
    for at in &chosen {
        let Some(node) = nodes.get(*at) else { continue };
        for (group, count) in &node.counts {
            if let Some(left) = left.get_mut(*group) {
                *left += count;
            }
        }
        old.push(node.clone());
    }
    let tilted: Vec<f64> = values
        .iter()
        .map(|value| value * (0.85 + 0.3 * dice.unit()))
        .collect();
    let before = market.cost(&old);
    let mut rebuilt = round::greedy(market, &tilted, left, budget);
    shrink(market, &mut rebuilt, budget);
    if market.cost(&rebuilt) >= before {
        return false;
    }
    let mut position = 0;
    nodes.retain(|_| {
        position += 1;
        !chosen.contains(&(position - 1))
    });
    nodes.extend(rebuilt);
    true
}

fn choose(machines: usize, dice: &mut Dice) -> Vec<usize> {
    let many = 2 + dice.below(5);
    let mut chosen: Vec<usize> = (0..many)
        .map(|_| dice.below(machines).min(dice.below(machines)))
        .collect();
    chosen.sort_unstable();
    chosen.dedup();
    chosen
}

/// Most money for nothing first.
fn sort_by_waste(market: &Market, values: &[f64], nodes: &mut [Pattern]) {
    nodes.sort_by_cached_key(|node| {
        let value: f64 = node
            .counts
            .iter()
            .map(|(group, count)| values.get(*group).copied().unwrap_or_default() * *count as f64)
            .sum();
        let waste = market.price(node.bin) as f64 - value;
        (std::cmp::Reverse(Ordered(waste)), node.clone())
    });
}

/// A float that can be sorted by.
#[derive(Clone, Copy, Debug)]
struct Ordered(f64);

impl PartialEq for Ordered {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Ordered {}

impl PartialOrd for Ordered {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Ordered {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.total_cmp(&other.0)
    }
}

/// A fixed sequence (xorshift): the same for every run, so that the answer is too.
struct Dice(u64);

impl Dice {
    const fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 11
    }

    fn below(&mut self, end: usize) -> usize {
        let end = (end as u64).max(1);
        usize::try_from(self.roll() % end).unwrap_or_default()
    }

    fn unit(&mut self) -> f64 {
        self.roll() as f64 / (1_u64 << 53) as f64
    }
}
