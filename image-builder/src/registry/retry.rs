//! When to try again: by class of failure, with growing random waits, and not for ever.

use std::time::Duration;

use super::error::{Class, RegistryError};

/// How often and how long to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, at least 1. Default 6.
    pub attempts: u32,
    /// The longest first wait. Default half a second; it doubles each time.
    pub first: Duration,
    /// The longest wait of all, `Retry-After` included. Default 30 seconds, for `Retry-After` ten times that.
    pub most: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 6,
            first: Duration::from_millis(500),
            most: Duration::from_secs(30),
        }
    }
}

impl RetryPolicy {
    /// How long to wait before attempt `next` (2 for the first repetition), or `None` when it is not worth it.
    ///
    /// The wait is random between nothing and its limit: clients that failed together do not come back together.
    #[must_use]
    pub fn wait(&self, next: u32, class: Class) -> Option<Duration> {
        let Class::Transient(after) = class else {
            return None;
        };
        if next > self.attempts {
            return None;
        }
        Some(match after {
            Some(after) => after.min(self.most * 10),
            None => self.limit(next).mul_f64(fastrand::f64()),
        })
    }

    fn limit(&self, next: u32) -> Duration {
        let doublings = next.saturating_sub(2).min(16);
        self.first.saturating_mul(1 << doublings).min(self.most)
    }
}

/// Runs `operation` until it succeeds, fails for good, or the policy ends.
pub(crate) async fn retrying<T, F>(
    policy: RetryPolicy,
    mut operation: impl FnMut() -> F,
) -> Result<T, RegistryError>
where
    F: Future<Output = Result<T, RegistryError>>,
{
    let mut next = 2;
    loop {
        let error = match operation().await {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        let Some(wait) = policy.wait(next, error.class()) else {
            return Err(error);
        };
        tracing::debug!(%error, next, ?wait, "trying again");
        tokio::time::sleep(wait).await;
        next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_limit_and_what_the_registry_asks_for_wins() {
        let policy = RetryPolicy::default();
        let limits: Vec<_> = (2..10).map(|next| policy.limit(next).as_millis()).collect();
        assert_eq!(limits, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]);
        let asked = Class::Transient(Some(Duration::from_secs(45)));
        assert_eq!(policy.wait(2, asked), Some(Duration::from_secs(45)));
        assert!(policy.wait(6, Class::Transient(None)).is_some());
        assert_eq!(policy.wait(7, Class::Transient(None)), None);
    }

    #[test]
    fn what_cannot_get_better_is_not_tried_again() {
        for class in [
            Class::Unauthorized,
            Class::Missing,
            Class::Form,
            Class::Integrity,
            Class::Refused,
        ] {
            assert_eq!(RetryPolicy::default().wait(2, class), None);
        }
    }
}
