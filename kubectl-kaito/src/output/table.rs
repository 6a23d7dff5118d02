//! Tables in kubectl's layout: upper-case headers, no borders, three spaces between columns, the last one unpadded.

use serde::Deserialize;
use serde_json::{Map, Value};
use unicode_width::UnicodeWidthStr;

use super::escape;

/// Smallest width of a column, the gap included.
const MINIMUM_WIDTH: usize = 6;
/// Spaces between columns.
const GAP: usize = 3;

/// A table of text: one header and any number of rows, all with the same number of cells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Column titles.
    pub headers: Vec<String>,
    /// Cells by row.
    pub rows: Vec<Vec<String>>,
}

/// Whether a table starts with its column titles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Headers {
    /// Print them.
    Show,
    /// Leave them out.
    Hide,
}

impl Table {
    /// A table with these titles and no rows.
    #[must_use]
    pub fn new(headers: &[&str]) -> Self {
        Self {
            headers: headers.iter().map(|title| (*title).to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// The table as text, one line per row. Cells are escaped and end at their first line break.
    #[must_use]
    pub fn render(&self, headers: Headers) -> String {
        self.render_with(headers, &mut Vec::new())
    }

    /// As [`Self::render`], with columns at least as wide as `widths`, which are then updated: rows that follow later
    /// stay aligned with those before.
    #[must_use]
    pub fn render_with(&self, headers: Headers, widths: &mut Vec<usize>) -> String {
        let titles: Vec<String> = self
            .headers
            .iter()
            .map(|title| title.to_uppercase())
            .collect();
        let shown = (headers == Headers::Show).then_some(titles);
        let lines: Vec<Vec<String>> = shown
            .into_iter()
            .chain(self.rows.iter().cloned())
            .map(|row| row.iter().map(|text| cell(text)).collect())
            .collect();
        let columns = lines.iter().map(Vec::len).max().unwrap_or_default();
        widths.resize(columns.max(widths.len()), MINIMUM_WIDTH);
        for row in &lines {
            for (cell, width) in row.iter().zip(widths.iter_mut()) {
                *width = (*width).max(cell.width() + GAP);
            }
        }
        lines.iter().map(|row| line(row, widths)).collect()
    }
}

fn line(row: &[String], widths: &[usize]) -> String {
    let mut text = String::new();
    for (index, (cell, width)) in row.iter().zip(widths).enumerate() {
        text.push_str(cell);
        if index + 1 < row.len() {
            text.extend(std::iter::repeat_n(' ', width.saturating_sub(cell.width())));
        }
    }
    text.push('\n');
    text
}

fn cell(text: &str) -> String {
    match text.find(['\n', '\r', '\u{c}']) {
        Some(end) => format!(
            "{}...",
            escape::single_line(text.get(..end).unwrap_or_default())
        ),
        None => escape::single_line(text),
    }
}

/// What an API server answers to a request for a table.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerTable {
    /// Columns in order; sent once per watch, so maybe none.
    #[serde(default)]
    pub column_definitions: Vec<ServerColumn>,
    /// Rows in order.
    #[serde(default)]
    pub rows: Vec<ServerRow>,
    /// List metadata: `resourceVersion`, `continue`.
    #[serde(default)]
    pub metadata: Map<String, Value>,
}

/// One column of a server's table.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ServerColumn {
    /// Title.
    #[serde(default)]
    pub name: String,
    /// 0 for columns that are always shown, else only in wide output.
    #[serde(default)]
    pub priority: i64,
}

/// One row of a server's table.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ServerRow {
    /// Values, one per column.
    #[serde(default)]
    pub cells: Vec<Value>,
    /// The object, or its metadata.
    #[serde(default)]
    pub object: Value,
}

/// Media types that ask for a table, and take the plain object where there is none.
pub const ACCEPT: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";

/// Text of a server's cell: strings as they are, absent values empty, as kubectl prints them.
#[must_use]
pub fn cell_text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Headers, Table};

    fn table(rows: &[&[&str]]) -> Table {
        let mut table = Table::new(&["name", "age"]);
        table.rows = rows
            .iter()
            .map(|row| row.iter().map(|cell| (*cell).to_owned()).collect())
            .collect();
        table
    }

    #[test]
    fn columns_are_padded_to_their_widest_cell_and_the_last_is_not() {
        let text = table(&[&["phi", "5m"], &["longer-name", "1d"]]).render(Headers::Show);
        assert_eq!(
            text,
            "NAME          AGE\nphi           5m\nlonger-name   1d\n"
        );
        assert_eq!(table(&[&["a", "5m"]]).render(Headers::Hide), "a     5m\n");
    }

    #[test]
    fn width_counts_display_cells() {
        assert_eq!(
            table(&[&["模型模型", "1s"], &["a", "2s"]]).render(Headers::Hide),
            "模型模型   1s\na          2s\n"
        );
    }

    #[test]
    fn cells_end_at_their_first_line_break_and_are_escaped() {
        assert_eq!(
            table(&[&["a\nb", "\u{1b}[1m\tx"]]).render(Headers::Hide),
            "a...   ^[[1m x\n"
        );
    }
}
