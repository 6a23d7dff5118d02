//! What the state of a Workspace means for somebody who waits for it. Pure: an object in, a verdict out.

use kaito_api::conditions;
use serde_json::Value;

/// What waiting will bring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It serves, or its tuning has ended well.
    Ready,
    /// Not yet; the text is the most specific reason known, maybe empty.
    Waiting(String),
    /// It will not become ready by waiting; the text says why.
    Failed(String),
}

/// One condition of an object, as far as waiting is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConditionView<'a> {
    /// Type, for example `ResourceReady`.
    pub kind: &'a str,
    /// `True`, `False` or `Unknown`.
    pub status: &'a str,
    /// Reason in one word.
    pub reason: &'a str,
    /// Message.
    pub message: &'a str,
}

/// The conditions of an object that speak of its current generation, in the object's order.
#[must_use]
pub fn current_conditions(object: &Value) -> Vec<ConditionView<'_>> {
    let generation = object
        .pointer("/metadata/generation")
        .and_then(Value::as_i64)
        .unwrap_or_default();
    let list = object
        .pointer("/status/conditions")
        .and_then(Value::as_array);
    list.map(Vec::as_slice)
        .unwrap_or_default()
        .iter()
        .filter(|condition| {
            condition
                .get("observedGeneration")
                .and_then(Value::as_i64)
                .is_none_or(|observed| observed >= generation)
        })
        .map(|condition| {
            let text = |key: &str| {
                condition
                    .get(key)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            ConditionView {
                kind: text("type"),
                status: text("status"),
                reason: text("reason"),
                message: text("message"),
            }
        })
        .collect()
}

/// Judges a Workspace.
#[must_use]
pub fn judge(workspace: &Value) -> Verdict {
    let text = |pointer: &str| {
        workspace
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    if !text("/metadata/deletionTimestamp").is_empty() {
        return Verdict::Failed("it is being deleted".to_owned());
    }
    let conditions = current_conditions(workspace);
    let is_true = |kind: &str| {
        conditions
            .iter()
            .any(|c| c.kind == kind && c.status == "True")
    };
    if is_true(conditions::WORKSPACE_SUCCEEDED) || is_true(conditions::WORKSPACE_READY) {
        return Verdict::Ready;
    }
    let reason = blocker(&conditions).unwrap_or_else(|| text("/status/plan/reason").to_owned());
    // A state of an older generation says nothing about this one: then no current condition exists either.
    if text("/status/state") == "Failed" && !conditions.is_empty() {
        return Verdict::Failed(if reason.is_empty() {
            "its state is Failed".to_owned()
        } else {
            reason
        });
    }
    Verdict::Waiting(reason)
}

/// The first thing in the way: conditions in the order in which they come true.
fn blocker(conditions: &[ConditionView<'_>]) -> Option<String> {
    conditions::IN_ORDER.iter().find_map(|kind| {
        let found = conditions
            .iter()
            .find(|c| c.kind == *kind && c.status != "True")?;
        Some(match (found.reason, found.message) {
            ("", "") => format!("{kind} is {}", found.status),
            (reason, "") => format!("{kind}: {reason}"),
            (_, message) => format!("{kind}: {message}"),
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Verdict, judge};

    fn workspace(state: &str, conditions: &[(&str, &str, &str, i64)]) -> Value {
        let conditions: Vec<Value> = conditions
            .iter()
            .map(|(kind, status, message, generation)| {
                json!({"type": kind, "status": status, "message": message, "reason": "R", "observedGeneration": generation})
            })
            .collect();
        json!({"metadata": {"generation": 2}, "status": {"state": state, "conditions": conditions}})
    }

    #[test]
    fn success_counts_only_for_the_current_generation() {
        assert_eq!(
            judge(&workspace(
                "Ready",
                &[("WorkspaceSucceeded", "True", "", 2)]
            )),
            Verdict::Ready
        );
        assert_eq!(
            judge(&workspace(
                "Ready",
                &[("WorkspaceSucceeded", "True", "", 1)]
            )),
            Verdict::Waiting(String::new())
        );
    }

    #[test]
    fn waiting_names_the_first_thing_in_the_way() {
        let object = workspace(
            "Pending",
            &[
                ("WorkspaceSucceeded", "False", "not ready", 2),
                ("ResourceReady", "False", "no node fits", 2),
            ],
        );
        assert_eq!(
            judge(&object),
            Verdict::Waiting("ResourceReady: no node fits".to_owned())
        );
    }

    #[test]
    fn a_failed_or_deleted_workspace_is_not_waited_for() {
        let object = workspace(
            "Failed",
            &[("WorkspaceSucceeded", "False", "out of memory", 2)],
        );
        assert_eq!(
            judge(&object),
            Verdict::Failed("WorkspaceSucceeded: out of memory".to_owned())
        );
        let object = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        assert!(matches!(judge(&object), Verdict::Failed(_)));
    }
}
