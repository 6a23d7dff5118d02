//! The server's rows as the user wants to see them: more or fewer columns, another order. Pure.

use std::cmp::Ordering;

use serde_json::Value;

use crate::output::jsonpath::Template;
use crate::output::table::{ServerRow, ServerTable, Table, cell_text};

/// Which columns are shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    /// Columns of lower priority too.
    pub(super) wide: bool,
    /// The namespace as the first column.
    pub(super) namespaces: bool,
    /// These labels as columns.
    pub(super) label_columns: &'a [String],
    /// All labels as the last column.
    pub(super) all_labels: bool,
}

impl View<'_> {
    /// The table to print.
    pub(super) fn table(&self, server: &ServerTable) -> Table {
        let shown: Vec<usize> = server
            .column_definitions
            .iter()
            .enumerate()
            .filter(|(_, column)| self.wide || column.priority == 0)
            .map(|(index, _)| index)
            .collect();
        let mut headers = Vec::new();
        if self.namespaces {
            headers.push("Namespace".to_owned());
        }
        headers.extend(
            shown
                .iter()
                .filter_map(|index| server.column_definitions.get(*index))
                .map(|c| c.name.clone()),
        );
        headers.extend(
            self.label_columns
                .iter()
                .map(|label| label.rsplit('/').next().unwrap_or(label).to_owned()),
        );
        if self.all_labels {
            headers.push("Labels".to_owned());
        }
        let rows = server
            .rows
            .iter()
            .map(|row| self.row(row, &shown))
            .collect();
        Table { headers, rows }
    }

    fn row(&self, row: &ServerRow, shown: &[usize]) -> Vec<String> {
        let labels = row
            .object
            .pointer("/metadata/labels")
            .and_then(Value::as_object);
        let mut cells = Vec::new();
        if self.namespaces {
            cells.push(cell_text(
                row.object
                    .pointer("/metadata/namespace")
                    .unwrap_or(&Value::Null),
            ));
        }
        cells.extend(
            shown
                .iter()
                .map(|index| cell_text(row.cells.get(*index).unwrap_or(&Value::Null))),
        );
        for name in self.label_columns {
            let value = labels
                .and_then(|labels| labels.get(name))
                .and_then(Value::as_str);
            cells.push(value.unwrap_or_default().to_owned());
        }
        if self.all_labels {
            let mut pairs: Vec<String> = labels
                .into_iter()
                .flatten()
                .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
                .collect();
            pairs.sort();
            cells.push(if pairs.is_empty() {
                "<none>".to_owned()
            } else {
                pairs.join(",")
            });
        }
        cells
    }
}

/// Sorts rows by the value that a path has in their objects; the order of equals stays.
pub(super) fn sort(rows: &mut [ServerRow], path: &Template) {
    rows.sort_by(|left, right| compare(&left.object, &right.object, path));
}

/// Sorts objects by the value at a path; the order of equals stays.
pub(super) fn sort_objects(objects: &mut [Value], path: &Template) {
    objects.sort_by(|left, right| compare(left, right, path));
}

/// Numbers by size, text by character; objects without a value come first.
fn compare(left: &Value, right: &Value, path: &Template) -> Ordering {
    match (path.values(left).first(), path.values(right).first()) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Less,
        (Some(_), None) => Ordering::Greater,
        (Some(Value::Number(left)), Some(Value::Number(right))) => left
            .as_f64()
            .partial_cmp(&right.as_f64())
            .unwrap_or(Ordering::Equal),
        (Some(left), Some(right)) => cell_text(left).cmp(&cell_text(right)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{View, sort};
    use crate::output::jsonpath::Template;
    use crate::output::table::{Headers, ServerTable};

    fn server() -> ServerTable {
        serde_json::from_value(json!({
            "columnDefinitions": [{"name": "Name"}, {"name": "Instance", "priority": 1}, {"name": "Age"}],
            "rows": [
                {"cells": ["b", null, "1d"], "object": {"metadata": {"namespace": "n", "labels": {"x/y": "1", "a": "2"}}, "n": 10}},
                {"cells": ["a", "T4", "2d"], "object": {"metadata": {"namespace": "m"}, "n": 9}},
            ],
        }))
        .unwrap()
    }

    #[test]
    fn columns_are_chosen_by_the_flags() {
        let labels = ["x/y".to_owned()];
        let narrow = View {
            wide: false,
            namespaces: false,
            label_columns: &[],
            all_labels: false,
        };
        assert_eq!(
            narrow.table(&server()).render(Headers::Show),
            "NAME   AGE\nb      1d\na      2d\n"
        );
        let wide = View {
            wide: true,
            namespaces: true,
            label_columns: &labels,
            all_labels: true,
        };
        assert_eq!(
            wide.table(&server()).render(Headers::Show),
            "NAMESPACE   NAME   INSTANCE   AGE   Y     LABELS\n\
             n           b                 1d    1     a=2,x/y=1\n\
             m           a      T4         2d          <none>\n"
        );
    }

    #[test]
    fn rows_are_sorted_by_size_not_by_digits() {
        let mut table = server();
        sort(&mut table.rows, &Template::parse_relaxed(".n").unwrap());
        assert_eq!(table.rows[0].cells[0], json!("a"));
    }
}
