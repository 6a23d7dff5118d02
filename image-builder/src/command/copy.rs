//! `copy`: an image goes from one repository to another, byte for byte; blobs are mounted where both share a registry.

use std::str::FromStr as _;
use std::sync::Arc;

use super::failure::{Exit, Failure};
use super::flags::{CacheFlags, ProgressFlags, RegistryFlags};
use super::interrupt::{Counted, interrupted};
use super::target::refuse_mcr;
use super::{Context, summary};
use crate::progress::Progress;
use crate::push::{self, Destination, Origin, PushOptions};
use crate::registry::{DEFAULT_TAG, Reference};

/// Flags of `copy`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Image to copy
    #[arg(value_name = "FROM")]
    pub(crate) from: String,
    /// Its new name
    #[arg(value_name = "TO")]
    pub(crate) to: String,
    /// Copy what is attached to it, too: bills of materials, provenance, signatures
    #[arg(long)]
    pub(crate) with_referrers: bool,
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

/// Copies.
pub(crate) async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let (from, to) = (
        Reference::from_str(&args.from)?,
        Reference::from_str(&args.to)?,
    );
    refuse_mcr(&to)?;
    let client = args.registry.client(context)?;
    let source = client.repository(&from)?;
    let destination = Destination::Repository(client.repository(&to)?);
    let tag = to.tag().unwrap_or(DEFAULT_TAG);
    let mut options = PushOptions {
        streams: args.concurrency.max(1),
        tags: vec![tag.to_owned()],
        cache: args.cache.open(context.output.as_ref(), context),
        ..PushOptions::default()
    };
    let counted = Arc::new(Counted::new(args.progress.show(context)));
    let progress: Arc<dyn Progress> = counted.clone();
    let origin = Origin::Repository(source.clone());
    let work = async {
        let pushed = push::copy(
            &origin,
            &from.selector(),
            &destination,
            &options,
            progress.clone(),
        )
        .await?;
        if args.with_referrers {
            options.tags = Vec::new();
            for referrer in source.referrers(pushed.top.digest, None).await? {
                let selector = referrer.digest.to_string();
                push::copy(&origin, &selector, &destination, &options, progress.clone()).await?;
            }
        }
        Ok::<_, Failure>(pushed)
    };
    let pushed = tokio::select! {
        pushed = work => pushed?,
        () = interrupted() => return Err(counted.interruption()),
    };
    counted.end();
    summary::stands(&pushed, &to, &args.progress, context)?;
    Ok(Exit::Success)
}
