//! Low-rank adapters in PEFT's format, applied while computing: the base weights stay shared and unchanged, and one batch
//! may go through several adapters.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::config::Config;
use super::load::Error;
use super::safetensors;
use super::transformer::Target;
use crate::kernel::matrix::{Input, Matrix};
use crate::kernel::vector::add;

/// Change of one matrix: `up * (down * input)`, the scale already in `up`.
#[derive(Clone, Debug)]
pub(super) struct Change {
    down: Matrix,
    up: Matrix,
}

/// What an adapter changes.
#[derive(Clone, Debug)]
pub struct Adapter {
    changes: HashMap<(usize, Target), Change>,
}

#[derive(Debug, Deserialize)]
struct File {
    peft_type: Option<String>,
    r: usize,
    lora_alpha: f64,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    fan_in_fan_out: bool,
    bias: Option<String>,
    modules_to_save: Option<Vec<String>>,
    #[serde(default)]
    rank_pattern: HashMap<String, usize>,
    #[serde(default)]
    alpha_pattern: HashMap<String, f64>,
}

impl File {
    fn refusal(&self) -> Option<&'static str> {
        if self.peft_type.as_deref().is_some_and(|kind| kind != "LORA") {
            return Some("its peft_type is not LORA");
        }
        if self.use_dora {
            return Some("it uses DoRA; merge it into the base weights first");
        }
        if self.fan_in_fan_out {
            return Some("fan_in_fan_out is set, which none of the families uses");
        }
        if self.bias.as_deref().is_some_and(|bias| bias != "none") {
            return Some("it trains biases; merge it into the base weights first");
        }
        if self
            .modules_to_save
            .as_ref()
            .is_some_and(|all| !all.is_empty())
        {
            return Some("it replaces whole modules (modules_to_save); merge it first");
        }
        (self.r == 0).then_some("its rank is 0")
    }

    fn scale(&self, module: &str) -> f64 {
        let matches = |pattern: &str| {
            module == pattern
                || module
                    .strip_suffix(pattern)
                    .is_some_and(|rest| rest.ends_with('.'))
        };
        let rank = self
            .rank_pattern
            .iter()
            .find(|(pattern, _)| matches(pattern));
        let alpha = self
            .alpha_pattern
            .iter()
            .find(|(pattern, _)| matches(pattern));
        let rank = rank.map_or(self.r, |(_, rank)| *rank) as f64;
        let alpha = alpha.map_or(self.lora_alpha, |(_, alpha)| *alpha);
        if self.use_rslora {
            alpha / rank.sqrt()
        } else {
            alpha / rank
        }
    }
}

impl Adapter {
    /// Reads `adapter_config.json` and `adapter_model.safetensors` of a folder, for a base of the given shape.
    ///
    /// # Errors
    /// [`Error`] if a file is missing or damaged, or the adapter does not fit the base.
    pub fn load(name: &str, folder: &Path, config: &Config) -> Result<Self, Error> {
        let refuse = |why: String| Error::Adapter {
            name: name.to_owned(),
            why,
        };
        let path = folder.join("adapter_config.json");
        let text = std::fs::read_to_string(&path).map_err(|e| Error::Read(path, e))?;
        let file: File = serde_json::from_str(&text)
            .map_err(|e| refuse(format!("adapter_config.json is not PEFT's: {e}")))?;
        if let Some(why) = file.refusal() {
            return Err(refuse(why.to_owned()));
        }
        let mut tensors = safetensors::read(&[folder.join("adapter_model.safetensors")])?.matrices;
        let modules: Vec<String> = tensors
            .keys()
            .filter_map(|key| key.strip_suffix(".lora_A.weight").map(str::to_owned))
            .collect();
        let mut changes = HashMap::new();
        for module in modules {
            let down = tensors.remove(&format!("{module}.lora_A.weight"));
            let up = tensors.remove(&format!("{module}.lora_B.weight"));
            let (Some(down), Some(up)) = (down, up) else {
                return Err(refuse(format!("{module} has no lora_B")));
            };
            let parts = parts(&module, config).ok_or_else(|| {
                refuse(format!("{module} is not a matrix that can be adapted here"))
            })?;
            let fitting = Fitting {
                module: &module,
                parts,
                scale: file.scale(&module),
            };
            fitting.add(down, &up, &mut changes).map_err(&refuse)?;
        }
        if let Some(key) = tensors.keys().next() {
            return Err(refuse(format!("tensor {key} is not part of a LoRA pair")));
        }
        if changes.is_empty() {
            return Err(refuse("it changes nothing".to_owned()));
        }
        Ok(Self { changes })
    }

    pub(super) fn change(&self, layer: usize, target: Target) -> Option<&Change> {
        self.changes.get(&(layer, target))
    }

    /// Bytes of its matrices.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let size = |matrix: &Matrix| matrix.rows() * matrix.columns() * size_of::<f32>();
        let changes = self.changes.values();
        changes
            .map(|change| size(&change.down) + size(&change.up))
            .sum()
    }
}

impl Change {
    /// Adds the change for every token.
    pub(super) fn apply(&self, input: &[f32], columns: usize, out: &mut [f32]) {
        let inner = self.down.multiply(&Input::new(input, columns));
        let change = self.up.multiply(&Input::new(&inner, self.down.rows()));
        add(out, &change);
    }
}

/// Layer, columns, and the targets with their rows that a module of an adapter stands for.
struct Parts {
    layer: usize,
    columns: usize,
    targets: Vec<(Target, usize)>,
}

fn parts(module: &str, config: &Config) -> Option<Parts> {
    let (_, rest) = module.split_once("layers.")?;
    let (layer, part) = rest.split_once('.')?;
    let layer = layer.parse().ok().filter(|layer| *layer < config.layers)?;
    let (heads, kv) = (config.heads * config.head, config.kv_width());
    let (hidden, wide) = (config.hidden, config.intermediate);
    let (columns, targets) = match part {
        "self_attn.q_proj" => (hidden, vec![(Target::Query, heads)]),
        "self_attn.k_proj" => (hidden, vec![(Target::Key, kv)]),
        "self_attn.v_proj" => (hidden, vec![(Target::Value, kv)]),
        "self_attn.qkv_proj" => {
            let all = vec![
                (Target::Query, heads),
                (Target::Key, kv),
                (Target::Value, kv),
            ];
            (hidden, all)
        }
        "self_attn.o_proj" => (heads, vec![(Target::Output, hidden)]),
        "mlp.gate_proj" => (hidden, vec![(Target::Gate, wide)]),
        "mlp.up_proj" => (hidden, vec![(Target::Up, wide)]),
        "mlp.gate_up_proj" => (hidden, vec![(Target::Gate, wide), (Target::Up, wide)]),
        "mlp.down_proj" => (wide, vec![(Target::Down, hidden)]),
        _ => return None,
    };
    Some(Parts {
        layer,
        columns,
        targets,
    })
}

struct Fitting<'a> {
    module: &'a str,
    parts: Parts,
    scale: f64,
}

impl Fitting<'_> {
    fn add(
        &self,
        down: Matrix,
        up: &Matrix,
        changes: &mut HashMap<(usize, Target), Change>,
    ) -> Result<(), String> {
        let rows: usize = self.parts.targets.iter().map(|(_, rows)| rows).sum();
        let expected = (self.parts.columns, rows, down.rows());
        let found = (down.columns(), up.rows(), up.columns());
        if expected != found {
            return Err(format!(
                "{} has inputs, outputs and rank {found:?} where the base model has {expected:?}: it was made for another",
                self.module
            ));
        }
        let down = widened(&down, 1.0);
        let up = widened(up, self.scale);
        let sizes: Vec<usize> = self.parts.targets.iter().map(|(_, rows)| *rows).collect();
        let ups = up.split(&sizes).unwrap_or_default();
        for ((target, _), up) in self.parts.targets.iter().zip(ups) {
            let down = down.clone();
            changes.insert((self.parts.layer, *target), Change { down, up });
        }
        Ok(())
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a scale of some tens, times weights of 16 bits"
)]
fn widened(matrix: &Matrix, scale: f64) -> Matrix {
    let mut values = Vec::with_capacity(matrix.rows() * matrix.columns());
    for row in 0..matrix.rows() {
        matrix.row(row, &mut values);
    }
    for value in &mut values {
        *value = (f64::from(*value) * scale) as f32;
    }
    Matrix::from_rows(values, matrix.columns())
}
