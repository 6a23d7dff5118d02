//! `pull`: the files of an image or artifact come to a directory, each verified before it gets its name.

use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::Arc;

use super::Context;
use super::failure::{Exit, Failure};
use super::flags::{CacheFlags, ProgressFlags, RegistryFlags};
use super::interrupt::interrupted;
use super::prepare::platform;
use crate::oci::Platform;
use crate::plan::key;
use crate::progress::Size;
use crate::pull::{self, Origin, PullOptions};
use crate::registry::Reference;

/// Flags of `pull`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Image or artifact
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// Directory for the files
    #[arg(value_name = "DIR", default_value = ".")]
    pub(crate) directory: PathBuf,
    /// Fetch only files that match; may be repeated
    #[arg(long, value_name = "GLOB")]
    pub(crate) include: Vec<String>,
    /// Platform of the image, OS/ARCHITECTURE
    #[arg(long, value_name = "PLATFORM")]
    pub(crate) platform: Option<String>,
    /// Directory in the image whose files are fetched, left out of their names [the one that the image names; "" for none]
    #[arg(long, value_name = "DIR")]
    pub(crate) strip: Option<String>,
    /// Connections at once
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) concurrency: usize,
    /// How registries are reached.
    #[command(flatten)]
    pub(crate) registry: RegistryFlags,
    /// What is remembered.
    #[command(flatten)]
    pub(crate) cache: CacheFlags,
    /// What is told.
    #[command(flatten)]
    pub(crate) progress: ProgressFlags,
}

/// Pulls.
pub(crate) async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let reference = Reference::from_str(&args.reference)?;
    let repository = args.registry.client(context)?.repository(&reference)?;
    let origin = Origin::Repository(repository);
    let selector = reference.selector();
    let platform = args.platform.as_deref().map(platform).transpose()?;
    let strip = match &args.strip {
        Some(directory) => Some(directory.clone()).filter(|directory| !directory.is_empty()),
        None => root(&origin, &selector, platform.as_ref()).await?,
    };
    let options = PullOptions {
        streams: args.concurrency.max(1),
        include: args.include.clone(),
        platform,
        cache: args.cache.open(context.output.as_ref(), context),
        strip,
        ..PullOptions::default()
    };
    let shown = args.progress.show(context);
    let progress = Arc::clone(&shown.progress);
    let pulled = tokio::select! {
        pulled = pull::pull(&origin, &selector, &args.directory, &options, progress) => pulled?,
        () = interrupted() => {
            drop(shown);
            return Err(Failure::message("interrupted").with_exit(Exit::Interrupted).with_line(
                "Finished files and parts stay. Run the same command again to go on with the rest.",
            ));
        }
    };
    drop(shown);
    let present = pulled.files.iter().filter(|file| file.present).count();
    args.progress.note(
        context,
        &format!(
            "{} files in {}: {} received, {present} were there already",
            pulled.files.len(),
            args.directory.display(),
            Size(pulled.received)
        ),
    );
    let digest = pulled.manifest.digest;
    let name = format!(
        "{}@{digest}",
        args.reference.split('@').next().unwrap_or_default()
    );
    context.output.data(&if args.progress.quiet {
        digest.to_string()
    } else {
        name
    })?;
    Ok(Exit::Success)
}

/// The directory in which an image says that its files are.
async fn root(
    origin: &Origin,
    selector: &str,
    platform: Option<&Platform>,
) -> Result<Option<String>, Failure> {
    let selected = pull::select(origin, selector, platform).await?;
    let annotations = selected.manifest.annotations.unwrap_or_default();
    Ok(annotations.get(key::ROOT).cloned())
}
