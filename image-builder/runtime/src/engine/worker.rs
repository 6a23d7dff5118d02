//! The thread that computes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::sequence::{Progress, Sequence};
use super::{Limits, Reason, Shared};
use crate::metrics::{End, Metrics};
use crate::model::{Model, Step};
use crate::text::Tokenizer;

/// How often an idle worker looks whether it is to stop.
const IDLE: Duration = Duration::from_millis(200);

pub(super) struct Worker {
    pub(super) model: Arc<Model>,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) limits: Limits,
    pub(super) metrics: Metrics,
    pub(super) shared: Arc<Shared>,
    pub(super) receiver: Receiver<Sequence>,
    pub(super) waiting: VecDeque<Sequence>,
    pub(super) running: Vec<Sequence>,
    /// Bytes of keys and values that running sequences may come to.
    pub(super) reserved: usize,
}

/// What a sequence does in a step.
struct Part {
    tokens: Vec<u32>,
    wants_logits: bool,
}

impl Worker {
    /// Works until told to stop and nothing is left, or until nobody can ask any more.
    pub(super) fn work(mut self) {
        while self.receive() {
            self.admit();
            self.step();
        }
    }

    /// Takes new requests; waits for one if there is nothing to do. False at the end.
    fn receive(&mut self) -> bool {
        loop {
            self.waiting.extend(self.receiver.try_iter());
            if !self.running.is_empty() || !self.waiting.is_empty() {
                return true;
            }
            match self.receiver.recv_timeout(IDLE) {
                Ok(sequence) => self.waiting.push_back(sequence),
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => {
                    if self.shared.stopping.load(Ordering::Acquire) {
                        return false;
                    }
                }
            }
        }
    }

    /// Starts requests in order of arrival while there is room; those whose clients have gone leave the queue.
    fn admit(&mut self) {
        let gone = |sequence: &Sequence| sequence.events.is_closed();
        let before = self.waiting.len();
        self.waiting.retain(|sequence| !gone(sequence));
        self.left_queue(before - self.waiting.len());
        while self.running.len() < self.limits.sequences {
            let Some(next) = self.waiting.front() else {
                break;
            };
            let bytes = self.bytes(next);
            if self.reserved + bytes > self.limits.cache_bytes && !self.running.is_empty() {
                break;
            }
            if let Some(next) = self.waiting.pop_front() {
                self.left_queue(1);
                self.reserved += bytes;
                self.running.push(next);
            }
        }
        self.gauge();
    }

    fn left_queue(&self, count: usize) {
        self.shared.waiting.fetch_sub(count, Ordering::AcqRel);
        self.metrics
            .waiting
            .dec_by(i64::try_from(count).unwrap_or(0));
    }

    fn bytes(&self, sequence: &Sequence) -> usize {
        sequence.longest() * self.model.config().cache_bytes_per_token()
    }

    fn gauge(&self) {
        let number = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.metrics.running.set(number(self.running.len()));
        self.metrics.cache_bytes.set(number(self.reserved));
    }

    /// Advances all sequences once.
    fn step(&mut self) {
        let parts = self.parts();
        let mut steps = Vec::with_capacity(parts.len());
        let mut takers = Vec::with_capacity(parts.len());
        for (at, (sequence, part)) in self.running.iter_mut().zip(&parts).enumerate() {
            if part.tokens.is_empty() {
                continue;
            }
            takers.push(at);
            steps.push(Step {
                cache: &mut sequence.cache,
                tokens: &part.tokens,
                adapter: sequence.request.adapter.as_deref(),
                wants_logits: part.wants_logits,
            });
        }
        let logits = self.model.forward(&mut steps);
        drop(steps);
        let mut progress = vec![Progress::GoesOn; self.running.len()];
        for (at, logits) in takers.into_iter().zip(logits) {
            if let (Some(mut logits), Some(slot)) = (logits, progress.get_mut(at)) {
                *slot = self.advance(at, &mut logits);
            }
        }
        self.retire(&progress);
    }

    /// One token for every sequence that answers, then parts of prompts in order of arrival, as far as a step goes.
    fn parts(&self) -> Vec<Part> {
        let answering = self
            .running
            .iter()
            .filter(|sequence| !sequence.is_reading());
        let mut room = self.limits.step_tokens.saturating_sub(answering.count());
        let mut parts = Vec::with_capacity(self.running.len());
        for sequence in &self.running {
            if !sequence.is_reading() {
                parts.push(Part {
                    tokens: sequence.generated.last().copied().into_iter().collect(),
                    wants_logits: true,
                });
                continue;
            }
            let unread = sequence.unread();
            // A step full of answers still reads one token, so that no prompt waits for ever.
            let take = unread.len().min(room.max(1));
            room = room.saturating_sub(take);
            self.metrics.prompt_tokens.inc_by(take as u64);
            parts.push(Part {
                tokens: unread.get(..take).unwrap_or_default().to_vec(),
                wants_logits: take == unread.len(),
            });
        }
        parts
    }

    fn advance(&mut self, at: usize, logits: &mut [f32]) -> Progress {
        let Some(sequence) = self.running.get_mut(at) else {
            return Progress::GoesOn;
        };
        let progress = sequence.advance(logits, &self.tokenizer);
        let now = Instant::now();
        match sequence.last_token.replace(now) {
            None => {
                let took = now - sequence.arrived;
                self.metrics.first_token.observe(took.as_secs_f64());
            }
            Some(last) => {
                let took = now - last;
                self.metrics.between_tokens.observe(took.as_secs_f64());
            }
        }
        self.metrics.generated_tokens.inc();
        progress
    }

    /// Ends what has ended.
    fn retire(&mut self, progress: &[Progress]) {
        let all = std::mem::take(&mut self.running);
        for (sequence, progress) in all.into_iter().zip(progress) {
            let took = sequence.arrived.elapsed();
            let cancelled = sequence.events.is_closed();
            match progress {
                Progress::GoesOn if !cancelled => {
                    self.running.push(sequence);
                    continue;
                }
                Progress::Ended(reason) if !cancelled => {
                    let end = match reason {
                        Reason::Stop => End::Stop,
                        Reason::Length => End::Length,
                    };
                    self.reserved -= self.bytes(&sequence);
                    self.metrics.finish(end, took);
                    sequence.finish(*reason, &self.tokenizer);
                }
                _ => {
                    self.reserved -= self.bytes(&sequence);
                    self.metrics.finish(End::Cancelled, took);
                }
            }
        }
        self.gauge();
    }
}
