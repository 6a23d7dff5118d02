//! Flags that several commands take, and what they are turned into.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use clap::ValueEnum;
use url::Url;

use super::Context;
use super::failure::Failure;
use super::output::Output;
use crate::cache::{self, Cache};
use crate::progress::{Bars, JsonLines, Lines, Progress, Silent};
use crate::registry::{
    CertificateCheck, Client, ClientOptions, CredentialOptions, Reference, Repository, Scheme,
    TransportOptions,
};
use crate::source::remote::Reach;

/// How registries are reached.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Registry")]
pub struct RegistryFlags {
    /// Docker config file with credentials, before the usual ones; may be repeated, and for each registry the first
    /// file that knows it counts
    #[arg(long, value_name = "FILE")]
    pub registry_config: Vec<PathBuf>,
    /// Speak plain HTTP to registries (loopback addresses are spoken to so anyway, unless --ca-file or --insecure say
    /// that there are certificates)
    #[arg(long)]
    pub plain_http: bool,
    /// Accept any certificate; for test registries only
    #[arg(long)]
    pub insecure: bool,
    /// File with certificates (PEM) to trust besides the system's
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
}

impl RegistryFlags {
    /// A client of registries.
    pub(crate) fn client(&self, context: &Context) -> Result<Client, Failure> {
        let mut credentials =
            CredentialOptions::from_environment(&|name: &str| context.variable(name));
        credentials.given.clone_from(&context.credentials);
        credentials = credentials.with_files(&self.registry_config);
        let options = ClientOptions {
            transport: TransportOptions {
                certificate_check: if self.insecure {
                    CertificateCheck::AcceptAny
                } else {
                    CertificateCheck::Verify
                },
                ca_files: self.ca_file.iter().cloned().collect(),
                ..TransportOptions::default()
            },
            scheme: self.scheme(),
            credentials,
            ..ClientOptions::default()
        };
        Ok(Client::new(options)?)
    }

    /// Who names certificates expects some, also of this machine.
    const fn scheme(&self) -> Scheme {
        if self.plain_http {
            Scheme::Plain
        } else if self.insecure || self.ca_file.is_some() {
            Scheme::Tls
        } else {
            Scheme::Automatic
        }
    }

    /// The repository of an image's name, and the name.
    pub(crate) fn repository(
        &self,
        text: &str,
        context: &Context,
    ) -> Result<(Repository, Reference), Failure> {
        let reference = Reference::from_str(text)?;
        let repository = self.client(context)?.repository(&reference)?;
        Ok((repository, reference))
    }
}

/// How sources are reached.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Source")]
pub struct SourceFlags {
    /// Take only files that match; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Leave out files that match; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Ask http(s):// addresses only if they are on the public internet
    #[arg(long)]
    pub public_only: bool,
    /// File with a token for the Hugging Face hub, instead of HF_TOKEN
    #[arg(long, value_name = "FILE")]
    pub hf_token_file: Option<PathBuf>,
    /// File with a shared access signature for azblob://, instead of AZURE_STORAGE_SAS_TOKEN
    #[arg(long, value_name = "FILE")]
    pub azure_sas_file: Option<PathBuf>,
}

impl SourceFlags {
    /// Which addresses may be asked.
    pub(crate) const fn reach(&self) -> Reach {
        if self.public_only {
            Reach::PublicOnly
        } else {
            Reach::Anywhere
        }
    }
}

/// Value of `--progress`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgressMode {
    /// Bars on a terminal, lines otherwise.
    #[default]
    Auto,
    /// Lines.
    Plain,
    /// One JSON object per line.
    Json,
}

/// How much is told while work goes on.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ProgressFlags {
    /// Progress on stderr: auto (bars on a terminal, else lines), plain, json
    #[arg(long, value_name = "MODE", value_enum, default_value_t = ProgressMode::Auto, hide_possible_values = true)]
    pub progress: ProgressMode,
    /// Print the result only
    #[arg(short = 'q', long)]
    pub quiet: bool,
}

/// What shows progress, until it is dropped or told to end.
pub(crate) struct Shown {
    pub(crate) progress: Arc<dyn Progress>,
    bars: Option<Arc<Bars>>,
}

impl ProgressFlags {
    /// Begins to show progress.
    pub(crate) fn show(&self, context: &Context) -> Shown {
        let output = context.output.clone();
        let write = move |line: &str| output.note(line);
        let progress: Arc<dyn Progress> = match self.progress {
            _ if self.quiet => Arc::new(Silent),
            ProgressMode::Json => Arc::new(JsonLines::new(Box::new(write))),
            ProgressMode::Auto if context.output.draws_bars() => {
                let bars = Arc::new(Bars::on_stderr());
                return Shown {
                    progress: bars.clone(),
                    bars: Some(bars),
                };
            }
            ProgressMode::Auto | ProgressMode::Plain => Arc::new(Lines::new(Box::new(write))),
        };
        Shown {
            progress,
            bars: None,
        }
    }

    /// Tells something that is no result, unless only the result is wanted.
    pub(crate) fn note(&self, context: &Context, line: &str) {
        if !self.quiet {
            context.output.note(line);
        }
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        if let Some(bars) = &self.bars {
            bars.clear();
        }
    }
}

/// What is remembered between runs.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CacheFlags {
    /// Directory of the cache: digests of unchanged files, blobs of finished pushes
    #[arg(long, value_name = "DIR")]
    pub build_cache: Option<PathBuf>,
    /// Read every file, also those that have not changed since their digest was remembered
    #[arg(long)]
    pub no_digest_cache: bool,
}

impl CacheFlags {
    /// The directory; none where there is no home.
    pub(crate) fn directory(&self, context: &Context) -> Option<PathBuf> {
        self.build_cache
            .clone()
            .or_else(|| cache::directory(&|name: &str| context.variable(name)))
    }

    /// The cache. One that cannot be opened is told and done without.
    pub(crate) fn open(&self, output: &dyn Output, context: &Context) -> Option<Arc<Cache>> {
        let directory = self.directory(context)?;
        match Cache::open(&directory) {
            Ok(cache) => Some(Arc::new(cache)),
            Err(error) => {
                output.note(&format!(
                    "warning: {} ({}); going on without, so an interrupted push starts over",
                    error, error.cause
                ));
                None
            }
        }
    }
}

/// `KEY=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// What stands before the first `=`.
    pub key: String,
    /// The rest.
    pub value: String,
}

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok(Self {
                key: key.to_owned(),
                value: value.to_owned(),
            }),
            _ => Err("must be KEY=VALUE".to_owned()),
        }
    }
}

/// Whether a text begins like an address.
pub(crate) fn http_address(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    matches!(url.scheme(), "http" | "https").then_some(url)
}
