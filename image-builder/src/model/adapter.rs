//! A PEFT adapter's `adapter_config.json`.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What an adapter says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Adapter {
    /// `LORA`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peft_type: Option<String>,
    /// Rank.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rank: Option<u64>,
    /// Alpha, as it is written: it may be no integer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha: Option<String>,
    /// Modules that it changes, sorted; one text may be a regular expression.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub target_modules: Vec<String>,
    /// Base model as its author named it, unless that is a path on the author's disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_model: Option<String>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Config {
    peft_type: Value,
    r: Value,
    lora_alpha: Value,
    target_modules: Value,
    base_model_name_or_path: Value,
}

pub(super) fn parse(bytes: &[u8]) -> Option<Adapter> {
    let config: Config = serde_json::from_slice(bytes).ok()?;
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let mut target_modules = match &config.target_modules {
        Value::String(module) => vec![module.clone()],
        Value::Array(modules) => modules.iter().filter_map(text).collect(),
        _ => Vec::new(),
    };
    // PEFT writes a set: its order differs from one save to the next.
    target_modules.sort();
    target_modules.dedup();
    Some(Adapter {
        peft_type: text(&config.peft_type),
        rank: config.r.as_u64(),
        alpha: config.lora_alpha.as_number().map(ToString::to_string),
        target_modules,
        base_model: text(&config.base_model_name_or_path).filter(|name| !is_local(name)),
    })
}

/// Whether a name is a path: it tells nothing to others, and may tell too much.
fn is_local(name: &str) -> bool {
    name.is_empty()
        || name.starts_with(['/', '.', '~', '\\'])
        || name.contains(['\\', ':'])
        || name.matches('/').count() > 1
}
