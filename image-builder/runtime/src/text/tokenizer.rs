//! Text to tokens and back, from `tokenizer.json` or from the vocabulary inside a GGUF file.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::template::Template;
use super::{Error, gguf};
use crate::model::Source;

/// Names of tokens that end an answer in the templates of the families served here.
const ENDS: [&str; 7] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "</s>",
];

/// Whether the tokens that a text begins with (`<s>`) are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// Added, if the model has them: for plain prompts.
    Added,
    /// Not added: the chat template wrote them.
    Left,
}

/// Splits text into tokens and joins them.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    begin: Option<u32>,
    ends: BTreeSet<u32>,
    template: Option<Template>,
}

impl Tokenizer {
    /// Reads the text side of a model.
    ///
    /// # Errors
    /// [`Error`] if a file is missing or damaged.
    pub fn load(source: &Source) -> Result<Self, Error> {
        match source {
            Source::Folder(folder) => Self::from_folder(folder),
            Source::Gguf { content, .. } => {
                let parts = gguf::read(content)?;
                let template = match parts.template {
                    Some(text) => Some(Template::new(text, parts.begin_text, parts.end_text)?),
                    None => None,
                };
                Self::new(&parts.json, parts.begin, parts.ends, template)
            }
        }
    }

    fn new(
        json: &Value,
        begin: Option<u32>,
        mut ends: BTreeSet<u32>,
        template: Option<Template>,
    ) -> Result<Self, Error> {
        let failed = |e: tokenizers::Error| Error::Tokenizer(e.to_string());
        let inner = tokenizers::Tokenizer::from_bytes(json.to_string()).map_err(failed)?;
        ends.extend(ENDS.iter().filter_map(|name| inner.token_to_id(name)));
        Ok(Self {
            inner,
            begin,
            ends,
            template,
        })
    }

    fn from_folder(folder: &Path) -> Result<Self, Error> {
        let json = read_json(&folder.join("tokenizer.json"))?.ok_or_else(|| {
            Error::Tokenizer(format!("{} has no tokenizer.json", folder.display()))
        })?;
        let settings = read_json(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
        let mut ends = BTreeSet::new();
        for name in ["generation_config.json", "config.json"] {
            let file = read_json(&folder.join(name))?.unwrap_or_default();
            ends.extend(ids(file.get("eos_token_id")));
        }
        let text = match std::fs::read_to_string(folder.join("chat_template.jinja")) {
            Ok(text) => Some(text),
            Err(_) => template_of(&settings),
        };
        let special = |key: &str| special_text(settings.get(key)).unwrap_or_default();
        let end_text = special("eos_token");
        let template = match text {
            Some(text) => Some(Template::new(text, special("bos_token"), end_text.clone())?),
            None => None,
        };
        let mut tokenizer = Self::new(&json, None, ends, template)?;
        tokenizer
            .ends
            .extend(tokenizer.inner.token_to_id(&end_text));
        Ok(tokenizer)
    }

    /// Splits a text.
    ///
    /// # Errors
    /// [`Error::Encode`] if the tokeniser refuses it.
    pub fn encode(&self, text: &str, begin: Begin) -> Result<Vec<u32>, Error> {
        let added = begin == Begin::Added;
        let encoding = self.inner.encode_fast(text, added);
        let encoding = encoding.map_err(|e| Error::Encode(e.to_string()))?;
        let first = self.begin.filter(|_| added);
        Ok(first
            .into_iter()
            .chain(encoding.get_ids().iter().copied())
            .collect())
    }

    /// Joins tokens, without the special ones. Incomplete characters come out as U+FFFD.
    #[must_use]
    pub fn decode(&self, tokens: &[u32]) -> String {
        self.inner.decode(tokens, true).unwrap_or_default()
    }

    /// Whether a token ends the answer.
    #[must_use]
    pub fn is_end(&self, token: u32) -> bool {
        self.ends.contains(&token)
    }

    /// How the model wants conversations written, if it was trained on them.
    #[must_use]
    pub fn template(&self) -> Option<&Template> {
        self.template.as_ref()
    }
}

/// A file's JSON, or nothing if there is no such file.
fn read_json(path: &Path) -> Result<Option<Value>, Error> {
    match std::fs::read(path) {
        Ok(bytes) => {
            let value = serde_json::from_slice(&bytes);
            value.map(Some).map_err(|e| Error::Json(path.to_owned(), e))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(Error::Read(path.to_owned(), e)),
    }
}

/// One number or a list of them.
fn ids(value: Option<&Value>) -> Vec<u32> {
    let one = |value: &Value| u32::try_from(value.as_u64()?).ok();
    match value {
        Some(Value::Array(all)) => all.iter().filter_map(one).collect(),
        Some(value) => one(value).into_iter().collect(),
        None => Vec::new(),
    }
}

/// A special token is its text, or an object with the text as `content`.
fn special_text(value: Option<&Value>) -> Option<String> {
    let value = value?;
    let text = value.as_str().or_else(|| value.get("content")?.as_str());
    text.map(str::to_owned)
}

/// The template itself, or of several the one called `default`.
fn template_of(settings: &Value) -> Option<String> {
    let value = settings.get("chat_template")?;
    if let Some(text) = value.as_str() {
        return Some(text.to_owned());
    }
    let all = value.as_array()?;
    let name = |one: &&Value| one.get("name").and_then(Value::as_str) == Some("default");
    let chosen = all.iter().find(name)?;
    chosen.get("template")?.as_str().map(str::to_owned)
}
