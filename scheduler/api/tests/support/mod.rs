//! Admission cases of KAITO v0.12 as objects that a server can judge.
//!
//! A case names the part under judgement; the other parts are filled in so that they are valid. Presets that exist
//! only in KAITO's own test harness are replaced by catalogue presets with the property that the case is about.

use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use super::CASES;

/// One case.
#[derive(Debug, Deserialize)]
pub(crate) struct Case {
    /// Stable id.
    pub(crate) id: String,
    /// API version.
    pub(crate) api: String,
    /// `create` or `update`.
    pub(crate) op: String,
    /// Part under judgement.
    pub(crate) scope: String,
    /// Rule that the case exercises.
    pub(crate) rule: String,
    /// `ok` or `error`.
    pub(crate) expect: String,
    /// Words of the refusal, ignoring case.
    pub(crate) error_contains: Vec<String>,
    /// The part under judgement.
    pub(crate) input: Value,
    /// The stored part, for updates.
    pub(crate) old: Option<Value>,
    /// Runtime, when it is not an annotation of the input.
    pub(crate) runtime: String,
    /// What the case is about.
    pub(crate) name: String,
}

impl Case {
    /// The object to judge.
    pub(crate) fn object(&self) -> Value {
        self.completed(&self.input)
    }

    /// The stored object of an update.
    pub(crate) fn old_object(&self) -> Option<Value> {
        (self.op == "update").then(|| self.completed(self.old.as_ref().unwrap_or(&Value::Null)))
    }

    fn completed(&self, part: &Value) -> Value {
        let mut object = part.clone();
        if !object.is_object() {
            object = json!({});
        }
        object["apiVersion"] = json!(format!("kaito.sh/{}", self.api));
        object["kind"] = json!("Workspace");
        let id = self.id.to_lowercase();
        fill(&mut object, "metadata", json!({}));
        fill(&mut object["metadata"], "name", json!(format!("case-{id}")));
        if self.runtime == "transformers" {
            fill(&mut object["metadata"], "annotations", json!({}));
            object["metadata"]["annotations"]["kaito.sh/runtime"] = json!("transformers");
        }
        // The namespace is the test's to choose.
        object["metadata"]
            .as_object_mut()
            .unwrap()
            .remove("namespace");
        fill(&mut object, "resource", json!({}));
        fill(
            &mut object["resource"],
            "labelSelector",
            json!({"matchLabels": {"case": id}}),
        );
        self.add_section(&mut object);
        self.fill_inference(&mut object);
        self.fill_tuning(&mut object);
        self.replace_names(&mut object);
        object
    }

    fn add_section(&self, object: &mut Value) {
        let has =
            |part: Option<&Value>, key: &str| part.is_some_and(|part| part.get(key).is_some());
        if has(Some(object), "inference") || has(Some(object), "tuning") {
            return;
        }
        if self.scope == "workspace.structure" {
            return;
        }
        let other_has = |key| has(Some(&self.input), key) || has(self.old.as_ref(), key);
        let wanted = match (self.scope.as_str(), self.rule.as_str()) {
            (_, "O8") if other_has("inference") => "tuning",
            (_, "O8") => "inference",
            (scope, _) if scope.starts_with("tuning") => "tuning",
            _ => "inference",
        };
        object[wanted] = json!({});
    }

    fn fill_inference(&self, object: &mut Value) {
        let Some(inference) = object.get_mut("inference").filter(|part| part.is_object()) else {
            return;
        };
        let given = |key: &str| inference.get(key).is_some_and(|value| !value.is_null());
        let judged = self.scope == "inference" && self.op == "create";
        if !judged && !given("preset") && !given("template") {
            inference["preset"] = json!({"name": "test-validation"});
        }
        if let Some(preset) = inference
            .get_mut("preset")
            .filter(|preset| preset.is_object())
        {
            fill(preset, "name", json!("test-validation"));
        }
    }

    fn fill_tuning(&self, object: &mut Value) {
        let update = self.op == "update";
        let Some(tuning) = object.get_mut("tuning").filter(|part| part.is_object()) else {
            return;
        };
        let whole = matches!(self.scope.as_str(), "tuning" | "admission") && !update;
        if !whole {
            fill(tuning, "preset", json!({"name": "test-validation"}));
            fill(tuning, "method", json!("lora"));
            fill(tuning, "input", json!({}));
            fill(tuning, "output", json!({}));
        }
        let volume = json!({"persistentVolumeClaim": {"claimName": "data"}});
        let sources = |part: &Value| {
            ["urls", "image", "volumeSource"]
                .iter()
                .any(|key| part.get(key).is_some())
        };
        if let Some(input) = tuning.get_mut("input") {
            let judged = self.scope.starts_with("tuning.input") || whole;
            if (!judged || update) && !sources(input) {
                input["volumeSource"] = volume.clone();
            }
        }
        if let Some(output) = tuning.get_mut("output") {
            let judged = self.scope == "tuning.output" || whole;
            if (!judged || update) && !sources(output) {
                output["volumeSource"] = volume;
            }
            if update && output.get("image").is_some() {
                fill(output, "imagePushSecret", json!("secret"));
            }
        }
    }

    /// `test-validation` (small, tunable, runs on transformers) is phi-3-mini-4k-instruct; where a case wants a model
    /// that is packaged, gated, large or private, one is named that is.
    fn replace_names(&self, object: &mut Value) {
        let unknown_is_beside_the_point =
            self.scope == "resource(inference)" && self.expect == "ok";
        for pointer in ["/inference/preset/name", "/tuning/preset/name"] {
            let Some(name) = object.pointer_mut(pointer) else {
                continue;
            };
            let real = match name.as_str().unwrap_or_default() {
                "test-validation" if self.rule == "I5" && self.expect == "error" => "falcon-7b",
                "test-validation" | "test-validation-static" => "phi-3-mini-4k-instruct",
                "test-validation-download" if self.rule == "I5" => "llama-3.1-8b-instruct",
                "test-validation-download" => "phi-4",
                "test-large-model" => "gpt-oss-120b",
                "private-test-validation" => "llama-2-7b",
                "old-preset" => "phi-4",
                "new-preset" => "phi-4-mini-instruct",
                "Invalid-Preset-Name" if unknown_is_beside_the_point => "phi-4",
                _ => continue,
            };
            *name = json!(real);
        }
        if let Some(name) = object.pointer_mut("/resource/instanceType") {
            match name.as_str().unwrap_or_default() {
                "old_type" | "same_type" => *name = json!("Standard_NC24ads_A100_v4"),
                "new_type" => *name = json!("Standard_NC48ads_A100_v4"),
                _ => {}
            }
        }
    }
}

fn fill(object: &mut Value, key: &str, value: Value) {
    if object.get(key).is_none_or(Value::is_null) {
        object[key] = value;
    }
}

/// Every case, in the order of the file.
pub(crate) fn cases() -> Vec<Case> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(CASES);
    let text = std::fs::read_to_string(&path).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}
