//! What the events add up to. Pure: a state machine over [`Event`]s, whatever their order.

use super::{Event, Outcome, Phase};

/// One blob's state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlobState {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes that went by in this attempt.
    pub done: u64,
    /// What is being done with it.
    pub phase: Option<Phase>,
    /// The attempt under way, from 1; 0 before the first.
    pub attempt: u32,
    /// How it ended.
    pub outcome: Option<Outcome>,
}

/// Blobs and sums.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    blobs: Vec<BlobState>,
    total: u64,
    done: u64,
    finished: usize,
    moved: u64,
    mounted: u64,
    present: u64,
}

impl Tally {
    /// Counts an event; those of blobs that were never announced are ignored.
    pub fn apply(&mut self, event: &Event) {
        match event {
            Event::Planned { blobs } => self.plan(blobs),
            Event::Started { blob, phase } => {
                if let Some(state) = self.blobs.get_mut(*blob) {
                    state.phase = Some(*phase);
                    state.attempt = state.attempt.max(1);
                }
            }
            Event::Advanced { blob, bytes } => {
                if let Some(state) = self.blobs.get_mut(*blob) {
                    state.done += bytes;
                    self.done += bytes;
                }
            }
            Event::Retried { blob, attempt, .. } => {
                if let Some(state) = self.blobs.get_mut(*blob) {
                    self.done = self.done.saturating_sub(state.done);
                    state.done = 0;
                    state.attempt = *attempt;
                }
            }
            Event::Finished { blob, outcome, .. } => self.finish(*blob, *outcome),
            Event::Note(_) => {}
        }
    }

    fn plan(&mut self, blobs: &[(String, u64)]) {
        *self = Self::default();
        self.total = blobs.iter().map(|(_, size)| size).sum();
        self.blobs = blobs
            .iter()
            .map(|(name, size)| BlobState {
                name: name.clone(),
                size: *size,
                ..BlobState::default()
            })
            .collect();
    }

    fn finish(&mut self, blob: usize, outcome: Outcome) {
        let Some(state) = self.blobs.get_mut(blob) else {
            return;
        };
        if state.outcome.replace(outcome).is_some() {
            return;
        }
        self.finished += 1;
        match outcome {
            Outcome::Moved => self.moved += state.size,
            Outcome::Mounted => self.mounted += state.size,
            Outcome::Present => self.present += state.size,
            Outcome::Failed => return,
        }
        // What was mounted or there already is done although no byte went by.
        self.done = self.done.saturating_sub(state.done) + state.size;
        state.done = state.size;
    }

    /// The state of a blob.
    #[must_use]
    pub fn blob(&self, blob: usize) -> Option<&BlobState> {
        self.blobs.get(blob)
    }

    /// Blobs in all.
    #[must_use]
    pub fn count(&self) -> usize {
        self.blobs.len()
    }

    /// Blobs that ended.
    #[must_use]
    pub const fn finished(&self) -> usize {
        self.finished
    }

    /// Bytes in all.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.total
    }

    /// Bytes done; those of failed attempts do not count.
    #[must_use]
    pub const fn done(&self) -> u64 {
        self.done
    }

    /// Bytes of blobs that were sent or received.
    #[must_use]
    pub const fn moved(&self) -> u64 {
        self.moved
    }

    /// Bytes of blobs that the other side mounted.
    #[must_use]
    pub const fn mounted(&self) -> u64 {
        self.mounted
    }

    /// Bytes of blobs that were there already.
    #[must_use]
    pub const fn present(&self) -> u64 {
        self.present
    }

    /// Seconds until the end at `rate` bytes per second.
    #[must_use]
    pub fn remaining(&self, rate: u64) -> Option<u64> {
        self.total.saturating_sub(self.done).checked_div(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;
    use crate::progress::{Event, Outcome, Phase};

    fn tally(events: &[Event]) -> Tally {
        let mut tally = Tally::default();
        tally.apply(&Event::Planned {
            blobs: vec![("a".to_owned(), 100), ("b".to_owned(), 50)],
        });
        events.iter().for_each(|event| tally.apply(event));
        tally
    }

    fn finished(blob: usize, outcome: Outcome) -> Event {
        Event::Finished {
            blob,
            outcome,
            digest: None,
        }
    }

    #[test]
    fn bytes_of_a_failed_attempt_do_not_count() {
        let after = tally(&[
            Event::Started {
                blob: 0,
                phase: Phase::Upload,
            },
            Event::Advanced { blob: 0, bytes: 60 },
            Event::Retried {
                blob: 0,
                attempt: 2,
                reason: "cut".to_owned(),
            },
            Event::Advanced { blob: 0, bytes: 10 },
        ]);
        assert_eq!(after.done(), 10);
        assert_eq!(after.blob(0).map(|blob| blob.attempt), Some(2));
    }

    #[test]
    fn what_was_there_already_is_done_without_a_byte() {
        let after = tally(&[
            finished(0, Outcome::Present),
            finished(1, Outcome::Mounted),
            finished(1, Outcome::Mounted),
        ]);
        assert_eq!(
            (after.done(), after.total(), after.finished()),
            (150, 150, 2)
        );
        assert_eq!(
            (after.present(), after.mounted(), after.moved()),
            (100, 50, 0)
        );
    }

    #[test]
    fn events_of_unknown_blobs_change_nothing() {
        let after = tally(&[
            Event::Advanced { blob: 7, bytes: 9 },
            finished(7, Outcome::Moved),
        ]);
        assert_eq!((after.done(), after.finished()), (0, 0));
    }
}
