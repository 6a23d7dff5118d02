//! Text of an answer as it grows: whole characters only, nothing that may become a stop string.

use super::tokenizer::Tokenizer;

/// Turns tokens into text while they come.
#[derive(Debug, Default)]
pub struct TextStream {
    tokens: Vec<u32>,
    /// Tokens before this are settled; decoding starts here, as the first token of a text may lose its blank.
    context: usize,
    /// Tokens before this have been given out.
    given: usize,
    /// Text that may be the beginning of a stop string.
    held: String,
    stops: Vec<String>,
}

/// What a token added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Added {
    /// Text, possibly none yet.
    Text(String),
    /// The text before a stop string; the answer is over.
    Stopped(String),
}

impl TextStream {
    /// A stream that ends before any of `stops`. Empty ones are ignored.
    #[must_use]
    pub fn new(stops: Vec<String>) -> Self {
        Self {
            stops: stops.into_iter().filter(|stop| !stop.is_empty()).collect(),
            ..Self::default()
        }
    }

    /// Adds a token.
    pub fn push(&mut self, tokenizer: &Tokenizer, token: u32) -> Added {
        self.tokens.push(token);
        let tail = self.tokens.get(self.context..).unwrap_or_default();
        let before = self
            .tokens
            .get(self.context..self.given)
            .unwrap_or_default();
        let (before, whole) = (tokenizer.decode(before), tokenizer.decode(tail));
        // A character may need several tokens; until then it decodes to U+FFFD.
        if whole.ends_with('\u{fffd}') {
            return Added::Text(String::new());
        }
        let new = whole.get(before.len()..).unwrap_or_default();
        self.context = self.given;
        self.given = self.tokens.len();
        self.held.push_str(new);
        self.release()
    }

    /// What is left when no more tokens come.
    #[must_use]
    pub fn finish(mut self, tokenizer: &Tokenizer) -> String {
        let before = self
            .tokens
            .get(self.context..self.given)
            .unwrap_or_default();
        let tail = self.tokens.get(self.context..).unwrap_or_default();
        let (before, whole) = (tokenizer.decode(before), tokenizer.decode(tail));
        self.held
            .push_str(whole.get(before.len()..).unwrap_or_default());
        self.held
    }

    fn release(&mut self) -> Added {
        let found = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop.as_str()))
            .min();
        if let Some(at) = found {
            self.held.truncate(at);
            return Added::Stopped(std::mem::take(&mut self.held));
        }
        let kept = self
            .stops
            .iter()
            .map(|stop| overlap(&self.held, stop))
            .max()
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - kept);
        Added::Text(std::mem::replace(&mut self.held, rest))
    }
}

/// Bytes at the end of `text` that `stop` begins with.
fn overlap(text: &str, stop: &str) -> usize {
    let ends = stop.char_indices().map(|(at, _)| at).skip(1);
    let fitting = ends.filter(|at| stop.get(..*at).is_some_and(|start| text.ends_with(start)));
    fitting.max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn released(stream: &mut TextStream, text: &str) -> Added {
        stream.held.push_str(text);
        stream.release()
    }

    #[test]
    fn what_may_become_a_stop_string_is_held_back() {
        let mut stream = TextStream::new(vec!["END".to_owned(), String::new()]);
        assert_eq!(released(&mut stream, "aE"), Added::Text("a".to_owned()));
        assert_eq!(released(&mut stream, "N"), Added::Text(String::new()));
        assert_eq!(released(&mut stream, "x"), Added::Text("ENx".to_owned()));
        assert_eq!(
            released(&mut stream, "bEND and"),
            Added::Stopped("b".to_owned())
        );
    }

    #[test]
    fn the_earliest_of_several_stops_counts() {
        let mut stream = TextStream::new(vec!["zz".to_owned(), "é".to_owned()]);
        assert_eq!(
            released(&mut stream, "aébzz"),
            Added::Stopped("a".to_owned())
        );
    }
}
