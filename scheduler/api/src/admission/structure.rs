//! The structural half: types, bounds, enums, required and unknown fields, as the API server checks them, and a
//! bounded copy of the object for the rules.

use serde_json::{Map, Value};

use super::{MAX_VIOLATIONS, Violation, metadata, suggest};

/// Characters kept of a string without a bound of its own.
const STRING_CAP: usize = 4096;
/// Items or entries kept of a list or map without a bound of its own.
const ITEM_CAP: usize = 64;

/// What reading an object against the schema yields.
pub(super) struct Structure {
    /// Copy without status, nulls and unknown fields, with defaults, cut to the schema's bounds; content that the
    /// schema leaves open is emptied. Always an object.
    pub(super) object: Value,
    /// What the schema objects to.
    pub(super) violations: Vec<Violation>,
    /// Paths of values left out of the copy for their type.
    pub(super) broken: Vec<String>,
}

impl Structure {
    /// Reads `object` against the root `schema`.
    pub(super) fn read(object: &Value, schema: &Value) -> Self {
        let mut reader = Reader {
            violations: Vec::new(),
            broken: Vec::new(),
        };
        let mut copy = Map::new();
        for (key, value) in object.as_object().into_iter().flatten() {
            match key.as_str() {
                "apiVersion" | "kind" => {
                    copy.insert(key.clone(), value.clone());
                }
                "status" | "metadata" => {}
                _ => reader.property(schema, "", key, value, &mut copy),
            }
        }
        reader.complete(schema, "", &mut copy);
        let metadata = metadata::read(object.get("metadata"), &mut reader.violations);
        copy.insert("metadata".to_owned(), metadata);
        Self {
            object: Value::Object(copy),
            violations: reader.violations,
            broken: reader.broken,
        }
    }

    /// Whether the value at `path` was left out, or one below it.
    pub(super) fn is_broken_at_or_below(&self, path: &str) -> bool {
        self.broken.iter().any(|broken| {
            broken
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }
}

struct Reader {
    violations: Vec<Violation>,
    broken: Vec<String>,
}

impl Reader {
    fn object_to(&mut self, path: &str, message: String) {
        // One more than is reported, so that the cut is seen; the rest would only cost memory.
        if self.violations.len() < MAX_VIOLATIONS * 100 {
            self.violations.push(Violation::new(path, message));
        }
    }

    fn wrong_type(&mut self, path: &str, wanted: &str, value: &Value) {
        self.object_to(path, format!("expected {wanted}, found {}", kind(value)));
        self.broken.push(path.to_owned());
    }

    fn value(&mut self, schema: &Value, path: &str, value: &Value) -> Option<Value> {
        match schema.get("type").and_then(Value::as_str) {
            Some("object") => self.object(schema, path, value),
            Some("array") => self.array(schema, path, value),
            Some("string") => self.string(schema, path, value),
            Some("integer") => self.integer(schema, path, value),
            _ => {
                self.wrong_type(path, "nothing that this version knows", value);
                None
            }
        }
    }

    fn object(&mut self, schema: &Value, path: &str, value: &Value) -> Option<Value> {
        let Some(entries) = value.as_object() else {
            self.wrong_type(path, "an object", value);
            return None;
        };
        if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
            return Some(Value::Object(Map::new()));
        }
        let mut copy = Map::new();
        if let Some(values) = schema.get("additionalProperties") {
            let most = bound(schema, "maxProperties").unwrap_or(ITEM_CAP);
            if entries.len() > most {
                self.object_to(
                    path,
                    format!("too many entries: {}, at most {most}", entries.len()),
                );
            }
            for (key, value) in entries
                .iter()
                .take(most)
                .filter(|(_, value)| !value.is_null())
            {
                if let Some(kept) = self.value(values, &join(path, key), value) {
                    copy.insert(key.chars().take(STRING_CAP).collect(), kept);
                }
            }
            return Some(Value::Object(copy));
        }
        for (key, value) in entries {
            self.property(schema, path, key, value, &mut copy);
        }
        self.complete(schema, path, &mut copy);
        Some(Value::Object(copy))
    }

    /// Reads one named property into `copy`; a null counts as absent.
    fn property(
        &mut self,
        schema: &Value,
        path: &str,
        key: &str,
        value: &Value,
        copy: &mut Map<String, Value>,
    ) {
        let properties = schema.get("properties").and_then(Value::as_object);
        let Some(property) = properties.and_then(|properties| properties.get(key)) else {
            let known = properties
                .into_iter()
                .flat_map(Map::keys)
                .map(String::as_str);
            self.object_to(&join(path, key), suggest::unknown_field(path, key, known));
            return;
        };
        if value.is_null() {
            return;
        }
        if let Some(kept) = self.value(property, &join(path, key), value) {
            copy.insert(key.to_owned(), kept);
        }
    }

    /// Sets defaults and reports what is required and missing.
    fn complete(&mut self, schema: &Value, path: &str, copy: &mut Map<String, Value>) {
        let properties = schema.get("properties").and_then(Value::as_object);
        for (key, property) in properties.into_iter().flatten() {
            let Some(default) = property.get("default") else {
                continue;
            };
            if !copy.contains_key(key) && !self.broken.contains(&join(path, key)) {
                copy.insert(key.clone(), default.clone());
            }
        }
        let required = schema.get("required").and_then(Value::as_array);
        for key in required.into_iter().flatten().filter_map(Value::as_str) {
            let at = join(path, key);
            if !copy.contains_key(key) && !self.broken.contains(&at) {
                self.object_to(&at, "required field is missing; add it".to_owned());
            }
        }
    }

    fn array(&mut self, schema: &Value, path: &str, value: &Value) -> Option<Value> {
        let Some(items) = value.as_array() else {
            self.wrong_type(path, "a list", value);
            return None;
        };
        let most = bound(schema, "maxItems").unwrap_or(ITEM_CAP);
        if let Some(most) = bound(schema, "maxItems").filter(|most| items.len() > *most) {
            self.object_to(
                path,
                format!("too many items: {}, must have at most {most}", items.len()),
            );
        }
        let item_schema = schema.get("items")?;
        let kept = items
            .iter()
            .take(most)
            .enumerate()
            .filter_map(|(index, item)| self.value(item_schema, &format!("{path}[{index}]"), item));
        Some(Value::Array(kept.collect()))
    }

    fn string(&mut self, schema: &Value, path: &str, value: &Value) -> Option<Value> {
        let Some(text) = value.as_str() else {
            self.wrong_type(path, "a string", value);
            return None;
        };
        let most = bound(schema, "maxLength");
        if let Some(most) = most.filter(|most| text.chars().nth(*most).is_some()) {
            self.object_to(
                path,
                format!("too long: may not be more than {most} characters"),
            );
        }
        let allowed = schema.get("enum").and_then(Value::as_array);
        if let Some(allowed) = allowed.filter(|allowed| !allowed.contains(value)) {
            let names: Vec<&str> = allowed.iter().filter_map(Value::as_str).collect();
            self.object_to(
                path,
                format!("unsupported value: must be one of {}", names.join(", ")),
            );
            self.broken.push(path.to_owned());
            return None;
        }
        Some(Value::String(
            text.chars().take(most.unwrap_or(STRING_CAP)).collect(),
        ))
    }

    fn integer(&mut self, schema: &Value, path: &str, value: &Value) -> Option<Value> {
        let Some(number) = value.as_i64() else {
            self.wrong_type(path, "an integer", value);
            return None;
        };
        let int32 = schema.get("format").and_then(Value::as_str) == Some("int32");
        let least = schema.get("minimum").and_then(Value::as_f64);
        let most = schema.get("maximum").and_then(Value::as_f64);
        let least = least.or_else(|| int32.then_some(f64::from(i32::MIN)));
        let most = most.or_else(|| int32.then_some(f64::from(i32::MAX)));
        let exact = number.clamp(-(1 << 52), 1 << 52);
        if let Some(least) = least.filter(|least| as_float(exact) < *least) {
            self.object_to(path, format!("too small: must be at least {least}"));
        }
        if let Some(most) = most.filter(|most| as_float(exact) > *most) {
            self.object_to(path, format!("too large: must be at most {most}"));
        }
        Some(value.clone())
    }
}

/// `number`, which lies within 52 bits, as a float.
fn as_float(number: i64) -> f64 {
    let high = i32::try_from(number >> 26).unwrap_or_default();
    let low = u32::try_from(number & ((1 << 26) - 1)).unwrap_or_default();
    f64::from(high).mul_add(67_108_864.0, f64::from(low))
}

fn bound(schema: &Value, keyword: &str) -> Option<usize> {
    schema
        .get(keyword)
        .and_then(Value::as_u64)
        .and_then(|bound| usize::try_from(bound).ok())
}

/// `path` with `key` below it; a long key is cut.
pub(super) fn join(path: &str, key: &str) -> String {
    let key: String = key.chars().take(128).collect();
    if path.is_empty() {
        key
    } else {
        format!("{path}.{key}")
    }
}

/// What a value is, in a user's words.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
