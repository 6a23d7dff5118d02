//! Builds the archive that krew downloads: a gzip-compressed tar, the same bytes every time.
//!
//! Works in memory, as krew does when it reads the archive. What makes archives reproducible:
//! entries sorted by name, ustar headers without owners, one modification time for all, a gzip
//! header without name and time, and compressor and level pinned in this workspace's lock file.

use std::io::{self, Write};

use flate2::{Compression, GzBuilder};
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::executable;
use crate::platform::Platform;
use crate::version::{Version, VersionError};

/// Mode of the executable in the archive; krew keeps modes.
pub const EXECUTABLE_MODE: u32 = 0o755;
/// Mode of every other file in the archive.
pub const DOCUMENT_MODE: u32 = 0o644;
/// Operating system byte of the gzip header: 255 is "unknown", the same on every build machine.
/// Source: RFC 1952, section 2.3.1.
pub const GZIP_OPERATING_SYSTEM: u8 = 255;
/// Modification time where neither `SOURCE_DATE_EPOCH` nor a commit time is given, in seconds
/// since 1970: 1980-01-01, the earliest that zip tools can show too.
pub const DEFAULT_MODIFIED_SECONDS: u64 = 315_532_800;

/// The usual compromise: on an executable, level 9 gains less than one percent.
const COMPRESSION_LEVEL: u32 = 6;
const FILE_PREFIX: &str = "kubectl-kaito-";
const FILE_SUFFIX: &str = ".tar.gz";
const LICENSE: &[u8] = include_bytes!("../../LICENSE");
const README: &[u8] = include_bytes!("../README.md");

/// What goes into an archive.
#[derive(Debug, Clone, Copy)]
pub struct Contents<'a> {
    /// Version of the plugin.
    pub version: &'a Version,
    /// Platform the binary is for.
    pub platform: Platform,
    /// The executable file.
    pub binary: &'a [u8],
    /// Modification time of every entry, in seconds since 1970.
    pub modified_seconds: u64,
}

/// An archive in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// Which version and platform it is for; gives its file name.
    pub name: ArchiveName,
    /// The compressed archive.
    pub bytes: Vec<u8>,
}

/// The name of an archive: `kubectl-kaito-v0.1.0-linux-amd64.tar.gz`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveName {
    /// Version of the plugin in it.
    pub version: Version,
    /// Platform it is for.
    pub platform: Platform,
}

/// Why no archive was built.
#[derive(Debug, Error)]
pub enum ArchiveError {
    /// The file to pack cannot run on the platform.
    #[error(
        "packing the plugin for {wanted}: the binary is {}; pass the binary built for {wanted}",
        .found.map_or("no executable known to krew".to_owned(), |found| format!("for {found}"))
    )]
    WrongBinary {
        /// The platform asked for.
        wanted: Platform,
        /// The platform the binary is for, if it is an executable at all.
        found: Option<Platform>,
    },
    /// Adding an entry failed.
    #[error("packing {entry} into the archive")]
    Pack {
        /// Name of the entry.
        entry: &'static str,
        /// What the compressor or the tar writer said.
        #[source]
        source: io::Error,
    },
    /// Finishing the compressed stream failed.
    #[error("finishing the archive")]
    Finish(#[source] io::Error),
}

/// Why a file name is not that of an archive.
#[derive(Debug, Error)]
pub enum ArchiveNameError {
    /// The name has another shape.
    #[error("{0:?} is not named {FILE_PREFIX}VERSION-OS-ARCH{FILE_SUFFIX}")]
    Shape(String),
    /// The version in the name is not one.
    #[error("reading the version in the archive name {name:?}")]
    Version {
        /// The whole file name.
        name: String,
        /// What is wrong with the version.
        #[source]
        source: VersionError,
    },
}

/// Packs the binary, the licence and the read-me.
///
/// # Errors
///
/// When the binary is for another platform, or the time does not fit a tar header.
pub fn build(contents: &Contents<'_>) -> Result<Archive, ArchiveError> {
    let found = executable::platform_of(contents.binary);
    if found != Some(contents.platform) {
        return Err(ArchiveError::WrongBinary {
            wanted: contents.platform,
            found,
        });
    }
    let mut entries = [
        (
            contents.platform.binary_name(),
            EXECUTABLE_MODE,
            contents.binary,
        ),
        ("LICENSE", DOCUMENT_MODE, LICENSE),
        ("README.md", DOCUMENT_MODE, README),
    ];
    entries.sort_by_key(|(name, _, _)| *name);

    let compressor = GzBuilder::new()
        .operating_system(GZIP_OPERATING_SYSTEM)
        .write(Vec::new(), Compression::new(COMPRESSION_LEVEL));
    let mut tar = tar::Builder::new(compressor);
    for (name, mode, bytes) in entries {
        append(&mut tar, name, mode, bytes, contents.modified_seconds).map_err(|source| {
            ArchiveError::Pack {
                entry: name,
                source,
            }
        })?;
    }
    let bytes = tar
        .into_inner()
        .and_then(flate2::write::GzEncoder::finish)
        .map_err(ArchiveError::Finish)?;
    let name = ArchiveName {
        version: contents.version.clone(),
        platform: contents.platform,
    };
    Ok(Archive { name, bytes })
}

fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    name: &str,
    mode: u32,
    bytes: &[u8],
    modified_seconds: u64,
) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(modified_seconds);
    header.set_size(bytes.len().try_into().map_err(io::Error::other)?);
    tar.append_data(&mut header, name, bytes)
}

/// SHA-256 of an archive as manifests write it: 64 lower-case hexadecimal digits.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

impl ArchiveName {
    /// Reads a file name; folders in front of it are not allowed.
    ///
    /// # Errors
    ///
    /// When it has another shape, an unreadable version, or a platform unknown to krew.
    pub fn parse(file_name: &str) -> Result<Self, ArchiveNameError> {
        let shape = || ArchiveNameError::Shape(file_name.to_owned());
        let middle = file_name
            .strip_prefix(FILE_PREFIX)
            .and_then(|rest| rest.strip_suffix(FILE_SUFFIX))
            .ok_or_else(shape)?;
        let (rest, arch) = middle.rsplit_once('-').ok_or_else(shape)?;
        let (version, os) = rest.rsplit_once('-').ok_or_else(shape)?;
        let platform = format!("{os}/{arch}").parse().map_err(|_| shape())?;
        let version = version
            .parse()
            .map_err(|source| ArchiveNameError::Version {
                name: file_name.to_owned(),
                source,
            })?;
        Ok(Self { version, platform })
    }

    /// The file name.
    #[must_use]
    pub fn file_name(&self) -> String {
        let Self { version, platform } = self;
        let (os, arch) = (platform.os(), platform.arch());
        format!("{FILE_PREFIX}{version}-{os}-{arch}{FILE_SUFFIX}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn build_for(platform: &str, binary: &[u8]) -> Result<Archive, ArchiveError> {
        build(&Contents {
            version: &"v1.2.3-rc.1".parse().unwrap(),
            platform: platform.parse().unwrap(),
            binary,
            modified_seconds: 1_700_000_000,
        })
    }

    fn sample(platform: &str) -> Vec<u8> {
        executable::sample(platform.parse().unwrap())
    }

    #[test]
    fn two_builds_of_the_same_input_are_equal_byte_for_byte() {
        let first = build_for("linux/amd64", &sample("linux/amd64")).unwrap();
        let second = build_for("linux/amd64", &sample("linux/amd64")).unwrap();
        assert_eq!(first.bytes, second.bytes);
    }

    #[test]
    fn a_changed_binary_changes_the_sum() {
        let mut changed = sample("linux/amd64");
        changed.push(1);
        let first = build_for("linux/amd64", &sample("linux/amd64")).unwrap();
        let second = build_for("linux/amd64", &changed).unwrap();
        assert_ne!(sha256(&first.bytes), sha256(&second.bytes));
    }

    #[test]
    fn a_binary_of_another_platform_is_refused() {
        let error = build_for("linux/amd64", &sample("linux/arm64"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("linux/amd64") && error.contains("for linux/arm64"),
            "{error}"
        );
        let error = build_for("linux/amd64", b"#!/bin/sh")
            .unwrap_err()
            .to_string();
        assert!(error.contains("no executable"), "{error}");
    }

    #[test]
    fn names_of_archives_are_read_back() {
        for platform in crate::platform::KNOWN {
            let name = ArchiveName {
                version: "v1.2.3-rc.1".parse().unwrap(),
                platform,
            };
            assert_eq!(ArchiveName::parse(&name.file_name()).unwrap(), name);
        }
        for wrong in [
            "kubectl-kaito.tar.gz",
            "kubectl-kaito-v1.0.0-linux-amd64.zip",
            "kaito",
        ] {
            assert!(matches!(
                ArchiveName::parse(wrong),
                Err(ArchiveNameError::Shape(_))
            ));
        }
        let wrong = ArchiveName::parse("kubectl-kaito-1.0-linux-amd64.tar.gz");
        assert!(matches!(wrong, Err(ArchiveNameError::Version { .. })));
    }

    #[test]
    fn sums_are_lower_case_hexadecimal() {
        // The digest of the empty input, FIPS 180-4 example.
        let expected = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(b""), expected);
    }
}
