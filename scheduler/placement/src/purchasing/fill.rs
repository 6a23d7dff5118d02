//! Fills one machine with what is worth most: a bounded knapsack in several resources, by density.
//!
//! A heuristic. It sorts by value per share of the machine, weighs the resources that ran out more and tries again, and
//! then gives up one pod of each group in turn for whatever else fits.

use super::Budget;
use super::market::{Bin, Item, Pattern, room, take};

/// How often the resources are weighed anew.
const ROUNDS: usize = 3;
/// How often a filling may be improved by giving up one pod.
const TRADES: usize = 3;
/// A filling that is worth this share of what would be wanted may get there by trading.
const NEAR: f64 = 0.97;
/// Least weight of a resource that is in no way scarce: enough to break ties towards pods that need less of it.
const FAINT: f64 = 0.02;

/// A machine with its contents and what they are worth.
#[derive(Clone, Debug)]
pub(super) struct Filling {
    /// What is in it.
    pub(super) pattern: Pattern,
    /// Sum of the values.
    pub(super) value: f64,
}

/// Fills the machine at position `bin` with pods of the given values (by group), at most `left` of each. Only what comes
/// near `promising` is worth the trouble of improving.
pub(super) fn fill(
    position: usize,
    bin: &Bin,
    (values, left): (&[f64], &[u64]),
    promising: f64,
    budget: &mut Budget,
) -> Option<Filling> {
    let menu = worthwhile(bin, values, left);
    let mut weights = [1.0; 5];
    let mut best: Option<(f64, Counts)> = None;
    let mut order: Vec<(f64, usize)> = Vec::with_capacity(menu.len());
    for _ in 0..ROUNDS {
        budget.spend(menu.len() as u64);
        rank(&menu, &weights, &mut order);
        let (value, counts) = pour(bin, &menu, &order, None);
        weights = scarcity(bin, &menu, &counts);
        let better = best.as_ref().is_none_or(|(most, _)| value > *most);
        if better {
            best = Some((value, counts));
        }
        if menu.len() < 2 {
            break;
        }
    }
    let (mut value, mut counts) = best?;
    if menu.len() > 1 && value >= promising * NEAR {
        rank(&menu, &weights, &mut order);
        trade(bin, &menu, &order, (&mut value, &mut counts), budget);
    }
    let mut counts: Vec<(usize, u64)> = counts
        .into_iter()
        .filter_map(|(at, count)| Some((menu.get(at)?.item.group, count)))
        .collect();
    counts.sort_unstable();
    (!counts.is_empty()).then_some(Filling {
        pattern: Pattern {
            bin: position,
            counts,
        },
        value,
    })
}

/// Positions in the menu and counts.
type Counts = Vec<(usize, u64)>;

/// An item with its value and how many of it can be had.
struct Dish<'b> {
    item: &'b Item,
    value: f64,
    most: u64,
}

fn worthwhile<'b>(bin: &'b Bin, values: &[f64], left: &[u64]) -> Vec<Dish<'b>> {
    bin.menu
        .iter()
        .filter_map(|item| {
            let value = values.get(item.group).copied().unwrap_or_default();
            let most = left
                .get(item.group)
                .copied()
                .unwrap_or_default()
                .min(item.most);
            (value > 0.0 && most > 0).then_some(Dish { item, value, most })
        })
        .collect()
}

fn rank(menu: &[Dish<'_>], weights: &[f64; 5], order: &mut Vec<(f64, usize)>) {
    order.clear();
    order.extend(menu.iter().enumerate().map(|(at, dish)| {
        let pairs = dish.item.share.iter().zip(weights);
        let size: f64 = pairs.map(|(share, weight)| share * weight).sum();
        (dish.value / size.max(f64::MIN_POSITIVE), at)
    }));
    order.sort_by(|one, other| other.0.total_cmp(&one.0).then(one.1.cmp(&other.1)));
}

/// Takes as much as fits in the given order; `without` keeps one menu position at a fixed count.
fn pour(
    bin: &Bin,
    menu: &[Dish<'_>],
    order: &[(f64, usize)],
    without: Option<(usize, u64)>,
) -> (f64, Counts) {
    let mut free = bin.capacity;
    let mut counts = Counts::new();
    let mut value = 0.0;
    let mut put = |at: usize, dish: &Dish<'_>, most: u64| {
        let count = room(&free, &dish.item.need).min(most);
        if count > 0 && take(&mut free, &dish.item.need, count) {
            value += dish.value * count as f64;
            counts.push((at, count));
        }
    };
    if let Some((at, count)) = without
        && let Some(dish) = menu.get(at)
    {
        put(at, dish, count);
    }
    for (_, at) in order {
        if let Some(dish) = menu.get(*at)
            && without.is_none_or(|(fixed, _)| fixed != *at)
        {
            put(*at, dish, dish.most);
        }
    }
    (value, counts)
}

/// The fuller a resource, the more it weighs.
fn scarcity(bin: &Bin, menu: &[Dish<'_>], counts: &Counts) -> [f64; 5] {
    let mut used = [0.0_f64; 5];
    for (at, count) in counts {
        if let Some(dish) = menu.get(*at) {
            for (used, share) in used.iter_mut().zip(dish.item.share) {
                *used += share * *count as f64;
            }
        }
    }
    let mut weights = [FAINT; 5];
    for ((weight, used), has) in weights.iter_mut().zip(used).zip(bin.capacity) {
        if has > 0 {
            *weight += used * used * used * used;
        }
    }
    weights
}

/// Gives up one pod of each group in turn and keeps the best exchange, as long as one pays.
fn trade(
    bin: &Bin,
    menu: &[Dish<'_>],
    order: &[(f64, usize)],
    (value, counts): (&mut f64, &mut Counts),
    budget: &mut Budget,
) {
    for _ in 0..TRADES {
        let mut better: Option<(f64, Counts)> = None;
        for (at, count) in counts.iter() {
            budget.spend(menu.len() as u64);
            let (worth, other) = pour(bin, menu, order, Some((*at, count - 1)));
            let best = better.as_ref().map_or(*value, |(most, _)| *most);
            if worth > best * (1.0 + 1e-9) {
                better = Some((worth, other));
            }
        }
        let Some((worth, other)) = better else {
            return;
        };
        *value = worth;
        *counts = other;
    }
}
