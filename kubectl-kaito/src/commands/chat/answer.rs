//! A streamed answer: server-sent events in, pieces of text out. Pure.

use serde_json::Value;

/// Longest event that is kept, in bytes; a longer one is not from a chat server.
const LONGEST_EVENT: usize = 1 << 20;

/// One thing that the stream says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// More text.
    Text(String),
    /// Tokens of the prompt and of the answer.
    Usage {
        /// Tokens that were read.
        prompt: u64,
        /// Tokens that were made.
        answer: u64,
    },
    /// The answer is whole.
    Done,
}

/// Why a stream is not an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The server reports an error in the stream.
    #[error("the model's server reports: {0}")]
    Reported(String),
    /// Not JSON.
    #[error("the model's server sent an event that is not JSON: {0}")]
    NotJson(String),
    /// An event without end.
    #[error("the model's server sent an event of more than {LONGEST_EVENT} bytes")]
    TooLong,
}

/// Takes lines of the stream one after the other.
#[derive(Clone, Debug, Default)]
pub struct Events {
    data: String,
}

impl Events {
    /// Takes a line without its end; an empty line completes an event.
    ///
    /// # Errors
    /// [`AnswerError`], after which the stream is of no use.
    pub fn line(&mut self, line: &str) -> Result<Vec<Piece>, AnswerError> {
        let line = line.trim_end_matches('\r');
        if line.is_empty() {
            return self.complete();
        }
        if let Some(data) = line.strip_prefix("data:") {
            let data = data.strip_prefix(' ').unwrap_or(data);
            if self.data.len() + data.len() > LONGEST_EVENT {
                return Err(AnswerError::TooLong);
            }
            if !self.data.is_empty() {
                self.data.push('\n');
            }
            self.data.push_str(data);
        }
        // Comments (`:`) keep connections alive; names and numbers of events say nothing here.
        Ok(Vec::new())
    }

    /// Takes the end of the stream: what was not completed by an empty line counts all the same.
    ///
    /// # Errors
    /// As [`Self::line`].
    pub fn complete(&mut self) -> Result<Vec<Piece>, AnswerError> {
        let data = std::mem::take(&mut self.data);
        if data.is_empty() {
            return Ok(Vec::new());
        }
        if data == "[DONE]" {
            return Ok(vec![Piece::Done]);
        }
        let event: Value = serde_json::from_str(&data)
            .map_err(|_| AnswerError::NotJson(data.chars().take(200).collect()))?;
        pieces(&event)
    }
}

fn pieces(event: &Value) -> Result<Vec<Piece>, AnswerError> {
    if let Some(error) = event.get("error").filter(|error| !error.is_null()) {
        return Err(AnswerError::Reported(message_of(error)));
    }
    let mut found = Vec::new();
    let text = event
        .pointer("/choices/0/delta/content")
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty());
    found.extend(text.map(|text| Piece::Text(text.to_owned())));
    found.extend(usage(event));
    Ok(found)
}

/// The token counts of an answer, whole or streamed.
#[must_use]
pub fn usage(answer: &Value) -> Option<Piece> {
    let usage = answer.get("usage")?;
    let count = |name: &str| usage.get(name).and_then(Value::as_u64);
    Some(Piece::Usage {
        prompt: count("prompt_tokens")?,
        answer: count("completion_tokens")?,
    })
}

/// The text of an error object, or the object itself.
#[must_use]
pub fn message_of(error: &Value) -> String {
    let text = error.get("message").unwrap_or(error);
    text.as_str()
        .map_or_else(|| text.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::{AnswerError, Events, Piece};

    fn all(lines: &[&str]) -> Result<Vec<Piece>, AnswerError> {
        let mut events = Events::default();
        let mut pieces = Vec::new();
        for line in lines {
            pieces.extend(events.line(line)?);
        }
        pieces.extend(events.complete()?);
        Ok(pieces)
    }

    #[test]
    fn text_usage_and_the_end_come_out_in_order() {
        let lines = [
            ": keep-alive",
            "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\"}}]}",
            "",
            "data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\r",
            "\r",
            "event: message",
            "data:{\"choices\":[{\"delta\":{\"content\":\"lo\"}}]}",
            "",
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}",
            "",
            "data: [DONE]",
        ];
        let expected = vec![
            Piece::Text("Hel".to_owned()),
            Piece::Text("lo".to_owned()),
            Piece::Usage {
                prompt: 3,
                answer: 2,
            },
            Piece::Done,
        ];
        assert_eq!(all(&lines), Ok(expected));
    }

    #[test]
    fn an_error_in_the_stream_is_an_error() {
        let lines = ["data: {\"error\":{\"message\":\"out of memory\"}}", ""];
        assert_eq!(
            all(&lines),
            Err(AnswerError::Reported("out of memory".to_owned()))
        );
    }

    #[test]
    fn what_is_not_json_is_named() {
        assert!(matches!(
            all(&["data: <html>", ""]),
            Err(AnswerError::NotJson(text)) if text == "<html>"
        ));
    }
}
