//! States to wait for: how they are written, and whether an object is there yet. Pure.

use std::str::FromStr;

use serde_json::Value;

use crate::error::Failure;
use crate::output::jsonpath::{Template, text_of};
use crate::readiness::{self, Verdict};

/// A state to wait for.
#[derive(Clone, Debug, PartialEq)]
pub enum Goal {
    /// The Workspace serves, or its tuning has ended well.
    Ready,
    /// The object is gone, or another one has its name.
    Deleted,
    /// The object exists.
    Created,
    /// A condition has a value; compared without case.
    Condition {
        /// Type of the condition.
        name: String,
        /// Status, in lower case.
        value: String,
    },
    /// A path has a value, or any value.
    JsonPath {
        /// The path.
        path: Template,
        /// The value to equal.
        value: Option<String>,
    },
}

impl FromStr for Goal {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        let (name, rest) = text
            .split_once('=')
            .map_or((text, None), |(name, rest)| (name, Some(rest)));
        match (name.to_lowercase().as_str(), rest) {
            ("ready", None) => Ok(Self::Ready),
            ("delete" | "deleted", None) => Ok(Self::Deleted),
            ("create" | "created", None) => Ok(Self::Created),
            ("condition", Some(rest)) if !rest.is_empty() => {
                let (name, value) = rest.split_once('=').unwrap_or((rest, "true"));
                Ok(Self::Condition { name: name.to_owned(), value: value.to_lowercase() })
            }
            ("jsonpath", Some(rest)) if !rest.is_empty() => json_path(rest),
            _ => Err(Failure::error(format!("unrecognized condition: {text:?}"))
                .with_hint("Known: ready, deleted, create, delete, condition=NAME[=VALUE], jsonpath='{PATH}'[=VALUE]")),
        }
    }
}

fn json_path(text: &str) -> Result<Goal, Failure> {
    // The path may hold "==" in a filter: the value starts after the closing brace.
    let (path, value) = match text.rfind('}') {
        Some(end) => {
            let (path, rest) = text.split_at(end + 1);
            (path, rest.strip_prefix('='))
        }
        None => text
            .split_once('=')
            .map_or((text, None), |(path, value)| (path, Some(value))),
    };
    let path = Template::parse_relaxed(path).map_err(Failure::error)?;
    Ok(Goal::JsonPath {
        path,
        value: value.map(str::to_owned),
    })
}

/// Where an object stands on the way to a goal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// It is there.
    Met,
    /// Not yet; the reason, maybe empty.
    Waiting(String),
    /// It will not get there; the reason.
    Hopeless(String),
}

/// Where an object stands; `first_uid` is the UID of the object that was there at first.
pub(super) fn judge(goal: &Goal, object: Option<&Value>, first_uid: &str) -> Progress {
    let Some(object) = object else {
        return match goal {
            Goal::Deleted => Progress::Met,
            Goal::Created => Progress::Waiting(String::new()),
            _ => Progress::Hopeless("it was deleted".to_owned()),
        };
    };
    match goal {
        Goal::Created => Progress::Met,
        Goal::Deleted if uid(Some(object)) != first_uid => Progress::Met,
        Goal::Deleted => Progress::Waiting(finalizers(object)),
        Goal::Ready => match readiness::judge(object) {
            Verdict::Ready => Progress::Met,
            Verdict::Waiting(reason) => Progress::Waiting(reason),
            Verdict::Failed(reason) => Progress::Hopeless(reason),
        },
        Goal::Condition { name, value } => condition(object, name, value),
        Goal::JsonPath { path, value } => {
            let found = path.values(object);
            let met = match value {
                None => !found.is_empty(),
                Some(value) => found.iter().any(|found| text_of(found) == *value),
            };
            if met {
                Progress::Met
            } else {
                Progress::Waiting(String::new())
            }
        }
    }
}

/// UID of an object, empty when there is none.
pub(super) fn uid(object: Option<&Value>) -> String {
    object
        .and_then(|object| object.pointer("/metadata/uid"))
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

fn condition(object: &Value, name: &str, value: &str) -> Progress {
    let conditions = readiness::current_conditions(object);
    let found = conditions
        .iter()
        .find(|condition| condition.kind.eq_ignore_ascii_case(name));
    match found {
        Some(condition) if condition.status.to_lowercase() == value => Progress::Met,
        Some(condition) => Progress::Waiting(format!("{}: {}", condition.kind, condition.message)),
        None => Progress::Waiting(String::new()),
    }
}

/// What a deletion waits for.
fn finalizers(object: &Value) -> String {
    let list = object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array);
    let names: Vec<&str> = list
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let deleting = object.pointer("/metadata/deletionTimestamp").is_some();
    if deleting && !names.is_empty() {
        format!("being deleted, held by {}", names.join(", "))
    } else {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Goal, Progress, judge};

    fn goal(text: &str) -> Goal {
        text.parse().unwrap()
    }

    #[test]
    fn states_are_read_as_kubectl_reads_them() {
        assert_eq!(
            goal("condition=Ready"),
            Goal::Condition {
                name: "Ready".to_owned(),
                value: "true".to_owned()
            }
        );
        assert_eq!(
            goal("condition=Ready=False"),
            Goal::Condition {
                name: "Ready".to_owned(),
                value: "false".to_owned()
            }
        );
        assert_eq!(goal("deleted"), Goal::Deleted);
        assert!(
            matches!(goal("jsonpath={.a[?(@.b==\"c\")].d}=e"), Goal::JsonPath { value: Some(value), .. } if value == "e")
        );
        let failure = "bogus".parse::<Goal>().unwrap_err();
        assert_eq!(
            failure.lines()[0],
            "error: unrecognized condition: \"bogus\""
        );
    }

    #[test]
    fn a_namesake_made_later_means_deleted() {
        let object = json!({"metadata": {"uid": "2"}});
        assert_eq!(judge(&Goal::Deleted, Some(&object), "1"), Progress::Met);
        assert_eq!(
            judge(&Goal::Deleted, Some(&object), "2"),
            Progress::Waiting(String::new())
        );
        assert_eq!(judge(&Goal::Deleted, None, "2"), Progress::Met);
    }

    #[test]
    fn conditions_of_an_older_generation_do_not_count() {
        let object = |observed: i64| {
            json!({"metadata": {"generation": 2}, "status": {"conditions": [
            {"type": "Ready", "status": "True", "observedGeneration": observed}]}})
        };
        assert_eq!(
            judge(&goal("condition=ready"), Some(&object(2)), ""),
            Progress::Met
        );
        assert_eq!(
            judge(&goal("condition=ready"), Some(&object(1)), ""),
            Progress::Waiting(String::new())
        );
    }

    #[test]
    fn a_path_is_met_by_its_value_or_by_being_there() {
        let object = json!({"status": {"state": "Ready"}});
        for (text, met) in [
            ("jsonpath={.status.state}=Ready", true),
            ("jsonpath=.status.state", true),
            ("jsonpath={.status.state}=Failed", false),
            ("jsonpath={.status.x}", false),
        ] {
            assert_eq!(
                judge(&goal(text), Some(&object), "") == Progress::Met,
                met,
                "{text}"
            );
        }
    }
}
