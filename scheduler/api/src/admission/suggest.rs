//! What a user may have meant.

use serde_json::Value;

use crate::catalogue::{nearest, nearest_instance_types, nearest_presets, preset};

/// Message for a field that the schema does not have.
pub(super) fn unknown_field<'a>(
    path: &str,
    key: &str,
    known: impl Iterator<Item = &'a str>,
) -> String {
    if path.is_empty() && key == "spec" {
        return "unknown field; a Workspace has no spec: move resource, inference and tuning to the top level"
            .to_owned();
    }
    match nearest(key, known).first() {
        Some(name) => format!("unknown field; did you mean {name}?"),
        None => "unknown field; remove it".to_owned(),
    }
}

/// Addition to the message of `rule` about the value at fault; empty when nothing is near.
pub(super) fn value(rule: &str, value: Option<&Value>) -> String {
    let Some(text) = value.and_then(Value::as_str) else {
        return String::new();
    };
    let mut names = match rule {
        "R3" => nearest_instance_types(text),
        "I2" => nearest_presets(text),
        "T2/tunable" => nearest_presets(text),
        _ => return String::new(),
    };
    if rule == "T2/tunable" {
        names.retain(|name| preset(name).is_some_and(|preset| preset.tuning_capable));
    }
    if names.is_empty() {
        String::new()
    } else {
        format!("; did you mean {}?", names.join(" or "))
    }
}
