//! The push engine: every byte is read once and hashed while it is sent, blobs in parallel, memory bounded.
//!
//! What is made is decided by a [`Plan`]; where it goes by a [`Destination`]. Blobs come first, then configs, then manifests
//! by digest, the top one with its tags last: a push that is cut leaves nothing that looks finished. What is there already is
//! not sent, and no blob counts as sent before the other side has accepted it under the digest of what was read.

mod blob;
mod copy;
mod destination;
mod documents;
mod error;
mod feed;
mod layout;
mod origin;
mod output;
mod segments;
mod send;
mod twins;

use std::sync::Arc;

use futures::{StreamExt as _, TryStreamExt as _};

pub use copy::copy;
pub use destination::Destination;
pub use error::PushError;
pub use origin::{Origin, OriginError};

use self::blob::Job;
use crate::cache::Cache;
use crate::content::MadeBlob;
use crate::oci::{Descriptor, Document};
use crate::plan::Plan;
use crate::progress::{Event, Outcome, Progress};
use crate::registry::{Repository, UploadForm};
use crate::source::Source;

/// How a push is done. The result does not depend on it.
#[derive(Clone, Debug)]
pub struct PushOptions {
    /// Blobs that are on their way at once. Default 4; each takes up to 4 MiB of memory.
    pub streams: usize,
    /// Tags to set on the top document. May be empty: it is then found by digest only.
    pub tags: Vec<String>,
    /// Repositories of the same registry that may have blobs already.
    pub mount_from: Vec<String>,
    /// Where the layers of the base image are.
    pub base: Option<Repository>,
    /// What is remembered from other runs.
    pub cache: Option<Arc<Cache>>,
    /// Whether the digest cache is believed.
    pub digests: CacheUse,
    /// The form of upload; `None` for what is known of the host.
    pub form: Option<UploadForm>,
}

/// Whether remembered digests are believed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheUse {
    /// A file that did not change is not read again.
    #[default]
    Believe,
    /// Every file is read.
    Ignore,
}

impl Default for PushOptions {
    fn default() -> Self {
        Self {
            streams: 4,
            tags: Vec::new(),
            mount_from: Vec::new(),
            base: None,
            cache: None,
            digests: CacheUse::Believe,
            form: None,
        }
    }
}

/// A blob that is at its destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedBlob {
    /// Its name for people.
    pub name: String,
    /// What it became.
    pub made: MadeBlob,
    /// How it got there.
    pub outcome: Outcome,
}

/// What a push did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// The top document's descriptor.
    pub top: Descriptor,
    /// All documents, the top one last.
    pub documents: Vec<Document>,
    /// The blobs, in the plan's order, then the layers of the base image.
    pub blobs: Vec<PushedBlob>,
    /// Tags that were set.
    pub tags: Vec<String>,
}

impl Pushed {
    /// Bytes of the blobs that ended so.
    #[must_use]
    pub fn bytes(&self, outcome: Outcome) -> u64 {
        self.blobs
            .iter()
            .filter(|blob| blob.outcome == outcome)
            .map(|blob| blob.made.descriptor.size)
            .sum()
    }
}

/// Makes what `plan` says, from the files of `source`, at `destination`.
///
/// Dropping the future stops the push; what was finished is found again by the next one.
///
/// # Errors
/// When a file cannot be read or is not what was listed or expected, or the destination refuses. Nothing is tagged then.
pub async fn push(
    plan: &Plan,
    source: Arc<dyn Source>,
    destination: &Destination,
    options: &PushOptions,
    progress: Arc<dyn Progress>,
) -> Result<Pushed, PushError> {
    let mut jobs: Vec<Job> = plan
        .blobs
        .iter()
        .zip(&plan.names)
        .map(|(blob, name)| Job::new(name, blob.clone(), Arc::clone(&source), &options.mount_from))
        .collect();
    jobs.extend(copy::base_layers(&plan.mounts, options)?);
    let blobs = place_all(jobs, destination, options, &progress).await?;
    let made: Vec<MadeBlob> = blobs
        .iter()
        .take(plan.blobs.len())
        .map(|blob| blob.made.clone())
        .collect();
    let documents = plan
        .finish(&made)
        .map_err(|cause| PushError::Plan { cause })?;
    let top = documents::place(&documents, destination, &options.tags).await?;
    Ok(Pushed {
        top,
        documents,
        blobs,
        tags: options.tags.clone(),
    })
}

/// What is known about a blob before anything is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forecast {
    /// The destination has it.
    Present,
    /// It does not; its digest is known.
    Absent,
    /// Its digest is not known before it is read.
    Unknown,
}

/// What a push would do to each blob of a plan, in its order, without reading a file or sending one. For `--dry-run`.
///
/// # Errors
/// When the destination cannot be asked.
pub async fn forecast(
    plan: &Plan,
    source: &dyn Source,
    destination: &Destination,
    options: &PushOptions,
) -> Result<Vec<Forecast>, PushError> {
    let known = plan
        .blobs
        .iter()
        .map(|blob| blob::known(blob, source, options));
    futures::stream::iter(known)
        .map(|known| async move {
            Ok(match known {
                None => Forecast::Unknown,
                Some(known) if destination.has(known.digest, known.size).await? => {
                    Forecast::Present
                }
                Some(_) => Forecast::Absent,
            })
        })
        .buffered(8)
        .try_collect()
        .await
}

/// Brings all blobs to the destination. The first failure stops the others.
async fn place_all(
    jobs: Vec<Job>,
    destination: &Destination,
    options: &PushOptions,
    progress: &Arc<dyn Progress>,
) -> Result<Vec<PushedBlob>, PushError> {
    let planned = jobs
        .iter()
        .map(|job| (job.name.clone(), job.blob.content_size()))
        .collect();
    progress.event(Event::Planned { blobs: planned });
    let context = blob::Context {
        destination,
        options,
        progress,
    };
    let mut placed = Vec::new();
    for jobs in twins::part(jobs, options) {
        let some: Vec<(usize, PushedBlob)> = futures::stream::iter(jobs)
            .map(|(index, job)| {
                let context = &context;
                async move { Ok::<_, PushError>((index, blob::place(context, index, job).await?)) }
            })
            .buffer_unordered(options.streams.max(1))
            .try_collect()
            .await?;
        placed.extend(some);
    }
    placed.sort_by_key(|(index, _)| *index);
    Ok(placed.into_iter().map(|(_, blob)| blob).collect())
}
