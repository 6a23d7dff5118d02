//! The operating system and architecture pairs that krew knows.
//!
//! Pure data and lookups. A selector that matches none of these pairs can never be installed.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Every pair that krew 0.5 installs on. Source: `allPlatforms` of its manifest validator.
pub const KNOWN: [Platform; 11] = [
    Platform::new("windows", "386"),
    Platform::new("windows", "amd64"),
    Platform::new("windows", "arm64"),
    Platform::new("linux", "386"),
    Platform::new("linux", "amd64"),
    Platform::new("linux", "arm"),
    Platform::new("linux", "arm64"),
    Platform::new("linux", "ppc64le"),
    Platform::new("darwin", "386"),
    Platform::new("darwin", "amd64"),
    Platform::new("darwin", "arm64"),
];

/// One of the [`KNOWN`] pairs, in Go's spelling: `linux/amd64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Platform {
    os: &'static str,
    arch: &'static str,
}

/// A text that names no platform known to krew.
#[derive(Debug, Error, PartialEq, Eq)]
#[error(
    "platform {0:?} is not known to krew; use OS/ARCH as Go spells them, such as linux/amd64 or \
     darwin/arm64"
)]
pub struct UnknownPlatform(String);

impl Platform {
    const fn new(os: &'static str, arch: &'static str) -> Self {
        Self { os, arch }
    }

    /// The platform this code was compiled for.
    ///
    /// # Errors
    ///
    /// When krew does not know it; there is then no plugin to build for it.
    pub fn host() -> Result<Self, UnknownPlatform> {
        let os = match std::env::consts::OS {
            "macos" => "darwin",
            other => other,
        };
        let arch = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            other => other,
        };
        format!("{os}/{arch}").parse()
    }

    /// Operating system in Go's spelling: `linux`, `darwin` or `windows`.
    #[must_use]
    pub fn os(self) -> &'static str {
        self.os
    }

    /// Architecture in Go's spelling, such as `amd64`.
    #[must_use]
    pub fn arch(self) -> &'static str {
        self.arch
    }

    /// File name of the plugin on this platform. kubectl finds plugins by this name.
    #[must_use]
    pub fn binary_name(self) -> &'static str {
        match self.os {
            "windows" => "kubectl-kaito.exe",
            _ => "kubectl-kaito",
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.arch)
    }
}

impl FromStr for Platform {
    type Err = UnknownPlatform;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        KNOWN
            .into_iter()
            .find(|platform| platform.to_string() == text)
            .ok_or_else(|| UnknownPlatform(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_pair_is_read_back_from_its_text() {
        for platform in KNOWN {
            assert_eq!(platform.to_string().parse(), Ok(platform));
        }
    }

    #[test]
    fn pairs_outside_krews_list_are_refused() {
        for text in ["linux/s390x", "macos/arm64", "linux", "linux/x86_64", ""] {
            assert_eq!(
                text.parse::<Platform>(),
                Err(UnknownPlatform(text.to_owned()))
            );
        }
    }

    #[test]
    fn only_windows_has_an_exe() {
        for platform in KNOWN {
            let is_exe = platform.binary_name().ends_with(".exe");
            assert_eq!(is_exe, platform.os() == "windows", "{platform}");
        }
    }
}
