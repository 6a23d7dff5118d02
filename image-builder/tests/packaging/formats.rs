//! What is read from model files becomes a ModelPack config that keeps the schema: one golden config per kind of model.

use crate::support::{Files, Gguf, files, gguf, push, safetensors};
use image_builder::oci::media_type;
use image_builder::plan::{Contents, LayerForm, Options, Shape, key, plan, wanted};
use image_builder::source::{File, Tree};
use serde_json::{Value, json};

const CARD: &[u8] = b"---\nlicense: apache-2.0\nlanguage: [en, zh-Hans, multilingual]\ndatasets:\n- org/data\n---\n";

/// The config and the manifest's annotations.
fn described(files: &Files) -> (Value, Value) {
    let options = Options {
        shape: Shape::ModelPack(LayerForm::Raw),
        ..Options::default()
    };
    let pushed = push(files, &options);
    pushed.check();
    let manifest = &pushed.manifests()[0];
    assert_eq!(
        manifest.artifact_type.as_deref(),
        Some(media_type::MODEL_MANIFEST)
    );
    assert_eq!(manifest.config.media_type, media_type::MODEL_CONFIG);
    let config = pushed.json(manifest.config.digest);
    let digests: Vec<String> = manifest
        .layers
        .iter()
        .map(|layer| layer.digest.to_string())
        .collect();
    assert_eq!(
        config["modelfs"],
        json!({"type": "layers", "diffIds": digests})
    );
    (config, json!(manifest.annotations))
}

fn with_config(config: &Value, weights: &[u8]) -> Files {
    files(&[
        ("README.md", CARD),
        ("config.json", config.to_string().as_bytes()),
        ("model.safetensors", weights),
    ])
}

const HIDDEN: u64 = 64;

#[test]
fn a_dense_model_is_described_from_its_own_files() {
    let weights = safetensors(&[
        ("embed.weight", "BF16", &[1000, HIDDEN]),
        ("layers.0.weight", "BF16", &[HIDDEN, HIDDEN]),
        ("norm.weight", "F32", &[HIDDEN]),
    ]);
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "num_hidden_layers": 1,
        "max_position_embeddings": 8192,
    });
    let (config, annotations) = described(&with_config(&config, &weights));
    assert_eq!(
        config["descriptor"],
        json!({
            "family": "llama",
            "name": "tiny",
            "sourceURL": "https://hub.example/org/tiny",
            "revision": "0123456789abcdef0123456789abcdef01234567",
            "licenses": ["Apache-2.0"],
        })
    );
    assert_eq!(
        config["config"],
        json!({
            "architecture": "transformer",
            "format": "safetensors",
            "paramSize": "68.2K",
            "precision": "bfloat16",
            "capabilities": {
                "inputTypes": ["text"],
                "outputTypes": ["text"],
                "languages": ["en", "zh"],
            },
        })
    );
    assert_eq!(
        annotations[key::PARAMETERS],
        (1000 * HIDDEN + HIDDEN * HIDDEN + HIDDEN).to_string()
    );
    assert_eq!(annotations[key::CONTEXT_LENGTH], "8192");
    assert_eq!(annotations[key::LICENSES], "Apache-2.0");
    assert_eq!(annotations[key::DATASETS], "org/data");
}

#[test]
fn a_mixture_of_experts_counts_all_experts() {
    let names: Vec<String> = (0..8)
        .map(|expert| format!("experts.{expert}.w1.weight"))
        .collect();
    let shape = [HIDDEN, HIDDEN];
    let tensors: Vec<(&str, &str, &[u64])> = names
        .iter()
        .map(|name| (name.as_str(), "BF16", &shape[..]))
        .collect();
    let config = json!({
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "num_hidden_layers": 1,
        "num_local_experts": 8,
    });
    let (config, annotations) = described(&with_config(&config, &safetensors(&tensors)));
    assert_eq!(config["descriptor"]["family"], "mixtral");
    assert_eq!(config["config"]["paramSize"], "32.8K");
    assert_eq!(
        annotations[key::PARAMETERS],
        (8 * HIDDEN * HIDDEN).to_string()
    );
}

/// Method and parameters of a quantised model whose linear layer has 64 × 64 weights, beside an embedding of 640.
fn quantised(quantization: &Value, linear: &[(&str, &str, &[u64])]) -> (Value, String) {
    let mut tensors = linear.to_vec();
    tensors.push(("embed.weight", "BF16", &[10, HIDDEN]));
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": 1,
        "quantization_config": quantization,
    });
    let (config, annotations) = described(&with_config(&config, &safetensors(&tensors)));
    (
        config["config"].clone(),
        annotations[key::PARAMETERS].as_str().unwrap().to_owned(),
    )
}

/// Name, type and shape of a tensor.
type Tensor = (&'static str, &'static str, &'static [u64]);

const FP8: &[Tensor] = &[
    ("l.weight", "F8_E4M3", &[64, 64]),
    ("l.weight_scale_inv", "F32", &[1, 1]),
];

/// A method's configuration, its name, and the tensors of a linear layer that it quantised.
type Quantised = (Value, &'static str, &'static [Tensor]);

fn quantised_layers() -> [Quantised; 7] {
    [
        (
            json!({"quant_method": "awq", "bits": 4, "group_size": 32}),
            "awq",
            &[
                ("l.qweight", "I32", &[64, 8]),
                ("l.qzeros", "I32", &[2, 8]),
                ("l.scales", "F16", &[2, 64]),
            ],
        ),
        (
            json!({"quant_method": "gptq", "bits": 8}),
            "gptq",
            &[
                ("l.qweight", "I32", &[16, 64]),
                ("l.g_idx", "I32", &[64]),
                ("l.scales", "F16", &[2, 64]),
            ],
        ),
        (json!({"quant_method": "fp8"}), "fp8", FP8),
        (
            json!({"load_in_4bit": true}),
            "bitsandbytes",
            &[
                ("l.weight", "U8", &[2048, 1]),
                ("l.weight.absmax", "U8", &[64]),
                ("l.weight.quant_map", "F32", &[16]),
                ("l.weight.quant_state.bitsandbytes__nf4", "U8", &[100]),
            ],
        ),
        (
            json!({"quant_method": "bitsandbytes", "load_in_8bit": true}),
            "bitsandbytes",
            &[("l.weight", "I8", &[64, 64]), ("l.SCB", "F32", &[64])],
        ),
        (
            json!({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4}}}}),
            "compressed-tensors",
            &[
                ("l.weight_packed", "I32", &[64, 8]),
                ("l.weight_scale", "BF16", &[64, 2]),
            ],
        ),
        (
            json!({"quant_method": "mxfp4"}),
            "mxfp4",
            &[
                ("l.gate_up_proj_blocks", "U8", &[64, 2, 16]),
                ("l.gate_up_proj_scales", "U8", &[64, 2]),
            ],
        ),
    ]
}

#[test]
fn quantised_weights_count_what_they_stand_for_and_name_their_method() {
    let whole = (HIDDEN * HIDDEN + 10 * HIDDEN).to_string();
    for (quantization, method, linear) in quantised_layers() {
        let (config, parameters) = quantised(&quantization, linear);
        assert_eq!(config["quantization"], method);
        assert_eq!(parameters, whole, "{method}");
    }
}

#[test]
fn precision_names_the_types_that_most_bytes_have() {
    let (config, _) = quantised(
        &json!({"quant_method": "fp8"}),
        &[
            ("l.weight", "F8_E4M3", &[64, 64]),
            ("l.weight_scale_inv", "F32", &[1, 1]),
        ],
    );
    assert_eq!(config["precision"], "float8_e4m3,bfloat16");
}

#[test]
fn a_gguf_file_describes_itself_even_behind_a_long_vocabulary() {
    let word = "w".repeat(100);
    let words: Vec<&str> = (0..20_000).map(|_| word.as_str()).collect();
    let weights = gguf(
        &[
            ("general.architecture", Gguf::Text("llama")),
            ("general.license", Gguf::Text("mit")),
            ("llama.context_length", Gguf::Number(4096)),
            ("llama.expert_count", Gguf::Number(8)),
            ("tokenizer.ggml.tokens", Gguf::Texts(&words)),
            ("general.file_type", Gguf::Number(15)),
        ],
        &[
            ("token_embd.weight", &[1024, 1000], 12),
            ("output_norm.weight", &[1024], 0),
        ],
    );
    let (config, annotations) = described(&files(&[("tiny-q4_k_m.gguf", &weights)]));
    assert_eq!(
        config["config"],
        json!({
            "architecture": "transformer",
            "format": "gguf",
            "paramSize": "1.03M",
            "quantization": "Q4_K_M",
        })
    );
    assert_eq!(config["descriptor"]["licenses"], json!(["MIT"]));
    assert_eq!(annotations[key::CONTEXT_LENGTH], "4096");
}

#[test]
fn an_embedding_model_gives_embeddings_and_a_vision_model_takes_images() {
    let weights = safetensors(&[("embed.weight", "F32", &[10, HIDDEN])]);
    let types = |config: Value| {
        let (config, _) = described(&with_config(&config, &weights));
        let capabilities = &config["config"]["capabilities"];
        (
            capabilities["inputTypes"].clone(),
            capabilities["outputTypes"].clone(),
        )
    };
    assert_eq!(
        types(json!({"architectures": ["BertModel"], "model_type": "bert"})),
        (json!(["text"]), json!(["embedding"]))
    );
    assert_eq!(
        types(json!({
            "architectures": ["LlavaForConditionalGeneration"],
            "vision_config": {"hidden_size": 1},
            "text_config": {"max_position_embeddings": 4096},
        })),
        (json!(["text", "image"]), json!(["text"]))
    );
}

#[test]
fn licences_without_an_spdx_identifier_are_references() {
    let licence = |front: &str| {
        let card = format!("---\n{front}\n---\n");
        let (config, _) = described(&files(&[
            ("README.md", card.as_bytes()),
            ("model.safetensors", &safetensors(&[("a", "F32", &[1])])),
        ]));
        config["descriptor"]["licenses"].clone()
    };
    assert_eq!(licence("license: llama3.1"), json!(["LicenseRef-llama3.1"]));
    assert_eq!(
        licence("license: other\nlicense_name: my licence"),
        json!(["LicenseRef-my-licence"])
    );
    assert_eq!(
        licence("license: [mit, bsd-3-clause]"),
        json!(["MIT", "BSD-3-Clause"])
    );
    assert_eq!(licence("license: 5"), Value::Null);
    assert_eq!(licence("license: [unclosed"), Value::Null);
}

#[test]
fn files_that_describe_nothing_give_a_valid_config_all_the_same() {
    for broken in [
        "{",
        "[]",
        "null",
        r#"{"architectures":5,"quantization_config":[1],"torch_dtype":{}}"#,
    ] {
        let (config, _) = described(&files(&[
            ("config.json", broken.as_bytes()),
            ("README.md", b"no front matter"),
            ("model.safetensors", b"short"),
            ("model.gguf", b"GGUF"),
        ]));
        assert_eq!(
            config["config"],
            json!({"format": "safetensors"}),
            "{broken}"
        );
    }
}

#[test]
fn only_beginnings_of_weights_are_wanted() {
    let tree = Tree {
        files: [
            "model.safetensors",
            "model.gguf",
            "pytorch_model.bin",
            "tokenizer.model",
        ]
        .map(|path| File {
            path: path.to_owned(),
            size: 100 << 30,
            executable: false,
            known_digest: None,
        })
        .to_vec(),
        ..Tree::default()
    };
    let first = wanted(&tree, &Contents::default(), &Options::default());
    assert_eq!(
        first,
        [
            ("model.gguf".to_owned(), 0..65536),
            ("model.safetensors".to_owned(), 0..65536),
            ("pytorch_model.bin".to_owned(), 0..16),
        ]
    );
    // A header that claims to be endless is not followed.
    let mut contents = Contents::default();
    for (path, range) in first {
        let size = usize::try_from(range.end).unwrap();
        contents.add(&path, &vec![0xff; size].into());
    }
    assert_eq!(wanted(&tree, &contents, &Options::default()), []);
    assert!(plan(&tree, &contents, &Options::default()).is_ok());
}
