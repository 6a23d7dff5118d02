//! What uses an image: the stanza of an image volume, and a Workspace. Pure.

use serde_json::{Value, json};

use crate::plan::Kind;
use crate::registry::Reference;

/// What is needed to write a Workspace.
pub(crate) struct Use<'a> {
    /// The image by digest.
    pub(crate) image: &'a Reference,
    /// What it holds.
    pub(crate) kind: Kind,
    /// The preset or `org/model`, where known.
    pub(crate) model: Option<&'a str>,
}

/// The name of an object for this image: the repository's last part, made fit for Kubernetes.
pub(crate) fn object_name(image: &Reference) -> String {
    let last = image.repository().rsplit('/').next().unwrap_or_default();
    let name: String = last
        .chars()
        .map(|character| {
            if character.is_ascii_alphanumeric() {
                character
            } else {
                '-'
            }
        })
        .collect();
    let name: String = name.trim_matches('-').chars().take(50).collect();
    match name.chars().next() {
        Some(first) if first.is_ascii_alphabetic() => name.trim_end_matches('-').to_owned(),
        _ => format!("model-{name}").trim_end_matches('-').to_owned(),
    }
}

/// A Workspace that serves the image, named `name`. Programs have none.
pub(crate) fn workspace(using: &Use<'_>, name: &str) -> Option<Value> {
    let image = using.image.to_string();
    let model = using
        .model
        .map_or_else(|| guessed(using.image), str::to_owned);
    let inference = match using.kind {
        Kind::Program => return None,
        // Not `accessMode: private`: that would say that the image is a whole server.
        Kind::Model => json!({"preset": {"name": model, "presetOptions": {"image": image}}}),
        Kind::Adapter => {
            json!({"preset": {"name": model}, "adapters": [{"source": {"name": name, "image": image}}]})
        }
    };
    Some(json!({
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": name},
        "resource": {"labelSelector": {"matchLabels": {"apps": name}}},
        "inference": inference,
    }))
}

/// A model id in the form that Workspaces take, where the source tells none.
fn guessed(image: &Reference) -> String {
    let last = image.repository().rsplit('/').next().unwrap_or_default();
    format!("local/{last}")
}

/// The volume of a pod that mounts the image.
pub(crate) fn image_volume(image: &Reference) -> Value {
    json!([{"name": "model", "image": {"reference": image.to_string(), "pullPolicy": "IfNotPresent"}}])
}

/// YAML of a JSON value: maps and lists in blocks, texts quoted where they could be taken for something else.
pub(crate) fn yaml(value: &Value) -> String {
    let mut lines = Vec::new();
    write(value, 0, &mut lines);
    lines.join("\n")
}

fn write(value: &Value, depth: usize, lines: &mut Vec<String>) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                if is_block(value) {
                    lines.push(format!("{indent}{key}:"));
                    write(value, depth + usize::from(value.is_object()), lines);
                } else {
                    lines.push(format!("{indent}{key}: {}", scalar(value)));
                }
            }
        }
        Value::Array(items) => {
            for item in items {
                let mut inner = Vec::new();
                write(item, depth + 1, &mut inner);
                if let Some(first) = inner.first_mut() {
                    *first = format!("{indent}- {}", first.trim_start());
                }
                lines.append(&mut inner);
            }
        }
        other => lines.push(format!("{indent}{}", scalar(other))),
    }
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Whether a text is read back as itself without quotes.
fn is_plain(text: &str) -> bool {
    let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"./_-@".contains(&byte);
    let begins_as_text = text
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic());
    let words = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    begins_as_text && text.bytes().all(safe) && !words.contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::{Use, image_volume, object_name, workspace, yaml};
    use crate::digest::Digest;
    use crate::plan::Kind;
    use crate::registry::Reference;

    fn image(text: &str) -> Reference {
        text.parse::<Reference>()
            .unwrap()
            .with_digest(Digest::of(b""))
    }

    #[test]
    fn names_are_fit_for_kubernetes() {
        for (repository, name) in [
            ("r.io/models/smollm2-135m", "smollm2-135m"),
            ("r.io/a/b_c.d", "b-c-d"),
            ("r.io/a/7b", "model-7b"),
        ] {
            assert_eq!(object_name(&image(repository)), name);
        }
    }

    #[test]
    fn a_models_workspace_names_its_image_by_digest() {
        let image = image("r.io/models/phi:v1");
        let using = Use {
            image: &image,
            kind: Kind::Model,
            model: Some("microsoft/phi-4"),
        };
        let text = yaml(&workspace(&using, "phi").unwrap());
        let digest = Digest::of(b"");
        assert_eq!(
            text,
            format!(
                "apiVersion: kaito.sh/v1beta1\nkind: Workspace\nmetadata:\n  name: phi\nresource:\n  labelSelector:\n    \
                 matchLabels:\n      apps: phi\ninference:\n  preset:\n    name: microsoft/phi-4\n    \
                 presetOptions:\n      image: \"r.io/models/phi@{digest}\""
            )
        );
    }

    #[test]
    fn an_adapters_workspace_lists_it_and_a_program_has_none() {
        let image = image("r.io/adapters/tuned");
        let using = |kind| Use {
            image: &image,
            kind,
            model: Some("phi-4"),
        };
        let text = yaml(&workspace(&using(Kind::Adapter), "tuned").unwrap());
        assert!(
            text.contains("adapters:\n  - source:\n      name: tuned\n      image: \"r.io"),
            "{text}"
        );
        assert!(workspace(&using(Kind::Program), "x").is_none());
        assert!(
            yaml(&image_volume(&image)).starts_with("- name: model\n  image:\n    reference: ")
        );
    }
}
