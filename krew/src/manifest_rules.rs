//! What a manifest must fulfil: krew 0.5 on install, its validator, and the public index's review.
//!
//! Pure: judges a parsed manifest and never fetches an archive; [`crate::archive_rules`] looks
//! into archives. Review rules are included so that the manifest can be handed to the public index
//! at any time.

use thiserror::Error;

use crate::file_operations;
use crate::finding::Finding;
use crate::manifest::{
    API_VERSION, FileOperation, KIND, Manifest, PlatformEntry, Requirement, Selector,
};
use crate::platform::Platform;
use crate::version::{Version, VersionError};

/// Longest `shortDescription` that reviewers of the public index accept, in characters.
const SHORT_DESCRIPTION_LIMIT: usize = 50;
/// Column at which reviewers of the public index want the description wrapped, in characters.
const DESCRIPTION_WIDTH: usize = 80;
/// Names that Windows keeps for devices, whatever their case and extension.
const WINDOWS_DEVICES: [&str; 22] = [
    "CON", "PRN", "AUX", "NUL", "COM1", "COM2", "COM3", "COM4", "COM5", "COM6", "COM7", "COM8",
    "COM9", "LPT1", "LPT2", "LPT3", "LPT4", "LPT5", "LPT6", "LPT7", "LPT8", "LPT9",
];

/// A rule that a manifest breaks.
#[derive(Debug, Clone, Error, PartialEq, Eq)]
pub enum ManifestRule {
    /// krew reads one `apiVersion` only.
    #[error("must be {API_VERSION}, found {0:?}")]
    ApiVersion(String),
    /// krew reads one `kind` only.
    #[error("must be {KIND}, found {0:?}")]
    Kind(String),
    /// An index holds `*.yaml` files only.
    #[error("file {0:?} must be named after the plugin with the extension .yaml")]
    FileExtension(String),
    /// krew looks a plugin up by the name of its file.
    #[error("file {file:?} must be named {name}.yaml, after metadata.name")]
    FileName {
        /// Name of the file.
        file: String,
        /// Name of the plugin.
        name: String,
    },
    /// Names become file names and command words.
    #[error("{0:?} may hold only letters, digits, hyphens and underscores, and not be empty")]
    NameCharacters(String),
    /// Windows cannot store a file of this name.
    #[error("{0:?} is the name of a Windows device; choose another")]
    NameIsDevice(String),
    /// krew compares versions on upgrade.
    #[error(transparent)]
    Version(VersionError),
    /// krew lists plugins by it.
    #[error("must not be empty")]
    ShortDescriptionEmpty,
    /// krew lists plugins in a table.
    #[error("must be one line")]
    ShortDescriptionLines,
    /// The table has to fit a terminal.
    #[error("has {0} characters, reviewers accept {SHORT_DESCRIPTION_LIMIT}; shorten it")]
    ShortDescriptionLength(usize),
    /// Required by review.
    #[error("must not be empty: the public index requires it")]
    Required,
    /// Required by review: `kubectl krew info` does not wrap.
    #[error("line {0} has more than {DESCRIPTION_WIDTH} characters; wrap it")]
    DescriptionWidth(usize),
    /// There must be something to install.
    #[error("must have at least one entry")]
    NoPlatforms,
    /// krew downloads over HTTP only.
    #[error("must be an http or https URL without white space, found {0:?}")]
    Uri(String),
    /// krew compares the text, so case matters.
    #[error("must be 64 lower-case hexadecimal digits, found {0:?}")]
    Sha256(String),
    /// krew links this file.
    #[error("must be set")]
    BinEmpty,
    /// krew refuses to link what is outside the plugin's own folder.
    #[error("{0:?} must stay inside the installed tree: no leading / and no ..")]
    BinOutside(String),
    /// Windows runs only `.exe` entry points.
    #[error("{bin:?} must end in .exe, because the entry is for {platform}")]
    BinNotExe {
        /// The path given.
        bin: String,
        /// A Windows platform that takes the entry.
        platform: Platform,
    },
    /// Absent means everything; empty means nothing, which is never meant.
    #[error("must have an entry or be left out, which copies everything")]
    FilesEmpty,
    /// Both ends of a copy are needed.
    #[error("must be set")]
    FileOperationEmpty,
    /// krew compares `to` with its cleaned form.
    #[error("{to:?} must be written {clean:?}")]
    ToNotClean {
        /// The path given.
        to: String,
        /// The same path as krew wants it.
        clean: String,
    },
    /// krew refuses to move files out of the folders of the plugin.
    #[error("{0:?} leaves the tree; remove the ..")]
    FileOperationOutside(String),
    /// An entry without selector matches nothing.
    #[error("must select by os and arch, for instance with matchLabels")]
    SelectorEmpty,
    /// krew refuses an empty map or list.
    #[error("must have an entry or be left out")]
    SelectorPartEmpty,
    /// Platforms have these two labels only.
    #[error("key {0:?} is not known; use os and arch")]
    SelectorKey(String),
    /// `In` and `NotIn` compare with values, the others do not.
    #[error("operator {0} and the number of values do not fit together")]
    SelectorValues(&'static str),
    /// An entry that nobody can install.
    #[error("matches no platform that krew knows")]
    SelectorMatchesNothing,
    /// The second entry would never be installed.
    #[error("takes {platform}, which spec.platforms[{earlier}] takes already")]
    SelectorOverlap {
        /// The platform taken twice.
        platform: Platform,
        /// Index of the entry that krew would choose.
        earlier: usize,
    },
}

type Findings = Vec<Finding<ManifestRule>>;

/// Lists the rules that `manifest` breaks; empty when it is sound. `file_name` is the last part of
/// its path.
#[must_use]
pub fn broken_rules(file_name: &str, manifest: &Manifest) -> Vec<Finding<ManifestRule>> {
    let mut findings = Findings::new();
    check_identity(file_name, manifest, &mut findings);
    check_texts(manifest, &mut findings);
    if manifest.spec.platforms.is_empty() {
        findings.push(Finding::new("spec.platforms", ManifestRule::NoPlatforms));
    }
    for (index, entry) in manifest.spec.platforms.iter().enumerate() {
        check_entry(&format!("spec.platforms[{index}]"), entry, &mut findings);
    }
    check_overlaps(&manifest.spec.platforms, &mut findings);
    findings
}

fn check_identity(file_name: &str, manifest: &Manifest, findings: &mut Findings) {
    if manifest.api_version != API_VERSION {
        let rule = ManifestRule::ApiVersion(manifest.api_version.clone());
        findings.push(Finding::new("apiVersion", rule));
    }
    if manifest.kind != KIND {
        findings.push(Finding::new(
            "kind",
            ManifestRule::Kind(manifest.kind.clone()),
        ));
    }
    let name = &manifest.metadata.name;
    if let Some(rule) = name_fault(name) {
        findings.push(Finding::new("metadata.name", rule));
    }
    let file = file_name.to_owned();
    match file_name.strip_suffix(".yaml") {
        None => findings.push(Finding::new("file", ManifestRule::FileExtension(file))),
        Some(stem) if stem != name => {
            let rule = ManifestRule::FileName {
                file,
                name: name.clone(),
            };
            findings.push(Finding::new("file", rule));
        }
        Some(_) => {}
    }
    if let Err(error) = manifest.spec.version.parse::<Version>() {
        findings.push(Finding::new("spec.version", ManifestRule::Version(error)));
    }
}

fn name_fault(name: &str) -> Option<ManifestRule> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    if name.is_empty() || !name.bytes().all(allowed) {
        return Some(ManifestRule::NameCharacters(name.to_owned()));
    }
    WINDOWS_DEVICES
        .iter()
        .any(|device| device.eq_ignore_ascii_case(name))
        .then(|| ManifestRule::NameIsDevice(name.to_owned()))
}

fn check_texts(manifest: &Manifest, findings: &mut Findings) {
    let spec = &manifest.spec;
    let at = "spec.shortDescription";
    let length = spec.short_description.chars().count();
    if length == 0 {
        findings.push(Finding::new(at, ManifestRule::ShortDescriptionEmpty));
    }
    if spec.short_description.contains(['\r', '\n']) {
        findings.push(Finding::new(at, ManifestRule::ShortDescriptionLines));
    }
    if length > SHORT_DESCRIPTION_LIMIT {
        findings.push(Finding::new(
            at,
            ManifestRule::ShortDescriptionLength(length),
        ));
    }
    if spec.homepage.is_empty() {
        findings.push(Finding::new("spec.homepage", ManifestRule::Required));
    }
    if spec.description.is_empty() {
        findings.push(Finding::new("spec.description", ManifestRule::Required));
    }
    let too_wide = |line: &str| line.chars().count() > DESCRIPTION_WIDTH;
    if let Some(line) = spec.description.lines().position(too_wide) {
        findings.push(Finding::new(
            "spec.description",
            ManifestRule::DescriptionWidth(line + 1),
        ));
    }
}

fn check_entry(at: &str, entry: &PlatformEntry, findings: &mut Findings) {
    if !is_download_url(&entry.uri) {
        findings.push(Finding::new(
            format!("{at}.uri"),
            ManifestRule::Uri(entry.uri.clone()),
        ));
    }
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if entry.sha256.len() != 64 || !entry.sha256.bytes().all(is_digit) {
        let rule = ManifestRule::Sha256(entry.sha256.clone());
        findings.push(Finding::new(format!("{at}.sha256"), rule));
    }
    if let Some(rule) = bin_fault(entry) {
        findings.push(Finding::new(format!("{at}.bin"), rule));
    }
    if let Some(operations) = &entry.files {
        if operations.is_empty() {
            findings.push(Finding::new(
                format!("{at}.files"),
                ManifestRule::FilesEmpty,
            ));
        }
        for (index, operation) in operations.iter().enumerate() {
            check_file_operation(&format!("{at}.files[{index}]"), operation, findings);
        }
    }
    check_selector(&format!("{at}.selector"), entry.selector.as_ref(), findings);
}

fn is_download_url(uri: &str) -> bool {
    let rest = uri
        .strip_prefix("https://")
        .or_else(|| uri.strip_prefix("http://"));
    rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic()))
}

fn bin_fault(entry: &PlatformEntry) -> Option<ManifestRule> {
    let bin = &entry.bin;
    if bin.is_empty() {
        return Some(ManifestRule::BinEmpty);
    }
    if bin.starts_with(['/', '\\']) || bin.split(['/', '\\']).any(|part| part == "..") {
        return Some(ManifestRule::BinOutside(bin.clone()));
    }
    let taken = entry
        .selector
        .as_ref()
        .map(Selector::platforms)
        .unwrap_or_default();
    let windows = taken
        .into_iter()
        .find(|platform| platform.os() == "windows")?;
    (!bin.ends_with(".exe")).then(|| ManifestRule::BinNotExe {
        bin: bin.clone(),
        platform: windows,
    })
}

fn check_file_operation(at: &str, operation: &FileOperation, findings: &mut Findings) {
    for (field, path) in [("from", &operation.from), ("to", &operation.to)] {
        let at = format!("{at}.{field}");
        if path.is_empty() {
            findings.push(Finding::new(at, ManifestRule::FileOperationEmpty));
        } else if path.split('/').any(|part| part == "..") {
            findings.push(Finding::new(
                at,
                ManifestRule::FileOperationOutside(path.clone()),
            ));
        }
    }
    let clean = file_operations::clean(&operation.to);
    if !operation.to.is_empty() && clean != operation.to {
        let rule = ManifestRule::ToNotClean {
            to: operation.to.clone(),
            clean,
        };
        findings.push(Finding::new(format!("{at}.to"), rule));
    }
}

fn check_selector(at: &str, selector: Option<&Selector>, findings: &mut Findings) {
    let Some(selector) = selector else {
        findings.push(Finding::new(at, ManifestRule::SelectorEmpty));
        return;
    };
    let before = findings.len();
    let labels = selector.match_labels.as_ref();
    let requirements = selector.match_expressions.as_ref();
    if labels.is_none() && requirements.is_none() {
        findings.push(Finding::new(at, ManifestRule::SelectorEmpty));
        return;
    }
    if labels.is_some_and(|labels| labels.is_empty()) {
        let rule = ManifestRule::SelectorPartEmpty;
        findings.push(Finding::new(format!("{at}.matchLabels"), rule));
    }
    if requirements.is_some_and(Vec::is_empty) {
        let rule = ManifestRule::SelectorPartEmpty;
        findings.push(Finding::new(format!("{at}.matchExpressions"), rule));
    }
    check_selector_keys(at, selector, findings);
    // Any of the above explains by itself why nothing matches.
    if findings.len() == before && selector.platforms().is_empty() {
        findings.push(Finding::new(at, ManifestRule::SelectorMatchesNothing));
    }
}

fn check_selector_keys(at: &str, selector: &Selector, findings: &mut Findings) {
    let labels = selector.match_labels.iter().flatten().map(|(key, _)| key);
    let requirements = || selector.match_expressions.iter().flatten();
    for key in labels.chain(requirements().map(|requirement| &requirement.key)) {
        if !matches!(key.as_str(), "os" | "arch") {
            findings.push(Finding::new(at, ManifestRule::SelectorKey(key.clone())));
        }
    }
    for operator in requirements().filter_map(Requirement::misused_operator) {
        findings.push(Finding::new(at, ManifestRule::SelectorValues(operator)));
    }
}

fn check_overlaps(entries: &[PlatformEntry], findings: &mut Findings) {
    let mut taken: Vec<(usize, Platform)> = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        for platform in entry.selector.iter().flat_map(Selector::platforms) {
            match taken.iter().find(|(_, other)| *other == platform) {
                Some((earlier, _)) => {
                    let rule = ManifestRule::SelectorOverlap {
                        platform,
                        earlier: *earlier,
                    };
                    let at = format!("spec.platforms[{index}].selector");
                    findings.push(Finding::new(at, rule));
                }
                None => taken.push((index, platform)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOUND: &str = r"
apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata: {name: kaito}
spec:
  version: v0.1.0
  homepage: https://example.com
  shortDescription: Run models
  description: Runs models on GPUs.
  platforms:
  - selector: {matchLabels: {os: linux, arch: amd64}}
    uri: https://example.com/a.tar.gz
    sha256: '0000000000000000000000000000000000000000000000000000000000000000'
    bin: kubectl-kaito
";
    const SUM: &str = "0000000000000000000000000000000000000000000000000000000000000000";

    /// The rules broken by the sound manifest after one replacement.
    fn after(old: &str, new: &str) -> Vec<Finding<ManifestRule>> {
        assert!(SOUND.contains(old), "{old} is not in the sound manifest");
        let text = SOUND.replacen(old, new, 1);
        broken_rules("kaito.yaml", &Manifest::parse("kaito.yaml", &text).unwrap())
    }

    /// The single rule broken by the sound manifest after one replacement, with its place.
    fn only(old: &str, new: &str) -> (String, ManifestRule) {
        let mut findings = after(old, new);
        assert_eq!(findings.len(), 1, "{findings:?}");
        let finding = findings.remove(0);
        (finding.at, finding.rule)
    }

    fn only_rule(old: &str, new: &str) -> ManifestRule {
        only(old, new).1
    }

    fn rule_for_file(file_name: &str) -> Vec<Finding<ManifestRule>> {
        broken_rules(file_name, &Manifest::parse(file_name, SOUND).unwrap())
    }

    #[test]
    fn a_sound_manifest_breaks_no_rule() {
        assert_eq!(after("Run models", "Run models"), []);
    }

    #[test]
    fn api_version_and_kind_are_fixed() {
        let (at, rule) = only("v1alpha2", "v1alpha3");
        assert_eq!(at, "apiVersion");
        assert!(matches!(rule, ManifestRule::ApiVersion(_)));
        assert!(matches!(
            only_rule("kind: Plugin", "kind: plugin"),
            ManifestRule::Kind(_)
        ));
    }

    #[test]
    fn the_file_is_named_after_the_plugin() {
        let rules = |file| rule_for_file(file).into_iter().map(|found| found.rule);
        assert!(rules("kaito.yml").all(|rule| matches!(rule, ManifestRule::FileExtension(_))));
        assert_eq!(rules("kaito.yml").count(), 1);
        assert!(rules("Kaito.yaml").all(|rule| matches!(rule, ManifestRule::FileName { .. })));
        assert_eq!(rules("Kaito.yaml").count(), 1);
    }

    #[test]
    fn names_are_words_and_not_windows_devices() {
        for (name, expected_device) in [("con", true), ("LPT9", true), ("a.b", false)] {
            let text = SOUND.replace("name: kaito", &format!("name: {name}"));
            let file = format!("{name}.yaml");
            let findings = broken_rules(&file, &Manifest::parse(&file, &text).unwrap());
            assert_eq!(findings.len(), 1, "{findings:?}");
            let is_device = matches!(findings[0].rule, ManifestRule::NameIsDevice(_));
            assert_eq!(is_device, expected_device, "{findings:?}");
        }
    }

    #[test]
    fn versions_must_be_semantic_with_a_leading_v() {
        for version in ["v1.2", "1.2.3", "v01.2.3"] {
            let (at, rule) = only("v0.1.0", version);
            assert_eq!(at, "spec.version");
            assert!(
                matches!(rule, ManifestRule::Version(_)),
                "{version}: {rule}"
            );
        }
    }

    #[test]
    fn the_short_description_is_one_short_line() {
        assert_eq!(
            only_rule("Run models", "''"),
            ManifestRule::ShortDescriptionEmpty
        );
        assert_eq!(
            only_rule("Run models", r#""a\nb""#),
            ManifestRule::ShortDescriptionLines
        );
        assert_eq!(
            only_rule("Run models", r#""a\rb""#),
            ManifestRule::ShortDescriptionLines
        );
        let long = "x".repeat(SHORT_DESCRIPTION_LIMIT + 1);
        assert_eq!(
            only_rule("Run models", &long),
            ManifestRule::ShortDescriptionLength(51)
        );
        assert_eq!(
            after("Run models", &"ü".repeat(SHORT_DESCRIPTION_LIMIT)),
            []
        );
    }

    #[test]
    fn review_wants_a_homepage_and_a_wrapped_description() {
        let (at, rule) = only("homepage: https://example.com\n", "homepage: ''\n");
        assert_eq!(
            (at.as_str(), rule),
            ("spec.homepage", ManifestRule::Required)
        );
        let (at, rule) = only("Runs models on GPUs.", "''");
        assert_eq!(
            (at.as_str(), rule),
            ("spec.description", ManifestRule::Required)
        );
        let wide = format!("|\n    short\n    {}", "x".repeat(81));
        assert_eq!(
            only_rule("Runs models on GPUs.", &wide),
            ManifestRule::DescriptionWidth(2)
        );
    }

    #[test]
    fn at_least_one_platform_is_needed() {
        let text = SOUND.split("  platforms:").next().unwrap();
        let manifest = Manifest::parse("kaito.yaml", &format!("{text}  platforms: []")).unwrap();
        let rules = broken_rules("kaito.yaml", &manifest);
        assert_eq!(
            rules,
            [Finding::new("spec.platforms", ManifestRule::NoPlatforms)]
        );
    }

    #[test]
    fn the_archive_is_a_url() {
        for uri in [
            "''",
            "ftp://example.com/a",
            "https://",
            "'https://example.com/a b'",
        ] {
            let (at, rule) = only("https://example.com/a.tar.gz", uri);
            assert_eq!(at, "spec.platforms[0].uri");
            assert!(matches!(rule, ManifestRule::Uri(_)), "{uri}: {rule}");
        }
    }

    #[test]
    fn the_sum_is_64_lower_case_digits() {
        for sum in ["", "00", &"A".repeat(64), &"g".repeat(64), &"0".repeat(65)] {
            let rule = only_rule(&format!("'{SUM}'"), &format!("'{sum}'"));
            assert!(matches!(rule, ManifestRule::Sha256(_)), "{sum}: {rule}");
        }
    }

    #[test]
    fn the_executable_is_inside_the_tree() {
        assert_eq!(
            only_rule("bin: kubectl-kaito", "bin: ''"),
            ManifestRule::BinEmpty
        );
        for bin in ["/bin/x", "../x", "a/../../x", r"a\..\x", r"\x"] {
            let rule = only_rule("bin: kubectl-kaito", &format!("bin: '{bin}'"));
            assert!(matches!(rule, ManifestRule::BinOutside(_)), "{bin}: {rule}");
        }
    }

    #[test]
    fn windows_runs_exe_files_only() {
        let rule = only_rule("os: linux", "os: windows");
        assert!(matches!(rule, ManifestRule::BinNotExe { .. }), "{rule}");
    }

    #[test]
    fn file_operations_are_absent_or_complete() {
        let with = |files: &str| only("bin: kubectl-kaito", &format!("bin: k\n    files: {files}"));
        assert_eq!(with("[]").1, ManifestRule::FilesEmpty);
        let (at, rule) = with("[{to: .}]");
        assert_eq!(at, "spec.platforms[0].files[0].from");
        assert_eq!(rule, ManifestRule::FileOperationEmpty);
        assert_eq!(with("[{from: a}]").1, ManifestRule::FileOperationEmpty);
        assert!(matches!(
            with("[{from: a, to: ./}]").1,
            ManifestRule::ToNotClean { .. }
        ));
        assert!(matches!(
            with("[{from: ../a, to: .}]").1,
            ManifestRule::FileOperationOutside(_)
        ));
        assert!(matches!(
            with("[{from: a, to: ..}]").1,
            ManifestRule::FileOperationOutside(_)
        ));
    }

    #[test]
    fn selectors_are_present_and_not_empty() {
        let with = |selector: &str| {
            only(
                "selector: {matchLabels: {os: linux, arch: amd64}}",
                &format!("selector:{selector}"),
            )
        };
        assert_eq!(with("").1, ManifestRule::SelectorEmpty);
        assert_eq!(with(" {}").1, ManifestRule::SelectorEmpty);
        assert_eq!(
            with(" {matchLabels: {os: linux}, matchExpressions: []}").1,
            { ManifestRule::SelectorPartEmpty }
        );
        let rule = with(" {matchLabels: {goos: linux}}").1;
        assert_eq!(rule, ManifestRule::SelectorKey("goos".to_owned()));
        let rule = with(" {matchExpressions: [{key: os, operator: In}]}").1;
        assert_eq!(rule, ManifestRule::SelectorValues("In"));
        let rule = with(" {matchLabels: {os: linux}, matchExpressions: [{key: os, operator: Exists, values: [a]}]}").1;
        assert_eq!(rule, ManifestRule::SelectorValues("Exists"));
        let rule = with(" {matchLabels: {os: linux, arch: s390x}}").1;
        assert_eq!(rule, ManifestRule::SelectorMatchesNothing);
    }

    #[test]
    fn an_empty_match_labels_is_refused_although_it_would_match_everything() {
        let (at, rule) = only("matchLabels: {os: linux, arch: amd64}", "matchLabels: {}");
        assert_eq!(at, "spec.platforms[0].selector.matchLabels");
        assert_eq!(rule, ManifestRule::SelectorPartEmpty);
    }

    #[test]
    fn no_platform_is_taken_twice() {
        let second = |selector: &str| {
            let entry = format!(
                "bin: kubectl-kaito\n  - selector: {selector}\n    uri: https://example.com/b\n    \
                 sha256: '{SUM}'\n    bin: b.exe"
            );
            after("bin: kubectl-kaito", &entry)
        };
        let amd64 = "linux/amd64".parse().unwrap();
        let expected = ManifestRule::SelectorOverlap {
            platform: amd64,
            earlier: 0,
        };
        for selector in [
            "{matchLabels: {os: linux, arch: amd64}}",
            "{matchExpressions: [{key: arch, operator: In, values: [amd64]}]}",
            "{matchExpressions: [{key: os, operator: NotIn, values: [darwin]}]}",
        ] {
            let findings = second(selector);
            assert_eq!(
                findings,
                [Finding::new("spec.platforms[1].selector", expected.clone())]
            );
        }
        assert_eq!(second("{matchLabels: {os: linux, arch: arm64}}"), []);
    }
}
