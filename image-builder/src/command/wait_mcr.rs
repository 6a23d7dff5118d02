//! `wait-mcr`: waits until Microsoft's registry serves what was pushed to the registry behind it.
//!
//! mcr.microsoft.com takes no pushes: an Azure registry that is onboarded for publishing does, below `public/`, and a
//! synchronisation that nobody outside can watch makes `public/X` there `mcr.microsoft.com/X`.

use std::str::FromStr as _;
use std::time::{Duration, Instant};

use super::Context;
use super::failure::{Exit, Failure};
use super::flags::{ProgressFlags, RegistryFlags};
use super::interrupt::interrupted;
use crate::digest::Digest;
use crate::registry::{DEFAULT_TAG, Reference};

/// Flags of `wait-mcr`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Name at Microsoft's registry, mcr.microsoft.com/X[:TAG], or the pushed name, REGISTRY/public/X[:TAG]
    #[arg(value_name = "REF")]
    pub(crate) reference: String,
    /// Digest that must be served; without it the one of the pushed name, or any
    #[arg(long, value_name = "sha256:…")]
    pub(crate) digest: Option<String>,
    /// Longest time to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600)]
    pub(crate) wait_seconds: u64,
    /// Time between two looks, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 15)]
    pub(crate) interval_seconds: u64,
    /// Host to ask instead of mcr.microsoft.com, for tests
    #[arg(
        long,
        value_name = "HOST",
        default_value = "mcr.microsoft.com",
        hide = true
    )]
    pub(crate) mcr_host: String,
    /// How registries are reached.
    #[command(flatten)]
    pub(crate) registry: RegistryFlags,
    /// What is told.
    #[command(flatten)]
    pub(crate) progress: ProgressFlags,
}

/// Waits.
pub(crate) async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let given = Reference::from_str(&args.reference)?;
    let mut wanted: Option<Digest> = match &args.digest {
        Some(text) => Some(text.parse()?),
        None => given.digest(),
    };
    let served = match given.repository().strip_prefix("public/") {
        Some(path) => {
            if wanted.is_none() {
                let pushed = args.registry.client(context)?.repository(&given)?;
                wanted = Some(pushed.manifest(&given.selector()).await?.digest);
            }
            let tag = given.tag().unwrap_or(DEFAULT_TAG);
            Reference::from_str(&format!("{}/{path}:{tag}", args.mcr_host))?
        }
        None if given.host() == args.mcr_host => given,
        None => {
            return Err(Failure::message(format!(
                "{} is not below public/, so Microsoft's registry will never serve it",
                given.repository()
            )));
        }
    };
    tokio::select! {
        result = poll(args, context, &served, wanted) => result,
        () = interrupted() => Err(Failure::message("interrupted").with_exit(Exit::Interrupted)),
    }
}

async fn poll(
    args: &Args,
    context: &Context,
    served: &Reference,
    wanted: Option<Digest>,
) -> Result<Exit, Failure> {
    // Asked without credentials: what counts is what everybody gets.
    let anonymous = Context {
        credentials: Vec::new(),
        variables: std::collections::BTreeMap::new(),
        ..context.clone()
    };
    let repository = args.registry.client(&anonymous)?.repository(served)?;
    let selector = served
        .tag()
        .map_or_else(|| served.selector(), str::to_owned);
    let limit = Duration::from_secs(args.wait_seconds);
    let started = Instant::now();
    loop {
        let found = match repository.manifest(&selector).await {
            Ok(document) => Some(document.digest),
            // A registry that is not reachable for a moment is asked again like one that has nothing yet.
            Err(error) => {
                tracing::debug!(%error, "not served yet");
                None
            }
        };
        if let Some(found) = found.filter(|found| wanted.is_none_or(|wanted| wanted == *found)) {
            context.output.data(&format!(
                "{}/{}:{selector}@{found}",
                served.host(),
                served.repository()
            ))?;
            return Ok(Exit::Success);
        }
        let seen = found.map_or_else(|| "nothing".to_owned(), |digest| digest.to_string());
        if started.elapsed() >= limit {
            return Err(Failure::message(format!(
                "{served} was not served within {} s; it serves {seen}",
                args.wait_seconds
            ))
            .with_exit(Exit::Timeout));
        }
        args.progress.note(
            context,
            &format!(
                "{served} serves {seen}; looking again in {} s",
                args.interval_seconds
            ),
        );
        tokio::time::sleep(Duration::from_secs(args.interval_seconds).min(limit)).await;
    }
}
