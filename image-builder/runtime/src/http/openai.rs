//! Bodies of the OpenAI-compatible endpoints. Unknown fields are ignored, as OpenAI's own servers do; fields that would
//! change the answer and are not supported are refused.

use serde::Deserialize;
use serde_json::{Value, json};

use super::error::ApiError;
use crate::engine::{Ends, Reason};
use crate::text::{Message, Sampling};

/// Most stop strings of a request, and most bytes of each: every token is compared with all of them.
const MAX_STOPS: usize = 16;
const MAX_STOP_BYTES: usize = 256;

/// One string or a list of them.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    pub(super) fn into_list(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// What both endpoints have in common.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Common {
    pub(super) model: Option<String>,
    max_tokens: Option<usize>,
    max_completion_tokens: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<i64>,
    min_p: Option<f32>,
    repetition_penalty: Option<f32>,
    presence_penalty: Option<f32>,
    frequency_penalty: Option<f32>,
    seed: Option<i64>,
    stop: Option<OneOrMany>,
    #[serde(default)]
    pub(super) stream: bool,
    stream_options: Option<StreamOptions>,
    n: Option<u32>,
    logprobs: Option<Value>,
    tools: Option<Vec<Value>>,
    response_format: Option<Value>,
    #[serde(default)]
    ignore_eos: bool,
}

#[derive(Clone, Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

/// Body of `/v1/chat/completions`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ChatBody {
    messages: Vec<Turn>,
    #[serde(flatten)]
    pub(super) common: Common,
}

#[derive(Clone, Debug, Deserialize)]
struct Turn {
    role: String,
    content: Option<Content>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Clone, Debug, Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    text: Option<String>,
}

/// Body of `/v1/completions`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct CompletionBody {
    pub(super) prompt: OneOrMany,
    #[serde(default)]
    pub(super) echo: bool,
    #[serde(flatten)]
    pub(super) common: Common,
}

impl ChatBody {
    pub(super) fn messages(&self) -> Result<Vec<Message>, ApiError> {
        if self.messages.is_empty() {
            return Err(ApiError::invalid("messages is empty; send at least one"));
        }
        self.messages.iter().map(Turn::message).collect()
    }
}

impl Turn {
    fn message(&self) -> Result<Message, ApiError> {
        let content = match &self.content {
            None => String::new(),
            Some(Content::Text(text)) => text.clone(),
            Some(Content::Parts(parts)) => {
                let mut all = String::new();
                for part in parts {
                    let Some(text) = part.text.as_ref().filter(|_| part.kind == "text") else {
                        let why = format!(
                            "content of type {:?} is not supported, only text",
                            part.kind
                        );
                        return Err(ApiError::invalid(why));
                    };
                    all.push_str(text);
                }
                all
            }
        };
        Ok(Message {
            role: self.role.clone(),
            content,
        })
    }
}

impl Common {
    /// Refuses what would change the answer and is not supported.
    pub(super) fn check(&self) -> Result<(), ApiError> {
        let wanted = |value: Option<&Value>| {
            value.is_some_and(|value| !matches!(value, Value::Null | Value::Bool(false)))
        };
        let text = |format: &Value| format.get("type").and_then(Value::as_str) == Some("text");
        let unsupported = [
            ("n", self.n.is_some_and(|n| n != 1)),
            ("logprobs", wanted(self.logprobs.as_ref())),
            (
                "tools",
                self.tools.as_ref().is_some_and(|tools| !tools.is_empty()),
            ),
            (
                "response_format",
                self.response_format
                    .as_ref()
                    .is_some_and(|format| !format.is_null() && !text(format)),
            ),
        ];
        for (name, is_wanted) in unsupported {
            if is_wanted {
                return Err(ApiError::invalid(format!(
                    "{name} is not supported by this engine"
                )));
            }
        }
        Ok(())
    }

    pub(super) fn stops(&self) -> Result<Vec<String>, ApiError> {
        let stops = self
            .stop
            .clone()
            .map(OneOrMany::into_list)
            .unwrap_or_default();
        if stops.len() > MAX_STOPS || stops.iter().any(|stop| stop.len() > MAX_STOP_BYTES) {
            let why = format!("stop takes at most {MAX_STOPS} strings of {MAX_STOP_BYTES} bytes");
            return Err(ApiError::invalid(why));
        }
        Ok(stops)
    }

    pub(super) fn max_tokens(&self) -> Result<Option<usize>, ApiError> {
        let asked = self.max_completion_tokens.or(self.max_tokens);
        if asked == Some(0) {
            return Err(ApiError::invalid("max_tokens is 0; ask for at least 1"));
        }
        Ok(asked)
    }

    pub(super) fn ends(&self) -> Ends {
        if self.ignore_eos {
            Ends::Ignored
        } else {
            Ends::Heeded
        }
    }

    pub(super) fn include_usage(&self) -> bool {
        self.stream_options
            .as_ref()
            .is_some_and(|options| options.include_usage)
    }

    /// `fresh` is the seed where none is asked for.
    pub(super) fn sampling(&self, fresh: u64) -> Result<Sampling, ApiError> {
        let within = |name: &str,
                      value: Option<f32>,
                      range: std::ops::RangeInclusive<f32>,
                      otherwise: f32| {
            let value = value.unwrap_or(otherwise);
            if range.contains(&value) {
                return Ok(value);
            }
            let (least, most) = (range.start(), range.end());
            Err(ApiError::invalid(format!(
                "{name} is {value}; it goes from {least} to {most}"
            )))
        };
        Ok(Sampling {
            temperature: within("temperature", self.temperature, 0.0..=2.0, 1.0)?,
            top_p: within("top_p", self.top_p, 0.0..=1.0, 1.0)?,
            // -1 is vLLM's way to say all.
            top_k: self
                .top_k
                .and_then(|k| usize::try_from(k).ok())
                .unwrap_or(0),
            min_p: within("min_p", self.min_p, 0.0..=1.0, 0.0)?,
            repetition_penalty: within(
                "repetition_penalty",
                self.repetition_penalty,
                0.01..=10.0,
                1.0,
            )?,
            presence_penalty: within("presence_penalty", self.presence_penalty, -2.0..=2.0, 0.0)?,
            frequency_penalty: within(
                "frequency_penalty",
                self.frequency_penalty,
                -2.0..=2.0,
                0.0,
            )?,
            seed: self.seed.map_or(fresh, i64::cast_unsigned),
        })
    }
}

/// Name of a reason.
pub(super) fn reason(reason: Reason) -> &'static str {
    match reason {
        Reason::Stop => "stop",
        Reason::Length => "length",
    }
}

/// Which of the two endpoints an answer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Face {
    Chat,
    Completion,
}

/// The parts of an answer that do not change.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) face: Face,
    pub(super) id: String,
    pub(super) created: u64,
    pub(super) model: String,
    pub(super) prompt_tokens: usize,
}

impl Head {
    fn object(&self, object: &str, choices: &Value) -> Value {
        json!({"id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices})
    }

    pub(super) fn usage(&self, generated: usize) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": generated,
            "total_tokens": self.prompt_tokens + generated,
        })
    }

    /// The whole answer.
    pub(super) fn whole(&self, text: &str, end: Reason, generated: usize) -> Value {
        let mut body = match self.face {
            Face::Chat => self.object(
                "chat.completion",
                &json!([{"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": null, "finish_reason": reason(end)}]),
            ),
            Face::Completion => self.object(
                "text_completion",
                &json!([{"index": 0, "text": text, "logprobs": null, "finish_reason": reason(end)}]),
            ),
        };
        if let Some(body) = body.as_object_mut() {
            body.insert("usage".to_owned(), self.usage(generated));
        }
        body
    }

    /// The first piece of a streamed chat.
    pub(super) fn opening(&self) -> Option<Value> {
        (self.face == Face::Chat).then(|| {
            let delta = json!([{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": null}]);
            self.object("chat.completion.chunk", &delta)
        })
    }

    /// More text.
    pub(super) fn piece(&self, text: &str) -> Value {
        match self.face {
            Face::Chat => self.object(
                "chat.completion.chunk",
                &json!([{"index": 0, "delta": {"content": text}, "finish_reason": null}]),
            ),
            Face::Completion => self.object(
                "text_completion",
                &json!([{"index": 0, "text": text, "logprobs": null, "finish_reason": null}]),
            ),
        }
    }

    /// The end.
    pub(super) fn closing(&self, end: Reason) -> Value {
        match self.face {
            Face::Chat => self.object(
                "chat.completion.chunk",
                &json!([{"index": 0, "delta": {}, "finish_reason": reason(end)}]),
            ),
            Face::Completion => self.object(
                "text_completion",
                &json!([{"index": 0, "text": "", "logprobs": null, "finish_reason": reason(end)}]),
            ),
        }
    }

    /// Usage, in a piece without text.
    pub(super) fn accounting(&self, generated: usize) -> Value {
        let object = match self.face {
            Face::Chat => "chat.completion.chunk",
            Face::Completion => "text_completion",
        };
        let mut body = self.object(object, &json!([]));
        if let Some(body) = body.as_object_mut() {
            body.insert("usage".to_owned(), self.usage(generated));
        }
        body
    }
}

/// Reads a body, or tells line, column and field of what is wrong.
pub(super) fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ApiError> {
    serde_json::from_slice(bytes)
        .map_err(|e| ApiError::invalid(format!("the body is not the JSON expected here: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_may_be_text_parts_or_nothing_but_no_image() {
        let body = r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, {"role": "assistant", "content": null}]}"#;
        let body: ChatBody = parse(body.as_bytes()).unwrap();
        let messages = body.messages().unwrap();
        assert_eq!(messages[0].content, "ab");
        assert_eq!(messages[1].content, "");
        let image = r#"{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}"#;
        let image: ChatBody = parse(image.as_bytes()).unwrap();
        assert!(image.messages().unwrap_err().message.contains("image_url"));
    }

    #[test]
    fn what_is_out_of_range_or_unsupported_is_refused_by_name() {
        for (body, word) in [
            (r#"{"prompt": "x", "temperature": 5}"#, "temperature"),
            (r#"{"prompt": "x", "top_p": -1}"#, "top_p"),
            (r#"{"prompt": "x", "n": 2}"#, "n is not"),
            (r#"{"prompt": "x", "logprobs": 3}"#, "logprobs"),
            (r#"{"prompt": "x", "max_tokens": 0}"#, "max_tokens"),
            (
                r#"{"prompt": "x", "response_format": {"type": "json_object"}}"#,
                "response_format",
            ),
        ] {
            let body: CompletionBody = parse(body.as_bytes()).unwrap();
            let checked = body.common.check().and(body.common.sampling(0).map(drop));
            let error = checked.and(body.common.max_tokens().map(drop)).unwrap_err();
            assert!(error.message.contains(word), "{}", error.message);
        }
    }

    #[test]
    fn vllm_says_all_by_minus_one() {
        let body: CompletionBody =
            parse(br#"{"prompt": ["a"], "top_k": -1, "logprobs": false}"#).unwrap();
        assert_eq!(body.common.sampling(0).unwrap().top_k, 0);
        assert!(body.common.check().is_ok());
    }
}
