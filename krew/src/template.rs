//! Renders the plugin manifest from `kaito.template.yaml`.
//!
//! Pure: takes archives in memory. The result has passed [`crate::manifest_rules`] and
//! [`crate::archive_rules`], so that no manifest with a wrong sum or a foreign binary is written.

use std::fmt::Write;

use thiserror::Error;

use crate::archive::{self, Archive};
use crate::archive_rules::{self, ArchiveRule};
use crate::finding::Finding;
use crate::manifest::{Manifest, ManifestError};
use crate::manifest_rules::{self, ManifestRule};
use crate::version::Version;

/// Name of the rendered file. krew looks a plugin up by it.
pub const FILE_NAME: &str = "kaito.yaml";

const TEMPLATE: &str = include_str!("../kaito.template.yaml");
const HOMEPAGE: &str = env!("CARGO_PKG_REPOSITORY");

/// Why no manifest was rendered.
#[derive(Debug, Error)]
pub enum RenderError {
    /// An archive holds another version than the manifest is for.
    #[error(
        "rendering the manifest of {wanted}: {archive} is of another version; build its archive \
         again"
    )]
    VersionDiffers {
        /// Version of the manifest.
        wanted: Version,
        /// File name of the archive.
        archive: String,
    },
    /// The rendered text is not a manifest.
    #[error("reading back the rendered manifest; check --uri-base and the template")]
    Unreadable(#[source] ManifestError),
    /// The rendered manifest breaks rules.
    #[error("rendering the manifest: it would be refused:{}", lines(.0))]
    BrokenManifest(Vec<Finding<ManifestRule>>),
    /// An archive breaks rules.
    #[error("rendering the manifest: an archive would be refused:{}", lines(.0))]
    BrokenArchive(Vec<Finding<ArchiveRule>>),
}

/// Renders the manifest of `version` for `archives`, which will be downloaded from `uri_base`
/// followed by a slash and the file name.
///
/// # Errors
///
/// When an archive is of another version, or the manifest or an archive breaks a rule: for
/// instance two archives for one platform, none at all, or a base that is not a URL.
pub fn render(
    version: &Version,
    uri_base: &str,
    archives: &[Archive],
) -> Result<String, RenderError> {
    if let Some(other) = archives
        .iter()
        .find(|archive| archive.name.version != *version)
    {
        return Err(RenderError::VersionDiffers {
            wanted: version.clone(),
            archive: other.name.file_name(),
        });
    }
    let text = TEMPLATE
        .replace("{{version}}", &version.to_string())
        .replace("{{homepage}}", HOMEPAGE)
        .replace("{{platforms}}\n", &platform_entries(uri_base, archives));

    let manifest = Manifest::parse(FILE_NAME, &text).map_err(RenderError::Unreadable)?;
    let broken = manifest_rules::broken_rules(FILE_NAME, &manifest);
    if !broken.is_empty() {
        return Err(RenderError::BrokenManifest(broken));
    }
    let broken: Vec<_> = archives
        .iter()
        .zip(&manifest.spec.platforms)
        .flat_map(|(archive, entry)| {
            archive_rules::broken_rules(&archive.name.file_name(), &archive.bytes, entry, &[])
        })
        .collect();
    if !broken.is_empty() {
        return Err(RenderError::BrokenArchive(broken));
    }
    Ok(text)
}

/// The list under `platforms`, one entry per archive in the order given.
fn platform_entries(uri_base: &str, archives: &[Archive]) -> String {
    let base = uri_base.trim_end_matches('/');
    let mut text = String::new();
    for archive in archives {
        let platform = archive.name.platform;
        let (os, arch, bin) = (platform.os(), platform.arch(), platform.binary_name());
        let file_name = archive.name.file_name();
        let sum = archive::sha256(&archive.bytes);
        // Writing to a String cannot fail. Values are quoted: a sum of digits only, or the
        // architecture 386, would be a number otherwise.
        let _ = write!(
            text,
            "  - selector:\n      matchLabels:\n        os: {os}\n        arch: \"{arch}\"\n    \
             uri: \"{base}/{file_name}\"\n    sha256: \"{sum}\"\n    bin: {bin}\n",
        );
    }
    text
}

/// One finding per line, each on a line of its own.
fn lines<Rule: std::fmt::Display>(findings: &[Finding<Rule>]) -> String {
    findings
        .iter()
        .map(|finding| format!("\n  {finding}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{ArchiveName, Contents};
    use crate::executable;

    const BASE: &str = "https://example.com/download/";

    fn version() -> Version {
        "v0.1.0".parse().unwrap()
    }

    fn archive_for(platform: &str) -> Archive {
        let platform = platform.parse().unwrap();
        archive::build(&Contents {
            version: &version(),
            platform,
            binary: &executable::sample(platform),
            modified_seconds: archive::DEFAULT_MODIFIED_SECONDS,
        })
        .unwrap()
    }

    #[test]
    fn the_rendered_manifest_names_every_archive_with_its_sum() {
        let archives =
            ["linux/amd64", "linux/386", "darwin/arm64", "windows/amd64"].map(archive_for);
        let text = render(&version(), BASE, &archives).unwrap();
        let manifest = Manifest::parse(FILE_NAME, &text).unwrap();
        assert_eq!(manifest.spec.version, "v0.1.0");
        assert_eq!(manifest.spec.platforms.len(), archives.len());
        for (archive, entry) in archives.iter().zip(&manifest.spec.platforms) {
            assert_eq!(entry.sha256, archive::sha256(&archive.bytes));
            assert_eq!(entry.bin, archive.name.platform.binary_name());
            assert_eq!(
                entry.selector.as_ref().unwrap().platforms(),
                [archive.name.platform]
            );
            let expected = format!("https://example.com/download/{}", archive.name.file_name());
            assert_eq!(entry.uri, expected);
        }
    }

    #[test]
    fn no_placeholder_is_left_over() {
        let text = render(&version(), BASE, &[archive_for("linux/amd64")]).unwrap();
        assert!(!text.contains("{{"), "{text}");
    }

    #[test]
    fn the_short_description_fits_the_rule_of_the_index() {
        let text = render(&version(), BASE, &[archive_for("linux/amd64")]).unwrap();
        let manifest = Manifest::parse(FILE_NAME, &text).unwrap();
        assert!(manifest.spec.short_description.len() <= 50);
        assert!(
            !manifest
                .spec
                .short_description
                .to_lowercase()
                .contains("kubectl")
        );
    }

    #[test]
    fn two_archives_for_one_platform_are_refused() {
        let archives = [archive_for("linux/amd64"), archive_for("linux/amd64")];
        let error = render(&version(), BASE, &archives).unwrap_err();
        assert!(matches!(error, RenderError::BrokenManifest(_)), "{error}");
    }

    #[test]
    fn a_manifest_without_archives_is_refused() {
        let error = render(&version(), BASE, &[]).unwrap_err();
        assert!(matches!(
            error,
            RenderError::Unreadable(_) | RenderError::BrokenManifest(_)
        ));
    }

    #[test]
    fn an_archive_of_another_version_is_refused() {
        let wanted = "v0.2.0".parse().unwrap();
        let error = render(&wanted, BASE, &[archive_for("linux/amd64")]).unwrap_err();
        assert!(
            matches!(error, RenderError::VersionDiffers { .. }),
            "{error}"
        );
    }

    #[test]
    fn a_base_that_breaks_the_text_is_refused() {
        for base in [
            "downloads",
            "https://example.com/a b",
            "https://e.com/\"\n  x: y",
        ] {
            assert!(
                render(&version(), base, &[archive_for("linux/amd64")]).is_err(),
                "{base}"
            );
        }
    }

    #[test]
    fn an_archive_that_breaks_rules_is_refused() {
        let name = ArchiveName {
            version: version(),
            platform: "linux/amd64".parse().unwrap(),
        };
        let broken = Archive {
            name,
            bytes: b"not an archive".to_vec(),
        };
        let error = render(&version(), BASE, &[broken]).unwrap_err();
        assert!(matches!(error, RenderError::BrokenArchive(_)), "{error}");
    }
}
