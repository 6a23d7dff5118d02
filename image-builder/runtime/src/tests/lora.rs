use std::collections::HashMap;

use candle_core::Tensor;
use serde_json::json;
use tempfile::TempDir;

use super::fixture::{Random, Shape, folder, weights, write_json};
use super::model::{bits, logits};
use super::reference::difference;
use crate::model::{Adapter, Cache, Model, Source, Step};

const PROMPT: [u32; 6] = [10, 20, 30, 40, 50, 60];
const RANK: usize = 4;
const ALPHA: f64 = 6.0;

struct Pair {
    module: &'static str,
    /// Matrices of the unfused weights that it changes, with their rows.
    parts: Vec<(&'static str, usize)>,
    rows: usize,
    columns: usize,
}

fn pairs(shape: &Shape) -> Vec<Pair> {
    let pair = |module, parts: Vec<(&'static str, usize)>, columns| Pair {
        module,
        rows: parts.iter().map(|(_, rows)| rows).sum(),
        parts,
        columns,
    };
    let (heads, kv, wide, hidden) = (
        shape.heads * shape.head,
        shape.kv(),
        shape.wide,
        shape.hidden,
    );
    let qkv = vec![
        ("self_attn.q_proj", heads),
        ("self_attn.k_proj", kv),
        ("self_attn.v_proj", kv),
    ];
    let gate_up = vec![("mlp.gate_proj", wide), ("mlp.up_proj", wide)];
    let mut all = vec![
        pair(
            "self_attn.o_proj",
            vec![("self_attn.o_proj", hidden)],
            heads,
        ),
        pair("mlp.down_proj", vec![("mlp.down_proj", hidden)], wide),
    ];
    if shape.kind == "phi3" {
        all.push(pair("self_attn.qkv_proj", qkv, hidden));
        all.push(pair("mlp.gate_up_proj", gate_up, hidden));
    } else {
        for (name, rows) in qkv.into_iter().chain(gate_up) {
            all.push(pair(name, vec![(name, rows)], hidden));
        }
    }
    all
}

/// An adapter of all matrices, and the base with its change added by the formula `W + alpha / r * B * A`.
fn adapted(shape: &Shape, seed: u64) -> (TempDir, Model, Model) {
    let base = weights(shape, seed);
    let mut merged = base.clone();
    let mut random = Random(seed + 100);
    let mut file = HashMap::new();
    for layer in 0..shape.layers {
        for pair in pairs(shape) {
            let down = random.tensor(&[RANK, pair.columns], 0.3);
            let up = random.tensor(&[pair.rows, RANK], 0.3);
            let change = (up.matmul(&down).unwrap() * (ALPHA / RANK as f64)).unwrap();
            let mut first = 0;
            for (part, rows) in &pair.parts {
                let name = format!("model.layers.{layer}.{part}.weight");
                let part = change.narrow(0, first, *rows).unwrap();
                let sum = (merged.get(&name).unwrap() + part).unwrap();
                merged.insert(name, sum);
                first += rows;
            }
            let module = format!("base_model.model.model.layers.{layer}.{}", pair.module);
            file.insert(format!("{module}.lora_A.weight"), down);
            file.insert(format!("{module}.lora_B.weight"), up);
        }
    }
    let adapter = adapter_folder(
        &file,
        json!({"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none"}),
    );
    let load = |weights| {
        Source::open(folder(shape, weights).path())
            .unwrap()
            .load(None)
            .unwrap()
    };
    (adapter, load(&base), load(&merged))
}

fn adapter_folder(tensors: &HashMap<String, Tensor>, config: serde_json::Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_json(folder.path(), "adapter_config.json", &config);
    candle_core::safetensors::save(tensors, folder.path().join("adapter_model.safetensors"))
        .unwrap();
    folder
}

fn through(model: &Model, adapters: &[Option<&Adapter>]) -> Vec<Vec<f32>> {
    let mut caches = vec![Cache::new(model.config()); adapters.len()];
    let mut steps: Vec<Step<'_>> = caches
        .iter_mut()
        .zip(adapters)
        .map(|(cache, adapter)| Step {
            cache,
            tokens: &PROMPT,
            adapter: *adapter,
            wants_logits: true,
        })
        .collect();
    model
        .forward(&mut steps)
        .into_iter()
        .map(Option::unwrap)
        .collect()
}

#[test]
fn an_adapter_does_what_weights_merged_by_the_formula_do() {
    for kind in ["llama", "qwen2", "phi3"] {
        let (folder, base, merged) = adapted(&Shape::of(kind), 11);
        let adapter = Adapter::load("a", folder.path(), base.config()).unwrap();
        let changed = through(&base, &[Some(&adapter)]).remove(0);
        let apart = difference(&changed, &logits(&merged, &PROMPT));
        assert!(apart < 1e-4, "{kind} is {apart} off");
        assert!(
            difference(&changed, &logits(&base, &PROMPT)) > 0.01,
            "{kind} is unchanged"
        );
    }
}

#[test]
fn one_batch_goes_through_several_adapters_and_the_base() {
    let shape = Shape::of("llama");
    let (first, base, _) = adapted(&shape, 12);
    let (second, ..) = adapted(&shape, 13);
    let first = Adapter::load("a", first.path(), base.config()).unwrap();
    let second = Adapter::load("b", second.path(), base.config()).unwrap();
    let ways = [Some(&first), None, Some(&second)];
    for (way, together) in ways.iter().zip(through(&base, &ways)) {
        let alone = through(&base, &[*way]).remove(0);
        assert_eq!(bits(&alone), bits(&together));
    }
}

#[test]
fn adapters_that_cannot_be_applied_are_refused_with_the_reason() {
    let shape = Shape::of("llama");
    let base = super::model::load("llama", 1);
    let mut random = Random(1);
    let mut pair = |columns: usize| {
        HashMap::from([
            (
                "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight".to_owned(),
                random.tensor(&[2, columns], 1.0),
            ),
            (
                "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight".to_owned(),
                random.tensor(&[shape.heads * shape.head, 2], 1.0),
            ),
        ])
    };
    let fitting = json!({"r": 2, "lora_alpha": 2});
    let cases = [
        (pair(shape.hidden + 1), fitting.clone(), "made for another"),
        (
            pair(shape.hidden),
            json!({"r": 2, "lora_alpha": 2, "use_dora": true}),
            "DoRA",
        ),
        (
            pair(shape.hidden),
            json!({"r": 2, "lora_alpha": 2, "modules_to_save": ["lm_head"]}),
            "modules_to_save",
        ),
        (
            pair(shape.hidden),
            json!({"r": 2, "lora_alpha": 2, "peft_type": "IA3"}),
            "LORA",
        ),
        (
            HashMap::from([("x.weight".to_owned(), random.tensor(&[2, 2], 1.0))]),
            fitting,
            "x.weight",
        ),
    ];
    for (tensors, config, word) in cases {
        let folder = adapter_folder(&tensors, config);
        let error = Adapter::load("a", folder.path(), base.config()).unwrap_err();
        assert!(error.to_string().contains(word), "{error}");
    }
}
