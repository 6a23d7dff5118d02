//! The work queue: which Workspaces need a look, each at most once at a time, some only later.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::store::Key;

/// First delay after a failure; doubles with each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// Longest delay after failures.
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Key>,
    queued: HashSet<Key>,
    running: HashSet<Key>,
    again: HashSet<Key>,
    later: BTreeMap<(Instant, u64), Key>,
    failures: HashMap<Key, u32>,
    sequence: u64,
}

/// Keys to work on. A key added while it is worked on comes again afterwards; adding twice is adding once.
#[derive(Debug, Default)]
pub struct Queue {
    state: Mutex<State>,
    changed: Notify,
}

/// How work on a key ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing more to do until something changes.
    Done,
    /// Look again after this time even if nothing changes.
    Later(Duration),
    /// Failed: look again with exponential back-off.
    Failed,
}

impl Queue {
    /// Asks for work on `key`.
    pub fn add(&self, key: Key) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.running.contains(&key) {
            state.again.insert(key);
        } else if state.queued.insert(key.clone()) {
            state.ready.push_back(key);
            drop(state);
            self.changed.notify_one();
        }
    }

    /// The next key; waits for one. The caller must call [`Queue::finish`] with it.
    pub async fn next(&self) -> Key {
        loop {
            let wake = match self.poll(Instant::now()) {
                Ok(key) => return key,
                Err(wake) => wake,
            };
            let changed = self.changed.notified();
            match wake {
                Some(at) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => changed.await,
            }
        }
    }

    /// A key that is ready, or when the first delayed one will be.
    fn poll(&self, now: Instant) -> Result<Key, Option<Instant>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(entry) = state.later.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let key = entry.remove();
            if state.running.contains(&key) {
                state.again.insert(key);
            } else if state.queued.insert(key.clone()) {
                state.ready.push_back(key);
            }
        }
        let Some(key) = state.ready.pop_front() else {
            return Err(state.later.first_key_value().map(|((at, _), _)| *at));
        };
        state.queued.remove(&key);
        state.running.insert(key.clone());
        if !state.ready.is_empty() {
            self.changed.notify_one();
        }
        Ok(key)
    }

    /// Says how work on `key` ended.
    pub fn finish(&self, key: Key, outcome: Outcome) {
        self.finish_at(key, outcome, Instant::now());
    }

    fn finish_at(&self, key: Key, outcome: Outcome, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.running.remove(&key);
        let delay = match outcome {
            Outcome::Failed => {
                let failures = state.failures.entry(key.clone()).or_default();
                *failures = failures.saturating_add(1);
                let doubled = FIRST_BACKOFF.saturating_mul(1 << (*failures - 1).min(10));
                Some(doubled.min(LONGEST_BACKOFF))
            }
            Outcome::Done => {
                state.failures.remove(&key);
                None
            }
            Outcome::Later(delay) => {
                state.failures.remove(&key);
                Some(delay)
            }
        };
        // A change that arrived meanwhile does not wait for a back-off, except after a failure.
        let again = state.again.remove(&key);
        match delay {
            Some(delay) if !again || outcome == Outcome::Failed => {
                state.sequence += 1;
                let at = (now + delay, state.sequence);
                state.later.insert(at, key);
            }
            _ if again && state.queued.insert(key.clone()) => state.ready.push_back(key),
            _ => {}
        }
        drop(state);
        self.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::{Outcome, Queue};
    use std::time::Duration;
    use tokio::time::Instant;

    fn key(name: &str) -> (String, String) {
        ("ns".to_owned(), name.to_owned())
    }

    #[test]
    fn a_key_is_never_worked_on_twice_at_once() {
        let (queue, now) = (Queue::default(), Instant::now());
        queue.add(key("a"));
        queue.add(key("a"));
        let first = queue.poll(now).unwrap();
        queue.add(key("a"));
        assert_eq!(queue.poll(now), Err(None));
        queue.finish(first, Outcome::Done);
        assert_eq!(queue.poll(now), Ok(key("a")));
        assert_eq!(queue.poll(now), Err(None));
    }

    #[test]
    fn failures_back_off_and_double_until_one_success() {
        let (queue, mut now) = (Queue::default(), Instant::now());
        queue.add(key("a"));
        let mut taken = queue.poll(now).unwrap();
        for seconds in [1, 2, 4, 8] {
            queue.finish_at(taken, Outcome::Failed, now);
            let due = now + Duration::from_secs(seconds);
            assert_eq!(queue.poll(due - Duration::from_millis(1)), Err(Some(due)));
            now = due;
            taken = queue.poll(now).unwrap();
        }
        queue.finish_at(taken, Outcome::Done, now);
        queue.add(key("a"));
        let taken = queue.poll(now).unwrap();
        queue.finish_at(taken, Outcome::Failed, now);
        assert_eq!(queue.poll(now), Err(Some(now + Duration::from_secs(1))));
    }

    #[test]
    fn a_change_during_work_does_not_wait_for_the_next_look() {
        let (queue, now) = (Queue::default(), Instant::now());
        queue.add(key("a"));
        let taken = queue.poll(now).unwrap();
        queue.add(key("a"));
        queue.finish_at(taken, Outcome::Later(Duration::from_secs(3600)), now);
        assert_eq!(queue.poll(now), Ok(key("a")));
    }

    #[tokio::test]
    async fn a_waiting_worker_is_woken_by_a_new_key() {
        let queue = Queue::default();
        let (taken, ()) = tokio::join!(queue.next(), async { queue.add(key("a")) });
        assert_eq!(taken, key("a"));
    }
}
