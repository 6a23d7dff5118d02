//! Edits of a generated schema: find a node by path, set keywords, add rules, undo what the generator does that the
//! API server takes differently.

use serde_json::{Map, Value, json};

use super::Error;
use crate::rules::{Place, Rule};

/// One keyword to set at one node.
pub(super) struct Limit {
    /// Property names joined by dots, `[]` for list items, `{}` for map values; empty for the root.
    pub(super) path: &'static str,
    /// Schema keyword.
    pub(super) keyword: &'static str,
    /// Its value as JSON.
    pub(super) value: &'static str,
}

/// Drops what the generator writes but the API should not have: `nullable` (an explicit null then counts as absent,
/// and is dropped by the server), defaults that the types need only for reading, formats that Kubernetes does not
/// know, titles.
pub(super) fn clean(node: &mut Value) {
    let Some(map) = node.as_object_mut() else {
        return;
    };
    for keyword in ["nullable", "default", "title"] {
        map.remove(keyword);
    }
    if let Some(wide) = map.get("format").and_then(Value::as_str).and_then(signed) {
        map.insert("format".to_owned(), json!(wide));
    }
    if let Some(children) = map.get_mut("properties").and_then(Value::as_object_mut) {
        children.values_mut().for_each(clean);
    }
    for single in ["items", "additionalProperties"] {
        if let Some(child) = map.get_mut(single) {
            clean(child);
        }
    }
}

/// The signed format that Kubernetes knows for an unsigned one; a 32-bit unsigned number needs 64 signed bits.
fn signed(format: &str) -> Option<&'static str> {
    match format {
        "uint32" | "uint64" | "uint" => Some("int64"),
        _ => None,
    }
}

/// Sets every keyword of `limits`.
pub(super) fn limit(schema: &mut Value, version: &str, limits: &[Limit]) -> Result<(), Error> {
    for limit in limits {
        let value: Value = serde_json::from_str(limit.value).map_err(|source| Error::NotJson {
            path: limit.path,
            keyword: limit.keyword,
            source,
        })?;
        let node = node(schema, version, limit.path)?;
        node.insert(limit.keyword.to_owned(), value);
    }
    Ok(())
}

/// Adds the rules of `version` that belong in the schema, in the order of the table.
pub(super) fn enforce(schema: &mut Value, version: &str, rules: &[Rule]) -> Result<(), Error> {
    for rule in rules.iter().filter(|rule| rule.versions.include(version)) {
        let Place::Schema(path) = rule.place else {
            continue;
        };
        let node = node(schema, version, path)?;
        let list = node
            .entry("x-kubernetes-validations")
            .or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(validation(rule));
        }
    }
    Ok(())
}

fn validation(rule: &Rule) -> Value {
    let mut entry = Map::new();
    entry.insert("rule".to_owned(), json!(rule.expression));
    entry.insert("message".to_owned(), json!(rule.message));
    if let Some(expression) = &rule.message_expression {
        entry.insert("messageExpression".to_owned(), json!(expression));
    }
    if !rule.field.is_empty() {
        entry.insert("fieldPath".to_owned(), json!(rule.field));
    }
    Value::Object(entry)
}

/// The schema node at `path`.
fn node<'a>(
    schema: &'a mut Value,
    version: &str,
    path: &str,
) -> Result<&'a mut Map<String, Value>, Error> {
    let missing = || Error::NoSuchField {
        version: version.to_owned(),
        path: path.to_owned(),
    };
    let mut current = schema;
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let name = part.trim_end_matches(['[', ']', '{', '}']);
        current = current
            .get_mut("properties")
            .and_then(|properties| properties.get_mut(name))
            .ok_or_else(missing)?;
        let below = match part.get(name.len()..) {
            Some("[]") => "items",
            Some("{}") => "additionalProperties",
            _ => continue,
        };
        current = current.get_mut(below).ok_or_else(missing)?;
    }
    current.as_object_mut().ok_or_else(missing)
}
