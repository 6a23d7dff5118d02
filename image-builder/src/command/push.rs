//! `push`: an OCI layout on disk goes to a registry as it is.

use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::Arc;

use super::failure::{Exit, Failure};
use super::flags::{CacheFlags, ProgressFlags, RegistryFlags};
use super::interrupt::{Counted, interrupted};
use super::target::refuse_mcr;
use super::{Context, summary};
use crate::layout::Layout;
use crate::progress::Progress;
use crate::push::{self, Destination, Origin, PushOptions};
use crate::registry::{DEFAULT_TAG, Reference};

/// Flags of `push`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// OCI layout, as `build` writes it
    #[arg(value_name = "DIR")]
    pub(crate) layout: PathBuf,
    /// Name at the registry, REGISTRY/REPOSITORY[:TAG]
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// Which image of the layout; without it the only one
    #[arg(long, value_name = "TAG")]
    pub(crate) from: Option<String>,
    /// Blobs that are on their way at once
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

/// Pushes.
pub(crate) async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let reference = Reference::from_str(&args.reference)?;
    refuse_mcr(&reference)?;
    let layout = Layout::open(&args.layout).await?;
    let selector = match &args.from {
        Some(name) => name.clone(),
        None => layout.resolve(None).await?.digest.to_string(),
    };
    let repository = args.registry.client(context)?.repository(&reference)?;
    let tag = reference.tag().unwrap_or(DEFAULT_TAG);
    let options = PushOptions {
        streams: args.concurrency.max(1),
        tags: vec![tag.to_owned()],
        cache: args.cache.open(context.output.as_ref(), context),
        ..PushOptions::default()
    };
    let counted = Arc::new(Counted::new(args.progress.show(context)));
    let progress: Arc<dyn Progress> = counted.clone();
    let (origin, destination) = (Origin::Layout(layout), Destination::Repository(repository));
    let pushed = tokio::select! {
        pushed = push::copy(&origin, &selector, &destination, &options, progress) => pushed?,
        () = interrupted() => return Err(counted.interruption()),
    };
    counted.end();
    summary::stands(&pushed, &reference, &args.progress, context)?;
    Ok(Exit::Success)
}
