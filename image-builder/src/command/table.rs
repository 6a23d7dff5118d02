//! Columns of text. Pure.

/// Rows under a header, columns aligned, three spaces between them, nothing behind the last one.
pub(crate) fn render(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            cells.join("   ").trim_end().to_owned()
        })
        .collect()
}

/// A row of texts.
pub(crate) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::{render, row};

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let lines = render(&[row(["NAME", "SIZE"]), row(["model", "1"])]);
        assert_eq!(lines, ["NAME    SIZE", "model   1"]);
    }
}
