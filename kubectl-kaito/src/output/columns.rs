//! `-o custom-columns=TITLE:PATH,…`.

use serde_json::Value;

use super::jsonpath::{Template, text_of};
use super::table::Table;

/// Columns in order: title and path.
#[derive(Clone, Debug, PartialEq)]
pub struct Columns(Vec<(String, Template)>);

/// Reads a column list.
///
/// # Errors
/// kubectl's text for a list that cannot be read.
pub fn parse(spec: &str) -> Result<Columns, String> {
    if spec.is_empty() {
        return Err("custom-columns format specified but no custom columns given".to_owned());
    }
    spec.split(',')
        .map(|part| {
            let (title, path) = part
                .split_once(':')
                .filter(|(title, path)| !title.is_empty() && !path.is_empty())
                .ok_or_else(|| {
                    format!(
                        "unexpected custom-columns spec: {part}, expected <header>:<json-path-expr>"
                    )
                })?;
            let template = Template::parse_relaxed(path).map_err(|error| error.to_string())?;
            Ok((title.to_owned(), template))
        })
        .collect::<Result<_, String>>()
        .map(Columns)
}

impl Columns {
    /// The table of these objects; missing values are `<none>`.
    #[must_use]
    pub fn table(&self, objects: &[Value]) -> Table {
        let row = |object: &Value| {
            self.0
                .iter()
                .map(|(_, path)| {
                    let values: Vec<String> =
                        path.values(object).into_iter().map(text_of).collect();
                    if values.is_empty() {
                        "<none>".to_owned()
                    } else {
                        values.join(",")
                    }
                })
                .collect()
        };
        Table {
            headers: self.0.iter().map(|(title, _)| title.clone()).collect(),
            rows: objects.iter().map(row).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::parse;
    use crate::output::table::Headers;

    #[test]
    fn columns_follow_their_paths_and_missing_values_say_so() {
        let columns = parse("NAME:.metadata.name,X:.x[*]").unwrap();
        let objects = [
            json!({"metadata": {"name": "a"}, "x": [1, 2]}),
            json!({"metadata": {"name": "b"}}),
        ];
        assert_eq!(
            columns.table(&objects).render(Headers::Show),
            "NAME   X\na      1,2\nb      <none>\n"
        );
        assert!(parse("NAME").is_err());
        assert!(parse("").is_err());
    }
}
