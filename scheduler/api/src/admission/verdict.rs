//! The rules' half: the schema's CEL rules and the policy's over the bounded copies, and what an update forgives.

use std::sync::LazyLock;

use kube::core::cel::{
    CompiledSchema, ErrorKind, ValidationError, compile_schema, validate_compiled,
};
use serde_json::Value;

use super::policy::{self, Strictness};
use super::structure::Structure;
use super::{Violation, suggest};
use crate::crd::workspace_crd;
use crate::rules::{Place, Rule, When, rules};

/// The schema of one API version, as JSON and compiled.
pub(super) struct Schemas {
    json: Value,
    compiled: CompiledSchema,
}

static TABLE: LazyLock<Result<Vec<(String, Schemas)>, String>> = LazyLock::new(|| {
    let definition = workspace_crd().map_err(|error| error.to_string())?;
    let mut table = Vec::new();
    for version in definition.spec.versions {
        let schema = version
            .schema
            .and_then(|validation| validation.open_api_v3_schema);
        let json = serde_json::to_value(&schema).map_err(|error| error.to_string())?;
        let compiled = compile_schema(&json);
        table.push((version.name, Schemas { json, compiled }));
    }
    Ok(table)
});

impl Schemas {
    /// The schema of `version`.
    pub(super) fn of(version: &str) -> Result<&'static Self, String> {
        let table = TABLE.as_ref().map_err(Clone::clone)?;
        let found = table
            .iter()
            .find(|(name, _)| name == version)
            .map(|(_, schemas)| schemas);
        found.ok_or_else(|| format!("the Workspace CRD has no version {version}"))
    }

    pub(super) const fn json(&self) -> &Value {
        &self.json
    }
}

/// All violations of `new`: the schema's, its rules', the policy's.
pub(super) fn judge(
    schemas: &Schemas,
    version: &str,
    new: Structure,
    old: Option<Structure>,
) -> Vec<Violation> {
    let old = old.map(|old| old.object);
    let mut found = by_schema(schemas, version, &new, old.as_ref());
    let strictness = if new.violations.is_empty() {
        Strictness::Unjudged
    } else {
        Strictness::Judged
    };
    found.extend(
        policy::judge(&new.object, old.as_ref(), strictness)
            .into_iter()
            .filter(|violation| !new.is_broken_at_or_below(&violation.path)),
    );
    let mut violations = new.violations;
    if let Some(old) = &old {
        violations.retain(|violation| !unchanged(&new.object, old, &violation.path));
    }
    violations.extend(found);
    violations
}

fn by_schema(
    schemas: &Schemas,
    version: &str,
    new: &Structure,
    old: Option<&Value>,
) -> Vec<Violation> {
    let Err(errors) = validate_compiled(&schemas.compiled, &new.object, old) else {
        return Vec::new();
    };
    let sound = new.violations.is_empty();
    errors
        .into_vec()
        .into_iter()
        .filter(|error| sound || error.kind == ErrorKind::ValidationFailure)
        .filter_map(|error| violation(version, new, old, error))
        .collect()
}

/// The violation that `error` reports, unless the server would not report it.
fn violation(
    version: &str,
    new: &Structure,
    old: Option<&Value>,
    error: ValidationError,
) -> Option<Violation> {
    let path = error.field_path.trim_start_matches('.').to_owned();
    let Some(rule) = rule(version, &error.rule, &path) else {
        return Some(Violation::new(path, error.message));
    };
    let node = path
        .strip_suffix(rule.field.trim_start_matches('.'))
        .unwrap_or(&path);
    let node = if rule.field.is_empty() {
        path.as_str()
    } else {
        node.trim_end_matches('.')
    };
    if misled(new, rule, node) {
        return None;
    }
    if rule.when != When::Update && old.is_some_and(|old| unchanged(&new.object, old, node)) {
        return None;
    }
    let hint = suggest::value(rule.id, at(&new.object, &path));
    let path = match rule.id {
        // The schema of metadata is not the CRD's, so the rule cannot point into it.
        "O1" => "metadata.name".to_owned(),
        _ => path,
    };
    Some(Violation {
        path,
        message: error.message + &hint,
        rule: Some(rule.id),
    })
}

/// Whether `rule` judged a value that was left out for its type, which is reported as such.
fn misled(new: &Structure, rule: &Rule, node: &str) -> bool {
    if node.is_empty() {
        return new
            .broken
            .iter()
            .any(|path| rule.expression.contains(&format!("self.{path}")));
    }
    new.is_broken_at_or_below(node)
}

/// The rule of the table that an error at `path` comes from. Several nodes can have the same expression.
fn rule(version: &str, expression: &str, path: &str) -> Option<&'static Rule> {
    let shape = shape(path);
    rules()
        .iter()
        .filter(|rule| rule.versions.include(version))
        .find(|rule| {
            let Place::Schema(node) = rule.place else {
                return false;
            };
            rule.expression == expression
                && shape == format!("{node}{}", rule.field).trim_start_matches('.')
        })
}

/// `path` without its indices: `a[3].b` is `a[].b`.
fn shape(path: &str) -> String {
    let mut inside = false;
    path.chars()
        .filter(|character| {
            match character {
                '[' => inside = true,
                ']' => inside = false,
                _ => return !inside,
            }
            true
        })
        .collect()
}

/// Whether the value at `path` is there, and the same in both. Items of lists have no identity, so a changed list has
/// changed items.
fn unchanged(new: &Value, old: &Value, path: &str) -> bool {
    let list = path.split_once('[').map_or(path, |(list, _)| list);
    at(new, list).is_some_and(|value| Some(value) == at(old, list))
}

/// The value at `path`.
fn at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let mut current = object;
    for part in path.split(['.', '[']).filter(|part| !part.is_empty()) {
        current = match part.strip_suffix(']') {
            Some(index) => current.get(index.parse::<usize>().ok()?)?,
            None => current.get(part)?,
        };
    }
    Some(current)
}
