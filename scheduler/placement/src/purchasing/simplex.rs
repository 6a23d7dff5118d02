//! The linear relaxation: how often each pattern is used, in fractions, and what a pod of each group is worth.
//!
//! Revised simplex with an explicit inverse of the basis. Rows are groups (each to be covered at least `count` times),
//! columns are patterns and surpluses; columns come from outside, one at a time.

use super::market::{Market, Pattern};

/// What is taken for zero.
const EPSILON: f64 = 1e-9;

/// A column of the basis.
#[derive(Clone, Debug)]
enum Column {
    Pattern(Pattern),
    Surplus,
}

/// A basis and its solution.
#[derive(Clone, Debug)]
pub(super) struct Master {
    columns: Vec<Column>,
    costs: Vec<f64>,
    amounts: Vec<f64>,
    inverse: Vec<Vec<f64>>,
}

impl Master {
    /// Starts from patterns that hold one group alone: `singles` by group, covering `left`.
    pub(super) fn new(market: &Market, singles: &[Pattern], left: &[u64]) -> Self {
        let size = singles.len();
        let per_node =
            |pattern: &Pattern| pattern.counts.first().map_or(1, |(_, count)| *count) as f64;
        Self {
            columns: singles.iter().cloned().map(Column::Pattern).collect(),
            costs: singles
                .iter()
                .map(|one| market.price(one.bin) as f64)
                .collect(),
            amounts: singles
                .iter()
                .zip(left)
                .map(|(one, left)| *left as f64 / per_node(one))
                .collect(),
            inverse: singles
                .iter()
                .enumerate()
                .map(|(row, one)| {
                    let mut unit = vec![0.0; size];
                    if let Some(cell) = unit.get_mut(row) {
                        *cell = 1.0 / per_node(one);
                    }
                    unit
                })
                .collect(),
        }
    }

    /// What one pod of each group is worth at the present basis.
    pub(super) fn values(&self) -> Vec<f64> {
        let mut values = vec![0.0; self.columns.len()];
        for (cost, row) in self.costs.iter().zip(&self.inverse) {
            if cost.abs() > EPSILON {
                for (value, cell) in values.iter_mut().zip(row) {
                    *value += cost * cell;
                }
            }
        }
        values
    }

    /// Lets surpluses in as long as a group is worth less than nothing; the values then.
    pub(super) fn settle(&mut self) -> Vec<f64> {
        let mut values = self.values();
        for _ in 0..self.columns.len() {
            let worst = values
                .iter()
                .enumerate()
                .min_by(|one, other| one.1.total_cmp(other.1));
            let Some((row, _)) = worst.filter(|(_, value)| **value < -EPSILON) else {
                break;
            };
            let direction: Vec<f64> = self
                .inverse
                .iter()
                .map(|cells| -cells.get(row).copied().unwrap_or_default())
                .collect();
            if !self.pivot(&direction, Column::Surplus, 0.0) {
                break;
            }
            values = self.values();
        }
        values
    }

    /// Lets a pattern in; whether it could come in.
    pub(super) fn enter(&mut self, pattern: &Pattern, price: u64) -> bool {
        let direction: Vec<f64> = self
            .inverse
            .iter()
            .map(|cells| {
                pattern
                    .counts
                    .iter()
                    .map(|(group, count)| {
                        cells.get(*group).copied().unwrap_or_default() * *count as f64
                    })
                    .sum()
            })
            .collect();
        self.pivot(&direction, Column::Pattern(pattern.clone()), price as f64)
    }

    /// Patterns in use with how often, in fractions; most often first.
    pub(super) fn usage(&self) -> Vec<(f64, Pattern)> {
        let mut usage: Vec<(f64, Pattern)> = self
            .amounts
            .iter()
            .zip(&self.columns)
            .filter_map(|(amount, column)| match column {
                Column::Pattern(pattern) if *amount > EPSILON => Some((*amount, pattern.clone())),
                _ => None,
            })
            .collect();
        usage.sort_by(|one, other| other.0.total_cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
        usage
    }

    fn pivot(&mut self, direction: &[f64], column: Column, cost: f64) -> bool {
        let leaving = direction
            .iter()
            .zip(&self.amounts)
            .enumerate()
            .filter(|(_, (step, _))| **step > 1e-7)
            .map(|(row, (step, amount))| (amount.max(0.0) / step, row))
            .min_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
        let Some((ratio, row)) = leaving else {
            return false;
        };
        let Some(pivot) = direction.get(row).copied() else {
            return false;
        };
        let mut pivotal = self
            .inverse
            .get_mut(row)
            .map(std::mem::take)
            .unwrap_or_default();
        for cell in &mut pivotal {
            *cell /= pivot;
        }
        for (at, cells) in self.inverse.iter_mut().enumerate() {
            let step = direction.get(at).copied().unwrap_or_default();
            if at != row && step.abs() > f64::MIN_POSITIVE {
                for (cell, by) in cells.iter_mut().zip(&pivotal) {
                    *cell -= step * by;
                }
            }
        }
        for (amount, step) in self.amounts.iter_mut().zip(direction) {
            *amount -= ratio * step;
        }
        replace(&mut self.inverse, row, pivotal);
        replace(&mut self.amounts, row, ratio);
        replace(&mut self.columns, row, column);
        replace(&mut self.costs, row, cost);
        true
    }
}

fn replace<T>(list: &mut [T], at: usize, with: T) {
    if let Some(place) = list.get_mut(at) {
        *place = with;
    }
}
