//! How long an engine may take to load its weights before a probe gives up.

use super::GIB;

/// Process start, download set-up and graph capture, whatever the size.
const BASE_SECONDS: u64 = 15 * 60;
/// Download and load at about 60 MB/s, the slow end of what registries and hubs deliver.
const SECONDS_PER_GIB: u64 = 18;
const SHORTEST_SECONDS: u64 = 30 * 60;
const LONGEST_SECONDS: u64 = 180 * 60;

/// Gives the start-up window in seconds for weights of that many bytes: 15 minutes and 18 seconds per GiB, at least
/// 30 and at most 180 minutes (the rule of KAITO v0.12).
///
/// ```
/// use kaito_placement::estimate::startup_window_seconds;
/// assert_eq!(startup_window_seconds(100 << 30), 2_700);
/// ```
#[must_use]
pub fn startup_window_seconds(weight_bytes: u64) -> u32 {
    let loading = weight_bytes.saturating_mul(SECONDS_PER_GIB).div_ceil(GIB);
    let window = BASE_SECONDS
        .saturating_add(loading)
        .clamp(SHORTEST_SECONDS, LONGEST_SECONDS);
    u32::try_from(window).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_grows_with_the_weights_between_its_bounds() {
        assert_eq!(startup_window_seconds(0), 1_800);
        assert_eq!(startup_window_seconds(50 * GIB), 1_800);
        assert_eq!(startup_window_seconds(51 * GIB), 1_818);
        assert_eq!(startup_window_seconds(641 * GIB), 10_800);
        assert_eq!(startup_window_seconds(u64::MAX), 10_800);
    }
}
