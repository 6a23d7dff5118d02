//! Offline admission: what the API server would say to a Workspace, without one.
//!
//! The generated CRD schema is walked (types, bounds, unknown fields), then its CEL rules and the policy's are
//! evaluated. All errors are reported at once. Nothing here panics, and work is bounded whatever the input: values
//! are cut to the schema's bounds before a rule sees them. Rules that need other objects are not judged here.

mod metadata;
mod policy;
mod structure;
mod suggest;
mod verdict;

use std::fmt;

use serde_json::Value;

use structure::Structure;
use verdict::Schemas;

/// Most violations reported of one object.
pub const MAX_VIOLATIONS: usize = 100;

/// One reason why an object is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where, for example `inference.adapters[0].source.name`; empty for the object itself.
    pub path: String,
    /// What is wrong and what to do about it.
    pub message: String,
    /// Id in [`crate::rules`]; absent for the schema's own checks.
    pub rule: Option<&'static str>,
}

impl Violation {
    fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            message: message.into(),
            rule: None,
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            formatter.write_str(&self.message)
        } else {
            write!(formatter, "{}: {}", self.path, self.message)
        }
    }
}

/// Why a new `object` would be refused; empty when it would be accepted.
///
/// ```
/// let object = serde_json::json!({
///     "apiVersion": "kaito.sh/v1beta1",
///     "kind": "Workspace",
///     "metadata": {"name": "chat"},
///     "resource": {"labelSelector": {"matchLabels": {"app": "chat"}}},
///     "inference": {"preset": {"name": "phi4"}},
/// });
/// let violations = kaito_api::admission::validate_create(&object);
/// assert_eq!(violations.len(), 1);
/// assert_eq!(violations[0].path, "inference.preset.name");
/// assert!(violations[0].message.contains("phi-4"));
/// ```
#[must_use]
pub fn validate_create(object: &Value) -> Vec<Violation> {
    judge(object, None)
}

/// Why replacing `old` by `new` would be refused; empty when it would be accepted. Faults of parts that do not change
/// are forgiven, as the server does; the two need not be of one version.
#[must_use]
pub fn validate_update(old: &Value, new: &Value) -> Vec<Violation> {
    judge(new, Some(old))
}

fn judge(new: &Value, old: Option<&Value>) -> Vec<Violation> {
    let version = match version(new) {
        Ok(version) => version,
        Err(violation) => return vec![violation],
    };
    let schemas = match Schemas::of(version) {
        Ok(schemas) => schemas,
        Err(message) => return vec![Violation::new("", message)],
    };
    let new = Structure::read(new, schemas.json());
    let old = old.map(|old| Structure::read(old, schemas.json()));
    let mut violations = verdict::judge(schemas, version, new, old);
    if violations.len() > MAX_VIOLATIONS {
        let more = violations.len() - MAX_VIOLATIONS;
        violations.truncate(MAX_VIOLATIONS);
        violations.push(Violation::new("", format!("and {more} more")));
    }
    violations
}

/// The API version of a Workspace.
fn version(object: &Value) -> Result<&'static str, Violation> {
    if !object.is_object() {
        return Err(Violation::new(
            "",
            "not an object: a Workspace is a map of fields",
        ));
    }
    let text = |field: &str| object.get(field).and_then(Value::as_str);
    if text("kind") != Some("Workspace") {
        return Err(Violation::new(
            "kind",
            "not a Workspace: set kind: Workspace",
        ));
    }
    match text("apiVersion") {
        Some("kaito.sh/v1beta1") => Ok("v1beta1"),
        Some("kaito.sh/v1alpha1") => Ok("v1alpha1"),
        _ => Err(Violation::new(
            "apiVersion",
            "not a version of Workspace: set kaito.sh/v1beta1 (or kaito.sh/v1alpha1)",
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{MAX_VIOLATIONS, validate_create, validate_update};

    fn workspace() -> Value {
        json!({
            "apiVersion": "kaito.sh/v1beta1",
            "kind": "Workspace",
            "metadata": {"name": "chat"},
            "resource": {"labelSelector": {"matchLabels": {"app": "chat"}}},
            "inference": {"preset": {"name": "phi-4"}},
        })
    }

    fn with(pointer: &str, value: Value) -> Value {
        let mut object = workspace();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        object.pointer_mut(parent).unwrap()[key] = value;
        object
    }

    fn text(object: &Value) -> String {
        let lines: Vec<String> = validate_create(object)
            .iter()
            .map(ToString::to_string)
            .collect();
        lines.join("\n")
    }

    #[test]
    fn a_plain_workspace_is_accepted() {
        assert_eq!(text(&workspace()), "");
    }

    #[test]
    fn all_errors_come_at_once() {
        let mut object = with("/metadata/name", json!("Not.Good"));
        object["resource"]["count"] = json!("two");
        object["resource"]["instancetype"] = json!("x");
        object["inference"]["preset"]["name"] = json!("phi4");
        let said = text(&object);
        for part in [
            "metadata.name: ",
            "resource.count: expected an integer",
            "resource.instancetype: unknown field; did you mean instanceType?",
            "inference.preset.name: ",
            "did you mean phi-4",
        ] {
            assert!(said.contains(part), "{part} not in\n{said}");
        }
    }

    #[test]
    fn an_object_with_spec_is_told_that_there_is_none() {
        let mut object = workspace();
        object["spec"] = json!({"inference": {}});
        assert!(text(&object).contains("a Workspace has no spec"));
    }

    #[test]
    fn null_counts_as_absent() {
        assert_eq!(text(&with("/inference/template", Value::Null)), "");
        assert!(text(&with("/inference/preset", Value::Null)).contains("exactly one of"));
    }

    #[test]
    fn what_is_not_a_workspace_is_refused_with_the_remedy() {
        assert!(text(&json!([])).contains("not an object"));
        assert!(text(&json!({"kind": "Pod"})).contains("kind: Workspace"));
        assert!(text(&json!({"kind": "Workspace", "apiVersion": "v1"})).contains("v1beta1"));
        assert!(text(&with("/metadata", json!({}))).contains("metadata.name"));
        assert!(text(&with("/metadata", json!(7))).contains("metadata: expected an object"));
    }

    #[test]
    fn generated_names_are_accepted() {
        assert_eq!(
            text(&with("/metadata", json!({"generateName": "chat-"}))),
            ""
        );
    }

    #[test]
    fn hostile_sizes_and_depths_are_answered_not_endured() {
        let long = "x".repeat(5_000_000);
        let many: Vec<Value> = (0..100_000)
            .map(|_| json!({"source": {"name": "a"}}))
            .collect();
        let mut object = with("/inference/adapters", json!(many));
        object["inference"]["preset"]["name"] = json!(long);
        object["metadata"]["annotations"] = json!({"kaito.sh/runtime": long});
        let mut deep = json!(1);
        for _ in 0..100 {
            deep = json!({"a": deep, "b": [1, 2, 3]});
        }
        object["inference"]["template"] = deep;
        let violations = validate_create(&object);
        assert!(!violations.is_empty() && violations.len() <= MAX_VIOLATIONS + 1);
        assert!(
            violations
                .iter()
                .all(|violation| violation.to_string().len() < 4096)
        );
    }

    #[test]
    fn a_flood_of_unknown_fields_is_cut_short() {
        let mut object = workspace();
        for index in 0..5_000 {
            object["resource"][format!("field{index}")] = json!(1);
        }
        let violations = validate_create(&object);
        assert_eq!(violations.len(), MAX_VIOLATIONS + 1);
        assert!(violations.last().unwrap().message.contains("more"));
    }

    #[test]
    fn an_update_forgives_old_faults_in_untouched_parts() {
        let mut old = workspace();
        old["inference"]["preset"]["name"] = json!("not-in-the-catalogue");
        let mut new = old.clone();
        new["inference"]["config"] = json!("settings");
        assert_eq!(validate_update(&old, &new), []);
        assert!(!validate_create(&new).is_empty());
        new["inference"]["preset"]["name"] = json!("nor-this-one");
        assert!(validate_update(&old, &new).len() >= 2);
    }

    #[test]
    fn an_update_may_name_an_instance_type_once_but_not_change_or_clear_it() {
        let typed = with("/resource/instanceType", json!("Standard_NC24ads_A100_v4"));
        let other = with("/resource/instanceType", json!("Standard_NC48ads_A100_v4"));
        let respelled = with("/resource/instanceType", json!("standard_nc24ads_a100_v4"));
        assert_eq!(validate_update(&workspace(), &typed), []);
        assert_eq!(validate_update(&typed, &respelled), []);
        assert_eq!(validate_update(&typed, &other)[0].rule, Some("R19"));
        assert_eq!(validate_update(&typed, &workspace())[0].rule, Some("R19"));
    }

    #[test]
    fn a_selector_may_be_rewritten_but_not_changed() {
        let expressed =
            json!({"matchExpressions": [{"key": "app", "operator": "In", "values": ["chat"]}]});
        let same = with("/resource/labelSelector", expressed);
        assert_eq!(validate_update(&workspace(), &same), []);
        assert_eq!(validate_update(&same, &workspace()), []);
        let more = with(
            "/resource/labelSelector",
            json!({"matchLabels": {"app": "chat", "b": "c"}}),
        );
        assert_eq!(validate_update(&workspace(), &more)[0].rule, Some("R18"));
        assert_eq!(validate_update(&more, &workspace())[0].rule, Some("R18"));
    }

    #[test]
    fn objects_of_two_versions_can_be_compared() {
        let old = with("/apiVersion", json!("kaito.sh/v1alpha1"));
        assert_eq!(validate_update(&old, &workspace()), []);
        assert_eq!(validate_update(&workspace(), &old), []);
    }

    #[test]
    fn names_for_the_metadata_service_and_inner_addresses_are_refused_in_every_spelling() {
        let tuning = |url: &str| {
            json!({
                "apiVersion": "kaito.sh/v1beta1", "kind": "Workspace", "metadata": {"name": "tune"},
                "resource": {"labelSelector": {}},
                "tuning": {"method": "lora", "preset": {"name": "phi-4"}, "input": {"urls": [url]},
                           "output": {"volumeSource": {"emptyDir": {}}}},
            })
        };
        for refused in [
            "ftp://example.com/a",
            "example.com/a",
            "http:///a",
            "http://",
            "http://user@/x",
            "http://localhost/a",
            "HTTPS://LocalHost:8443",
            "http://a.localhost",
            "http://127.1/a",
            "http://user:pw@127.0.0.1/a",
            "http://2130706433/",
            "http://0x7f.0.0.1/",
            "http://0177.0.0.1/",
            "http://172.16.0.1",
            "http://172.31.255.255/",
            "http://192.168.1.1:80/",
            "http://169.254.169.254/latest",
            "http://0.0.0.0/",
            "http://[::1]/",
            "http://[0:0:0:0:0:0:0:1]:80/",
            "http://[::]/",
            "http://[fd00::1]/",
            "http://[fe80::1%25eth0]/",
            "http://[::ffff:10.0.0.1]/",
            "http://metadata.google.internal/x",
            "http://metadata.google",
            "http://localhost./",
            "http://10.0.0.1?x",
            "http://127.0.0.1#x",
        ] {
            assert!(
                text(&tuning(refused)).contains("tuning.input.urls[0]"),
                "{refused} passed"
            );
        }
        for accepted in [
            "https://example.com/data.parquet?download=true",
            "http://8.8.8.8/x",
            "http://172.32.0.1/",
            "https://10.example.com/",
            "https://localhost.example.com/",
            "https://user:pw@example.com:8443/a@b",
            "http://[2001:db8::1]/x",
            "https://192.0.2.1/",
            "https://example.com/?next=http://localhost/",
            "https://127.0.0.1.example.com/",
        ] {
            assert_eq!(text(&tuning(accepted)), "", "{accepted}");
        }
    }

    #[test]
    fn strengths_are_numbers_from_zero_to_one() {
        let with_strength = |strength: &str| {
            let mut object = with(
                "/inference/adapters",
                json!([{"source": {"name": "a", "image": "x/a:1"}, "strength": strength}]),
            );
            object["metadata"]["annotations"] = json!({"kaito.sh/runtime": "transformers"});
            object
        };
        for good in ["0", "1", "1.0", "0.5", ".5", "1.", "5e-1", "00.25", ""] {
            assert_eq!(text(&with_strength(good)), "", "{good}");
        }
        for bad in [
            "1.5", "-0.1", "invalid", "2", "1e1", "NaN", "0.5.5", ".", "9e-0",
        ] {
            assert!(
                text(&with_strength(bad)).contains("strength"),
                "{bad} passed"
            );
        }
    }

    #[test]
    fn image_references_are_parsed_as_registries_do() {
        let with_image = |image: &str| {
            with(
                "/inference/adapters",
                json!([{"source": {"name": "a", "image": image}}]),
            )
        };
        let digest = format!("a/b@sha256:{}", "0".repeat(64));
        for good in [
            "a",
            "a/b:1",
            "localhost:5000/a_b/c-d:V1",
            "Registry.Example.com/a/b",
            digest.as_str(),
        ] {
            assert_eq!(text(&with_image(good)), "", "{good}");
        }
        for bad in [
            "A/B",
            "a/B",
            "!x",
            "a:",
            "a b",
            "http://a/b",
            "a//b",
            "a/b:1:2",
        ] {
            assert!(
                text(&with_image(bad)).contains("image reference"),
                "{bad} passed"
            );
        }
    }

    #[test]
    fn gated_models_need_a_secret_unless_the_weights_are_local() {
        let mut object = with("/inference/preset/name", json!("llama-3.1-8b-instruct"));
        assert_eq!(validate_create(&object)[0].rule, Some("I5/missing"));
        object["metadata"]["annotations"] = json!({"kaito.sh/use-local-weights": "true"});
        assert_eq!(text(&object), "");
        object = with(
            "/inference/preset",
            json!({
                "name": "llama-3.1-8b-instruct", "presetOptions": {"modelAccessSecret": "hub"},
            }),
        );
        assert_eq!(text(&object), "");
        object["inference"]["preset"]["presetOptions"] = json!({"image": "example.com/llama:1"});
        assert_eq!(text(&object), "");
    }

    #[test]
    fn weights_beyond_the_memory_are_refused_unless_bypassed() {
        let mut object = with("/inference/preset/name", json!("llama-3.3-70b-instruct"));
        object["apiVersion"] = json!("kaito.sh/v1alpha1");
        object["resource"]["instanceType"] = json!("Standard_NC24ads_A100_v4");
        assert_eq!(validate_create(&object)[0].rule, Some("R5"));
        object["resource"]["count"] = json!(2);
        assert_eq!(text(&object), "");
        object["resource"]["count"] = json!(1);
        object["metadata"]["annotations"] = json!({"kaito.sh/bypass-resource-checks": "true"});
        assert_eq!(text(&object), "");
    }

    #[test]
    fn unknown_runtimes_are_refused() {
        let object = with(
            "/metadata/annotations",
            json!({"kaito.sh/runtime": "vLLM2"}),
        );
        assert_eq!(validate_create(&object)[0].rule, Some("O11"));
    }

    #[test]
    fn whether_a_workspace_may_be_evicted_is_said_by_true_or_false() {
        let object = with(
            "/metadata/annotations",
            json!({"kaito.sh/preemptible": "no"}),
        );
        assert_eq!(validate_create(&object)[0].rule, Some("O12"));
        let object = with(
            "/metadata/annotations",
            json!({"kaito.sh/preemptible": "false"}),
        );
        assert_eq!(text(&object), "");
    }

    #[test]
    fn long_names_are_refused_on_creation_only() {
        let object = with("/metadata/name", json!("a".repeat(53)));
        assert_eq!(validate_create(&object)[0].rule, Some("O1/length"));
        assert_eq!(validate_update(&object, &object), []);
        assert_eq!(text(&with("/metadata/name", json!("a".repeat(52)))), "");
        assert!(text(&with("/metadata/name", json!("a".repeat(64)))).contains("63"));
    }
}
