//! Progress for programs: one JSON object per line.
//!
//! `planned`, `started`, `retried`, `finished` and `note` come as they happen; bytes come summed up as `progress`, at
//! most ten times a second. Fields are only ever added.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Event, LineWriter, Progress, Tally};

/// Time between two `progress` lines.
const INTERVAL: Duration = Duration::from_millis(100);

/// JSON lines.
pub struct JsonLines {
    write: LineWriter,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tally: Tally,
    last: Option<Instant>,
}

impl JsonLines {
    /// Lines for `write`.
    #[must_use]
    pub fn new(write: LineWriter) -> Self {
        Self {
            write,
            state: Mutex::default(),
        }
    }
}

impl Progress for JsonLines {
    fn event(&self, event: Event) {
        let line = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.tally.apply(&event);
            state.line(&event, Instant::now())
        };
        if let Some(line) = line {
            (self.write)(&line.to_string());
        }
    }
}

impl State {
    fn line(&mut self, event: &Event, now: Instant) -> Option<Value> {
        let name = |blob: usize| self.tally.blob(blob).map(|state| state.name.as_str());
        Some(match event {
            Event::Planned { blobs } => json!({
                "event": "planned", "blobs": blobs.len(), "bytes": self.tally.total(),
            }),
            Event::Started { blob, phase } => json!({
                "event": "started", "blob": blob, "name": name(*blob), "phase": phase.word(),
            }),
            Event::Retried {
                blob,
                attempt,
                reason,
            } => json!({
                "event": "retried", "blob": blob, "name": name(*blob), "attempt": attempt, "reason": reason,
            }),
            Event::Finished {
                blob,
                outcome,
                digest,
            } => json!({
                "event": "finished", "blob": blob, "name": name(*blob), "outcome": outcome.word(), "digest": digest,
                "size": self.tally.blob(*blob).map(|state| state.size),
            }),
            Event::Note(text) => json!({"event": "note", "text": text}),
            Event::Advanced { .. } => {
                if self
                    .last
                    .is_some_and(|last| now.duration_since(last) < INTERVAL)
                {
                    return None;
                }
                self.last = Some(now);
                json!({
                    "event": "progress", "done": self.tally.done(), "total": self.tally.total(),
                    "finished": self.tally.finished(), "blobs": self.tally.count(),
                })
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::State;
    use crate::progress::Event;

    #[test]
    fn bytes_are_told_at_most_ten_times_a_second() {
        let mut state = State::default();
        state.tally.apply(&Event::Planned {
            blobs: vec![("a".to_owned(), 10)],
        });
        let start = Instant::now();
        let advanced = Event::Advanced { blob: 0, bytes: 1 };
        let told = (0..1_000)
            .filter_map(|n| state.line(&advanced, start + Duration::from_millis(n)))
            .count();
        assert_eq!(told, 10);
    }
}
