//! How long to wait before the next attempt. Pure but for its jitter.

use std::time::Duration;

/// First upper bound of a pause.
const FIRST: Duration = Duration::from_millis(500);
/// Longest pause that we choose; a server may ask for more.
const LONGEST: Duration = Duration::from_secs(30);
/// Attempts in a row without one byte of progress.
pub(crate) const ATTEMPTS: u32 = 6;

/// The pause before attempt number `attempt` (from 2): anything up to a bound that doubles, so that many clients do not
/// come back at the same moment. `asked` is what the server asked for.
pub(crate) fn pause(attempt: u32, asked: Option<Duration>) -> Duration {
    if let Some(asked) = asked {
        return asked.min(Duration::from_secs(300));
    }
    let bound = FIRST
        .saturating_mul(2_u32.saturating_pow(attempt.saturating_sub(2)))
        .min(LONGEST);
    bound.mul_f64(fastrand::f64())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::pause;

    #[test]
    fn pauses_stay_below_a_bound_that_doubles() {
        for _ in 0..100 {
            assert!(pause(2, None) <= Duration::from_millis(500));
            assert!(pause(4, None) <= Duration::from_secs(2));
            assert!(pause(60, None) <= Duration::from_secs(30));
        }
    }

    #[test]
    fn the_servers_word_counts() {
        assert_eq!(
            pause(2, Some(Duration::from_secs(7))),
            Duration::from_secs(7)
        );
    }
}
