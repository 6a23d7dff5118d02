//! One request on its way.

use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use super::{Ends, Event, Reason, Request};
use crate::model::{Cache, Config};
use crate::text::stream::Added;
use crate::text::{Sampler, TextStream, Tokenizer};

/// A request with all that it has come to so far.
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) request: Request,
    pub(super) cache: Cache,
    pub(super) generated: Vec<u32>,
    pub(super) events: UnboundedSender<Event>,
    pub(super) arrived: Instant,
    pub(super) last_token: Option<Instant>,
    sampler: Sampler,
    stream: TextStream,
}

/// Whether a sequence goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    GoesOn,
    Ended(Reason),
    /// Nobody listens any more.
    Cancelled,
}

impl Sequence {
    pub(super) fn new(
        request: Request,
        config: &Config,
        events: UnboundedSender<Event>,
        arrived: Instant,
    ) -> Self {
        Self {
            sampler: Sampler::new(request.sampling.clone()),
            stream: TextStream::new(request.stops.clone()),
            cache: Cache::new(config),
            generated: Vec::new(),
            request,
            events,
            arrived,
            last_token: None,
        }
    }

    /// Most tokens that it can come to.
    pub(super) fn longest(&self) -> usize {
        self.request.tokens.len() + self.request.max_tokens
    }

    /// Tokens of the prompt that were not read yet.
    pub(super) fn unread(&self) -> &[u32] {
        self.request
            .tokens
            .get(self.cache.tokens()..)
            .unwrap_or_default()
    }

    /// Whether the prompt is not read to the end.
    pub(super) fn is_reading(&self) -> bool {
        self.cache.tokens() < self.request.tokens.len()
    }

    /// Chooses a token and tells the listener.
    pub(super) fn advance(&mut self, logits: &mut [f32], tokenizer: &Tokenizer) -> Progress {
        let prompt = &self.request.tokens;
        let token = self.sampler.choose(logits, prompt, &self.generated);
        if tokenizer.is_end(token) && self.request.ends == Ends::Heeded {
            return Progress::Ended(Reason::Stop);
        }
        self.generated.push(token);
        match self.stream.push(tokenizer, token) {
            Added::Stopped(text) => {
                self.tell(text);
                // What is held back now lies after the stop.
                self.stream = TextStream::default();
                return Progress::Ended(Reason::Stop);
            }
            Added::Text(text) => {
                if !self.tell(text) {
                    return Progress::Cancelled;
                }
            }
        }
        if self.generated.len() >= self.request.max_tokens {
            return Progress::Ended(Reason::Length);
        }
        Progress::GoesOn
    }

    fn tell(&self, text: String) -> bool {
        if text.is_empty() {
            return !self.events.is_closed();
        }
        self.events.send(Event::Text(text)).is_ok()
    }

    /// Gives out what was held back, and the end.
    pub(super) fn finish(self, reason: Reason, tokenizer: &Tokenizer) {
        let generated = self.generated.len();
        let rest = self.stream.finish(tokenizer);
        if !rest.is_empty() {
            drop(self.events.send(Event::Text(rest)));
        }
        // A listener that has gone needs no end.
        drop(self.events.send(Event::Done { reason, generated }));
    }
}
