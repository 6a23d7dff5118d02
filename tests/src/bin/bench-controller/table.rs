//! The result: one row per quantity, ours beside KAITO's.

use std::fmt;

/// Rows in the order in which they were measured.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<[String; 3]>,
}

impl Table {
    pub(crate) fn new() -> Self {
        Self {
            rows: vec![["measured".into(), "kaito".into(), "KAITO v0.12".into()]],
        }
    }

    /// Adds a row; `theirs` is `-` where KAITO was not measured.
    pub(crate) fn add(&mut self, what: impl Into<String>, ours: impl fmt::Display, theirs: &str) {
        self.rows
            .push([what.into(), ours.to_string(), theirs.to_owned()]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            let lengths = self
                .rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count());
            lengths.max().unwrap_or(0)
        };
        for [what, ours, theirs] in &self.rows {
            writeln!(
                formatter,
                "{what:<first$}  {ours:>second$}  {theirs:>third$}",
                first = width(0),
                second = width(1),
                third = width(2)
            )?;
        }
        Ok(())
    }
}

/// The middle value; of an even number, the upper of the two in the middle. `None` of nothing.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::{Table, median};

    #[test]
    fn the_median_ignores_order_and_outliers() {
        assert_eq!(median(vec![900.0, 1.0, 3.0]), Some(3.0));
        assert_eq!(median(Vec::new()), None);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new();
        table.add("a", 12345.0, "-");
        let text = table.to_string();
        let lengths: Vec<usize> = text.lines().map(str::len).collect();
        assert_eq!(lengths[0], lengths[1], "{text}");
    }
}
