//! JSONPath templates as kubectl reads them: `{.a.b[0]}`, wildcards, slices, unions, filters, `..`, `range` … `end`
//! and text in between.

mod evaluate;
mod parse;

use serde_json::Value;

/// A compiled template.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq)]
enum Node {
    /// Text as it is.
    Text(String),
    /// The values that a path leads to.
    Path(Vec<Step>),
    /// The body once per value of the path.
    Range(Vec<Step>, Vec<Self>),
}

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Root,
    Field(String),
    Wildcard,
    Descend,
    Slice {
        start: Option<i64>,
        end: Option<i64>,
        step: i64,
    },
    Index(i64),
    Union(Vec<Self>),
    Filter {
        left: Operand,
        comparison: Option<(Operator, Operand)>,
    },
}

#[derive(Clone, Debug, PartialEq)]
enum Operand {
    Path(Vec<Step>),
    Literal(Value),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Why a template cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("error parsing jsonpath {template}, {problem}")]
pub struct ParseError {
    template: String,
    problem: String,
}

impl Template {
    /// Compiles a template such as `{.items[*].metadata.name}`.
    ///
    /// # Errors
    /// What cannot be read, and where.
    pub fn parse(template: &str) -> Result<Self, ParseError> {
        parse::template(template)
            .map(|nodes| Self { nodes })
            .map_err(|problem| ParseError {
                template: template.to_owned(),
                problem,
            })
    }

    /// Compiles a single path, given as `{.x}`, `.x` or `x`.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn parse_relaxed(path: &str) -> Result<Self, ParseError> {
        let inner = path
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
            .unwrap_or(path);
        let dotted = if inner.starts_with(['.', '[', '$']) {
            inner.to_owned()
        } else {
            format!(".{inner}")
        };
        Self::parse(&format!("{{{dotted}}}"))
    }

    /// The template filled in for a value. Missing keys leave nothing.
    #[must_use]
    pub fn render(&self, value: &Value) -> String {
        evaluate::render(&self.nodes, value, value)
    }

    /// The values that the template's paths lead to.
    #[must_use]
    pub fn values<'a>(&self, value: &'a Value) -> Vec<&'a Value> {
        self.nodes
            .iter()
            .filter_map(|node| match node {
                Node::Path(steps) => Some(evaluate::follow(steps, value, value)),
                _ => None,
            })
            .flatten()
            .collect()
    }
}

/// A value as it is printed inside text: strings bare, everything else as JSON.
#[must_use]
pub fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Template;

    #[test]
    fn templates_are_filled_in_as_kubectl_does() {
        let value = json!({
            "kind": "List",
            "items": [
                {"metadata": {"name": "a", "labels": {"x.y/z": "1"}}, "n": 1, "c": [{"t": "Ready", "s": "True"}]},
                {"metadata": {"name": "b"}, "n": 2, "c": [{"t": "Ready", "s": "False"}, {"t": "Other", "s": "True"}]},
            ],
        });
        let table = [
            ("{.kind}", "List"),
            ("{.items[*].metadata.name}", "a b"),
            ("{.items[0].metadata.name}", "a"),
            ("{.items[-1].metadata.name}", "b"),
            ("{.items[0:1].n}", "1"),
            ("{.items[0,1].n}", "1 2"),
            (
                "{range .items[*]}{.metadata.name}={.n}{\"\\n\"}{end}",
                "a=1\nb=2\n",
            ),
            ("{.items[?(@.n>1)].metadata.name}", "b"),
            ("{.items[?(@.metadata.name==\"a\")].n}", "1"),
            ("{.items[*].c[?(@.t=='Ready')].s}", "True False"),
            ("{.items[?(@.metadata.labels)].n}", "1"),
            ("{.items[0].metadata.labels.x\\.y/z}", "1"),
            ("{.items[0].metadata.labels['x.y/z']}", "1"),
            ("{..name}", "a b"),
            ("{.missing}", ""),
            ("{$.kind}-{.kind}!", "List-List!"),
            ("{.items[0].metadata.labels}", "{\"x.y/z\":\"1\"}"),
            ("{range .items[*]}{@.n},{$.kind};{end}", "1,List;2,List;"),
            ("plain", "plain"),
        ];
        for (template, expected) in table {
            assert_eq!(
                Template::parse(template).unwrap().render(&value),
                expected,
                "{template}"
            );
        }
    }

    #[test]
    fn paths_may_be_written_without_braces() {
        let value = json!({"a": {"b": 3}});
        for path in ["{.a.b}", ".a.b", "a.b"] {
            assert_eq!(
                Template::parse_relaxed(path).unwrap().render(&value),
                "3",
                "{path}"
            );
        }
    }

    #[test]
    fn broken_templates_are_refused() {
        for template in [
            "{.a",
            "{range .a}",
            "{end}",
            "{.a[}",
            "{.a[?(@.b==)]}",
            "{\"x}",
            "{.a[1:2:0]}",
        ] {
            assert!(Template::parse(template).is_err(), "{template}");
        }
    }
}
