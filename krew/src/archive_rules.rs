//! What an archive must fulfil so that krew installs it, and so that it can be built again.
//!
//! Reads the archive in memory, as krew does. Judges it by itself and against the entry of the
//! manifest that names it. Stricter than krew where we promise more: gzip-compressed tar only, a
//! flat layout, no traces of the build machine.

use std::io::Read;

use flate2::read::GzDecoder;
use thiserror::Error;

use crate::archive::{DOCUMENT_MODE, EXECUTABLE_MODE, GZIP_OPERATING_SYSTEM, sha256};
use crate::executable;
use crate::file_operations;
use crate::finding::Finding;
use crate::manifest::{PlatformEntry, Selector};
use crate::platform::Platform;

/// krew holds the archive in memory; more than this is a mistake. In bytes.
const SIZE_LIMIT: usize = 128 << 20;
/// Fence against archives that unpack without end, in bytes.
const UNPACKED_LIMIT: u64 = 512 << 20;
/// Longest entry name that every tar reader takes, in bytes.
const NAME_LIMIT: usize = 99;
/// Names that the manifest validator takes for a licence, in lower case.
const LICENCE_NAMES: [&str; 8] = [
    "license",
    "license.txt",
    "license.md",
    "licenses",
    "licenses.txt",
    "licenses.md",
    "copying",
    "copying.txt",
];

/// A rule that an archive breaks.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum ArchiveRule {
    /// krew opens gzip-compressed tar and zip; we ship the former everywhere.
    #[error("is {0}; pack it as .tar.gz")]
    Format(&'static str),
    /// The archive is damaged or not a tar.
    #[error("cannot be read as a tar: {0}")]
    Unreadable(String),
    /// krew reads it into memory.
    #[error("has {0} bytes, more than {SIZE_LIMIT}; strip the binary")]
    TooLarge(usize),
    /// The sum in the manifest is that of other bytes.
    #[error("has the SHA-256 {actual}, the manifest says {expected}; render the manifest again")]
    Sum {
        /// Of the archive.
        actual: String,
        /// In the manifest.
        expected: String,
    },
    /// The gzip header names a file, a time, a comment or an operating system.
    #[error("has a gzip header with name, time, comment or operating system")]
    GzipHeader,
    /// krew aborts on links and devices.
    #[error("is neither a regular file nor a folder; krew refuses it")]
    EntryType,
    /// krew refuses `..` anywhere in a name.
    #[error("contains \"..\"; krew refuses it even inside a file name")]
    DotDot,
    /// krew refuses names that begin at the root.
    #[error("begins with / or \\; krew refuses it")]
    Absolute,
    /// Only ASCII names of moderate length read the same everywhere.
    #[error("is not an ASCII name of at most {NAME_LIMIT} bytes")]
    Name,
    /// We pack without folders.
    #[error("lies in a folder or is one; pack files flat")]
    NotFlat,
    /// krew keeps modes, so this one is what the user gets.
    #[error("has mode {actual:04o}, must have {expected:04o}")]
    Mode {
        /// In the archive.
        actual: u32,
        /// As packed by us.
        expected: u32,
    },
    /// Owner, header format or time would differ on another build machine.
    #[error("has {0}, which makes the archive differ between builds")]
    NotReproducible(&'static str),
    /// Entries must come in the order of their names.
    #[error("comes after an entry of a greater or the same name; sort entries by name")]
    NotSorted,
    /// The index does not take plugins without a licence.
    #[error("installs no licence file; add LICENSE")]
    NoLicence,
    /// `bin` is not there once the archive is installed.
    #[error("does not install {0:?}, which the manifest calls bin")]
    NoBin(String),
    /// A file operation of the manifest takes nothing.
    #[error("has no file for files[{0}] of the manifest; krew aborts")]
    FileOperation(usize),
    /// The executable runs elsewhere.
    #[error("is not an executable for a platform that the manifest entry takes")]
    WrongPlatform,
    /// A text is inside a file that must not be, such as a path of the build machine.
    #[error("contains {0:?}; build with --remap-path-prefix and strip")]
    ForbiddenText(String),
}

type Findings = Vec<Finding<ArchiveRule>>;

/// Lists the rules that the archive breaks; empty when it is sound.
///
/// `file_name` stands for the archive in findings. `entry` is the manifest's entry for it.
/// `forbidden` are texts that no file in it may contain.
#[must_use]
pub fn broken_rules(
    file_name: &str,
    bytes: &[u8],
    entry: &PlatformEntry,
    forbidden: &[String],
) -> Vec<Finding<ArchiveRule>> {
    let mut findings = Findings::new();
    let actual = sha256(bytes);
    if actual != entry.sha256 {
        let rule = ArchiveRule::Sum {
            actual,
            expected: entry.sha256.clone(),
        };
        findings.push(Finding::new(file_name, rule));
    }
    if bytes.len() > SIZE_LIMIT {
        findings.push(Finding::new(file_name, ArchiveRule::TooLarge(bytes.len())));
    }
    if let Some(format) = foreign_format(bytes) {
        findings.push(Finding::new(file_name, ArchiveRule::Format(format)));
        return findings;
    }
    let entries = match read_entries(file_name, bytes, &mut findings) {
        Ok(entries) => entries,
        Err(error) => {
            let rule = ArchiveRule::Unreadable(error.to_string());
            findings.push(Finding::new(file_name, rule));
            return findings;
        }
    };
    for (index, found) in entries.iter().enumerate() {
        let previous = index.checked_sub(1).and_then(|before| entries.get(before));
        check_entry(file_name, found, previous, &mut findings);
        check_texts(file_name, found, forbidden, &mut findings);
    }
    check_installed(file_name, &entries, entry, &mut findings);
    findings
}

/// Name of the format when it is not gzip. krew too looks at the first bytes, not at the name.
fn foreign_format(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x1f, 0x8b, 0x08, ..] => None,
        [b'P', b'K', ..] => Some("a zip file"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some("compressed with xz, which krew cannot open"),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Some("compressed with zstd, which krew cannot open"),
        [b'B', b'Z', b'h', ..] => Some("compressed with bzip2, which krew cannot open"),
        _ => Some("not compressed with gzip, so that krew cannot open it"),
    }
}

/// One entry as found.
struct Entry {
    name: String,
    header: tar::Header,
    bytes: Vec<u8>,
}

impl Entry {
    /// Entries that will be the executable are told by their name.
    fn is_plugin(&self) -> bool {
        matches!(self.name.as_str(), "kubectl-kaito" | "kubectl-kaito.exe")
    }
}

fn read_entries(
    file_name: &str,
    bytes: &[u8],
    findings: &mut Findings,
) -> std::io::Result<Vec<Entry>> {
    let mut decoder = GzDecoder::new(bytes);
    let header_is_plain = decoder.header().is_some_and(|header| {
        header.filename().is_none()
            && header.comment().is_none()
            && header.extra().is_none()
            && header.mtime() == 0
            && header.operating_system() == GZIP_OPERATING_SYSTEM
    });
    if !header_is_plain {
        findings.push(Finding::new(file_name, ArchiveRule::GzipHeader));
    }
    let mut tar = tar::Archive::new(decoder.by_ref().take(UNPACKED_LIMIT));
    let mut entries = Vec::new();
    for entry in tar.entries()? {
        let mut entry = entry?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let header = entry.header().clone();
        let mut contents = Vec::new();
        entry.read_to_end(&mut contents)?;
        entries.push(Entry {
            name,
            header,
            bytes: contents,
        });
    }
    Ok(entries)
}

fn check_entry(file_name: &str, entry: &Entry, previous: Option<&Entry>, findings: &mut Findings) {
    let mut broken =
        |rule| findings.push(Finding::new(format!("{file_name}/{}", entry.name), rule));
    let kind = entry.header.entry_type();
    if !kind.is_file() && !kind.is_dir() {
        broken(ArchiveRule::EntryType);
    }
    if entry.name.contains("..") {
        broken(ArchiveRule::DotDot);
    }
    if entry.name.starts_with(['/', '\\']) {
        broken(ArchiveRule::Absolute);
    } else if kind.is_dir() || entry.name.contains('/') {
        broken(ArchiveRule::NotFlat);
    }
    if !entry.name.is_ascii() || entry.name.len() > NAME_LIMIT {
        broken(ArchiveRule::Name);
    }
    if previous.is_some_and(|previous| previous.name >= entry.name) {
        broken(ArchiveRule::NotSorted);
    }
    let expected = if entry.is_plugin() {
        EXECUTABLE_MODE
    } else {
        DOCUMENT_MODE
    };
    match entry.header.mode() {
        Ok(actual) if actual == expected || kind.is_dir() => {}
        Ok(actual) => broken(ArchiveRule::Mode { actual, expected }),
        Err(_) => broken(ArchiveRule::NotReproducible("an unreadable mode")),
    }
    if let Some(trace) = machine_trace(&entry.header, previous) {
        broken(ArchiveRule::NotReproducible(trace));
    }
}

/// What in a header would differ on another machine, if anything.
fn machine_trace(header: &tar::Header, previous: Option<&Entry>) -> Option<&'static str> {
    let is_zero = |id: std::io::Result<u64>| id.is_ok_and(|id| id == 0);
    let is_unnamed = |name: Option<&[u8]>| name.is_none_or(<[u8]>::is_empty);
    if header.as_ustar().is_none() {
        return Some("a header that is not ustar");
    }
    if !is_zero(header.uid()) || !is_zero(header.gid()) {
        return Some("an owner other than 0");
    }
    if !is_unnamed(header.username_bytes()) || !is_unnamed(header.groupname_bytes()) {
        return Some("an owner name");
    }
    let time = header.mtime().ok();
    if previous.is_some_and(|previous| previous.header.mtime().ok() != time) {
        return Some("a time of its own");
    }
    None
}

fn check_texts(file_name: &str, entry: &Entry, forbidden: &[String], findings: &mut Findings) {
    for text in forbidden.iter().filter(|text| !text.is_empty()) {
        if entry
            .bytes
            .windows(text.len())
            .any(|window| window == text.as_bytes())
        {
            let rule = ArchiveRule::ForbiddenText(text.clone());
            findings.push(Finding::new(format!("{file_name}/{}", entry.name), rule));
        }
    }
}

fn check_installed(
    file_name: &str,
    entries: &[Entry],
    entry: &PlatformEntry,
    findings: &mut Findings,
) {
    let files = || {
        entries
            .iter()
            .filter(|found| found.header.entry_type().is_file())
    };
    let names: Vec<String> = files().map(|found| found.name.clone()).collect();
    let installed = match file_operations::installed(entry.files.as_deref(), &names) {
        Ok(installed) => installed,
        Err(index) => {
            findings.push(Finding::new(file_name, ArchiveRule::FileOperation(index)));
            return;
        }
    };
    let is_licence = |path: &String| {
        let last = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
        LICENCE_NAMES.contains(&last.as_str())
    };
    if !installed.iter().any(is_licence) {
        findings.push(Finding::new(file_name, ArchiveRule::NoLicence));
    }
    if !installed.contains(&file_operations::clean(&entry.bin)) {
        findings.push(Finding::new(
            file_name,
            ArchiveRule::NoBin(entry.bin.clone()),
        ));
    }
    let taken = entry
        .selector
        .as_ref()
        .map(Selector::platforms)
        .unwrap_or_default();
    for found in files().filter(|found| found.is_plugin()) {
        let platform: Option<Platform> = executable::platform_of(&found.bytes);
        if !platform.is_some_and(|platform| taken.contains(&platform)) {
            let at = format!("{file_name}/{}", found.name);
            findings.push(Finding::new(at, ArchiveRule::WrongPlatform));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::Write;

    use flate2::{Compression, GzBuilder};
    use tar::{EntryType, Header};

    use super::*;
    use crate::archive;

    const PLUGIN: &str = "kubectl-kaito";

    fn linux() -> Platform {
        "linux/amd64".parse().unwrap()
    }

    fn header(mode: u32) -> Header {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header
    }

    /// The entries of a sound archive, to be spoilt one at a time.
    fn sound() -> Vec<(String, Header, Vec<u8>)> {
        vec![
            ("LICENSE".to_owned(), header(0o644), b"licence".to_vec()),
            (
                PLUGIN.to_owned(),
                header(0o755),
                executable::sample(linux()),
            ),
        ]
    }

    fn compress(gzip: GzBuilder, entries: Vec<(String, Header, Vec<u8>)>) -> Vec<u8> {
        let mut tar = tar::Builder::new(gzip.write(Vec::new(), Compression::fast()));
        for (name, mut header, bytes) in entries {
            header.set_size(bytes.len() as u64);
            // Written raw, because the tar library refuses the names under test.
            header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
            header.set_cksum();
            tar.append(&header, bytes.as_slice()).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap()
    }

    fn plain_gzip() -> GzBuilder {
        GzBuilder::new().operating_system(GZIP_OPERATING_SYSTEM)
    }

    fn entry_for(bytes: &[u8]) -> PlatformEntry {
        let labels = [("os", "linux"), ("arch", "amd64")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        PlatformEntry {
            selector: Some(Selector {
                match_labels: Some(BTreeMap::from(labels)),
                match_expressions: None,
            }),
            uri: "https://example.com/a.tar.gz".to_owned(),
            sha256: sha256(bytes),
            bin: PLUGIN.to_owned(),
            files: None,
        }
    }

    fn rules_of(bytes: &[u8]) -> Vec<ArchiveRule> {
        let findings = broken_rules("a.tar.gz", bytes, &entry_for(bytes), &[]);
        findings.into_iter().map(|found| found.rule).collect()
    }

    /// The rules broken after spoiling the sound entries.
    fn after(spoil: impl FnOnce(&mut Vec<(String, Header, Vec<u8>)>)) -> Vec<ArchiveRule> {
        let mut entries = sound();
        spoil(&mut entries);
        rules_of(&compress(plain_gzip(), entries))
    }

    #[test]
    fn what_we_build_breaks_no_rule_on_any_platform() {
        for text in [
            "linux/amd64",
            "linux/arm64",
            "darwin/arm64",
            "windows/amd64",
        ] {
            let platform: Platform = text.parse().unwrap();
            let built = archive::build(&archive::Contents {
                version: &"v0.1.0".parse().unwrap(),
                platform,
                binary: &executable::sample(platform),
                modified_seconds: 1_700_000_000,
            })
            .unwrap();
            let mut entry = entry_for(&built.bytes);
            let labels = [("os", platform.os()), ("arch", platform.arch())]
                .map(|(key, value)| (key.to_owned(), value.to_owned()));
            entry.selector.as_mut().unwrap().match_labels = Some(BTreeMap::from(labels));
            entry.bin = platform.binary_name().to_owned();
            assert_eq!(
                broken_rules("a", &built.bytes, &entry, &[]),
                [],
                "{platform}"
            );
        }
    }

    #[test]
    fn the_sound_archive_of_these_tests_breaks_no_rule() {
        assert_eq!(after(|_| ()), []);
    }

    #[test]
    fn other_compressions_are_named() {
        for (start, word) in [
            (&b"\xfd7zXZ\0rest"[..], "xz"),
            (b"PK\x03\x04", "zip"),
            (b"\x28\xb5\x2f\xfdrest", "zstd"),
            (b"BZh9", "bzip2"),
            (b"plain", "not compressed"),
            (b"", "not compressed"),
        ] {
            let rules = rules_of(start);
            let [ArchiveRule::Format(found)] = rules.as_slice() else {
                panic!("{rules:?}")
            };
            assert!(found.contains(word), "{found}");
        }
    }

    #[test]
    fn damaged_archives_are_reported() {
        let mut bytes = compress(plain_gzip(), sound());
        bytes.truncate(bytes.len() / 2);
        assert!(matches!(
            rules_of(&bytes).as_slice(),
            [ArchiveRule::Unreadable(_)]
        ));
        let mut gzip = plain_gzip().write(Vec::new(), Compression::fast());
        gzip.write_all(&[b'x'; 2000]).unwrap();
        let rules = rules_of(&gzip.finish().unwrap());
        assert!(
            matches!(rules.as_slice(), [ArchiveRule::Unreadable(_)]),
            "{rules:?}"
        );
    }

    #[test]
    fn a_sum_of_other_bytes_is_found() {
        let bytes = compress(plain_gzip(), sound());
        let mut entry = entry_for(&bytes);
        entry.sha256 = sha256(b"other");
        let findings = broken_rules("a.tar.gz", &bytes, &entry, &[]);
        assert_eq!(findings.len(), 1);
        assert!(matches!(findings[0].rule, ArchiveRule::Sum { .. }));
    }

    #[test]
    fn gzip_headers_with_traces_are_refused() {
        for gzip in [
            plain_gzip().filename("a.tar"),
            plain_gzip().comment("built at home"),
            plain_gzip().mtime(1),
            GzBuilder::new().operating_system(3),
        ] {
            assert_eq!(
                rules_of(&compress(gzip, sound())),
                [ArchiveRule::GzipHeader]
            );
        }
    }

    #[test]
    fn links_and_devices_are_refused() {
        for kind in [
            EntryType::Symlink,
            EntryType::Link,
            EntryType::Char,
            EntryType::Fifo,
        ] {
            let rules = after(|entries| {
                let mut link = header(0o644);
                link.set_entry_type(kind);
                entries.push(("z".to_owned(), link, Vec::new()));
            });
            assert_eq!(rules, [ArchiveRule::EntryType], "{kind:?}");
        }
    }

    #[test]
    fn unsafe_and_odd_names_are_refused() {
        let with = |name: &str| {
            after(|entries| entries.push((name.to_owned(), header(0o644), Vec::new())))
        };
        assert_eq!(with("z..b"), [ArchiveRule::DotDot]);
        assert_eq!(with("zü"), [ArchiveRule::Name]);
        assert_eq!(with("z/file"), [ArchiveRule::NotFlat]);
        assert!(with("/etc/passwd").contains(&ArchiveRule::Absolute));
        assert!(with(r"\autoexec").contains(&ArchiveRule::Absolute));
        assert_eq!(with("a"), [ArchiveRule::NotSorted]);
        assert_eq!(
            with(PLUGIN),
            [
                ArchiveRule::NotSorted,
                ArchiveRule::Mode {
                    actual: 0o644,
                    expected: 0o755
                },
                ArchiveRule::WrongPlatform,
            ]
        );
    }

    #[test]
    fn modes_are_fixed() {
        let rules = after(|entries| entries[1].1.set_mode(0o644));
        assert_eq!(
            rules,
            [ArchiveRule::Mode {
                actual: 0o644,
                expected: 0o755
            }]
        );
        let rules = after(|entries| entries[0].1.set_mode(0o600));
        assert_eq!(
            rules,
            [ArchiveRule::Mode {
                actual: 0o600,
                expected: 0o644
            }]
        );
    }

    #[test]
    fn traces_of_the_build_machine_in_headers_are_refused() {
        let spoil = |spoil: fn(&mut Header)| after(|entries| spoil(&mut entries[1].1));
        let is_trace = |rules: &[ArchiveRule]| matches!(rules, [ArchiveRule::NotReproducible(_)]);
        assert!(is_trace(&spoil(|header| header.set_uid(1000))));
        assert!(is_trace(&spoil(|header| header.set_gid(1000))));
        assert!(is_trace(&spoil(|header| header
            .set_username("me")
            .unwrap())));
        assert!(is_trace(&spoil(|header| header
            .set_groupname("us")
            .unwrap())));
        assert!(is_trace(&spoil(|header| header.set_mtime(2))));
        assert!(is_trace(&after(|entries| {
            let mut gnu = Header::new_gnu();
            gnu.set_mode(0o755);
            gnu.set_uid(0);
            gnu.set_gid(0);
            gnu.set_mtime(1);
            entries[1].1 = gnu;
        })));
    }

    #[test]
    fn the_licence_and_the_executable_must_be_installed() {
        let rules = after(|entries| drop(entries.remove(0)));
        assert_eq!(rules, [ArchiveRule::NoLicence]);
        let rules = after(|entries| drop(entries.remove(1)));
        assert_eq!(rules, [ArchiveRule::NoBin(PLUGIN.to_owned())]);
    }

    #[test]
    fn file_operations_are_applied_before_looking() {
        let bytes = compress(plain_gzip(), sound());
        let with = |from: &str| {
            let mut entry = entry_for(&bytes);
            let operation = crate::manifest::FileOperation {
                from: from.to_owned(),
                to: ".".to_owned(),
            };
            entry.files = Some(vec![operation]);
            let findings = broken_rules("a", &bytes, &entry, &[]);
            findings
                .into_iter()
                .map(|found| found.rule)
                .collect::<Vec<_>>()
        };
        assert_eq!(with("*"), []);
        assert_eq!(with("kubectl-*"), [ArchiveRule::NoLicence]);
        assert_eq!(with("nothing*"), [ArchiveRule::FileOperation(0)]);
    }

    #[test]
    fn a_binary_of_another_platform_is_found() {
        let arm = executable::sample("linux/arm64".parse().unwrap());
        let rules = after(|entries| entries[1].2 = arm);
        assert_eq!(rules, [ArchiveRule::WrongPlatform]);
    }

    #[test]
    fn forbidden_texts_are_found_in_the_binary() {
        let mut entries = sound();
        entries[1].2.extend_from_slice(b"/home/me/src/main.rs");
        let bytes = compress(plain_gzip(), entries);
        let forbidden = ["/home/me".to_owned(), "/home/you".to_owned(), String::new()];
        let findings = broken_rules("a", &bytes, &entry_for(&bytes), &forbidden);
        let expected = ArchiveRule::ForbiddenText("/home/me".to_owned());
        assert_eq!(findings, [Finding::new(format!("a/{PLUGIN}"), expected)]);
    }
}
