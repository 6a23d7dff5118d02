//! The result in columns.

use std::fmt;

use crate::measure::Usage;

/// What the columns mean.
pub(crate) const LEGEND: &str = "WALL seconds; CPU seconds of the client; H: that over the unit; MIB: the client's peak memory; \
SENT: bytes of blobs that arrived, over the tree's size (where the registry counts)";

/// Rows under one unit.
pub(crate) struct Table {
    unit: Usage,
    bytes: u64,
    rows: Vec<[String; 7]>,
}

impl Table {
    pub(crate) fn new(unit: Usage, bytes: u64) -> Self {
        let header = ["ACTION", "CLIENT", "WALL", "CPU", "H", "MIB", "SENT"].map(str::to_owned);
        Self {
            unit,
            bytes,
            rows: vec![header],
        }
    }

    pub(crate) fn add(&mut self, action: &str, client: &str, usage: &Usage, sent: Option<u64>) {
        let sent = sent.map_or_else(
            || "-".to_owned(),
            |sent| format!("{:.2}", sent as f64 / self.bytes as f64),
        );
        self.rows.push([
            action.to_owned(),
            client.to_owned(),
            format!("{:.2}", usage.wall),
            format!("{:.2}", usage.cpu),
            format!("{:.2}", usage.cpu / self.unit.cpu),
            format!("{:.0}", usage.memory),
            sent,
        ]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |column: usize| {
            self.rows
                .iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        };
        let widths: Vec<usize> = (0..7).map(width).collect();
        for row in &self.rows {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, width))| {
                    if column < 2 {
                        format!("{cell:<width$}")
                    } else {
                        format!("{cell:>width$}")
                    }
                })
                .collect();
            writeln!(formatter, "{}", cells.join("  "))?;
        }
        Ok(())
    }
}
