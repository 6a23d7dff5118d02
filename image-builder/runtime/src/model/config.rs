//! Shape of a model, from `config.json` or from the metadata of a GGUF file.

use serde::Deserialize;

/// Families that are understood. They differ in biases, in fused tensors and in how positions are encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Llama 2 and 3, SmolLM2, and what else has their shape.
    Llama,
    /// Mistral 7B and its kin.
    Mistral,
    /// Qwen2 and Qwen2.5: biases on query, key and value.
    Qwen2,
    /// Phi-3 and Phi-3.5 mini: fused tensors, two sets of frequencies.
    Phi3,
}

impl Family {
    /// By the `model_type` of a `config.json`, or the architecture of a GGUF file.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "llama" => Some(Self::Llama),
            "mistral" => Some(Self::Mistral),
            "qwen2" => Some(Self::Qwen2),
            "phi3" => Some(Self::Phi3),
            _ => None,
        }
    }
}

/// How frequencies of the rotary embedding are stretched for long contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum Scaling {
    /// As trained.
    None,
    /// Every position is divided by the factor.
    Linear {
        /// At least 1.
        factor: f64,
    },
    /// Llama 3.1: low frequencies are divided, high ones kept, those between blended.
    Llama3 {
        /// Divides low frequencies.
        factor: f64,
        /// Wavelengths longer than the original context by this factor are low.
        low: f64,
        /// Wavelengths shorter than the original context by this factor are high.
        high: f64,
        /// Context of the first training, in tokens.
        original: f64,
    },
    /// Each frequency is divided by its own factor: short ones up to the original context, long ones beyond.
    Factors {
        /// One for each frequency, up to the original context.
        short: Vec<f64>,
        /// One for each frequency, beyond.
        long: Vec<f64>,
        /// Context of the first training, in tokens.
        original: usize,
        /// Multiplies sines and cosines.
        attention: f64,
    },
}

/// Shape of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Which family.
    pub family: Family,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the feed-forward part.
    pub intermediate: usize,
    /// How many layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head: usize,
    /// Part of a head that is rotated.
    pub rotated: usize,
    /// Added to the mean square before its root.
    pub epsilon: f32,
    /// Base of the rotary frequencies.
    pub rope_base: f64,
    /// Stretching of the rotary frequencies.
    pub scaling: Scaling,
    /// Longest sequence, in tokens.
    pub context: usize,
    /// A token sees this many before it, itself included; all if none.
    pub window: Option<usize>,
}

/// Why a configuration is not one of a model that is understood.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not JSON, or fields are missing.
    #[error("reading config.json: it is not the configuration of a decoder")]
    Parse(#[source] serde_json::Error),
    /// Another architecture.
    #[error("model type {0:?} is not among llama, mistral, qwen2 and phi3; serve it with vLLM")]
    Family(String),
    /// Another way to stretch frequencies.
    #[error("rope scaling {0:?} is not known; serve the model with vLLM")]
    Scaling(String),
    /// Weights packed by a tool for GPUs.
    #[error(
        "the weights are quantised for GPUs (quantization_config); use plain safetensors or GGUF"
    )]
    Quantised,
    /// Numbers that do not belong together.
    #[error("{what} cannot be: {value}; the configuration is damaged")]
    Value {
        /// Name of the number.
        what: &'static str,
        /// What it was.
        value: String,
    },
}

#[derive(Debug, Deserialize)]
struct File {
    model_type: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    rms_norm_eps: f32,
    rope_theta: Option<f64>,
    rope_scaling: Option<serde_json::Value>,
    /// Since transformers 5 the base lies with the scaling.
    rope_parameters: Option<serde_json::Value>,
    max_position_embeddings: usize,
    original_max_position_embeddings: Option<usize>,
    partial_rotary_factor: Option<f64>,
    sliding_window: Option<usize>,
    use_sliding_window: Option<bool>,
    quantization_config: Option<serde_json::Value>,
}

impl Config {
    /// Reads a `config.json`.
    ///
    /// # Errors
    /// [`Error`] if it is not JSON, of another family, or contradicts itself.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        let file: File = serde_json::from_str(text).map_err(Error::Parse)?;
        let family = Family::of(&file.model_type).ok_or(Error::Family(file.model_type.clone()))?;
        if file.quantization_config.is_some() {
            return Err(Error::Quantised);
        }
        let heads = file.num_attention_heads;
        let head = file
            .head_dim
            .unwrap_or_else(|| file.hidden_size / heads.max(1));
        let share = file.partial_rotary_factor.unwrap_or(1.0);
        let rotated = (0..=head)
            .rev()
            .find(|rotated| *rotated as f64 <= head as f64 * share)
            .unwrap_or(0);
        let parameters = file.rope_parameters.as_ref().or(file.rope_scaling.as_ref());
        let base = parameters.and_then(|all| all.get("rope_theta")?.as_f64());
        let config = Self {
            family,
            hidden: file.hidden_size,
            intermediate: file.intermediate_size,
            layers: file.num_hidden_layers,
            heads,
            kv_heads: file.num_key_value_heads.unwrap_or(heads),
            head,
            rotated,
            epsilon: file.rms_norm_eps,
            rope_base: file.rope_theta.or(base).unwrap_or(10_000.0),
            scaling: scaling(parameters, &file)?,
            context: file.max_position_embeddings,
            window: file
                .sliding_window
                .filter(|_| file.use_sliding_window.unwrap_or(true)),
        };
        config.check()?;
        Ok(config)
    }

    /// Refuses numbers that would divide by zero or not fit together.
    ///
    /// # Errors
    /// [`Error::Value`] with the first of them.
    pub fn check(&self) -> Result<(), Error> {
        let numbers = [
            ("hidden size", self.hidden),
            ("intermediate size", self.intermediate),
            ("number of layers", self.layers),
            ("number of heads", self.heads),
            ("number of key-value heads", self.kv_heads),
            ("head size", self.head),
            ("context", self.context),
        ];
        for (what, value) in numbers {
            if value == 0 {
                return Err(Error::Value {
                    what,
                    value: value.to_string(),
                });
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(Error::Value {
                what: "heads for each key-value head",
                value: format!("{}/{}", self.heads, self.kv_heads),
            });
        }
        if !self.rotated.is_multiple_of(2) || self.rotated > self.head {
            return Err(Error::Value {
                what: "rotated part of a head",
                value: self.rotated.to_string(),
            });
        }
        Ok(())
    }

    /// Width of all keys, or all values, of one token in one layer.
    #[must_use]
    pub fn kv_width(&self) -> usize {
        self.kv_heads * self.head
    }

    /// Bytes that one token of context takes in all layers.
    #[must_use]
    pub fn cache_bytes_per_token(&self) -> usize {
        self.layers * 2 * self.kv_width() * size_of::<f32>()
    }
}

fn scaling(parameters: Option<&serde_json::Value>, file: &File) -> Result<Scaling, Error> {
    let Some(parameters) = parameters.filter(|value| value.is_object()) else {
        return Ok(Scaling::None);
    };
    let kind = ["rope_type", "type"]
        .iter()
        .find_map(|key| parameters.get(key)?.as_str())
        .unwrap_or("default");
    let number = |key: &str, otherwise: f64| {
        let value = parameters.get(key).and_then(serde_json::Value::as_f64);
        value.unwrap_or(otherwise)
    };
    let original = file
        .original_max_position_embeddings
        .unwrap_or(file.max_position_embeddings);
    match kind {
        "default" => Ok(Scaling::None),
        "linear" => Ok(Scaling::Linear {
            factor: number("factor", 1.0),
        }),
        "llama3" => Ok(Scaling::Llama3 {
            factor: number("factor", 8.0),
            low: number("low_freq_factor", 1.0),
            high: number("high_freq_factor", 4.0),
            original: number("original_max_position_embeddings", 8192.0),
        }),
        "longrope" | "su" => {
            let list = |key: &str| {
                let values = parameters.get(key).and_then(serde_json::Value::as_array);
                let values = values.into_iter().flatten();
                values.filter_map(serde_json::Value::as_f64).collect()
            };
            Ok(Scaling::Factors {
                short: list("short_factor"),
                long: list("long_factor"),
                original,
                attention: long_attention(file.max_position_embeddings, original),
            })
        }
        other => Err(Error::Scaling(other.to_owned())),
    }
}

/// Factor by which LongRoPE (arXiv 2402.13753) raises attention when the context was stretched.
pub(super) fn long_attention(context: usize, original: usize) -> f64 {
    let stretch = context as f64 / original.max(1) as f64;
    if stretch <= 1.0 || original <= 1 {
        return 1.0;
    }
    (1.0 + stretch.ln() / (original as f64).ln()).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMOL: &str = r#"{"model_type": "llama", "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "rms_norm_eps": 1e-05,
        "rope_theta": 100000, "rope_scaling": null, "max_position_embeddings": 8192}"#;

    #[test]
    fn a_plain_llama_is_read() {
        let config = Config::from_json(SMOL).unwrap();
        assert_eq!(config.head, 64);
        assert_eq!(config.kv_width(), 192);
        assert_eq!(config.cache_bytes_per_token(), 30 * 2 * 192 * 4);
        assert_eq!(config.scaling, Scaling::None);
    }

    #[test]
    fn other_families_and_damaged_numbers_are_refused_by_name() {
        let other = SMOL.replace("\"llama\"", "\"mamba\"");
        let error = Config::from_json(&other).unwrap_err().to_string();
        assert!(error.contains("mamba"), "{error}");
        let damaged = SMOL.replace("\"num_key_value_heads\": 3", "\"num_key_value_heads\": 2");
        assert!(Config::from_json(&damaged).is_err());
        let yarn = SMOL.replace("null", r#"{"type": "yarn", "factor": 4.0}"#);
        assert!(
            Config::from_json(&yarn)
                .unwrap_err()
                .to_string()
                .contains("yarn")
        );
    }

    #[test]
    fn the_base_is_found_where_newer_files_keep_it() {
        let newer = SMOL.replace("\"rope_theta\": 100000, ", "").replace(
            "\"rope_scaling\": null",
            r#""rope_parameters": {"rope_type": "default", "rope_theta": 5e5}"#,
        );
        assert!((Config::from_json(&newer).unwrap().rope_base - 5e5).abs() < 1.0);
    }
}
