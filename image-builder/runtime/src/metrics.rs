//! Numbers about requests, for `/metrics`. Labels are enums, never texts of a client.

use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Refusal {
    /// The queue is full.
    Full,
    /// The server is stopping.
    Draining,
    /// Not understood, too long, or for a model that is not served.
    Invalid,
    /// Without the right key.
    Unauthorised,
    /// The upstream did not answer.
    Upstream,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum End {
    /// The model ended it, or a stop string.
    Stop,
    /// The limit of tokens was reached.
    Length,
    /// The client went away.
    Cancelled,
    /// Something failed.
    Failed,
}

/// Label of refused requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByReason {
    /// Why.
    pub reason: Refusal,
}

/// Label of answered requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByEnd {
    /// How it ended.
    pub end: End,
}

/// All metrics of the server.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Seconds from the arrival of a request to its first token.
    pub first_token: Histogram,
    /// Seconds between two tokens of an answer.
    pub between_tokens: Histogram,
    /// Seconds from the arrival of a request to its end.
    pub duration: Histogram,
    /// Tokens of prompts that were read.
    pub prompt_tokens: Counter,
    /// Tokens that were generated.
    pub generated_tokens: Counter,
    /// Requests that wait for a place.
    pub waiting: Gauge,
    /// Requests that are being answered.
    pub running: Gauge,
    /// Bytes reserved for keys and values.
    pub cache_bytes: Gauge,
    /// Requests that were refused.
    pub rejected: Family<ByReason, Counter>,
    /// Requests that were answered.
    pub finished: Family<ByEnd, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        let fine = [
            0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
        ];
        let coarse = [
            0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0,
        ];
        Self {
            first_token: Histogram::new(coarse),
            between_tokens: Histogram::new(fine),
            duration: Histogram::new(coarse),
            prompt_tokens: Counter::default(),
            generated_tokens: Counter::default(),
            waiting: Gauge::default(),
            running: Gauge::default(),
            cache_bytes: Gauge::default(),
            rejected: Family::default(),
            finished: Family::default(),
        }
    }
}

impl Metrics {
    /// Counts a refused request.
    pub fn refuse(&self, reason: Refusal) {
        self.rejected.get_or_create(&ByReason { reason }).inc();
    }

    /// Counts an answered request.
    pub fn finish(&self, end: End, took: Duration) {
        self.finished.get_or_create(&ByEnd { end }).inc();
        self.duration.observe(took.as_secs_f64());
    }

    /// All of them in the text format of OpenMetrics; empty if they cannot be written.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry()) {
            Ok(()) => text,
            Err(_) => String::new(),
        }
    }

    fn registry(&self) -> Registry {
        let mut all = Registry::with_prefix("kaito_runtime");
        let seconds = || Unit::Seconds;
        let metrics = self.clone();
        all.register_with_unit(
            "time_to_first_token",
            "Arrival to first token",
            seconds(),
            metrics.first_token,
        );
        all.register_with_unit(
            "inter_token_latency",
            "Between two tokens of an answer",
            seconds(),
            metrics.between_tokens,
        );
        all.register_with_unit(
            "request_duration",
            "Arrival to end",
            seconds(),
            metrics.duration,
        );
        all.register(
            "prompt_tokens",
            "Tokens of prompts that were read",
            metrics.prompt_tokens,
        );
        all.register(
            "generation_tokens",
            "Tokens that were generated",
            metrics.generated_tokens,
        );
        all.register(
            "requests_waiting",
            "Requests that wait for a place",
            metrics.waiting,
        );
        all.register(
            "requests_running",
            "Requests that are being answered",
            metrics.running,
        );
        all.register_with_unit(
            "kv_cache_reserved",
            "Reserved for keys and values",
            Unit::Bytes,
            metrics.cache_bytes,
        );
        all.register(
            "requests_rejected",
            "Requests that were refused",
            metrics.rejected,
        );
        all.register("requests", "Requests that were answered", metrics.finished);
        all
    }
}
