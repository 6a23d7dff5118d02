//! The plugin manifest as krew reads it, parsed strictly.
//!
//! krew ignores fields that it does not know, so that a typo is silent; here it is an error with
//! its line and column. Presence and content are judged by [`crate::manifest_rules`], so that all
//! faults are reported together; hence most fields default to empty.

use std::collections::BTreeMap;

use serde::Deserialize;
use thiserror::Error;

use crate::platform::{KNOWN, Platform};

/// The only `apiVersion` that krew reads.
pub const API_VERSION: &str = "krew.googlecontainertools.github.com/v1alpha2";
/// The only `kind` that krew reads.
pub const KIND: &str = "Plugin";

/// A plugin manifest: what a file of an index holds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Manifest {
    /// Must be [`API_VERSION`].
    #[serde(default)]
    pub api_version: String,
    /// Must be [`KIND`].
    #[serde(default)]
    pub kind: String,
    /// The name of the plugin.
    pub metadata: Metadata,
    /// Everything else.
    pub spec: Spec,
}

/// The `metadata` of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Name of the plugin, of its manifest file, and of the command after `kubectl`.
    #[serde(default)]
    pub name: String,
}

/// The `spec` of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Spec {
    /// Version of the plugin, such as `v0.1.0`.
    #[serde(default)]
    pub version: String,
    /// Page about the plugin.
    #[serde(default)]
    pub homepage: String,
    /// One line for `kubectl krew search`.
    #[serde(default)]
    pub short_description: String,
    /// Text for `kubectl krew info`.
    #[serde(default)]
    pub description: String,
    /// Text shown after installation; may be empty.
    #[serde(default)]
    pub caveats: String,
    /// One entry per platform; krew takes the first that matches.
    #[serde(default)]
    pub platforms: Vec<PlatformEntry>,
}

/// One downloadable archive and the platforms it is for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlatformEntry {
    /// Which platforms take this entry.
    #[serde(default)]
    pub selector: Option<Selector>,
    /// Where the archive is downloaded from.
    #[serde(default)]
    pub uri: String,
    /// SHA-256 of the archive, 64 lower-case hexadecimal digits.
    #[serde(default)]
    pub sha256: String,
    /// Path of the executable in the installed tree.
    #[serde(default)]
    pub bin: String,
    /// What to copy from the archive; absent means everything.
    #[serde(default)]
    pub files: Option<Vec<FileOperation>>,
}

/// A Kubernetes label selector over the labels `os` and `arch`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Selector {
    /// Labels that must have exactly these values.
    #[serde(default)]
    pub match_labels: Option<BTreeMap<String, String>>,
    /// Requirements that must all hold.
    #[serde(default)]
    pub match_expressions: Option<Vec<Requirement>>,
}

/// One requirement of a label selector.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Requirement {
    /// The label: `os` or `arch`.
    pub key: String,
    /// How the label is compared.
    pub operator: Operator,
    /// What it is compared with; empty for `Exists` and `DoesNotExist`.
    #[serde(default)]
    pub values: Vec<String>,
}

/// Comparison of a label selector's requirement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Operator {
    /// The label has one of the values.
    In,
    /// The label has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is not there.
    DoesNotExist,
}

/// Copies files from the unpacked archive into the installed tree.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileOperation {
    /// Path or glob in the archive.
    #[serde(default)]
    pub from: String,
    /// Path in the installed tree.
    #[serde(default)]
    pub to: String,
}

/// A text that is no manifest at all.
#[derive(Debug, Error)]
#[error("reading {file} as a krew plugin manifest")]
pub struct ManifestError {
    file: String,
    #[source]
    source: Box<serde_saphyr::Error>,
}

impl Manifest {
    /// Reads a manifest. `file` only names it in errors.
    ///
    /// # Errors
    ///
    /// When the text is not one YAML document of this shape: a field is unknown, misplaced, given
    /// twice or of another type. Numbers are not taken for strings, because krew refuses them too.
    pub fn parse(file: &str, text: &str) -> Result<Self, ManifestError> {
        let options = serde_saphyr::options! { no_schema: true };
        serde_saphyr::from_str_with_options(text, options).map_err(|source| ManifestError {
            file: file.to_owned(),
            source: Box::new(source),
        })
    }
}

impl Selector {
    /// The platforms that this selector takes, in the order of [`KNOWN`]; may be empty.
    ///
    /// A selector without any label and requirement takes none: krew refuses it, although by
    /// Kubernetes' rules it would match everything.
    #[must_use]
    pub fn platforms(&self) -> Vec<Platform> {
        let has_labels = self
            .match_labels
            .as_ref()
            .is_some_and(|labels| !labels.is_empty());
        let has_requirements = self
            .match_expressions
            .as_ref()
            .is_some_and(|list| !list.is_empty());
        if !has_labels && !has_requirements {
            return Vec::new();
        }
        KNOWN
            .into_iter()
            .filter(|platform| self.matches(*platform))
            .collect()
    }

    fn matches(&self, platform: Platform) -> bool {
        let labels = self.match_labels.iter().flatten();
        let requirements = self.match_expressions.iter().flatten();
        labels
            .into_iter()
            .all(|(key, value)| label(platform, key) == Some(value.as_str()))
            && requirements
                .into_iter()
                .all(|requirement| requirement.holds(platform))
    }
}

impl Requirement {
    /// Name of the operator when it needs values and has none, or has values and takes none.
    pub(crate) fn misused_operator(&self) -> Option<&'static str> {
        match (self.operator, self.values.is_empty()) {
            (Operator::In, true) => Some("In"),
            (Operator::NotIn, true) => Some("NotIn"),
            (Operator::Exists, false) => Some("Exists"),
            (Operator::DoesNotExist, false) => Some("DoesNotExist"),
            _ => None,
        }
    }

    fn holds(&self, platform: Platform) -> bool {
        let found = label(platform, &self.key);
        let listed = found.is_some_and(|found| self.values.iter().any(|value| value == found));
        match self.operator {
            Operator::In => listed,
            Operator::NotIn => !listed,
            Operator::Exists => found.is_some(),
            Operator::DoesNotExist => found.is_none(),
        }
    }
}

fn label(platform: Platform, key: &str) -> Option<&'static str> {
    match key {
        "os" => Some(platform.os()),
        "arch" => Some(platform.arch()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(yaml: &str) -> Vec<String> {
        let selector: Selector = serde_saphyr::from_str(yaml).unwrap();
        selector
            .platforms()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn labels_select_one_pair() {
        assert_eq!(
            selected("matchLabels: {os: linux, arch: arm64}"),
            ["linux/arm64"]
        );
    }

    #[test]
    fn expressions_and_labels_must_both_hold() {
        let yaml = "
matchLabels: {os: darwin}
matchExpressions:
- {key: arch, operator: NotIn, values: ['386', arm64]}
- {key: arch, operator: Exists}
";
        assert_eq!(selected(yaml), ["darwin/amd64"]);
    }

    #[test]
    fn labels_that_no_platform_has_select_nothing() {
        assert!(selected("matchExpressions: [{key: os, operator: DoesNotExist}]").is_empty());
        assert!(selected("matchLabels: {goos: linux}").is_empty());
    }

    #[test]
    fn an_unknown_field_is_an_error_that_names_it() {
        let error = Manifest::parse(
            "kaito.yaml",
            "{metadata: {name: a}, spec: {versoin: v1.0.0}}",
        )
        .unwrap_err();
        assert!(
            error.source.to_string().contains("versoin"),
            "{}",
            error.source
        );
    }

    #[test]
    fn numbers_duplicate_keys_and_second_documents_are_errors() {
        for text in [
            "{metadata: {name: 386}, spec: {}}",
            "{metadata: {name: a, name: b}, spec: {}}",
            "{metadata: {name: a}, spec: {}}\n---\n{metadata: {name: b}, spec: {}}",
            "metadata: [",
            "",
        ] {
            assert!(Manifest::parse("kaito.yaml", text).is_err(), "{text}");
        }
    }
}
