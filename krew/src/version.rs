//! Versions as krew wants them: semantic version 2.0.0 with three parts and a leading `v`.
//!
//! Pure. krew compares versions on upgrade, so a version that it cannot read never upgrades.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A version such as `v0.1.0` or `v1.2.3-rc.1`, already checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(String);

/// Why a text is not a version that krew reads.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum VersionError {
    /// The text is empty or begins with something else than `v`.
    #[error("version {0:?} does not begin with v; write v{0}")]
    NoLeadingV(String),
    /// There are more or fewer than three numbers between the dots.
    #[error("version {0:?} does not have three parts; write vMAJOR.MINOR.PATCH")]
    NotThreeParts(String),
    /// One of the three parts is empty, or is not made of digits.
    #[error("part {part:?} of version {version:?} is not a number")]
    NotANumber {
        /// The whole version.
        version: String,
        /// The part at fault.
        part: String,
    },
    /// A number begins with a zero, which semantic versions forbid.
    #[error("part {part:?} of version {version:?} has a leading zero; remove it")]
    LeadingZero {
        /// The whole version.
        version: String,
        /// The part at fault.
        part: String,
    },
    /// What follows `-` or `+` is empty or has characters besides letters, digits and hyphens.
    #[error(
        "suffix part {part:?} of version {version:?} is not made of ASCII letters, digits and \
         hyphens"
    )]
    Suffix {
        /// The whole version.
        version: String,
        /// The part at fault.
        part: String,
    },
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unprefixed = text
            .strip_prefix('v')
            .ok_or_else(|| VersionError::NoLeadingV(text.to_owned()))?;
        let (unbuilt, build) = split_suffix(unprefixed, '+');
        let (numbers, pre_release) = split_suffix(unbuilt, '-');
        if numbers.split('.').count() != 3 {
            return Err(VersionError::NotThreeParts(text.to_owned()));
        }
        for part in numbers.split('.') {
            check_number(text, part)?;
        }
        for part in pre_release.iter().flat_map(|suffix| suffix.split('.')) {
            check_suffix_part(text, part)?;
            if is_number(part) {
                check_number(text, part)?;
            }
        }
        for part in build.iter().flat_map(|suffix| suffix.split('.')) {
            check_suffix_part(text, part)?;
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

fn split_suffix(text: &str, separator: char) -> (&str, Option<&str>) {
    text.split_once(separator)
        .map_or((text, None), |(before, after)| (before, Some(after)))
}

fn is_number(part: &str) -> bool {
    !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit())
}

fn check_number(version: &str, part: &str) -> Result<(), VersionError> {
    let (version, owned_part) = (version.to_owned(), part.to_owned());
    if !is_number(part) {
        return Err(VersionError::NotANumber {
            version,
            part: owned_part,
        });
    }
    if part.len() > 1 && part.starts_with('0') {
        return Err(VersionError::LeadingZero {
            version,
            part: owned_part,
        });
    }
    Ok(())
}

fn check_suffix_part(version: &str, part: &str) -> Result<(), VersionError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if !part.is_empty() && part.bytes().all(allowed) {
        return Ok(());
    }
    Err(VersionError::Suffix {
        version: version.to_owned(),
        part: part.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(text: &str) -> VersionError {
        text.parse::<Version>().unwrap_err()
    }

    #[test]
    fn releases_pre_releases_and_builds_are_read() {
        for text in [
            "v0.1.0",
            "v10.20.30",
            "v1.2.3-rc.1",
            "v1.2.3-0a+build.007",
            "v1.0.0-x-y",
        ] {
            assert_eq!(text.parse::<Version>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_leading_v_is_required() {
        assert!(matches!(error_of("1.2.3"), VersionError::NoLeadingV(_)));
        assert!(matches!(error_of(""), VersionError::NoLeadingV(_)));
    }

    #[test]
    fn exactly_three_parts_are_required() {
        assert!(matches!(error_of("v1.2"), VersionError::NotThreeParts(_)));
        assert!(matches!(
            error_of("v1.2.3.4"),
            VersionError::NotThreeParts(_)
        ));
    }

    #[test]
    fn leading_zeros_are_refused_in_numbers() {
        assert!(matches!(
            error_of("v01.2.3"),
            VersionError::LeadingZero { .. }
        ));
        assert!(matches!(
            error_of("v1.2.3-rc.01"),
            VersionError::LeadingZero { .. }
        ));
    }

    #[test]
    fn parts_that_are_no_numbers_are_refused() {
        assert!(matches!(
            error_of("v1.x.3"),
            VersionError::NotANumber { .. }
        ));
        assert!(matches!(error_of("v1..3"), VersionError::NotANumber { .. }));
    }

    #[test]
    fn empty_or_odd_suffixes_are_refused() {
        for text in ["v1.2.3-", "v1.2.3+", "v1.2.3-rc..1", "v1.2.3-ü", "v1.2.3 "] {
            let error = error_of(text);
            let expected = matches!(
                error,
                VersionError::Suffix { .. } | VersionError::NotANumber { .. }
            );
            assert!(expected, "{text}: {error}");
        }
    }
}
