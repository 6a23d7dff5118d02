//! Reads GGUF files: shape from metadata, tensors under the names and in the row order of transformers.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use candle_core::Device;
use candle_core::quantized::gguf_file::{Content, Value};

use super::config::{Config, Family, Scaling, long_attention};
use super::load::{Error, Tensors};
use super::safetensors::vector;
use crate::kernel::matrix::Matrix;

/// Metadata under the prefix of the architecture.
struct Metadata<'a> {
    content: &'a Content,
    architecture: String,
}

impl Metadata<'_> {
    fn value(&self, key: &str) -> Option<&Value> {
        let key = format!("{}.{key}", self.architecture);
        self.content.metadata.get(&key)
    }

    fn number(&self, key: &str) -> Option<usize> {
        let value = self.value(key)?;
        let number = value.to_u64().ok();
        let number = number.or_else(|| value.to_u32().ok().map(u64::from));
        usize::try_from(number?).ok()
    }

    fn required(&self, key: &str) -> Result<usize, Error> {
        let missing = || Error::Metadata(format!("{}.{key}", self.architecture));
        self.number(key).ok_or_else(missing)
    }

    fn float(&self, key: &str) -> Option<f64> {
        let value = self.value(key)?;
        let wide = value.to_f64().ok();
        wide.or_else(|| value.to_f32().ok().map(f64::from))
    }
}

/// Shape of the model in a file.
pub(super) fn config(path: &Path, content: &Content) -> Result<Config, Error> {
    let architecture = content.metadata.get("general.architecture");
    let architecture = architecture.and_then(|value| value.to_string().ok());
    let architecture =
        architecture.ok_or_else(|| Error::Metadata("general.architecture".to_owned()))?;
    let damaged = |e| Error::Config(path.to_owned(), e);
    let family = Family::of(architecture)
        .ok_or_else(|| damaged(super::config::Error::Family(architecture.clone())))?;
    let metadata = Metadata {
        content,
        architecture: architecture.clone(),
    };
    let heads = metadata.required("attention.head_count")?;
    let hidden = metadata.required("embedding_length")?;
    let head = metadata
        .number("attention.key_length")
        .unwrap_or(hidden / heads.max(1));
    let context = metadata.required("context_length")?;
    let epsilon = metadata
        .float("attention.layer_norm_rms_epsilon")
        .unwrap_or(1e-5);
    let config = Config {
        family,
        hidden,
        intermediate: metadata.required("feed_forward_length")?,
        layers: metadata.required("block_count")?,
        heads,
        kv_heads: metadata.number("attention.head_count_kv").unwrap_or(heads),
        head,
        rotated: metadata.number("rope.dimension_count").unwrap_or(head),
        epsilon: narrow(epsilon),
        rope_base: metadata.float("rope.freq_base").unwrap_or(10_000.0),
        scaling: scaling(path, &metadata, context)?,
        context,
        window: metadata
            .number("attention.sliding_window")
            .filter(|window| *window > 0),
    };
    config.check().map_err(damaged)?;
    Ok(config)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the file holds 32 bits, or a constant near 1e-5"
)]
fn narrow(value: f64) -> f32 {
    value as f32
}

fn scaling(path: &Path, metadata: &Metadata<'_>, context: usize) -> Result<Scaling, Error> {
    let factors = |name: &str| -> Result<Option<Vec<f64>>, Error> {
        if !metadata.content.tensor_infos.contains_key(name) {
            return Ok(None);
        }
        let mut file = open(path)?;
        let tensor = metadata.content.tensor(&mut file, name, &Device::Cpu);
        let values = tensor
            .and_then(|tensor| tensor.dequantize(&Device::Cpu))
            .and_then(|tensor| vector(&tensor));
        let values = values.map_err(|source| Error::Format {
            path: path.to_owned(),
            source: Box::new(source),
        })?;
        Ok(Some(values.into_iter().map(f64::from).collect()))
    };
    let original = metadata.number("rope.scaling.original_context_length");
    let original = original.unwrap_or(context);
    if let Some(both) = factors("rope_freqs.weight")? {
        // One set of divisors for all lengths: Llama 3.1's stretching, worked out by whoever wrote the file.
        return Ok(Scaling::Factors {
            short: both.clone(),
            long: both,
            original,
            attention: 1.0,
        });
    }
    let short = factors("rope_factors_short.weight")?;
    if let (Some(short), Some(long)) = (short, factors("rope_factors_long.weight")?) {
        let written = metadata.float("rope.scaling.attn_factor");
        return Ok(Scaling::Factors {
            short,
            long,
            original,
            attention: written.unwrap_or_else(|| long_attention(context, original)),
        });
    }
    let kind = metadata.value("rope.scaling.type");
    match kind
        .and_then(|kind| kind.to_string().ok())
        .map(String::as_str)
    {
        None | Some("none" | "longrope") => Ok(Scaling::None),
        Some("linear") => Ok(Scaling::Linear {
            factor: metadata.float("rope.scaling.factor").unwrap_or(1.0),
        }),
        Some(other) => Err(Error::Config(
            path.to_owned(),
            super::config::Error::Scaling(other.to_owned()),
        )),
    }
}

fn open(path: &Path) -> Result<BufReader<File>, Error> {
    let file = File::open(path).map_err(|e| Error::Read(path.to_owned(), e))?;
    Ok(BufReader::with_capacity(1 << 20, file))
}

/// All tensors of a file.
pub(super) fn read(path: &Path, content: &Content, config: &Config) -> Result<Tensors, Error> {
    let mut file = open(path)?;
    let mut all = Tensors::default();
    let mut names: Vec<(&String, u64)> = content
        .tensor_infos
        .iter()
        .map(|(name, info)| (name, info.offset))
        .collect();
    names.sort_by_key(|(_, offset)| *offset);
    for (name, _) in names {
        let Some(renamed) = rename(name, config.family) else {
            continue;
        };
        let format = |source| Error::Format {
            path: path.to_owned(),
            source: Box::new(source),
        };
        let tensor = content
            .tensor(&mut file, name, &Device::Cpu)
            .map_err(format)?;
        let order = order(config, &renamed);
        if tensor.rank() == 2 {
            let matrix = Matrix::from_quantised(&renamed, &tensor, order)?;
            all.matrices.insert(renamed, matrix);
        } else {
            let values = tensor.dequantize(&Device::Cpu).map_err(format)?;
            let values = vector(&values).map_err(format)?;
            let ordered = (0..values.len()).filter_map(|row| values.get(order(row)).copied());
            all.vectors.insert(renamed, ordered.collect());
        }
    }
    Ok(all)
}

/// GGUF files of the Llama architecture (Mistral's among them) have the rows of queries and keys shuffled, so that the
/// two values that are rotated together are neighbours. Here they are half a head apart, as in transformers.
fn order(config: &Config, name: &str) -> impl Fn(usize) -> usize + use<> {
    let shuffled = matches!(config.family, Family::Llama | Family::Mistral)
        && (name.contains("q_proj") || name.contains("k_proj"));
    let (head, half) = (config.head, config.rotated / 2);
    move |row| {
        let place = row % head;
        if !shuffled || place >= 2 * half {
            return row;
        }
        let (side, pair) = (place / half, place % half);
        row - place + 2 * pair + side
    }
}

/// The name that transformers gives a tensor; nothing for those that are read elsewhere.
fn rename(name: &str, family: Family) -> Option<String> {
    let whole = match name {
        "token_embd.weight" => Some("model.embed_tokens.weight"),
        "output_norm.weight" => Some("model.norm.weight"),
        "output.weight" => Some("lm_head.weight"),
        _ => None,
    };
    if let Some(whole) = whole {
        return Some(whole.to_owned());
    }
    let (number, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let (part, kind) = part.rsplit_once('.')?;
    let part = match part {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_qkv" => "self_attn.qkv_proj",
        "attn_output" => "self_attn.o_proj",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        // Gate and up in one tensor, under the name of the latter.
        "ffn_up" if family == Family::Phi3 => "mlp.gate_up_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    Some(format!("model.layers.{number}.{part}.{kind}"))
}
