//! Tiny models: random weights from a fixed seed, a tokeniser of single bytes, a chat template.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value as Metadata};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Tokens: all bytes, then these.
pub(super) const SPECIAL: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
pub(super) const VOCABULARY: usize = 256 + SPECIAL.len();
pub(super) const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n";

#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) kind: &'static str,
    pub(super) hidden: usize,
    pub(super) wide: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head: usize,
    pub(super) window: Option<usize>,
    pub(super) context: usize,
}

impl Shape {
    pub(super) fn of(kind: &'static str) -> Self {
        Self {
            kind,
            hidden: 64,
            wide: 96,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            head: 16,
            window: (kind == "mistral").then_some(5),
            context: 512,
        }
    }

    pub(super) fn kv(&self) -> usize {
        self.kv_heads * self.head
    }

    fn config(&self) -> Value {
        json!({
            "model_type": self.kind, "hidden_size": self.hidden, "intermediate_size": self.wide,
            "num_hidden_layers": self.layers, "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads, "head_dim": self.head, "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0, "max_position_embeddings": self.context, "sliding_window": self.window,
            "eos_token_id": 258,
        })
    }
}

/// Numbers from -1 to 1, by SplitMix64.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 40) as f32 / 8_388_608.0 - 1.0
    }

    pub(super) fn tensor(&mut self, shape: &[usize], size: f32) -> Tensor {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| self.next() * size).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }
}

/// Weights by the names of transformers, apart even where the family has them fused.
pub(super) fn weights(shape: &Shape, seed: u64) -> BTreeMap<String, Tensor> {
    let mut random = Random(seed);
    let (hidden, wide, heads, kv) = (
        shape.hidden,
        shape.wide,
        shape.heads * shape.head,
        shape.kv(),
    );
    let mut all = BTreeMap::new();
    all.insert(
        "model.embed_tokens.weight".to_owned(),
        random.tensor(&[VOCABULARY, hidden], 1.0),
    );
    all.insert(
        "lm_head.weight".to_owned(),
        random.tensor(&[VOCABULARY, hidden], 0.5),
    );
    all.insert(
        "model.norm.weight".to_owned(),
        (random.tensor(&[hidden], 0.2) + 1.0).unwrap(),
    );
    for layer in 0..shape.layers {
        let mut add =
            |name: &str, tensor: Tensor| all.insert(format!("model.layers.{layer}.{name}"), tensor);
        add(
            "input_layernorm.weight",
            (random.tensor(&[hidden], 0.2) + 1.0).unwrap(),
        );
        add(
            "post_attention_layernorm.weight",
            (random.tensor(&[hidden], 0.2) + 1.0).unwrap(),
        );
        add(
            "self_attn.q_proj.weight",
            random.tensor(&[heads, hidden], 0.4),
        );
        add("self_attn.k_proj.weight", random.tensor(&[kv, hidden], 0.4));
        add("self_attn.v_proj.weight", random.tensor(&[kv, hidden], 0.3));
        add(
            "self_attn.o_proj.weight",
            random.tensor(&[hidden, heads], 0.3),
        );
        add("mlp.gate_proj.weight", random.tensor(&[wide, hidden], 0.3));
        add("mlp.up_proj.weight", random.tensor(&[wide, hidden], 0.3));
        add("mlp.down_proj.weight", random.tensor(&[hidden, wide], 0.3));
        if shape.kind == "qwen2" {
            add("self_attn.q_proj.bias", random.tensor(&[heads], 0.5));
            add("self_attn.k_proj.bias", random.tensor(&[kv], 0.5));
            add("self_attn.v_proj.bias", random.tensor(&[kv], 0.5));
        }
    }
    all
}

/// A model folder as transformers writes it.
pub(super) fn folder(shape: &Shape, weights: &BTreeMap<String, Tensor>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_json(folder.path(), "config.json", &shape.config());
    write_json(folder.path(), "tokenizer.json", &tokenizer());
    let settings = json!({"chat_template": TEMPLATE, "eos_token": {"content": "<|im_end|>"}});
    write_json(folder.path(), "tokenizer_config.json", &settings);
    let mut file: HashMap<String, Tensor> = weights.clone().into_iter().collect();
    if shape.kind == "phi3" {
        for layer in 0..shape.layers {
            let mut fuse = |together: &str, parts: &[&str]| {
                let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
                let parts: Vec<Tensor> = parts
                    .iter()
                    .map(|part| file.remove(&name(part)).unwrap())
                    .collect();
                file.insert(name(together), Tensor::cat(&parts, 0).unwrap());
            };
            fuse(
                "self_attn.qkv_proj",
                &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
            );
            fuse("mlp.gate_up_proj", &["mlp.gate_proj", "mlp.up_proj"]);
        }
    }
    candle_core::safetensors::save(&file, folder.path().join("model.safetensors")).unwrap();
    folder
}

pub(super) fn write_json(folder: &Path, name: &str, value: &Value) {
    std::fs::write(folder.join(name), value.to_string()).unwrap();
}

/// The characters that byte-level BPE writes bytes as.
pub(super) fn byte_characters() -> Vec<char> {
    let mut next = 256;
    let printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let characters = (0..256).map(|byte| {
        let code = if printable(byte) {
            byte
        } else {
            next += 1;
            next - 1
        };
        char::from_u32(code).unwrap()
    });
    characters.collect()
}

fn tokenizer() -> Value {
    let vocabulary: serde_json::Map<String, Value> = byte_characters()
        .into_iter()
        .enumerate()
        .map(|(id, character)| (character.to_string(), json!(id)))
        .collect();
    let added: Vec<Value> = SPECIAL
        .iter()
        .enumerate()
        .map(|(at, content)| {
            json!({"id": 256 + at, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true})
        })
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary, "merges": []},
    })
}

/// The same model as a GGUF file, its matrices in `kind`; with the weights as they come back from those bits.
pub(super) fn gguf(
    path: &Path,
    shape: &Shape,
    weights: &BTreeMap<String, Tensor>,
    kind: GgmlDType,
) -> BTreeMap<String, Tensor> {
    let mut back = BTreeMap::new();
    let mut tensors = Vec::new();
    for (name, tensor) in weights {
        let kind = if tensor.rank() == 2 {
            kind
        } else {
            GgmlDType::F32
        };
        let plain = QTensor::quantize(tensor, kind).unwrap();
        back.insert(name.clone(), plain.dequantize(&Device::Cpu).unwrap());
        let shuffled = shuffle(shape, name, tensor);
        tensors.push((gguf_name(name), QTensor::quantize(&shuffled, kind).unwrap()));
    }
    let metadata = metadata(shape);
    let metadata: Vec<(&str, &Metadata)> = metadata
        .iter()
        .map(|(key, value)| (key.as_str(), value))
        .collect();
    let tensors: Vec<(&str, &QTensor)> = tensors
        .iter()
        .map(|(name, tensor)| (name.as_str(), tensor))
        .collect();
    let mut file = std::fs::File::create(path).unwrap();
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
    back
}

/// llama.cpp's order of query and key rows: the two that are rotated together are neighbours.
fn shuffle(shape: &Shape, name: &str, tensor: &Tensor) -> Tensor {
    let moved = name.contains("q_proj") || name.contains("k_proj");
    if shape.kind != "llama" || !moved {
        return tensor.clone();
    }
    let rows = tensor.dim(0).unwrap();
    let order: Vec<u32> = (0..rows)
        .map(|row| {
            let (head, place) = (row / shape.head, row % shape.head);
            u32::try_from(head * shape.head + place % 2 * (shape.head / 2) + place / 2).unwrap()
        })
        .collect();
    tensor
        .index_select(&Tensor::new(order, &Device::Cpu).unwrap(), 0)
        .unwrap()
}

fn gguf_name(name: &str) -> String {
    let renamed = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    renamed
        .iter()
        .fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

fn metadata(shape: &Shape) -> Vec<(String, Metadata)> {
    let number = |value: usize| Metadata::U32(u32::try_from(value).unwrap());
    let mut tokens: Vec<String> = byte_characters().into_iter().map(String::from).collect();
    tokens.extend(SPECIAL.map(str::to_owned));
    let kinds = (0..tokens.len()).map(|id| Metadata::I32(if id < 256 { 1 } else { 3 }));
    let kind = shape.kind;
    vec![
        (
            "general.architecture".to_owned(),
            Metadata::String(kind.to_owned()),
        ),
        (format!("{kind}.block_count"), number(shape.layers)),
        (format!("{kind}.context_length"), number(shape.context)),
        (format!("{kind}.embedding_length"), number(shape.hidden)),
        (format!("{kind}.feed_forward_length"), number(shape.wide)),
        (format!("{kind}.attention.head_count"), number(shape.heads)),
        (
            format!("{kind}.attention.head_count_kv"),
            number(shape.kv_heads),
        ),
        (format!("{kind}.attention.key_length"), number(shape.head)),
        (
            format!("{kind}.attention.layer_norm_rms_epsilon"),
            Metadata::F32(1e-5),
        ),
        (format!("{kind}.rope.freq_base"), Metadata::F32(10000.0)),
        (
            "tokenizer.ggml.model".to_owned(),
            Metadata::String("gpt2".to_owned()),
        ),
        (
            "tokenizer.ggml.pre".to_owned(),
            Metadata::String("smollm".to_owned()),
        ),
        (
            "tokenizer.ggml.tokens".to_owned(),
            Metadata::Array(tokens.into_iter().map(Metadata::String).collect()),
        ),
        (
            "tokenizer.ggml.token_type".to_owned(),
            Metadata::Array(kinds.collect()),
        ),
        (
            "tokenizer.ggml.merges".to_owned(),
            Metadata::Array(Vec::new()),
        ),
        ("tokenizer.ggml.eos_token_id".to_owned(), number(258)),
        (
            "tokenizer.chat_template".to_owned(),
            Metadata::String(TEMPLATE.to_owned()),
        ),
    ]
}
