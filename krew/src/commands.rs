//! The commands of `kaito-krew`: the only code of this package that reads and writes files.
//!
//! Each command reads everything, decides in the library, and writes last, under a temporary name
//! that is then renamed: an interrupted run leaves no half-written archive or manifest.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Parser, Subcommand};
use kaito_krew::archive::{self, Archive, ArchiveName, Contents};
use kaito_krew::manifest::{Manifest, PlatformEntry};
use kaito_krew::platform::Platform;
use kaito_krew::version::Version;
use kaito_krew::{archive_rules, manifest_rules, template};

const PACKAGE_VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));
const DOWNLOADS: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/releases/download");

/// Packs kubectl-kaito for krew and checks what was packed.
#[derive(Debug, Parser)]
#[command(name = "kaito-krew", version)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the reproducible archive of one platform and print its path.
    Archive(ArchiveArguments),
    /// Render the manifest for archives and print its path.
    Manifest(ManifestArguments),
    /// Check a manifest and archives against the rules of krew.
    Check(CheckArguments),
}

#[derive(Debug, clap::Args)]
struct ArchiveArguments {
    /// The plugin's executable, built for the platform.
    #[arg(long, value_name = "FILE")]
    binary: PathBuf,
    /// Folder to write the archive to; created when missing.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Platform as OS/ARCH in Go's spelling; this machine's by default.
    #[arg(long, value_name = "OS/ARCH")]
    platform: Option<Platform>,
    /// Version of the plugin.
    #[arg(long, value_name = "VERSION", default_value = PACKAGE_VERSION)]
    version: Version,
    /// Time of the commit in seconds since 1970, used without SOURCE_DATE_EPOCH.
    #[arg(long, value_name = "SECONDS")]
    commit_time: Option<u64>,
    /// Time of all entries in seconds since 1970; wins over --commit-time.
    #[arg(long, value_name = "SECONDS", env = "SOURCE_DATE_EPOCH")]
    source_date_epoch: Option<u64>,
}

#[derive(Debug, clap::Args)]
struct ManifestArguments {
    /// Archive made by `archive`; repeat it for every platform.
    #[arg(long = "archive", value_name = "FILE", required = true, num_args = 1..)]
    archives: Vec<PathBuf>,
    /// Version of the plugin.
    #[arg(long, value_name = "VERSION", default_value = PACKAGE_VERSION)]
    version: Version,
    /// URL of the folder that the archives will be downloaded from.
    #[arg(long, value_name = "URL")]
    uri_base: Option<String>,
    /// File to write; krew wants it to be named kaito.yaml.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Debug, clap::Args)]
struct CheckArguments {
    /// The manifest.
    #[arg(value_name = "FILE")]
    manifest: PathBuf,
    /// Archive to check against its entry in the manifest; repeat it for every platform.
    #[arg(long = "archive", value_name = "FILE", num_args = 1..)]
    archives: Vec<PathBuf>,
    /// Text that no packed file may contain, such as a path of the build machine.
    #[arg(long = "without-text", value_name = "TEXT")]
    without_texts: Vec<String>,
}

impl Arguments {
    /// Runs the command; results go to `out`.
    pub(crate) fn run(self, out: &mut impl Write) -> anyhow::Result<()> {
        match self.command {
            Command::Archive(arguments) => arguments.run(out),
            Command::Manifest(arguments) => arguments.run(out),
            Command::Check(arguments) => arguments.run(out),
        }
    }
}

impl ArchiveArguments {
    fn run(self, out: &mut impl Write) -> anyhow::Result<()> {
        let platform = match self.platform {
            Some(platform) => platform,
            None => Platform::host().context("choosing the platform; pass --platform")?,
        };
        let modified_seconds = self
            .source_date_epoch
            .or(self.commit_time)
            .unwrap_or(archive::DEFAULT_MODIFIED_SECONDS);
        let built = archive::build(&Contents {
            version: &self.version,
            platform,
            binary: &read(&self.binary)?,
            modified_seconds,
        })?;
        fs::create_dir_all(&self.out)
            .with_context(|| format!("creating the folder {}", self.out.display()))?;
        let path = self.out.join(built.name.file_name());
        write_whole(&path, &built.bytes)?;
        print(out, &path.display().to_string())
    }
}

impl ManifestArguments {
    fn run(self, out: &mut impl Write) -> anyhow::Result<()> {
        let archives = self
            .archives
            .iter()
            .map(|path| read_archive(path))
            .collect::<Result<Vec<_>, _>>()?;
        let uri_base = self
            .uri_base
            .unwrap_or_else(|| format!("{DOWNLOADS}/{}", self.version));
        let text = template::render(&self.version, &uri_base, &archives)?;
        write_whole(&self.out, text.as_bytes())?;
        print(out, &self.out.display().to_string())
    }
}

impl CheckArguments {
    fn run(self, out: &mut impl Write) -> anyhow::Result<()> {
        let shown = self.manifest.display().to_string();
        let text = String::from_utf8(read(&self.manifest)?)
            .with_context(|| format!("reading {shown} as UTF-8"))?;
        let manifest = Manifest::parse(&shown, &text)?;
        let mut findings: Vec<String> =
            manifest_rules::broken_rules(&file_name(&self.manifest), &manifest)
                .iter()
                .map(|finding| format!("{shown}: {finding}"))
                .collect();
        for path in &self.archives {
            let bytes = read(path)?;
            let Some(entry) = entry_for(&manifest, path, &bytes) else {
                findings.push(format!(
                    "{}: no entry of {shown} has its sum or its name; render the manifest again",
                    path.display()
                ));
                continue;
            };
            let shown = path.display().to_string();
            let broken = archive_rules::broken_rules(&shown, &bytes, entry, &self.without_texts);
            findings.extend(broken.iter().map(ToString::to_string));
        }
        if !findings.is_empty() {
            bail!(
                "{} broken rule(s):\n  {}",
                findings.len(),
                findings.join("\n  ")
            );
        }
        let (platforms, archives) = (manifest.spec.platforms.len(), self.archives.len());
        print(
            out,
            &format!("{shown}: {platforms} platform(s), {archives} archive(s), all sound"),
        )
    }
}

/// The entry with the archive's sum; else the one that downloads a file of this name.
fn entry_for<'a>(manifest: &'a Manifest, path: &Path, bytes: &[u8]) -> Option<&'a PlatformEntry> {
    let sum = archive::sha256(bytes);
    let name = file_name(path);
    let entries = &manifest.spec.platforms;
    let has_name = |entry: &&PlatformEntry| entry.uri.rsplit('/').next() == Some(name.as_str());
    entries
        .iter()
        .find(|entry| entry.sha256 == sum)
        .or_else(|| entries.iter().find(has_name))
}

fn read_archive(path: &Path) -> anyhow::Result<Archive> {
    let name = ArchiveName::parse(&file_name(path))?;
    Ok(Archive {
        name,
        bytes: read(path)?,
    })
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let partial = path.with_file_name(format!("{}.partial", file_name(path)));
    fs::write(&partial, bytes).with_context(|| format!("writing {}", partial.display()))?;
    fs::rename(&partial, path)
        .with_context(|| format!("renaming {} to {}", partial.display(), path.display()))
}

fn print(out: &mut impl Write, line: &str) -> anyhow::Result<()> {
    writeln!(out, "{line}").context("writing the result to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the program and returns what it printed, or its error as one text.
    fn run(arguments: &[&str]) -> Result<String, String> {
        let arguments = ["kaito-krew"].into_iter().chain(arguments.iter().copied());
        let parsed = Arguments::try_parse_from(arguments).map_err(|error| error.to_string())?;
        let mut printed = Vec::new();
        parsed
            .run(&mut printed)
            .map_err(|error| format!("{error:#}"))?;
        Ok(String::from_utf8(printed).unwrap().trim_end().to_owned())
    }

    /// Archives the running test program, the one executable that is certainly at hand.
    fn archive_into(folder: &Path, more: &[&str]) -> Result<String, String> {
        let own = std::env::current_exe().unwrap();
        let mut arguments = vec!["archive", "--binary", own.to_str().unwrap(), "--out"];
        arguments.push(folder.to_str().unwrap());
        arguments.extend(["--version", "v1.0.0", "--source-date-epoch", "1700000000"]);
        arguments.extend(more);
        run(&arguments)
    }

    #[test]
    fn archive_manifest_and_check_fit_together() {
        let folder = tempfile::tempdir().unwrap();
        let archive = archive_into(folder.path(), &[]).unwrap();
        let manifest = folder.path().join("kaito.yaml");
        let manifest = manifest.to_str().unwrap();
        let base = "https://example.com/v1.0.0";
        let rendered = run(&[
            "manifest",
            "--archive",
            &archive,
            "--version",
            "v1.0.0",
            "--uri-base",
            base,
            "--out",
            manifest,
        ]);
        assert_eq!(rendered, Ok(manifest.to_owned()));
        let checked = run(&["check", manifest, "--archive", &archive]).unwrap();
        assert!(
            checked.ends_with("1 platform(s), 1 archive(s), all sound"),
            "{checked}"
        );

        // The same check finds a file changed after rendering.
        let mut bytes = fs::read(&archive).unwrap();
        bytes.push(0);
        fs::write(&archive, bytes).unwrap();
        let error = run(&["check", manifest, "--archive", &archive]).unwrap_err();
        assert!(error.contains("SHA-256"), "{error}");
    }

    #[test]
    fn two_runs_write_equal_archives() {
        let folder = tempfile::tempdir().unwrap();
        let first = archive_into(&folder.path().join("a"), &[]).unwrap();
        let second = archive_into(&folder.path().join("b"), &[]).unwrap();
        assert_eq!(fs::read(first).unwrap(), fs::read(second).unwrap());
    }

    #[test]
    fn an_archive_that_the_manifest_does_not_know_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let archive = archive_into(folder.path(), &[]).unwrap();
        let manifest = folder.path().join("kaito.yaml");
        let manifest = manifest.to_str().unwrap();
        run(&[
            "manifest",
            "--archive",
            &archive,
            "--version",
            "v1.0.0",
            "--out",
            manifest,
        ])
        .unwrap();
        let stranger = folder.path().join("other.tar.gz");
        fs::write(&stranger, b"other").unwrap();
        let error = run(&["check", manifest, "--archive", stranger.to_str().unwrap()]).unwrap_err();
        assert!(error.contains("other.tar.gz: no entry"), "{error}");
    }

    #[test]
    fn unknown_platforms_and_missing_files_are_errors_that_name_them() {
        let folder = tempfile::tempdir().unwrap();
        let error = archive_into(folder.path(), &["--platform", "linux/s390x"]).unwrap_err();
        assert!(error.contains("linux/s390x"), "{error}");
        let missing = folder.path().join("missing.yaml");
        let error = run(&["check", missing.to_str().unwrap()]).unwrap_err();
        assert!(error.contains("missing.yaml"), "{error}");
    }
}
