//! Progress without a terminal: a line when something worth a line happens, else one every ten seconds.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::{Event, LineWriter, Outcome, Phase, Progress, Size, Tally};

/// Time between two lines about the whole.
const INTERVAL: Duration = Duration::from_secs(10);
/// Blobs from this size on get a line of their own when they are done.
const WORTH_A_LINE: u64 = 16 << 20;

/// Plain lines.
pub struct Lines {
    write: LineWriter,
    state: Mutex<State>,
}

struct State {
    tally: Tally,
    last: Instant,
    last_done: u64,
}

impl Lines {
    /// Lines for `write`.
    #[must_use]
    pub fn new(write: LineWriter) -> Self {
        let now = Instant::now();
        Self {
            write,
            state: Mutex::new(State {
                tally: Tally::default(),
                last: now,
                last_done: 0,
            }),
        }
    }
}

impl Progress for Lines {
    fn event(&self, event: Event) {
        let line = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.tally.apply(&event);
            state.line(&event, Instant::now())
        };
        if let Some(line) = line {
            (self.write)(&line);
        }
    }
}

impl State {
    fn line(&mut self, event: &Event, now: Instant) -> Option<String> {
        match event {
            Event::Planned { .. } => {
                (self.last, self.last_done) = (now, 0);
                Some(format!(
                    "{} blobs, {}",
                    self.tally.count(),
                    Size(self.tally.total())
                ))
            }
            Event::Retried {
                blob,
                attempt,
                reason,
            } => {
                let name = &self.tally.blob(*blob)?.name;
                Some(format!("{name}: attempt {attempt}, because {reason}"))
            }
            Event::Finished { blob, outcome, .. } => self.finished(*blob, *outcome),
            Event::Note(text) => Some(text.clone()),
            Event::Started { .. } | Event::Advanced { .. } => self.summary(now),
        }
    }

    fn finished(&self, blob: usize, outcome: Outcome) -> Option<String> {
        let state = self.tally.blob(blob)?;
        if state.size < WORTH_A_LINE && outcome != Outcome::Failed {
            return None;
        }
        let how = match (outcome, state.phase) {
            (Outcome::Moved, Some(Phase::Download)) => "downloaded",
            (Outcome::Moved, Some(Phase::Hash)) => "hashed",
            (Outcome::Moved, Some(Phase::Verify)) => "verified",
            (Outcome::Moved, _) => "uploaded",
            (Outcome::Mounted, _) => "mounted",
            (Outcome::Present, _) => "already there",
            (Outcome::Failed, _) => "failed",
        };
        Some(format!("{}: {how}, {}", state.name, Size(state.size)))
    }

    fn summary(&mut self, now: Instant) -> Option<String> {
        let elapsed = now.duration_since(self.last);
        if elapsed < INTERVAL {
            return None;
        }
        let moved = self.tally.done().saturating_sub(self.last_done);
        let rate = u128::from(moved) * 1_000 / elapsed.as_millis().max(1);
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        (self.last, self.last_done) = (now, self.tally.done());
        let left = match self.tally.remaining(rate) {
            Some(seconds) => format!("{seconds} s left"),
            None => "no byte went by in 10 s".to_owned(),
        };
        Some(format!(
            "{} of {}, {} of {} blobs, {}/s, {left}",
            Size(self.tally.done()),
            Size(self.tally.total()),
            self.tally.finished(),
            self.tally.count(),
            Size(rate),
        ))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Lines, State, Tally};
    use crate::progress::{Event, Outcome, Phase, Progress};

    fn planned(count: usize) -> Event {
        Event::Planned {
            blobs: (0..count).map(|n| (format!("f{n}"), 32 << 20)).collect(),
        }
    }

    #[test]
    fn the_whole_is_told_every_ten_seconds_with_rate_and_rest() {
        let start = Instant::now();
        let mut state = State {
            tally: Tally::default(),
            last: start,
            last_done: 0,
        };
        state.tally.apply(&planned(2));
        let advanced = Event::Advanced {
            blob: 0,
            bytes: 20 << 20,
        };
        state.tally.apply(&advanced);
        assert_eq!(state.line(&advanced, start + Duration::from_secs(9)), None);
        assert_eq!(
            state
                .line(&advanced, start + Duration::from_secs(10))
                .as_deref(),
            Some("20.0 MiB of 64.0 MiB, 0 of 2 blobs, 2.0 MiB/s, 22 s left")
        );
    }

    #[test]
    fn large_blobs_and_failed_attempts_have_a_line_each() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let lines = Lines::new(Box::new(move |line| {
            let _ = sender.send(line.to_owned());
        }));
        lines.event(planned(1));
        lines.event(Event::Started {
            blob: 0,
            phase: Phase::Upload,
        });
        lines.event(Event::Retried {
            blob: 0,
            attempt: 2,
            reason: "the connection was cut".to_owned(),
        });
        lines.event(Event::Finished {
            blob: 0,
            outcome: Outcome::Moved,
            digest: None,
        });
        let told: Vec<String> = receiver.try_iter().collect();
        assert_eq!(
            told,
            [
                "1 blobs, 32.0 MiB",
                "f0: attempt 2, because the connection was cut",
                "f0: uploaded, 32.0 MiB",
            ]
        );
    }
}
