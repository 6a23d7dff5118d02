//! Go durations (`1m30s`, `500ms`), as Kubernetes objects and scenario files write them. Pure.

use jiff::SignedDuration;

/// A duration could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not a duration; write a number and a unit (ns, us, ms, s, m, h), for example `90s` or `1m30s`"
)]
pub struct DurationError {
    text: String,
}

/// Reads a Go duration; `0` needs no unit. Finer than a microsecond is dropped.
///
/// ```
/// let parsed = kaito_provisioner::parse_duration("1m30.5s").unwrap();
/// assert_eq!(parsed.as_millis(), 90_500);
/// ```
///
/// # Errors
/// [`DurationError`] when the text is empty, negative, without unit, or too long to represent.
pub fn parse_duration(text: &str) -> Result<SignedDuration, DurationError> {
    let failed = || DurationError {
        text: text.to_owned(),
    };
    if text == "0" {
        return Ok(SignedDuration::ZERO);
    }
    let mut rest = text;
    let mut micros: i64 = 0;
    while !rest.is_empty() {
        let (part, tail) = part(rest).ok_or_else(failed)?;
        micros = micros.checked_add(part).ok_or_else(failed)?;
        rest = tail;
    }
    if text.is_empty() {
        Err(failed())
    } else {
        Ok(SignedDuration::from_micros(micros))
    }
}

/// One `number unit` at the start of `text`, in microseconds, and what follows it.
fn part(text: &str) -> Option<(i64, &str)> {
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, rest) = text.split_at_checked(number_end)?;
    let unit_end = rest
        .find(|c: char| c.is_ascii_digit() || c == '.')
        .unwrap_or(rest.len());
    let (unit, tail) = rest.split_at_checked(unit_end)?;
    let nanos_per_unit: i128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut nanos = read(whole)?.checked_mul(nanos_per_unit)?;
    let mut scale = nanos_per_unit;
    for digit in fraction.chars() {
        scale /= 10;
        nanos = nanos.checked_add(i128::from(digit.to_digit(10)?).checked_mul(scale)?)?;
    }
    Some((i64::try_from(nanos / 1_000).ok()?, tail))
}

fn read(digits: &str) -> Option<i128> {
    if digits.is_empty() {
        Some(0)
    } else {
        digits.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::parse_duration;

    #[test]
    fn go_durations_are_read() {
        for (text, millis) in [
            ("0", 0),
            ("500ms", 500),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("720h", 2_592_000_000),
            (".5s", 500),
        ] {
            assert_eq!(parse_duration(text).unwrap().as_millis(), millis, "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_an_example() {
        for text in [
            "",
            "5",
            "s",
            "-1s",
            "1d",
            "1.s.",
            "1..5s",
            "9999999999999h",
            "1 s",
        ] {
            let error = parse_duration(text).unwrap_err().to_string();
            assert!(error.contains("1m30s"), "{text}: {error}");
        }
    }
}
