//! What has been said so far, and the request that goes on from it. Pure.

use serde_json::{Value, json};

/// How answers are to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameters {
    /// Randomness, 0 to 2.
    pub temperature: f64,
    /// Share of probability that tokens are taken from, 0 to 1.
    pub top_p: f64,
    /// Longest answer in tokens.
    pub max_tokens: u32,
    /// Makes a random answer repeatable.
    pub seed: Option<u64>,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// Adapter to answer with; the base model without.
    pub model: Option<String>,
    /// Whether the answer is sent in pieces.
    pub stream: bool,
}

/// Who said something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    User,
    Assistant,
}

/// A conversation: instructions, and turns in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Conversation {
    /// How answers are made from here on.
    pub parameters: Parameters,
    /// Instructions before the first turn.
    pub system: Option<String>,
    turns: Vec<(Role, String)>,
}

impl Conversation {
    /// Nothing said yet.
    #[must_use]
    pub const fn new(system: Option<String>, parameters: Parameters) -> Self {
        Self {
            parameters,
            system,
            turns: Vec::new(),
        }
    }

    /// Adds a question.
    pub fn ask(&mut self, text: String) {
        self.turns.push((Role::User, text));
    }

    /// Adds the answer to the last question.
    pub fn answered(&mut self, text: String) {
        self.turns.push((Role::Assistant, text));
    }

    /// Forgets the last question and its answer; false if there is none.
    pub fn undo(&mut self) -> bool {
        let Some(last) = self.turns.iter().rposition(|(role, _)| *role == Role::User) else {
            return false;
        };
        self.turns.truncate(last);
        true
    }

    /// Forgets all turns; instructions and parameters stay.
    pub fn clear(&mut self) {
        self.turns.clear();
    }

    /// The body of `POST /v1/chat/completions`; `base` is the model's name where no adapter is chosen.
    #[must_use]
    pub fn request(&self, base: &str) -> Value {
        let system = self
            .system
            .iter()
            .map(|text| json!({"role": "system", "content": text}));
        let turns = self.turns.iter().map(|(role, text)| {
            let role = match role {
                Role::User => "user",
                Role::Assistant => "assistant",
            };
            json!({"role": role, "content": text})
        });
        let parameters = &self.parameters;
        let mut body = json!({
            "model": parameters.model.as_deref().unwrap_or(base),
            "messages": system.chain(turns).collect::<Vec<_>>(),
            "temperature": parameters.temperature,
            "top_p": parameters.top_p,
            "max_tokens": parameters.max_tokens,
            "stream": parameters.stream,
        });
        if let Some(fields) = body.as_object_mut() {
            if parameters.stream {
                fields.insert("stream_options".to_owned(), json!({"include_usage": true}));
            }
            if let Some(seed) = parameters.seed {
                fields.insert("seed".to_owned(), seed.into());
            }
            if !parameters.stop.is_empty() {
                fields.insert("stop".to_owned(), json!(parameters.stop));
            }
        }
        body
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::{Conversation, Parameters};

    pub(crate) fn parameters() -> Parameters {
        Parameters {
            temperature: 0.0,
            top_p: 1.0,
            max_tokens: 8,
            seed: None,
            stop: Vec::new(),
            model: None,
            stream: false,
        }
    }

    #[test]
    fn the_request_holds_instructions_and_all_turns_in_order() {
        let mut talk = Conversation::new(Some("Be brief.".to_owned()), parameters());
        talk.ask("one?".to_owned());
        talk.answered("1".to_owned());
        talk.ask("two?".to_owned());
        let body = talk.request("phi");
        assert_eq!(body["model"], "phi");
        let said: Vec<_> = body["messages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|message| (message["role"].clone(), message["content"].clone()))
            .collect();
        let expected = [
            ("system", "Be brief."),
            ("user", "one?"),
            ("assistant", "1"),
            ("user", "two?"),
        ];
        assert_eq!(
            said,
            expected.map(|(role, text)| (json!(role), json!(text)))
        );
        assert_eq!(body.get("seed"), None);
        assert_eq!(body.get("stream_options"), None);
    }

    #[test]
    fn undo_takes_back_the_last_question_with_its_answer_and_nothing_more() {
        let mut talk = Conversation::new(None, parameters());
        assert!(!talk.undo());
        talk.ask("one?".to_owned());
        talk.answered("1".to_owned());
        talk.ask("two?".to_owned());
        assert!(talk.undo());
        assert_eq!(talk.request("m")["messages"].as_array().unwrap().len(), 2);
        assert!(talk.undo());
        assert_eq!(talk.request("m")["messages"], json!([]));
    }

    #[test]
    fn an_adapter_is_chosen_by_the_model_name() {
        let mut chosen = parameters();
        chosen.model = Some("pirate".to_owned());
        chosen.stream = true;
        let body = Conversation::new(None, chosen).request("phi");
        assert_eq!(body["model"], "pirate");
        assert_eq!(body["stream_options"], json!({"include_usage": true}));
    }
}
