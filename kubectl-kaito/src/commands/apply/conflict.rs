//! Conflicts of ownership: which fields, whose they are, both values, and what each choice does. Pure.

use kube::core::Status;
use kube::core::response::StatusCause;
use serde_json::Value;

use crate::error::Failure;
use crate::manifest::Document;
use crate::manifest::tree::{Segment, segments};
use crate::output::format;

/// Whether a refusal is about fields that others have set. Such a request is never repeated unchanged.
pub(super) fn is_ownership(status: &Status) -> bool {
    status.code == 409 && causes(status).next().is_some()
}

/// The failure to print. `live` is the stored object, `ours` the one that was sent.
pub(super) fn failure(status: &Status, live: &Value, ours: &Value, document: &Document) -> Failure {
    let count = causes(status).count();
    let plural = if count == 1 { "" } else { "s" };
    let mut failure = Failure::error(format!(
        "Apply failed with {count} conflict{plural} in {}; nothing was changed",
        format::reference(ours)
    ));
    for cause in causes(status) {
        let position = document.tree.locate(&segments(&cause.field));
        failure = failure.with_hint(format!(
            "{}:{}:{}: {}",
            document.source,
            position.line,
            position.column,
            describe(cause, live, ours)
        ));
    }
    failure
        .with_hint("Remove these fields from the file to leave them to their owners, or take them over with --force-conflicts.")
}

/// One line per field that was taken over by force.
pub(super) fn taken_over(status: &Status, live: &Value, ours: &Value) -> Vec<String> {
    causes(status)
        .map(|cause| format!("taken over: {}", describe(cause, live, ours)))
        .collect()
}

fn causes(status: &Status) -> impl Iterator<Item = &StatusCause> {
    let causes = status
        .details
        .as_ref()
        .map(|details| details.causes.as_slice())
        .unwrap_or_default();
    causes
        .iter()
        .filter(|cause| cause.reason == "FieldManagerConflict")
}

fn describe(cause: &StatusCause, live: &Value, ours: &Value) -> String {
    let path = segments(&cause.field);
    let manager = cause
        .message
        .split('"')
        .nth(1)
        .unwrap_or(cause.message.as_str());
    let shown =
        |value: Option<&Value>| value.map_or_else(|| "absent".to_owned(), ToString::to_string);
    format!(
        "{} is set by {manager:?}{}: there {}, here {}",
        cause.field.trim_start_matches('.'),
        history(live, manager),
        shown(value_at(live, &path)),
        shown(value_at(ours, &path)),
    )
}

/// How and when a manager last wrote, for example ` (Update, 2026-01-02T03:04:05Z)`.
fn history(live: &Value, manager: &str) -> String {
    let entries = live
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array);
    let entry = entries
        .into_iter()
        .flatten()
        .filter(|entry| entry.get("manager").and_then(Value::as_str) == Some(manager))
        .max_by_key(|entry| {
            entry
                .get("time")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        });
    let text = |key: &str| {
        entry
            .and_then(|entry| entry.get(key))
            .and_then(Value::as_str)
    };
    match (text("operation"), text("time")) {
        (Some(operation), Some(time)) => format!(" ({operation}, {time})"),
        _ => String::new(),
    }
}

fn value_at<'a>(object: &'a Value, path: &[Segment]) -> Option<&'a Value> {
    path.iter()
        .try_fold(object, |value, segment| match segment {
            Segment::Key(key) => value.get(key),
            Segment::Index(index) => value.get(index),
        })
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use serde_json::json;

    use super::{failure, is_ownership, taken_over};
    use crate::manifest::reader;

    fn status() -> Status {
        serde_json::from_value(
            json!({"code": 409, "reason": "Conflict", "message": "m", "details": {"causes": [
            {"reason": "FieldManagerConflict", "field": ".resource.count",
             "message": "conflict with \"kubectl-edit\" using kaito.sh/v1beta1"}]}}),
        )
        .unwrap()
    }

    #[test]
    fn a_conflict_names_place_owner_and_both_values() {
        let text = "apiVersion: kaito.sh/v1beta1\nkind: Workspace\nmetadata: {name: phi}\nresource:\n  count: 2\n";
        let document = &reader::read("f", text).documents[0];
        let live = json!({"resource": {"count": 1}, "metadata": {"managedFields": [
            {"manager": "kubectl-edit", "operation": "Update", "time": "2026-01-02T03:04:05Z"}]}});
        let failure = failure(&status(), &live, &document.value(), document);
        assert_eq!(
            failure.lines()[..2],
            [
                "error: Apply failed with 1 conflict in workspace.kaito.sh/phi; nothing was changed",
                "f:5:10: resource.count is set by \"kubectl-edit\" (Update, 2026-01-02T03:04:05Z): there 1, here 2",
            ]
        );
        assert_eq!(
            taken_over(&status(), &json!({}), &json!({"resource": {"count": 2}})),
            ["taken over: resource.count is set by \"kubectl-edit\": there absent, here 2"]
        );
    }

    #[test]
    fn other_conflicts_are_not_about_ownership() {
        let stale: Status =
            serde_json::from_value(json!({"code": 409, "reason": "Conflict", "message": "m"}))
                .unwrap();
        assert!(is_ownership(&status()) && !is_ownership(&stale));
    }
}
