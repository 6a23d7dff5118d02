//! Many requests through one model: a thread advances all running sequences together, one step after the other.
//!
//! Every step takes one token of each answering sequence and fills up with parts of waiting prompts, so that a long prompt
//! delays others by one bounded step only (continuous batching). A sequence starts once its whole context fits into the
//! memory set aside for keys and values. May not know HTTP; the handlers know nothing of steps.

mod sequence;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::metrics::Metrics;
use crate::model::{Adapter, Model};
use crate::text::{Sampling, Tokenizer};
use sequence::Sequence;

/// How much is done at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Sequences that advance together; at least 1.
    pub sequences: usize,
    /// Requests that may wait.
    pub queue: usize,
    /// Tokens of one step; at least 1.
    pub step_tokens: usize,
    /// Bytes for keys and values of all sequences.
    pub cache_bytes: usize,
    /// Threads that compute; at least 1.
    pub threads: usize,
}

/// What is to be continued, and how.
#[derive(Debug)]
pub struct Request {
    /// The prompt; not empty.
    pub tokens: Vec<u32>,
    /// Tokens to generate at most; at least 1.
    pub max_tokens: usize,
    /// Choice of tokens.
    pub sampling: Sampling,
    /// Texts that end the answer; they are not part of it.
    pub stops: Vec<String>,
    /// Adapter to go through.
    pub adapter: Option<Arc<Adapter>>,
    /// Whether tokens that end an answer end this one.
    pub ends: Ends,
}

/// What to do at a token that ends an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// End.
    Heeded,
    /// Go on, to measure.
    Ignored,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The model ended it, or a stop string.
    Stop,
    /// The limit of tokens.
    Length,
}

/// Something that happened to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// More text.
    Text(String),
    /// The end. A channel that closes without it means that the engine failed.
    Done {
        /// Why.
        reason: Reason,
        /// Tokens of the answer.
        generated: usize,
    },
}

/// Why a request was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too many wait.
    #[error("{waiting} requests are waiting already; try again in a few seconds")]
    Full {
        /// How many.
        waiting: usize,
    },
    /// The server is stopping.
    #[error("the server is stopping; ask another replica")]
    Draining,
    /// It would never fit.
    #[error("{tokens} tokens of prompt and answer are more than the {limit} that fit")]
    TooLong {
        /// Tokens of prompt and answer.
        tokens: usize,
        /// Most that fit.
        limit: usize,
    },
}

/// What handlers and the worker share.
#[derive(Debug, Default)]
struct Shared {
    waiting: AtomicUsize,
    stopping: AtomicBool,
}

/// Access to the engine; cheap to clone.
#[derive(Clone, Debug)]
pub struct Engine {
    sender: std::sync::mpsc::Sender<Sequence>,
    shared: Arc<Shared>,
    model: Arc<Model>,
    limits: Limits,
    metrics: Metrics,
}

/// Why the engine did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Threads could not be had.
    #[error("starting {0} threads to compute with")]
    Threads(usize, #[source] rayon::ThreadPoolBuildError),
    /// The worker could not be started.
    #[error("starting the engine's thread")]
    Worker(#[source] std::io::Error),
}

/// Ends when the worker does: after the last [`Engine`] is gone or told to stop, or because it failed.
pub type Ended = tokio::sync::oneshot::Receiver<()>;

impl Engine {
    /// Starts the worker.
    ///
    /// # Errors
    /// [`Error`] if threads cannot be had.
    pub fn start(
        model: Arc<Model>,
        tokenizer: Arc<Tokenizer>,
        limits: Limits,
        metrics: Metrics,
    ) -> Result<(Self, Ended), Error> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(limits.threads)
            .thread_name(|number| format!("compute-{number}"))
            .build()
            .map_err(|e| Error::Threads(limits.threads, e))?;
        let (sender, receiver) = std::sync::mpsc::channel();
        let (ending, ended) = tokio::sync::oneshot::channel();
        let shared = Arc::new(Shared::default());
        let worker = worker::Worker {
            model: Arc::clone(&model),
            tokenizer,
            limits,
            metrics: metrics.clone(),
            shared: Arc::clone(&shared),
            receiver,
            waiting: std::collections::VecDeque::new(),
            running: Vec::new(),
            reserved: 0,
        };
        std::thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || {
                // Inside the pool, so that a product's tasks need not cross threads to begin.
                pool.install(move || worker.work());
                drop(ending);
            })
            .map_err(Error::Worker)?;
        let engine = Self {
            sender,
            shared,
            model,
            limits,
            metrics,
        };
        Ok((engine, ended))
    }

    /// Takes a request, or refuses it. Dropping the receiver cancels it.
    ///
    /// # Errors
    /// [`Refused`] with the reason.
    pub fn submit(&self, request: Request) -> Result<UnboundedReceiver<Event>, Refused> {
        if self.shared.stopping.load(Ordering::Acquire) {
            return Err(Refused::Draining);
        }
        let tokens = request.tokens.len().saturating_add(request.max_tokens);
        let limit = self.longest();
        if tokens > limit {
            return Err(Refused::TooLong { tokens, limit });
        }
        let free = |waiting: usize| (waiting < self.limits.queue).then_some(waiting + 1);
        self.shared
            .waiting
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, free)
            .map_err(|waiting| Refused::Full { waiting })?;
        let (events, receiver) = unbounded_channel();
        let sequence = Sequence::new(request, self.model.config(), events, Instant::now());
        // Without a worker the events end without a `Done`, which handlers report as a failure.
        if self.sender.send(sequence).is_err() {
            self.shared.waiting.fetch_sub(1, Ordering::AcqRel);
        }
        self.metrics.waiting.inc();
        Ok(receiver)
    }

    /// Refuses early, before work is put into a request that would be refused.
    ///
    /// # Errors
    /// [`Refused`] with the reason.
    pub fn has_room(&self) -> Result<(), Refused> {
        if self.is_stopping() {
            return Err(Refused::Draining);
        }
        let waiting = self.shared.waiting.load(Ordering::Acquire);
        if waiting >= self.limits.queue {
            return Err(Refused::Full { waiting });
        }
        Ok(())
    }

    /// Tokens of the longest sequence that fits.
    #[must_use]
    pub fn longest(&self) -> usize {
        let config = self.model.config();
        let fitting = self.limits.cache_bytes / config.cache_bytes_per_token().max(1);
        config.context.min(fitting)
    }

    /// Takes no more requests; those that were taken are finished.
    pub fn stop(&self) {
        self.shared.stopping.store(true, Ordering::Release);
    }

    /// Whether it takes requests.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.shared.stopping.load(Ordering::Acquire)
    }
}
