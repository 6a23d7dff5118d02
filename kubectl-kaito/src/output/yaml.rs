//! Writes YAML the way kubectl does: sorted keys, sequences not indented below their key.

use serde_json::{Map, Value};

/// The value as a YAML document with a final newline.
#[must_use]
pub fn render(value: &Value) -> String {
    let mut text = String::new();
    match value {
        Value::Object(map) if !map.is_empty() => mapping(&mut text, map, 0),
        Value::Array(list) if !list.is_empty() => sequence(&mut text, list, 0),
        scalar => {
            text.push_str(&inline(scalar, 0));
            text.push('\n');
        }
    }
    text
}

fn mapping(text: &mut String, map: &Map<String, Value>, indent: usize) {
    let mut entries: Vec<(&String, &Value)> = map.iter().collect();
    entries.sort_by_key(|(key, _)| *key);
    for (index, (key, value)) in entries.into_iter().enumerate() {
        // The first key of a mapping in a sequence stands on the line of the dash.
        if index > 0 || text.is_empty() || text.ends_with('\n') {
            spaces(text, indent);
        }
        text.push_str(&string(key, indent));
        text.push(':');
        match value {
            Value::Object(inner) if !inner.is_empty() => {
                text.push('\n');
                mapping(text, inner, indent + 2);
            }
            Value::Array(list) if !list.is_empty() => {
                text.push('\n');
                sequence(text, list, indent);
            }
            scalar => {
                text.push(' ');
                text.push_str(&inline(scalar, indent));
                text.push('\n');
            }
        }
    }
}

fn sequence(text: &mut String, list: &[Value], indent: usize) {
    for (index, value) in list.iter().enumerate() {
        // The first element of a sequence in a sequence stands on the line of the outer dash.
        if index > 0 || text.is_empty() || text.ends_with('\n') {
            spaces(text, indent);
        }
        text.push_str("- ");
        match value {
            Value::Object(inner) if !inner.is_empty() => mapping(text, inner, indent + 2),
            Value::Array(inner) if !inner.is_empty() => sequence(text, inner, indent + 2),
            scalar => {
                text.push_str(&inline(scalar, indent));
                text.push('\n');
            }
        }
    }
}

fn spaces(text: &mut String, count: usize) {
    text.extend(std::iter::repeat_n(' ', count));
}

fn inline(value: &Value, indent: usize) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => string(text, indent),
        Value::Array(_) => "[]".to_owned(),
        Value::Object(_) => "{}".to_owned(),
    }
}

fn string(text: &str, indent: usize) -> String {
    if is_plain(text) {
        return text.to_owned();
    }
    if let Some(block) = block(text, indent) {
        return block;
    }
    // JSON strings are valid YAML double-quoted scalars.
    Value::String(text.to_owned()).to_string()
}

/// Literal block for text of several lines, when it survives that form unchanged.
fn block(text: &str, indent: usize) -> Option<String> {
    let body = text.strip_suffix('\n').unwrap_or(text);
    let harmless = |c: char| c == '\n' || c == '\t' || !c.is_control();
    let awkward = body.starts_with([' ', '\n', '\t'])
        || body.ends_with('\n')
        || body.lines().any(|l| l.ends_with(' '));
    if !body.contains('\n') || awkward || !text.chars().all(harmless) {
        return None;
    }
    let chomp = if text.ends_with('\n') { "" } else { "-" };
    let margin = " ".repeat(indent + 2);
    let lines: Vec<String> = body
        .split('\n')
        .map(|line| {
            if line.is_empty() {
                String::new()
            } else {
                format!("{margin}{line}")
            }
        })
        .collect();
    Some(format!("|{chomp}\n{}", lines.join("\n")))
}

/// Whether the text can stand without quotes and still be read as the same string, by YAML 1.1 readers too.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 12] = [
        "null", "~", "true", "false", "yes", "no", "on", "off", "y", "n", ".inf", ".nan",
    ];
    let Some(first) = text.chars().next() else {
        return false;
    };
    let safe_start =
        first.is_ascii_alphabetic() || matches!(first, '/' | '_' | '.' | '$' | '(' | '^' | '+');
    let number_like = first.is_ascii_digit() || matches!(first, '.' | '+' | '-');
    if number_like {
        return is_plain_word_starting_with_a_digit(text);
    }
    safe_start
        && !WORDS.contains(&text.to_ascii_lowercase().as_str())
        && text
            .chars()
            .all(|c| !c.is_control() && (c.is_ascii() || c.is_alphanumeric()))
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.ends_with([':', ' '])
}

/// Text such as `4Gi` or `99b26515-4eb3`, which no reader takes for a number, a date or a time.
fn is_plain_word_starting_with_a_digit(text: &str) -> bool {
    let like_a_number = text
        .chars()
        .all(|c| c.is_ascii_digit() || "._+-:eETZ ".contains(c));
    let lower = text.to_ascii_lowercase();
    let in_another_base = ["0x", "0o", "0b"]
        .iter()
        .any(|prefix| lower.starts_with(prefix));
    !like_a_number
        && !in_another_base
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-/".contains(c))
        && text.chars().next().is_some_and(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::render;

    #[test]
    fn keys_are_sorted_and_sequences_are_not_indented() {
        let value = json!({"b": [{"w": 1, "x": {"z": []}}, "s"], "a": {}, "c": [[1, 2], [3]]});
        assert_eq!(
            render(&value),
            "a: {}\nb:\n- w: 1\n  x:\n    z: []\n- s\nc:\n- - 1\n  - 2\n- - 3\n"
        );
    }

    #[test]
    fn strings_that_could_be_read_as_something_else_are_quoted() {
        let table = [
            ("abc", "abc"),
            ("", "\"\""),
            ("yes", "\"yes\""),
            ("True", "\"True\""),
            ("1", "\"1\""),
            ("1e3", "\"1e3\""),
            ("4Gi", "4Gi"),
            ("99b26515-4eb3", "99b26515-4eb3"),
            ("0x1f", "\"0x1f\""),
            ("2024-01-01", "\"2024-01-01\""),
            ("a: b", "\"a: b\""),
            ("- a", "\"- a\""),
            ("*a", "\"*a\""),
            ("a #b", "\"a #b\""),
            ("@x", "\"@x\""),
            (" a", "\" a\""),
            ("a\u{7}", "\"a\\u0007\""),
            ("1.5", "\"1.5\""),
            (".5", "\".5\""),
        ];
        for (text, expected) in table {
            assert_eq!(
                render(&json!({"k": text})),
                format!("k: {expected}\n"),
                "{text:?}"
            );
        }
    }

    #[test]
    fn what_is_written_is_read_back_unchanged() {
        let values = [
            json!({"a": "x\ny\n", "b": "x\ny", "c": "x\n\ny\n\n", "d": " x\ny", "e": "tab\there\nline", "f": "x \ny"}),
            json!({"k: v": [null, true, 1.5, -3, "null", "~", "=", "<<", "é", "👍", "a\u{2028}b"]}),
            json!([{"a": [{"b": []}]}, [], {}, [[]]]),
        ];
        for value in values {
            let text = render(&value);
            let read: Value =
                serde_saphyr::from_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
            assert_eq!(read, value, "{text}");
        }
    }
}
