//! Body and answer of `POST /chat`, as KAITO's inference servers had them: `{"prompt": …}` gives `{"Result": …}`.
//!
//! Settings are taken from `generate_kwargs`, or from the top level as the first of those servers did, by the names of
//! transformers. Without any, the likeliest token is taken.

use serde::Deserialize;
use serde_json::{Value, json};

use super::error::ApiError;
use crate::text::{Message, Sampling};

/// Body of `/chat`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct SimpleBody {
    prompt: Option<String>,
    messages: Option<Vec<Message>>,
    prefix: Option<String>,
    pub(super) model: Option<String>,
    return_full_text: Option<bool>,
    generate_kwargs: Option<Settings>,
    #[serde(flatten)]
    settings: Settings,
}

/// Settings of transformers' `generate` that matter here; others are ignored.
#[derive(Clone, Debug, Default, Deserialize)]
struct Settings {
    max_length: Option<usize>,
    max_new_tokens: Option<usize>,
    do_sample: Option<bool>,
    temperature: Option<f32>,
    top_k: Option<usize>,
    top_p: Option<f32>,
    repetition_penalty: Option<f32>,
    seed: Option<u64>,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Question {
    /// A text to answer, or to continue by a model that was not trained on conversations.
    Prompt(String),
    /// A conversation.
    Messages(Vec<Message>),
}

/// Most tokens of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// The server's default.
    Default,
    /// Of the answer alone.
    New(usize),
    /// Of prompt and answer together.
    Total(usize),
}

impl SimpleBody {
    pub(super) fn question(&self) -> Result<Question, ApiError> {
        match (&self.prompt, &self.messages) {
            (Some(prompt), None) if !prompt.is_empty() => {
                let prefix = self.prefix.as_deref().unwrap_or_default();
                Ok(Question::Prompt(format!("{prefix}{prompt}")))
            }
            (None, Some(messages)) if !messages.is_empty() => {
                Ok(Question::Messages(messages.clone()))
            }
            _ => Err(ApiError::invalid(
                "send either prompt or messages, not empty",
            )),
        }
    }

    fn setting<T>(&self, pick: impl Fn(&Settings) -> Option<T>) -> Option<T> {
        let nested = self.generate_kwargs.as_ref().and_then(&pick);
        nested.or_else(|| pick(&self.settings))
    }

    pub(super) fn length(&self) -> Length {
        let new = self.setting(|settings| settings.max_new_tokens);
        let total = self.setting(|settings| settings.max_length);
        match (new, total) {
            (Some(new), _) => Length::New(new.max(1)),
            (None, Some(total)) => Length::Total(total),
            (None, None) => Length::Default,
        }
    }

    /// `fresh` is the seed where none is asked for.
    pub(super) fn sampling(&self, fresh: u64) -> Result<Sampling, ApiError> {
        let temperature = self.setting(|settings| settings.temperature);
        let sample = self.setting(|settings| settings.do_sample);
        let sampling = Sampling {
            temperature: match (sample, temperature) {
                (Some(false), _) | (None, None) => 0.0,
                (_, temperature) => temperature.unwrap_or(1.0),
            },
            top_k: self.setting(|settings| settings.top_k).unwrap_or(0),
            top_p: self.setting(|settings| settings.top_p).unwrap_or(1.0),
            repetition_penalty: self
                .setting(|settings| settings.repetition_penalty)
                .unwrap_or(1.0),
            seed: self.setting(|settings| settings.seed).unwrap_or(fresh),
            ..Sampling::default()
        };
        let fits = (0.0..=10.0).contains(&sampling.temperature)
            && (0.0..=1.0).contains(&sampling.top_p)
            && (0.01..=10.0).contains(&sampling.repetition_penalty);
        if fits {
            return Ok(sampling);
        }
        let why =
            "temperature goes from 0 to 10, top_p from 0 to 1, repetition_penalty from 0.01 to 10";
        Err(ApiError::invalid(why))
    }

    /// The answer. A model that continues texts gives the whole text unless told otherwise; one that answers gives the
    /// answer, unless told otherwise.
    pub(super) fn answer(&self, text: &str, continued: Continued) -> Value {
        let full = self
            .return_full_text
            .unwrap_or(continued == Continued::Text);
        let prompt = self.prompt.as_deref().filter(|_| full).unwrap_or_default();
        json!({"Result": format!("{prompt}{text}")})
    }
}

/// What a model made of the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Continued {
    /// It wrote on.
    Text,
    /// It answered.
    Conversation,
}

#[cfg(test)]
mod tests {
    use super::super::openai::parse;
    use super::*;

    fn body(text: &str) -> SimpleBody {
        parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn the_plainest_request_is_answered_greedily() {
        let body = body(r#"{"prompt": "hi"}"#);
        assert_eq!(body.question().unwrap(), Question::Prompt("hi".to_owned()));
        assert!(body.sampling(7).unwrap().temperature.abs() < f32::EPSILON);
        assert_eq!(body.length(), Length::Default);
        assert_eq!(
            body.answer(" there", Continued::Conversation)["Result"],
            " there"
        );
        assert_eq!(body.answer(" there", Continued::Text)["Result"], "hi there");
    }

    #[test]
    fn settings_are_found_nested_and_at_the_top() {
        let nested = body(
            r#"{"prompt": "x", "return_full_text": false, "generate_kwargs": {"max_length": 9, "do_sample": true, "top_k": 4}}"#,
        );
        assert_eq!(nested.length(), Length::Total(9));
        assert_eq!(nested.sampling(0).unwrap().top_k, 4);
        assert!(nested.sampling(0).unwrap().temperature > 0.9);
        let flat = body(r#"{"prompt": "x", "max_new_tokens": 3, "temperature": 0.5}"#);
        assert_eq!(flat.length(), Length::New(3));
        assert!(flat.sampling(0).unwrap().temperature > 0.4);
    }

    #[test]
    fn without_a_question_there_is_an_error() {
        for text in ["{}", r#"{"prompt": ""}"#, r#"{"messages": []}"#] {
            assert!(body(text).question().is_err(), "{text}");
        }
    }
}
