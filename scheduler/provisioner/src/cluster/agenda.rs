//! A work queue with times: every key is due at most once, runs at most once at a time, and may ask to be looked at
//! again. Knows nothing of Kubernetes.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Keys and when they are due. Scheduling a key that is due earlier changes nothing; one that is running is looked
/// at again afterwards, so no change is missed.
#[derive(Debug)]
pub struct Agenda<K> {
    state: Mutex<State<K>>,
    wake: Notify,
}

#[derive(Debug)]
struct State<K> {
    due: BTreeMap<K, Instant>,
    queue: BTreeSet<(Instant, K)>,
    running: BTreeSet<K>,
    again: BTreeMap<K, Instant>,
}

impl<K: Ord + Clone> Default for Agenda<K> {
    fn default() -> Self {
        let state = State {
            due: BTreeMap::new(),
            queue: BTreeSet::new(),
            running: BTreeSet::new(),
            again: BTreeMap::new(),
        };
        Self {
            state: Mutex::new(state),
            wake: Notify::new(),
        }
    }
}

impl<K: Ord + Clone> Agenda<K> {
    /// Looks at `key` as soon as possible.
    pub fn now(&self, key: K) {
        self.after(key, Duration::ZERO);
    }

    /// Looks at `key` after `delay`, or earlier if that is already planned.
    pub fn after(&self, key: K, delay: Duration) {
        let at = Instant::now() + delay;
        let mut state = self.lock();
        if state.running.contains(&key) {
            let again = state.again.entry(key).or_insert(at);
            *again = at.min(*again);
            return;
        }
        state.plan(key, at);
        drop(state);
        self.wake.notify_one();
    }

    /// Works through the agenda until `shutdown`, at most `concurrency` keys at a time. `work` returns when to look
    /// at the key again, if at all. What is under way at shutdown is dropped: every step can be repeated.
    pub async fn run<F, W>(&self, concurrency: usize, shutdown: &CancellationToken, work: W)
    where
        F: Future<Output = Option<Duration>>,
        W: Fn(K) -> F,
    {
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Some((key, again)) = under_way.next(), if !under_way.is_empty() => self.finish(key, again),
                key = self.take(), if under_way.len() < concurrency => {
                    let done = work(key.clone());
                    under_way.push(async move { (key, done.await) });
                }
            }
        }
    }

    /// Waits for the first due key and marks it as running. Cancel-safe: nothing is taken before it returns.
    async fn take(&self) -> K {
        loop {
            let next = match self.lock().pop(Instant::now()) {
                Ok(key) => return key,
                Err(next) => next,
            };
            match next {
                Some(at) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => {}
                        () = self.wake.notified() => {}
                    }
                }
                None => self.wake.notified().await,
            }
        }
    }

    fn finish(&self, key: K, again: Option<Duration>) {
        let wish = again.map(|delay| Instant::now() + delay);
        let mut state = self.lock();
        state.running.remove(&key);
        let missed = state.again.remove(&key);
        if let Some(at) = [wish, missed].into_iter().flatten().min() {
            state.plan(key, at);
        }
    }

    /// A poisoned lock is used on: nothing panics while holding it.
    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord + Clone> State<K> {
    fn plan(&mut self, key: K, at: Instant) {
        match self.due.get(&key) {
            Some(planned) if *planned <= at => return,
            Some(planned) => {
                self.queue.remove(&(*planned, key.clone()));
            }
            None => {}
        }
        self.due.insert(key.clone(), at);
        self.queue.insert((at, key));
    }

    /// The first due key, now running; else when the next one is due.
    fn pop(&mut self, now: Instant) -> Result<K, Option<Instant>> {
        match self.queue.first() {
            Some((at, _)) if *at > now => Err(Some(*at)),
            None => Err(None),
            Some(_) => {
                let Some((_, key)) = self.queue.pop_first() else {
                    return Err(None);
                };
                self.due.remove(&key);
                self.running.insert(key.clone());
                Ok(key)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn a_key_is_taken_once_however_often_it_is_planned() {
        let agenda = Agenda::default();
        for _ in 0..5 {
            agenda.now("a");
        }
        agenda.now("b");
        let mut taken = vec![agenda.take().await, agenda.take().await];
        taken.sort_unstable();
        assert_eq!(taken, ["a", "b"]);
        assert!(agenda.lock().queue.is_empty());
    }

    #[tokio::test]
    async fn a_change_during_the_work_leads_to_another_round() {
        let (agenda, rounds, stop) = (
            Agenda::default(),
            AtomicUsize::new(0),
            CancellationToken::new(),
        );
        agenda.now("a");
        agenda
            .run(4, &stop, |key| {
                let round = rounds.fetch_add(1, Ordering::SeqCst);
                match round {
                    0 => agenda.now(key),
                    _ => stop.cancel(),
                }
                async { None }
            })
            .await;
        assert_eq!(rounds.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn the_earlier_of_two_times_wins() {
        let agenda = Agenda::default();
        agenda.after("a", Duration::from_secs(3600));
        agenda.now("a");
        agenda.after("a", Duration::from_secs(3600));
        assert_eq!(agenda.take().await, "a");
    }
}
