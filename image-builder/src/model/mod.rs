//! What a model is, read from its own files: never asked for, never guessed from a name. Readers are bounded and refuse
//! rather than panic: their input may be anything. May do no I/O.

mod adapter;
mod card;
mod config;
pub mod gguf;
mod parameters;
pub mod safetensors;
pub(crate) mod shards;

use std::collections::BTreeSet;

use serde::Serialize;

pub use adapter::Adapter;

use crate::plan::Contents;
use crate::source::File;

/// What was read about a model. Everything may be unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Description {
    /// `transformer`, where the configuration shows one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub architecture: Option<String>,
    /// `llama`, `qwen2`: the configuration's model type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// `safetensors`, `gguf`, `pytorch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Parameters, counted from the shapes of all tensors; unset where a header could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<u64>,
    /// `bfloat16`, or several separated by commas, most bytes first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precision: Option<String>,
    /// `awq`, `gptq`, `fp8`, `bitsandbytes`, `Q4_K_M`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<String>,
    /// Tokens of context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub context_length: Option<u64>,
    /// Experts of a mixture.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts: Option<u64>,
    /// SPDX identifiers, or `LicenseRef-…` for licences that have none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub licenses: Vec<String>,
    /// Two lower-case letters each, sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub languages: Vec<String>,
    /// Data sets that the card names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub datasets: Vec<String>,
    /// Base models that the card names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub base_models: Vec<String>,
    /// `text`, `image`, `audio`, `video`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub input_types: Vec<String>,
    /// `text`, `embedding`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub output_types: Vec<String>,
    /// What an adapter says of itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<Adapter>,
}

impl Description {
    /// The licences as one SPDX expression.
    #[must_use]
    pub fn license_expression(&self) -> Option<String> {
        (!self.licenses.is_empty()).then(|| self.licenses.join(" OR "))
    }
}

/// Reads a model's own files, as far as they were read. What is not there or cannot be read stays unknown.
#[must_use]
pub fn describe(files: &[&File], contents: &Contents) -> Description {
    let text = |path: &str| {
        let file = files.iter().find(|file| file.path == path)?;
        contents.whole(file)
    };
    let mut description = Description {
        format: format(files),
        adapter: text("adapter_config.json").and_then(|bytes| adapter::parse(&bytes)),
        ..Description::default()
    };
    if let Some(bytes) = text("README.md") {
        card::describe(&bytes, &mut description);
    }
    let config = text("config.json").and_then(|bytes| config::parse(&bytes));
    let bits = config.as_ref().and_then(config::Config::weight_bits);
    describe_tensors(files, contents, bits, &mut description);
    // The configuration says what was meant, so it wins over what tensors look like.
    if let Some(config) = &config {
        config.describe(&mut description);
    }
    description
}

fn format(files: &[&File]) -> Option<String> {
    let has = |end: &str| {
        files
            .iter()
            .any(|file| file.path.to_lowercase().ends_with(end))
    };
    let known = [
        (".safetensors", "safetensors"),
        (".gguf", "gguf"),
        (".onnx", "onnx"),
        (".bin", "pytorch"),
        (".pt", "pytorch"),
        (".pth", "pytorch"),
    ];
    let (_, format) = known.iter().find(|(end, _)| has(end))?;
    Some((*format).to_owned())
}

fn describe_tensors(
    files: &[&File],
    contents: &Contents,
    bits: Option<u64>,
    description: &mut Description,
) {
    let ends = |file: &&&File, end: &str| file.path.to_lowercase().ends_with(end);
    let tensors: Vec<_> = files
        .iter()
        .filter(|file| ends(file, ".safetensors"))
        .collect();
    if !tensors.is_empty() {
        let headers: Option<Vec<_>> = tensors
            .iter()
            .map(|file| safetensors::parse(contents.beginning(&file.path)?).ok())
            .collect();
        if let Some(headers) = headers {
            description.parameters = parameters::count(&headers, bits);
            description.precision = parameters::precision(&headers);
        }
        return;
    }
    let files: Vec<_> = files.iter().filter(|file| ends(file, ".gguf")).collect();
    let headers: Option<Vec<_>> = files
        .iter()
        .map(|file| gguf::parse(contents.beginning(&file.path)?).ok())
        .collect();
    if let Some(headers) = headers.filter(|headers| !headers.is_empty()) {
        gguf::describe(&headers, description);
    }
}

/// Texts without repetition, in their first order.
fn unique(texts: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut seen = BTreeSet::new();
    texts
        .into_iter()
        .filter(|text| !text.is_empty() && seen.insert(text.clone()))
        .collect()
}

#[cfg(test)]
mod tests;
