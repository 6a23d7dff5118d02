//! A model's `config.json`: what it is, in which type it was trained, how it was quantised.

use serde::Deserialize;
use serde_json::Value;

use super::Description;

/// The fields of `config.json` that are read. Values of unexpected types are as if they were not there.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Config {
    architectures: Value,
    model_type: Value,
    torch_dtype: Value,
    dtype: Value,
    quantization_config: Value,
    compression_config: Value,
    max_position_embeddings: Value,
    n_positions: Value,
    max_sequence_length: Value,
    seq_length: Value,
    num_local_experts: Value,
    num_experts: Value,
    n_routed_experts: Value,
    text_config: Value,
    vision_config: Value,
    audio_config: Value,
    num_hidden_layers: Value,
    n_layer: Value,
}

pub(super) fn parse(bytes: &[u8]) -> Option<Config> {
    serde_json::from_slice(bytes).ok()
}

impl Config {
    /// Bits of a packed weight.
    pub(super) fn weight_bits(&self) -> Option<u64> {
        let quantization = self.quantization()?;
        if quantization.get("load_in_8bit") == Some(&Value::Bool(true)) {
            return Some(8);
        }
        quantization
            .get("bits")
            .or_else(|| quantization.get("w_bit"))
            .or_else(|| {
                let groups = quantization.get("config_groups")?.as_object()?;
                groups.values().next()?.get("weights")?.get("num_bits")
            })
            .and_then(Value::as_u64)
    }

    /// Adds what the configuration says.
    pub(super) fn describe(&self, description: &mut Description) {
        let architectures = self.architectures();
        if !architectures.is_empty() || self.field(&["num_hidden_layers", "n_layer"]).is_some() {
            description.architecture = Some(self.architecture(&architectures));
        }
        if let Some(family) = self.model_type.as_str() {
            description.family = Some(family.to_owned());
        }
        description.quantization = self
            .quantization_method()
            .or(description.quantization.take());
        if description.precision.is_none() {
            description.precision = self.declared_type();
        }
        let length = self.field(&[
            "max_position_embeddings",
            "n_positions",
            "max_sequence_length",
            "seq_length",
        ]);
        description.context_length = length.or(description.context_length);
        let experts = self.field(&["num_local_experts", "num_experts", "n_routed_experts"]);
        description.experts = experts
            .filter(|experts| *experts > 1)
            .or(description.experts);
        self.describe_types(&architectures, description);
    }

    fn quantization(&self) -> Option<&Value> {
        [&self.quantization_config, &self.compression_config]
            .into_iter()
            .chain(self.text_config.get("quantization_config"))
            .find(|value| value.is_object())
    }

    /// The method by the name under which engines know it.
    fn quantization_method(&self) -> Option<String> {
        let quantization = self.quantization()?;
        let method = quantization.get("quant_method").and_then(Value::as_str);
        let bits = |name: &str| quantization.get(name) == Some(&Value::Bool(true));
        let named = match method {
            Some(method) => method.to_lowercase(),
            None if bits("load_in_4bit") || bits("load_in_8bit") => "bitsandbytes".to_owned(),
            None => return None,
        };
        Some(named)
    }

    fn declared_type(&self) -> Option<String> {
        let own = [&self.torch_dtype, &self.dtype];
        let nested = ["torch_dtype", "dtype"].map(|name| self.text_config.get(name));
        own.into_iter()
            .chain(nested.into_iter().flatten())
            .find_map(Value::as_str)
            .map(|name| name.trim_start_matches("torch.").to_owned())
    }

    fn architectures(&self) -> Vec<&str> {
        let names = self.architectures.as_array();
        names
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }

    /// State-space models are not transformers; everything else with layers that the hub's library loads is.
    fn architecture(&self, architectures: &[&str]) -> String {
        let family = self.model_type.as_str().unwrap_or_default();
        let recurrent = ["mamba", "rwkv"];
        let is = |name: &str| {
            recurrent
                .iter()
                .find(|known| name.to_lowercase().starts_with(*known))
        };
        let known = is(family).or_else(|| architectures.iter().find_map(|name| is(name)));
        (*known.unwrap_or(&"transformer")).to_owned()
    }

    fn describe_types(&self, architectures: &[&str], description: &mut Description) {
        let ends = |ends: &[&str]| {
            architectures
                .iter()
                .any(|name| ends.iter().any(|end| name.ends_with(end)))
        };
        let generates = ends(&["ForCausalLM", "LMHeadModel", "ForConditionalGeneration"]);
        let embeds = !generates && ends(&["Model"]);
        if !generates && !embeds {
            return;
        }
        let mut inputs = vec!["text".to_owned()];
        for (config, name) in [
            (&self.vision_config, "image"),
            (&self.audio_config, "audio"),
        ] {
            if config.is_object() {
                inputs.push(name.to_owned());
            }
        }
        description.input_types = inputs;
        let output = if generates { "text" } else { "embedding" };
        description.output_types = vec![output.to_owned()];
    }

    /// The first of these numbers that is there, at the top or for the text part.
    fn field(&self, names: &[&str]) -> Option<u64> {
        names.iter().find_map(|name| {
            self.number(name)
                .or_else(|| self.text_config.get(*name)?.as_u64())
        })
    }

    fn number(&self, name: &str) -> Option<u64> {
        match name {
            "max_position_embeddings" => &self.max_position_embeddings,
            "n_positions" => &self.n_positions,
            "max_sequence_length" => &self.max_sequence_length,
            "seq_length" => &self.seq_length,
            "num_local_experts" => &self.num_local_experts,
            "num_experts" => &self.num_experts,
            "n_routed_experts" => &self.n_routed_experts,
            "num_hidden_layers" => &self.num_hidden_layers,
            "n_layer" => &self.n_layer,
            _ => return None,
        }
        .as_u64()
    }
}
