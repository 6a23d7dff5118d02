//! `-o`: which formats a command offers, and how objects look in them.

use std::io::{self, Write};

use clap::Args;
use serde::Serialize;
use serde_json::ser::{PrettyFormatter, Serializer};
use serde_json::{Value, json};

use super::columns::{self, Columns};
use super::jsonpath::Template;
use super::table::Headers;
use super::yaml;
use crate::error::Failure;
use crate::output::printer::Printer;

/// The flag `-o`.
#[derive(Clone, Debug, Default, Args)]
pub struct OutputFlag {
    /// Output format, for example json, yaml or jsonpath=TEMPLATE; an unknown one lists all
    #[arg(short, long, value_name = "FORMAT")]
    pub output: Option<String>,
    /// Keep managedFields when printing objects as JSON or YAML
    #[arg(long)]
    pub show_managed_fields: bool,
}

/// A format, ready to use.
#[derive(Clone, Debug, PartialEq)]
pub enum Format {
    /// Table, or the command's own text.
    Human,
    /// Table with all columns.
    Wide,
    /// JSON, indented by four spaces.
    Json,
    /// YAML with sorted keys.
    Yaml,
    /// `kind.group/name`.
    Name,
    /// A JSONPath template.
    JsonPath(Template),
    /// A table of the user's own columns.
    CustomColumns(Columns),
}

/// Formats of commands that read objects.
pub const READ: &[&str] = &["custom-columns", "json", "jsonpath", "name", "wide", "yaml"];
/// Formats of commands that write objects.
pub const WRITE: &[&str] = &["json", "jsonpath", "name", "yaml"];
/// Formats of commands that print a document of their own.
pub const DOCUMENT: &[&str] = &["json", "jsonpath", "yaml"];

impl OutputFlag {
    /// The format, if it is one of `allowed`.
    ///
    /// # Errors
    /// kubectl's text with the allowed formats.
    pub fn format(&self, allowed: &[&str]) -> Result<Format, Failure> {
        parse(self.output.as_deref().unwrap_or_default(), allowed)
    }
}

/// Reads the value of `-o`.
///
/// # Errors
/// kubectl's text with the allowed formats.
pub fn parse(text: &str, allowed: &[&str]) -> Result<Format, Failure> {
    let (name, argument) = match text.split_once('=') {
        Some((name, argument)) => (name, Some(argument)),
        None => (text, None),
    };
    if !name.is_empty() && !allowed.contains(&name) {
        return Err(unknown(text, allowed));
    }
    match (name, argument) {
        ("", None) => Ok(Format::Human),
        ("wide", None) => Ok(Format::Wide),
        ("json", None) => Ok(Format::Json),
        ("yaml", None) => Ok(Format::Yaml),
        ("name", None) => Ok(Format::Name),
        ("jsonpath", Some(template)) if !template.is_empty() => Template::parse(&relaxed(template))
            .map(Format::JsonPath)
            .map_err(Failure::error),
        ("jsonpath", _) => Err(Failure::error(
            "template format specified but no template given",
        )),
        ("custom-columns", spec) => columns::parse(spec.unwrap_or_default())
            .map(Format::CustomColumns)
            .map_err(Failure::error),
        _ => Err(unknown(text, allowed)),
    }
}

/// A bare path such as `.metadata.name` gets its braces.
fn relaxed(template: &str) -> String {
    if template.contains('{') || !template.starts_with(['.', '$']) {
        template.to_owned()
    } else {
        format!("{{{template}}}")
    }
}

fn unknown(text: &str, allowed: &[&str]) -> Failure {
    Failure::error(format!(
        "unable to match a printer suitable for the output format {text:?}, allowed formats are: {}",
        allowed.join(",")
    ))
}

/// Whether several objects are wrapped in a `List`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One object, printed as it is.
    Single,
    /// Any number of objects in a `List`.
    List,
}

/// Prints objects in a machine format. Returns false for [`Format::Human`] and [`Format::Wide`], which are the
/// caller's to print.
///
/// # Errors
/// A closed pipe or another write error.
pub fn print(
    printer: &Printer,
    format: &Format,
    objects: &[Value],
    shape: Shape,
    headers: Headers,
) -> Result<bool, Failure> {
    let document = || match (shape, objects) {
        (Shape::Single, [only]) => only.clone(),
        _ => list(objects),
    };
    let text = match format {
        Format::Human | Format::Wide => return Ok(false),
        Format::Json => json(&document()),
        Format::Yaml => yaml::render(&document()),
        Format::JsonPath(template) => template.render(&document()),
        Format::CustomColumns(columns) => columns.table(objects).render(headers),
        Format::Name => objects
            .iter()
            .map(|object| format!("{}\n", reference(object)))
            .collect(),
    };
    printer.data(&text)?;
    printer.flush()?;
    Ok(true)
}

/// A `List` of objects.
#[must_use]
pub fn list(objects: &[Value]) -> Value {
    json!({"apiVersion": "v1", "items": objects, "kind": "List", "metadata": {"resourceVersion": ""}})
}

/// The value as JSON with four spaces of indentation, sorted keys and a final newline.
#[must_use]
pub fn json(value: &Value) -> String {
    let mut buffer = Vec::new();
    let mut serializer =
        Serializer::with_formatter(&mut buffer, PrettyFormatter::with_indent(b"    "));
    // A Value always serializes, and a Vec takes everything.
    let written: io::Result<()> = sorted(value)
        .serialize(&mut serializer)
        .map_err(io::Error::from)
        .and_then(|()| buffer.write_all(b"\n"));
    written.map_or_else(
        |_| String::new(),
        |()| String::from_utf8(buffer).unwrap_or_default(),
    )
}

/// The same value with the keys of all its maps in order.
#[must_use]
pub fn sorted(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<(&String, &Value)> = map.iter().collect();
            entries.sort_by_key(|(key, _)| *key);
            Value::Object(
                entries
                    .into_iter()
                    .map(|(key, value)| (key.clone(), sorted(value)))
                    .collect(),
            )
        }
        Value::Array(list) => Value::Array(list.iter().map(sorted).collect()),
        other => other.clone(),
    }
}

/// `workspace.kaito.sh/phi` for an object; core kinds have no group.
#[must_use]
pub fn reference(object: &Value) -> String {
    let text = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let name = object
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let kind = text("kind").to_lowercase();
    match text("apiVersion").split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{name}"),
        None => format!("{kind}/{name}"),
    }
}

/// Removes `metadata.managedFields`.
pub fn strip_managed_fields(object: &mut Value) {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Format, READ, WRITE, json as to_json, parse, reference};

    #[test]
    fn unknown_formats_list_the_known_ones() {
        let failure = parse("bogus", WRITE).unwrap_err();
        assert_eq!(
            failure.lines(),
            [
                "error: unable to match a printer suitable for the output format \"bogus\", allowed formats are: json,jsonpath,name,yaml"
            ]
        );
        assert!(parse("wide", WRITE).is_err());
        assert!(parse("jsonpath", WRITE).is_err());
        assert!(parse("json=x", READ).is_err());
        assert_eq!(parse("wide", READ), Ok(Format::Wide));
    }

    #[test]
    fn json_has_sorted_keys_and_four_spaces() {
        assert_eq!(
            to_json(&json!({"b": 1, "a": {"c": []}})),
            "{\n    \"a\": {\n        \"c\": []\n    },\n    \"b\": 1\n}\n"
        );
    }

    #[test]
    fn references_name_kind_and_group() {
        let object = |version: &str, kind: &str| json!({"apiVersion": version, "kind": kind, "metadata": {"name": "x"}});
        assert_eq!(
            reference(&object("kaito.sh/v1beta1", "Workspace")),
            "workspace.kaito.sh/x"
        );
        assert_eq!(reference(&object("v1", "ConfigMap")), "configmap/x");
    }
}
