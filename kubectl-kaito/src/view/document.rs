//! Composite answers as documents: the head they share, object references, and the formats they are offered in.

use jiff::Timestamp;
use kube::ResourceExt;
use serde_json::{Map, Value, json};

use crate::error::Failure;
use crate::output::format::{self, Format, Shape};
use crate::output::printer::Printer;
use crate::output::table::Headers;

/// Formats of composite answers.
pub const FORMATS: &[&str] = &["json", "jsonpath", "table", "yaml"];

/// Reads `-o` of a composite answer; `table` is the default.
///
/// # Errors
/// kubectl's text with the allowed formats.
pub fn format(text: Option<&str>) -> Result<Format, Failure> {
    match text {
        Some("table") => Ok(Format::Human),
        other => format::parse(other.unwrap_or_default(), FORMATS),
    }
}

/// Prints a document; nothing for [`Format::Human`], whose text is the caller's.
///
/// # Errors
/// A closed pipe or another write error.
pub fn print(document: &Value, format: &Format, printer: &Printer) -> Result<(), Failure> {
    let objects = std::slice::from_ref(document);
    format::print(printer, format, objects, Shape::Single, Headers::Show).map(|_| ())
}

/// A document with its head: version, kind, and when it was made, to the second.
#[must_use]
pub fn document(kind: &str, now: Timestamp, fields: &Value) -> Value {
    let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let mut map = Map::new();
    map.insert("apiVersion".to_owned(), json!("cli.kaito.sh/v1alpha1"));
    map.insert("kind".to_owned(), json!(kind));
    map.insert("generatedAt".to_owned(), json!(second.to_string()));
    if let Some(fields) = fields.as_object() {
        map.extend(fields.clone());
    }
    Value::Object(map)
}

/// Reference to an object.
#[must_use]
pub fn reference<K: ResourceExt>(kind: &str, object: &K) -> Value {
    json!({
        "kind": kind,
        "name": object.name_any(),
        "namespace": object.namespace(),
        "uid": object.uid(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Format, document, format};

    #[test]
    fn the_head_comes_first_and_the_fields_follow() {
        let now = "2026-01-01T00:00:00.9Z".parse().unwrap();
        let made = document("Plan", now, &json!({"fits": true}));
        let text = serde_json::to_string(&made).unwrap();
        assert_eq!(
            text,
            r#"{"apiVersion":"cli.kaito.sh/v1alpha1","kind":"Plan","generatedAt":"2026-01-01T00:00:00Z","fits":true}"#
        );
    }

    #[test]
    fn table_is_a_word_for_the_default_and_name_is_no_format_of_a_composite() {
        assert_eq!(format(Some("table")).unwrap(), Format::Human);
        assert_eq!(format(None).unwrap(), Format::Human);
        assert!(format(Some("name")).unwrap_err().lines()[0].contains("json,jsonpath,table,yaml"));
    }
}
