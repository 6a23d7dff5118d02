//! A Workspace from flags: `apply NAME --model MODEL …`. Pure; the result passes the same rules as a file.
//!
//! A flag that is absent leaves its field absent; nothing is written empty.

use serde_json::{Map, Value, json};

use crate::error::Failure;
use crate::manifest::{Document, tree::Tree};

/// Why the flags make no Workspace.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// Nothing to train on.
    #[error("--tune needs training data: --input {form}")]
    NoInput {
        /// What is wanted.
        form: &'static str,
    },
    /// Training data of several kinds.
    #[error("--input may be repeated for url: only; training data comes from one kind of source")]
    ManyInputs,
    /// Nowhere to put the adapter.
    #[error("--tune needs a place for the adapter: --output-to {form}")]
    NoOutput {
        /// What is wanted.
        form: &'static str,
    },
    /// A registry that takes pushes from nobody.
    #[error("--output-to image: needs --push-secret")]
    NoPushSecret,
    /// A value that does not have the form of its flag, in kubectl's words.
    #[error("Error: invalid argument {value:?} for {flag:?} flag: must be {form}")]
    Value {
        /// The flag.
        flag: &'static str,
        /// As typed.
        value: String,
        /// What is wanted.
        form: &'static str,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::of(&error)
    }
}

/// What generated objects are called in messages.
const SOURCE: &str = "flags";

/// Flags that describe a Workspace.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Flags that describe a Workspace, instead of -f")]
pub struct GeneratorFlags {
    /// Name of the Workspace
    #[arg(value_name = "NAME", requires = "model", conflicts_with = "filename", help_heading = None::<&str>)]
    pub name: Option<String>,
    /// Model: catalogue id, alias or org/name
    #[arg(
        long,
        visible_alias = "preset",
        value_name = "MODEL",
        requires = "name"
    )]
    pub model: Option<String>,
    /// Instance type of the nodes; without it the cheapest that fits is chosen
    #[arg(long, value_name = "TYPE", requires = "model")]
    pub instance_type: Option<String>,
    /// Nodes
    #[arg(long, value_name = "N", requires = "model")]
    pub count: Option<u32>,
    /// GPUs per node, instead of the estimate
    #[arg(long, value_name = "N", requires = "model")]
    pub gpus: Option<u32>,
    /// Tokens of context that must fit
    #[arg(long, value_name = "TOKENS", requires = "model")]
    pub context_len: Option<u32>,
    /// Requests of that length at once
    #[arg(long, value_name = "N", requires = "model")]
    pub concurrency: Option<u32>,
    /// Place in the queue; higher goes first
    #[arg(long, value_name = "N", requires = "model", allow_hyphen_values = true)]
    pub priority: Option<i32>,
    /// Labels of the nodes, KEY=VALUE; apps=NAME when left out
    #[arg(
        long,
        value_name = "KEY=VALUE",
        value_delimiter = ',',
        requires = "model"
    )]
    pub node_selector: Vec<String>,
    /// LoRA adapter, NAME=IMAGE or NAME=pvc:CLAIM, with ,strength=S for the transformers runtime; may be repeated
    #[arg(long, value_name = "NAME=IMAGE", requires = "model")]
    pub adapter: Vec<String>,
    /// ConfigMap with inference_config.yaml
    #[arg(long, value_name = "CONFIGMAP", requires = "model")]
    pub inference_config: Option<String>,
    /// Secret with HF_TOKEN, for gated models
    #[arg(long, value_name = "SECRET", requires = "model")]
    pub model_access_secret: Option<String>,
    /// Expose the model by a LoadBalancer
    #[arg(long, requires = "model")]
    pub enable_lb: bool,
    /// Tune instead of serve: lora or qlora
    #[arg(long, value_name = "METHOD", value_parser = ["lora", "qlora"], requires = "model",
          conflicts_with_all = ["adapter", "inference_config", "enable_lb"])]
    pub tune: Option<String>,
    /// Training data: url:URL (may be repeated), image:IMAGE or pvc:CLAIM
    #[arg(long, value_name = "KIND:WHERE", requires = "tune")]
    pub input: Vec<String>,
    /// Where the adapter goes: image:IMAGE (with --push-secret) or pvc:CLAIM
    #[arg(long = "output-to", value_name = "KIND:WHERE", requires = "tune")]
    pub output_to: Option<String>,
    /// Secret with which the adapter's image is pushed
    #[arg(long, value_name = "SECRET", requires = "tune")]
    pub push_secret: Option<String>,
    /// ConfigMap with training_config.yaml
    #[arg(long, value_name = "CONFIGMAP", requires = "tune")]
    pub tuning_config: Option<String>,
}

/// The Workspace that the flags describe; none when they describe none.
///
/// # Errors
/// A flag whose value cannot be read, by the flag's name.
pub(super) fn document(flags: &GeneratorFlags) -> Result<Option<Document>, Failure> {
    let (Some(name), Some(model)) = (&flags.name, &flags.model) else {
        return Ok(None);
    };
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), json!(name));
    if flags.enable_lb {
        // The controller compares with exactly this word.
        metadata.insert(
            "annotations".to_owned(),
            json!({kaito_api::names::ANNOTATION_ENABLE_LB: "True"}),
        );
    }
    let mut object = Map::new();
    object.insert("apiVersion".to_owned(), json!("kaito.sh/v1beta1"));
    object.insert("kind".to_owned(), json!("Workspace"));
    object.insert("metadata".to_owned(), Value::Object(metadata));
    object.insert("resource".to_owned(), resource(flags, name)?);
    match &flags.tune {
        Some(method) => object.insert("tuning".to_owned(), tuning(flags, model, method)?),
        None => object.insert("inference".to_owned(), inference(flags, model)?),
    };
    if let Some(priority) = flags.priority {
        object.insert("scheduling".to_owned(), json!({"priority": priority}));
    }
    Ok(Some(Document {
        source: SOURCE.to_owned(),
        tree: Tree::from_value(&Value::Object(object)),
    }))
}

/// Puts `value` at `key` if there is one.
fn set(map: &mut Map<String, Value>, key: &str, value: Option<Value>) {
    if let Some(value) = value {
        map.insert(key.to_owned(), value);
    }
}

fn resource(flags: &GeneratorFlags, name: &str) -> Result<Value, Failure> {
    let mut labels = Map::new();
    for pair in &flags.node_selector {
        let (key, value) = pair
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| bad("--node-selector", pair, "KEY=VALUE"))?;
        labels.insert(key.to_owned(), json!(value));
    }
    if labels.is_empty() {
        labels.insert("apps".to_owned(), json!(name));
    }
    let mut map = Map::new();
    set(
        &mut map,
        "instanceType",
        flags.instance_type.as_ref().map(|text| json!(text)),
    );
    set(&mut map, "count", flags.count.map(|number| json!(number)));
    set(&mut map, "gpus", flags.gpus.map(|number| json!(number)));
    set(
        &mut map,
        "contextLength",
        flags.context_len.map(|number| json!(number)),
    );
    set(
        &mut map,
        "concurrency",
        flags.concurrency.map(|number| json!(number)),
    );
    map.insert("labelSelector".to_owned(), json!({"matchLabels": labels}));
    Ok(Value::Object(map))
}

fn preset(flags: &GeneratorFlags, model: &str) -> Value {
    match &flags.model_access_secret {
        Some(secret) => json!({"name": model, "presetOptions": {"modelAccessSecret": secret}}),
        None => json!({"name": model}),
    }
}

fn inference(flags: &GeneratorFlags, model: &str) -> Result<Value, Failure> {
    let mut map = Map::new();
    map.insert("preset".to_owned(), preset(flags, model));
    set(
        &mut map,
        "config",
        flags.inference_config.as_ref().map(|name| json!(name)),
    );
    if !flags.adapter.is_empty() {
        let adapters = flags
            .adapter
            .iter()
            .map(|text| adapter(text))
            .collect::<Result<Vec<_>, _>>()?;
        map.insert("adapters".to_owned(), json!(adapters));
    }
    Ok(Value::Object(map))
}

fn adapter(text: &str) -> Result<Value, Failure> {
    const FORM: &str = "NAME=IMAGE[,strength=S] or NAME=pvc:CLAIM[,strength=S]";
    let (name, rest) = text
        .split_once('=')
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| bad("--adapter", text, FORM))?;
    let (place, strength) = match rest.split_once(',') {
        Some((place, option)) => (
            place,
            Some(
                option
                    .strip_prefix("strength=")
                    .ok_or_else(|| bad("--adapter", text, FORM))?,
            ),
        ),
        None => (rest, None),
    };
    if place.is_empty() {
        return Err(bad("--adapter", text, FORM));
    }
    let source = match place.strip_prefix("pvc:") {
        Some(claim) => json!({"name": name, "volumeSource": claim_volume(claim)}),
        None => json!({"name": name, "image": place}),
    };
    Ok(match strength {
        Some(strength) => json!({"source": source, "strength": strength}),
        None => json!({"source": source}),
    })
}

fn claim_volume(claim: &str) -> Value {
    json!({"persistentVolumeClaim": {"claimName": claim}})
}

fn tuning(flags: &GeneratorFlags, model: &str, method: &str) -> Result<Value, Failure> {
    let mut map = Map::new();
    map.insert("preset".to_owned(), preset(flags, model));
    map.insert("method".to_owned(), json!(method));
    set(
        &mut map,
        "config",
        flags.tuning_config.as_ref().map(|name| json!(name)),
    );
    map.insert("input".to_owned(), input(&flags.input)?);
    map.insert("output".to_owned(), output(flags)?);
    Ok(Value::Object(map))
}

fn input(inputs: &[String]) -> Result<Value, Failure> {
    const FORM: &str = "url:URL, image:IMAGE or pvc:CLAIM";
    let urls: Vec<&str> = inputs
        .iter()
        .filter_map(|text| text.strip_prefix("url:"))
        .collect();
    if !urls.is_empty() && urls.len() == inputs.len() {
        return Ok(json!({"urls": urls}));
    }
    match inputs {
        [] => Err(Error::NoInput { form: FORM }.into()),
        [only] => match only.split_once(':') {
            Some(("image", image)) => Ok(json!({"image": image})),
            Some(("pvc", claim)) => Ok(json!({"volumeSource": claim_volume(claim)})),
            _ => Err(bad("--input", only, FORM)),
        },
        _ => Err(Error::ManyInputs.into()),
    }
}

fn output(flags: &GeneratorFlags) -> Result<Value, Failure> {
    const FORM: &str = "image:IMAGE or pvc:CLAIM";
    let text = flags.output_to.as_deref();
    let text = text.ok_or(Error::NoOutput { form: FORM })?;
    match (text.split_once(':'), &flags.push_secret) {
        (Some(("image", image)), Some(secret)) => {
            Ok(json!({"image": image, "imagePushSecret": secret}))
        }
        (Some(("image", _)), None) => Err(Error::NoPushSecret.into()),
        (Some(("pvc", claim)), _) => Ok(json!({"volumeSource": claim_volume(claim)})),
        _ => Err(bad("--output-to", text, FORM)),
    }
}

fn bad(flag: &'static str, value: &str, form: &'static str) -> Failure {
    let value = value.to_owned();
    Failure::verbatim(Error::Value { flag, value, form })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{GeneratorFlags, document};

    fn generated(flags: GeneratorFlags) -> Value {
        let flags = GeneratorFlags {
            name: Some("phi".to_owned()),
            model: Some("phi-4".to_owned()),
            ..flags
        };
        document(&flags).unwrap().unwrap().value()
    }

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn absent_flags_leave_absent_fields_and_the_result_is_admitted() {
        let object = generated(GeneratorFlags::default());
        assert_eq!(
            object,
            json!({
                "apiVersion": "kaito.sh/v1beta1", "kind": "Workspace", "metadata": {"name": "phi"},
                "resource": {"labelSelector": {"matchLabels": {"apps": "phi"}}},
                "inference": {"preset": {"name": "phi-4"}},
            })
        );
        assert_eq!(kaito_api::admission::validate_create(&object), []);
    }

    #[test]
    fn adapters_selectors_and_the_load_balancer_take_the_form_that_the_api_reads() {
        let object = generated(GeneratorFlags {
            adapter: texts(&["a=registry/a:1", "b=pvc:claim,strength=0.8"]),
            node_selector: texts(&["a=b", "c=d"]),
            enable_lb: true,
            ..GeneratorFlags::default()
        });
        assert_eq!(
            object["inference"]["adapters"],
            json!([
                {"source": {"name": "a", "image": "registry/a:1"}},
                {"source": {"name": "b", "volumeSource": {"persistentVolumeClaim": {"claimName": "claim"}}}, "strength": "0.8"},
            ])
        );
        assert_eq!(
            object["resource"]["labelSelector"]["matchLabels"],
            json!({"a": "b", "c": "d"})
        );
        assert_eq!(
            object["metadata"]["annotations"],
            json!({"kaito.sh/enablelb": "True"})
        );
    }

    #[test]
    fn tuning_has_one_source_and_one_destination() {
        let flags = |input: &[&str], output: Option<&str>, secret: Option<&str>| GeneratorFlags {
            name: Some("t".to_owned()),
            model: Some("phi-4".to_owned()),
            tune: Some("qlora".to_owned()),
            input: texts(input),
            output_to: output.map(str::to_owned),
            push_secret: secret.map(str::to_owned),
            instance_type: Some("Standard_NC24ads_A100_v4".to_owned()),
            ..GeneratorFlags::default()
        };
        let good = document(&flags(
            &["url:https://a/x", "url:https://a/y"],
            Some("image:r/a:1"),
            Some("s"),
        ))
        .unwrap()
        .unwrap();
        assert_eq!(
            good.value()["tuning"]["output"],
            json!({"image": "r/a:1", "imagePushSecret": "s"})
        );
        assert_eq!(kaito_api::admission::validate_create(&good.value()), []);
        for (input, output, secret, named) in [
            (&[][..], Some("pvc:c"), None, "--input"),
            (&["pvc:a", "image:b"][..], Some("pvc:c"), None, "--input"),
            (&["pvc:a"][..], None, None, "--output-to"),
            (&["pvc:a"][..], Some("image:r/a:1"), None, "--push-secret"),
            (&["x"][..], Some("pvc:c"), None, "--input"),
        ] {
            let failure = document(&flags(input, output, secret)).unwrap_err();
            assert!(failure.to_string().contains(named), "{failure}");
        }
    }
}
