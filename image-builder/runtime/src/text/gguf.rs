//! The tokeniser inside a GGUF file, written as the `tokenizer.json` that it was made from.
//!
//! Two kinds: `gpt2` is byte-level BPE, whose way of cutting words is told by name only; `llama` is SentencePiece, whose
//! merges are rebuilt from the scores of the vocabulary.

use std::collections::{BTreeSet, HashMap};

use candle_core::quantized::gguf_file::{Content, Value as Metadata};
use serde_json::{Value, json};

use super::Error;

/// What a file tells about text.
pub(super) struct Parts {
    pub(super) json: Value,
    /// Token to begin plain texts with.
    pub(super) begin: Option<u32>,
    pub(super) begin_text: String,
    pub(super) end_text: String,
    pub(super) ends: BTreeSet<u32>,
    pub(super) template: Option<String>,
}

/// Kinds of token that matter here, as numbered by llama.cpp.
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

struct Vocabulary<'a> {
    content: &'a Content,
    tokens: Vec<&'a str>,
    kinds: Vec<i32>,
}

/// Reads the tokeniser of a file.
pub(super) fn read(content: &Content) -> Result<Parts, Error> {
    let vocabulary = Vocabulary {
        content,
        tokens: strings(content, "tokens")?,
        kinds: numbers(content, "token_type"),
    };
    let model = text(content, "model").ok_or_else(|| missing("model"))?;
    let json = match model {
        "gpt2" => byte_level(&vocabulary)?,
        "llama" => sentence_piece(&vocabulary)?,
        other => {
            let why = format!("GGUF tokeniser {other:?} is not among gpt2 and llama");
            return Err(Error::Tokenizer(why));
        }
    };
    let id = |key: &str| number(content, key);
    let token = |id: Option<u32>| {
        let token = id.and_then(|id| vocabulary.tokens.get(id as usize));
        token.map(|token| (*token).to_owned()).unwrap_or_default()
    };
    let begin = flag(content, "add_bos_token").unwrap_or(model == "llama");
    Ok(Parts {
        json,
        begin: id("bos_token_id").filter(|_| begin),
        begin_text: token(id("bos_token_id")),
        end_text: token(id("eos_token_id")),
        ends: ["eos_token_id", "eot_token_id"]
            .into_iter()
            .filter_map(id)
            .collect(),
        template: content
            .metadata
            .get("tokenizer.chat_template")
            .and_then(|value| value.to_string().ok())
            .cloned(),
    })
}

fn missing(key: &str) -> Error {
    Error::Metadata(format!("tokenizer.ggml.{key}"))
}

fn value<'a>(content: &'a Content, key: &str) -> Option<&'a Metadata> {
    content.metadata.get(&format!("tokenizer.ggml.{key}"))
}

fn text<'a>(content: &'a Content, key: &str) -> Option<&'a str> {
    value(content, key)?.to_string().ok().map(String::as_str)
}

fn flag(content: &Content, key: &str) -> Option<bool> {
    value(content, key)?.to_bool().ok()
}

fn number(content: &Content, key: &str) -> Option<u32> {
    value(content, key)?.to_u32().ok()
}

fn strings<'a>(content: &'a Content, key: &str) -> Result<Vec<&'a str>, Error> {
    let all = value(content, key).and_then(|value| value.to_vec().ok());
    let all = all.ok_or_else(|| missing(key))?;
    let texts = all.iter().map(|one| one.to_string().map(String::as_str));
    texts.collect::<Result<_, _>>().map_err(|_| missing(key))
}

fn numbers(content: &Content, key: &str) -> Vec<i32> {
    let all = value(content, key).and_then(|value| value.to_vec().ok());
    let all = all.into_iter().flatten();
    all.map(|one| one.to_i32().unwrap_or_default()).collect()
}

impl Vocabulary<'_> {
    fn json(&self) -> Value {
        let pairs = self.tokens.iter().enumerate();
        pairs
            .map(|(id, token)| ((*token).to_owned(), json!(id)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }

    /// Tokens that are found in the text before it is cut.
    fn added(&self) -> Vec<Value> {
        let pairs = self.tokens.iter().zip(&self.kinds).enumerate();
        let chosen = pairs.filter(|(_, (_, kind))| matches!(**kind, CONTROL | USER_DEFINED));
        let added = chosen.map(|(id, (token, kind))| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *kind == CONTROL,
            })
        });
        added.collect()
    }
}

/// How words are cut before merging, by the name in the file.
fn pre_tokenizer(name: &str) -> Result<Value, Error> {
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let bytes = |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let digits = json!({"type": "Digits", "individual_digits": true});
    // The rules of Llama 3 and Qwen2 differ in how many digits make a word.
    let words = |digits: &str| {
        format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
    let steps = match name {
        "smollm" | "refact" | "command-r" | "starcoder" => vec![digits, bytes(true)],
        "gpt-2" | "gpt2" | "phi-2" => vec![bytes(true)],
        "llama-bpe" | "llama3" | "llama-v3" => vec![split(&words(r"\p{N}{1,3}")), bytes(false)],
        "qwen2" | "deepseek-r1-qwen" => vec![split(&words(r"\p{N}")), bytes(false)],
        other => {
            let why = format!(
                "the file cuts words by the rules of {other:?}, which are not known here; use the model's safetensors"
            );
            return Err(Error::Tokenizer(why));
        }
    };
    Ok(json!({"type": "Sequence", "pretokenizers": steps}))
}

fn byte_level(vocabulary: &Vocabulary<'_>) -> Result<Value, Error> {
    let name = text(vocabulary.content, "pre").unwrap_or("gpt-2");
    let merges = strings(vocabulary.content, "merges")?;
    let pairs = merges.iter().filter_map(|merge| merge.split_once(' '));
    let merges: Vec<Value> = pairs.map(|(left, right)| json!([left, right])).collect();
    let normalizer = if name == "qwen2" {
        json!({"type": "NFC"})
    } else {
        Value::Null
    };
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": vocabulary.added(),
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer(name)?,
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            // Llama 3 looks whole words up before it merges.
            "ignore_merges": name.starts_with("llama"),
            "vocab": vocabulary.json(), "merges": merges,
        },
    }))
}

fn sentence_piece(vocabulary: &Vocabulary<'_>) -> Result<Value, Error> {
    let content = vocabulary.content;
    let scores = value(content, "scores").and_then(|value| value.to_vec().ok());
    let scores = scores.ok_or_else(|| missing("scores"))?;
    let scores: Vec<f32> = scores
        .iter()
        .map(|one| one.to_f32().unwrap_or_default())
        .collect();
    let prefix = flag(content, "add_space_prefix").unwrap_or(true);
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let mut normalizers = vec![replace];
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let unknown = number(content, "unknown_token_id").unwrap_or(0);
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": vocabulary.added(),
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": vocabulary.tokens.get(unknown as usize),
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": true, "ignore_merges": false,
            "vocab": vocabulary.json(), "merges": merges_of(&vocabulary.tokens, &scores),
        },
    }))
}

/// Every way to put a token together from two others; the better the token's score, the earlier the merge.
fn merges_of(tokens: &[&str], scores: &[f32]) -> Vec<Value> {
    let ids: HashMap<&str, usize> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (*token, id))
        .collect();
    let mut merges = Vec::new();
    for (token, score) in tokens.iter().zip(scores) {
        let mut splits: Vec<_> = token
            .char_indices()
            .skip(1)
            .filter_map(|(at, _)| {
                let (left, right) = token.split_at_checked(at)?;
                Some(((*ids.get(left)?, *ids.get(right)?), left, right))
            })
            .collect();
        splits.sort_by_key(|(ids, ..)| *ids);
        merges.extend(
            splits
                .into_iter()
                .map(|(_, left, right)| (*score, left, right)),
        );
    }
    merges.sort_by(|(a, ..), (b, ..)| b.total_cmp(a));
    merges
        .into_iter()
        .map(|(_, left, right)| json!([left, right]))
        .collect()
}
