//! Kubernetes quantities (`500m`, `1Gi`, `1e3`) as integers. Grammar: apimachinery `resource.Quantity`.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Binary and decimal suffixes with their factor, in thousandths.
const SUFFIXES: [(&str, u128); 14] = [
    ("Ki", 1_000 << 10),
    ("Mi", 1_000 << 20),
    ("Gi", 1_000 << 30),
    ("Ti", 1_000 << 40),
    ("Pi", 1_000 << 50),
    ("Ei", 1_000 << 60),
    ("m", 1),
    ("k", 1_000_000),
    ("M", 1_000_000_000),
    ("G", 1_000_000_000_000),
    ("T", 1_000_000_000_000_000),
    ("P", 1_000_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000_000),
    ("", 1_000),
];

/// The quantity in thousandths, rounded up; `None` if it is not one or is negative.
fn thousandths(text: &str) -> Option<u128> {
    let text = text.trim();
    let split = text
        .find(|c: char| !(c.is_ascii_digit() || c == '.'))
        .unwrap_or(text.len());
    let (digits, suffix) = text.split_at_checked(split)?;
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let factor = factor(suffix)?;
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let fraction = fraction.get(..fraction.len().min(18))?;
    let scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part: u128 = if fraction.is_empty() {
        0
    } else {
        fraction.parse().ok()?
    };
    let fractional = part.checked_mul(factor)?.div_ceil(scale);
    whole.checked_mul(factor)?.checked_add(fractional)
}

fn factor(suffix: &str) -> Option<u128> {
    if let Some((_, factor)) = SUFFIXES.iter().find(|(name, _)| *name == suffix) {
        return Some(*factor);
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let exponent: u32 = exponent
        .strip_prefix('+')
        .unwrap_or(exponent)
        .parse()
        .ok()?;
    10_u128.checked_pow(exponent)?.checked_mul(1_000)
}

/// The quantity in whole units, rounded up and saturating; 0 if it does not parse.
#[must_use]
pub fn units(quantity: &Quantity) -> u64 {
    thousandths(&quantity.0).map_or(0, |value| {
        u64::try_from(value.div_ceil(1_000)).unwrap_or(u64::MAX)
    })
}

/// The quantity in thousandths (millicores for CPU), rounded up and saturating; 0 if it does not parse.
#[must_use]
pub fn milli(quantity: &Quantity) -> u64 {
    thousandths(&quantity.0).map_or(0, |value| u64::try_from(value).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::{milli, units};
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    #[test]
    fn quantities_of_every_form_are_read() {
        for (text, expected) in [
            ("1", 1_000),
            ("500m", 500),
            ("1.5", 1_500),
            ("1Ki", 1_024_000),
            ("1.5Gi", 1_610_612_736_000),
            ("1e3", 1_000_000),
            ("2k", 2_000_000),
            ("0.0001", 1),
        ] {
            assert_eq!(milli(&Quantity(text.into())), expected, "{text}");
        }
    }

    #[test]
    fn nonsense_counts_as_nothing() {
        for text in ["", "abc", "-1", "1Qi", "e3"] {
            assert_eq!(units(&Quantity(text.into())), 0, "{text}");
        }
    }
}
