//! The part of `metadata` that decides about a Workspace: names, labels, annotations.

use serde_json::{Map, Value, json};

use super::Violation;
use super::structure::{join, kind};

/// Fields of ObjectMeta.
const KNOWN: [&str; 15] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
];
const MISSING: &str = "required field is missing; add it";
/// Longest name of a Workspace that any version ever allowed.
const LONGEST_NAME: usize = 63;
/// Characters kept of an annotation; no value that a rule compares with is longer.
const ANNOTATION_CAP: usize = 256;
/// Bytes that the keys and values of all annotations may take. Source: apimachinery's validation.
const ANNOTATIONS_TOTAL: usize = 256 << 10;
/// What the server appends to a generated name.
const GENERATED: &str = "x7k2p";

/// The name and our annotations, as the rules read them; reports what is wrong with them.
pub(super) fn read(metadata: Option<&Value>, violations: &mut Vec<Violation>) -> Value {
    let Some(fields) = metadata.and_then(Value::as_object) else {
        violations.push(match metadata {
            Some(other) if !other.is_null() => Violation::new(
                "metadata",
                format!("expected an object, found {}", kind(other)),
            ),
            _ => Violation::new("metadata.name", MISSING),
        });
        return json!({"name": "unnamed"});
    };
    for key in fields.keys().filter(|key| !KNOWN.contains(&key.as_str())) {
        violations.push(Violation::new(
            join("metadata", key),
            "unknown field; remove it",
        ));
    }
    texts(fields, "labels", violations);
    texts(fields, "annotations", violations);
    labels(fields, violations);
    let mut copy = Map::new();
    copy.insert("name".to_owned(), Value::String(name(fields, violations)));
    if let Some(annotations) = annotations(fields, violations) {
        copy.insert("annotations".to_owned(), annotations);
    }
    Value::Object(copy)
}

fn name(fields: &Map<String, Value>, violations: &mut Vec<Violation>) -> String {
    let given = fields.get("name").filter(|name| !name.is_null());
    if let Some(other) = given.filter(|name| !name.is_string()) {
        let found = format!("expected a string, found {}", kind(other));
        violations.push(Violation::new("metadata.name", found));
        return "unnamed".to_owned();
    }
    let name = given
        .and_then(Value::as_str)
        .filter(|name| !name.is_empty());
    if let Some(name) = name {
        if name.chars().nth(LONGEST_NAME).is_some() {
            let message =
                format!("name is too long: may not be more than {LONGEST_NAME} characters");
            violations.push(Violation::new("metadata.name", message));
        }
        return name.chars().take(LONGEST_NAME).collect();
    }
    // The server cuts a generated name to 63 characters, the suffix included.
    if let Some(prefix) = fields.get("generateName").and_then(Value::as_str) {
        let kept: String = prefix
            .chars()
            .take(LONGEST_NAME - GENERATED.len())
            .collect();
        return format!("{kept}{GENERATED}");
    }
    violations.push(Violation::new("metadata.name", MISSING));
    "unnamed".to_owned()
}

/// Reports entries of `field` that are not strings.
fn texts(fields: &Map<String, Value>, field: &str, violations: &mut Vec<Violation>) {
    let path = join("metadata", field);
    let Some(value) = fields.get(field).filter(|value| !value.is_null()) else {
        return;
    };
    let Some(entries) = value.as_object() else {
        violations.push(Violation::new(
            path,
            format!("expected an object, found {}", kind(value)),
        ));
        return;
    };
    for (key, value) in entries
        .iter()
        .filter(|(_, value)| !value.is_string() && !value.is_null())
    {
        let message = format!("expected a string, found {}; put it in quotes", kind(value));
        violations.push(Violation::new(join(&path, key), message));
    }
}

fn labels(fields: &Map<String, Value>, violations: &mut Vec<Violation>) {
    let entries = fields.get("labels").and_then(Value::as_object);
    for (key, value) in entries.into_iter().flatten() {
        if !value.as_str().is_none_or(is_label_value) {
            let message =
                "not a label value: use at most 63 letters, digits, dashes, underscores and dots";
            violations.push(Violation::new(join("metadata.labels", key), message));
        }
    }
}

fn is_label_value(text: &str) -> bool {
    let inner = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    let end = |character: Option<char>| character.is_none_or(|one| one.is_ascii_alphanumeric());
    text.len() <= 63
        && text.chars().all(inner)
        && end(text.chars().next())
        && end(text.chars().next_back())
}

/// Our annotations with their values cut.
fn annotations(fields: &Map<String, Value>, violations: &mut Vec<Violation>) -> Option<Value> {
    let entries = fields.get("annotations").and_then(Value::as_object)?;
    let total: usize = entries
        .iter()
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    if total > ANNOTATIONS_TOTAL {
        let message = format!("too large: at most {ANNOTATIONS_TOTAL} bytes of keys and values");
        violations.push(Violation::new("metadata.annotations", message));
    }
    let ours = entries
        .iter()
        .filter(|(key, _)| key.starts_with("kaito.sh/") && key.len() < 128);
    let copy: Map<String, Value> = ours
        .filter_map(|(key, value)| {
            let text = value.as_str()?.chars().take(ANNOTATION_CAP).collect();
            Some((key.clone(), Value::String(text)))
        })
        .collect();
    Some(Value::Object(copy))
}
