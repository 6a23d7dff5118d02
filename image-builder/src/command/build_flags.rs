//! Flags of `build`.

use std::path::PathBuf;

use clap::ValueEnum;

use super::flags::{CacheFlags, ProgressFlags, RegistryFlags, SourceFlags};
use super::shape::ShapeFlags;
use super::target::OutputTarget;

/// Flags of `build`.
#[derive(Clone, Debug, Default, clap::Args)]
// A group of this name would clash with the one of whoever takes these flags as part of its own.
#[group(skip)]
pub struct Args {
    /// Directory, file, hf://ORG/MODEL[@REVISION], azblob://ACCOUNT/CONTAINER[/PREFIX], https://… or oci://REF
    #[arg(value_name = "SOURCE", required_unless_present = "verify")]
    pub source: Option<String>,
    /// Name of the result, REGISTRY/REPOSITORY[:TAG]; may be repeated; required with --push
    #[arg(short = 't', long = "tag", value_name = "REF")]
    pub tags: Vec<String>,
    /// Push to the registry of the first --tag
    #[arg(long)]
    pub push: bool,
    /// type=oci,dest=DIR (default), type=tar,dest=FILE or type=registry
    #[arg(
        short = 'o',
        long,
        value_name = "type=TYPE[,dest=PATH]",
        conflicts_with = "push"
    )]
    pub output: Option<OutputTarget>,
    /// Show what would be made and pushed; write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Blobs that are on their way at once
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub concurrency: usize,
    /// Repository of the same registry that may have blobs already; may be repeated
    #[arg(long, value_name = "REPOSITORY")]
    pub mount_from: Vec<String>,
    /// Write the digest of the image's config to a file
    #[arg(long, value_name = "FILE")]
    pub iidfile: Option<PathBuf>,
    /// Write the digest of the result to a file
    #[arg(long, value_name = "FILE")]
    pub digest_file: Option<PathBuf>,
    /// Write the Workspace that uses the result to a file (YAML)
    #[arg(long, value_name = "FILE")]
    pub workspace_file: Option<PathBuf>,
    /// Documents to attach: sbom, provenance
    #[arg(long, value_name = "KINDS", value_delimiter = ',', value_enum)]
    pub attest: Vec<Attest>,
    /// Sign the result with this private key (PEM; COSIGN_PASSWORD for encrypted ones)
    #[arg(long, value_name = "FILE")]
    pub sign_key: Option<PathBuf>,
    /// Read every blob of an image again and compare; needs no SOURCE
    #[arg(long, value_name = "REF", conflicts_with_all = ["source", "push", "output", "dry_run"])]
    pub verify: Option<String>,
    /// What is made.
    #[command(flatten)]
    pub shape: ShapeFlags,
    /// Where files come from.
    #[command(flatten)]
    pub files: SourceFlags,
    /// How registries are reached.
    #[command(flatten)]
    pub registry: RegistryFlags,
    /// What is remembered.
    #[command(flatten)]
    pub cache: CacheFlags,
    /// What is told.
    #[command(flatten)]
    pub progress: ProgressFlags,
}

/// Documents that are attached to a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Attest {
    /// The bill of materials.
    Sbom,
    /// Where it comes from.
    Provenance,
}
