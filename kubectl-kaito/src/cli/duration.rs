//! Durations as Go reads them: `1h30m`, `1.5h`, `-1s`, `0`; days are no unit.

use std::time::Duration;

/// A signed duration, as flags such as `--timeout` take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoDuration {
    /// Zero or more.
    Positive(Duration),
    /// Less than zero; flags give it a meaning of their own.
    Negative,
}

impl GoDuration {
    /// Zero.
    pub const ZERO: Self = Self::Positive(Duration::ZERO);
    /// What kubectl makes of a negative waiting time.
    pub const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

    /// The time to wait: negative means a week, as in `kubectl wait`.
    #[must_use]
    pub const fn or_week(self) -> Duration {
        match self {
            Self::Positive(duration) => duration,
            Self::Negative => Self::WEEK,
        }
    }

    /// The limit that a flag sets where zero (and less) means none.
    #[must_use]
    pub const fn limit(self) -> Option<Duration> {
        match self {
            Self::Positive(duration) if !duration.is_zero() => Some(duration),
            _ => None,
        }
    }
}

/// Reads a Go duration.
///
/// # Errors
/// The reason in Go's words.
pub fn parse(text: &str) -> Result<GoDuration, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(GoDuration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0_f64;
    while !rest.is_empty() {
        let number_length = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(number_length);
        let number: f64 = if number.starts_with("..") || number == "." || number.is_empty() {
            return Err(invalid());
        } else {
            number.parse().map_err(|_| invalid())?
        };
        let unit_length = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_length);
        total += number * seconds_per(unit, text)?;
        rest = after;
    }
    let duration = Duration::try_from_secs_f64(total).map_err(|_| invalid())?;
    // Go's durations are 64-bit nanoseconds: about 292 years.
    if duration.as_nanos() > i64::MAX.unsigned_abs().into() {
        return Err(invalid());
    }
    if negative && !duration.is_zero() {
        Ok(GoDuration::Negative)
    } else {
        Ok(GoDuration::Positive(duration))
    }
}

/// Reads `--request-timeout`: a Go duration or a bare number of seconds; zero means none.
///
/// # Errors
/// kubectl's text for a bad value.
pub fn parse_request_timeout(text: &str) -> Result<Option<Duration>, String> {
    if let Ok(seconds) = text.parse::<i64>() {
        return Ok(u64::try_from(seconds)
            .ok()
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs));
    }
    parse(text).map(GoDuration::limit).map_err(|_| {
        "Invalid timeout value. Timeout must be a single integer in seconds, or an integer followed by a \
         corresponding time unit (e.g. 1s | 2m | 3h)"
            .to_owned()
    })
}

fn seconds_per(unit: &str, text: &str) -> Result<f64, String> {
    match unit {
        "ns" => Ok(1e-9),
        "us" | "µs" | "μs" => Ok(1e-6),
        "ms" => Ok(1e-3),
        "s" => Ok(1.0),
        "m" => Ok(60.0),
        "h" => Ok(3600.0),
        "" => Err(format!("time: missing unit in duration {text:?}")),
        _ => Err(format!("time: unknown unit {unit:?} in duration {text:?}")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{GoDuration, parse, parse_request_timeout};

    #[test]
    fn go_durations_are_read_as_go_reads_them() {
        let table = [
            ("0", 0),
            ("5s", 5_000),
            ("1h30m", 5_400_000),
            ("1.5h", 5_400_000),
            ("250ms", 250),
            ("+2m", 120_000),
            (".5s", 500),
            ("1.s", 1_000),
            ("1m0.5s", 60_500),
            ("-0", 0),
            ("-0s", 0),
        ];
        for (text, milliseconds) in table {
            assert_eq!(
                parse(text),
                Ok(GoDuration::Positive(Duration::from_millis(milliseconds))),
                "{text}"
            );
        }
        assert_eq!(parse("-1s"), Ok(GoDuration::Negative));
    }

    #[test]
    fn everything_else_is_refused_with_the_reason() {
        let table = [
            ("5", "time: missing unit in duration \"5\""),
            ("1d", "time: unknown unit \"d\" in duration \"1d\""),
            ("1day", "time: unknown unit \"day\" in duration \"1day\""),
            ("", "time: invalid duration \"\""),
            ("s", "time: invalid duration \"s\""),
            (".s", "time: invalid duration \".s\""),
            ("1.2.3s", "time: invalid duration \"1.2.3s\""),
            ("-", "time: invalid duration \"-\""),
            ("1h 30m", "time: unknown unit \"h \" in duration \"1h 30m\""),
            ("9999999999h", "time: invalid duration \"9999999999h\""),
        ];
        for (text, reason) in table {
            assert_eq!(parse(text), Err(reason.to_owned()), "{text}");
        }
    }

    #[test]
    fn only_the_request_timeout_takes_bare_seconds() {
        assert_eq!(parse_request_timeout("5"), Ok(Some(Duration::from_secs(5))));
        assert_eq!(
            parse_request_timeout("5m"),
            Ok(Some(Duration::from_secs(300)))
        );
        assert_eq!(parse_request_timeout("0"), Ok(None));
        assert!(
            parse_request_timeout("abc")
                .unwrap_err()
                .starts_with("Invalid timeout value.")
        );
    }
}
