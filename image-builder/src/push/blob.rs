//! The way of one blob: known already, to be mounted, or to be sent, in the form that the registry takes.

use std::sync::Arc;

use super::destination::Destination;
use super::error::PushError;
use super::feed::{self, Fed, Feed, FeedError, Start};
use super::{CacheUse, PushOptions, PushedBlob, documents, layout};
use crate::cache::{Cache, Recipe, Remembered};
use crate::content::{Blob, Encoding, MadeBlob};
use crate::digest::Digest;
use crate::oci::Descriptor;
use crate::progress::{Event, Outcome, Phase, Progress};
use crate::registry::{Mount, Repository, UploadForm};
use crate::source::Source;

/// Blobs up to this size are read before anything is asked: their digest then tells whether to send them at all.
pub(super) const SMALL: u64 = 4 << 20;

/// A blob to be brought to the destination.
pub(super) struct Job {
    pub(super) name: String,
    pub(super) blob: Arc<Blob>,
    pub(super) source: Arc<dyn Source>,
    /// Repositories of the destination's registry that may have it.
    pub(super) mount_from: Vec<String>,
    pub(super) order: Order,
}

/// What comes first with a blob of unknown digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// It is hashed while it is sent.
    SendAtOnce,
    /// It is hashed, and sent only where it is not there.
    HashFirst,
}

/// What all blobs of a push share.
pub(super) struct Context<'a> {
    pub(super) destination: &'a Destination,
    pub(super) options: &'a PushOptions,
    pub(super) progress: &'a Arc<dyn Progress>,
}

/// What is known of a blob that was not read.
pub(super) struct Known {
    pub(super) digest: Digest,
    pub(super) size: u64,
    content_digest: Option<Digest>,
}

impl Job {
    pub(super) fn new(
        name: &str,
        blob: Blob,
        source: Arc<dyn Source>,
        mount_from: &[String],
    ) -> Self {
        Self {
            name: name.to_owned(),
            blob: Arc::new(blob),
            source,
            mount_from: mount_from.to_vec(),
            order: Order::SendAtOnce,
        }
    }
}

/// What the source or the cache knows of a blob.
pub(super) fn known(blob: &Blob, source: &dyn Source, options: &PushOptions) -> Option<Known> {
    if let (Some(digest), Encoding::Plain) = (blob.expected, blob.encoding) {
        return Some(Known {
            digest,
            size: blob.content_size(),
            content_digest: Some(digest),
        });
    }
    let cache = believed(options)?;
    let remembered = cache.digests.get(Recipe::of(blob, source)?)?;
    Some(Known {
        digest: remembered.digest,
        size: remembered.size,
        content_digest: Some(remembered.content_digest),
    })
}

fn believed(options: &PushOptions) -> Option<&Arc<Cache>> {
    options
        .cache
        .as_ref()
        .filter(|_| options.digests == CacheUse::Believe)
}

/// Brings one blob to the destination.
pub(super) async fn place(
    context: &Context<'_>,
    index: usize,
    job: Job,
) -> Result<PushedBlob, PushError> {
    let way = Way {
        context,
        index,
        job: &job,
    };
    let placed = way.go().await;
    let (outcome, digest) = match &placed {
        Ok((made, outcome)) => (*outcome, Some(made.digest)),
        Err(_) => (Outcome::Failed, None),
    };
    context.progress.event(Event::Finished {
        blob: index,
        outcome,
        digest,
    });
    let (fed, outcome) = placed?;
    way.remember(&fed);
    Ok(PushedBlob {
        name: job.name.clone(),
        made: made(&job.blob, &fed),
        outcome,
    })
}

fn made(blob: &Blob, fed: &Fed) -> MadeBlob {
    let annotations = Some(blob.annotations.clone()).filter(|annotations| !annotations.is_empty());
    MadeBlob {
        descriptor: Descriptor {
            media_type: blob.media_type.clone(),
            digest: fed.digest,
            size: fed.size,
            artifact_type: None,
            platform: None,
            annotations,
        },
        content_digest: fed.content_digest,
    }
}

/// One blob on its way.
pub(super) struct Way<'a> {
    pub(super) context: &'a Context<'a>,
    pub(super) index: usize,
    pub(super) job: &'a Job,
}

impl Way<'_> {
    async fn go(&self) -> Result<(Fed, Outcome), PushError> {
        if let Some(known) = known(
            &self.job.blob,
            self.job.source.as_ref(),
            self.context.options,
        ) && let Some(content_digest) = known.content_digest
        {
            let fed = Fed {
                digest: known.digest,
                content_digest,
                size: known.size,
            };
            return Ok((fed, self.place_known(&fed).await?));
        }
        match self.context.destination {
            Destination::Layout(layout) => Ok((self.write(layout, None).await?, Outcome::Moved)),
            Destination::Repository(repository) if self.job.blob.content_size() <= SMALL => {
                self.place_small(repository).await
            }
            Destination::Repository(repository) => self.place_unknown(repository).await,
        }
    }

    /// A blob whose digest is known: it may be there, or in another repository.
    async fn place_known(&self, fed: &Fed) -> Result<Outcome, PushError> {
        if self.context.destination.has(fed.digest, fed.size).await? {
            return Ok(Outcome::Present);
        }
        match self.context.destination {
            Destination::Layout(layout) => {
                self.write(layout, Some(fed.digest)).await?;
                Ok(Outcome::Moved)
            }
            Destination::Repository(repository) => self.mount_or_send(repository, fed).await,
        }
    }

    /// A small blob of unknown digest: read into memory first.
    async fn place_small(&self, repository: &Repository) -> Result<(Fed, Outcome), PushError> {
        self.started(Phase::Hash);
        let (fed, bytes) = feed::collect(self.feed(None, Start::default(), None))
            .await
            .map_err(|error| self.feed_error(error))?;
        if self.context.destination.has(fed.digest, fed.size).await? {
            return Ok((fed, Outcome::Present));
        }
        if self
            .mount(repository, &fed)
            .await?
            .is_some_and(|mount| matches!(mount, Mount::Mounted))
        {
            return Ok((fed, Outcome::Mounted));
        }
        self.started(Phase::Upload);
        documents::send_small(repository, fed.digest, &bytes)
            .await
            .map_err(|cause| PushError::registry(&self.job.name, cause))?;
        self.advanced(fed.size);
        Ok((fed, Outcome::Moved))
    }

    /// A large blob of unknown digest: hashed while it is sent where the registry allows that, else read twice.
    async fn place_unknown(&self, repository: &Repository) -> Result<(Fed, Outcome), PushError> {
        self.check_size(repository, self.job.blob.content_size())?;
        if self.job.order == Order::SendAtOnce
            && self.form(repository) != UploadForm::Monolithic
            && let Some(fed) = self.send(repository, None, None).await?
        {
            return Ok((fed, Outcome::Moved));
        }
        self.started(Phase::Hash);
        let feed = self.feed(None, Start::default(), None);
        let fed = feed::hash(feed, |bytes| self.advanced(bytes))
            .await
            .map_err(|error| self.feed_error(error))?;
        self.remember(&fed);
        Ok((fed, self.place_known(&fed).await?))
    }

    async fn mount_or_send(
        &self,
        repository: &Repository,
        fed: &Fed,
    ) -> Result<Outcome, PushError> {
        self.check_size(repository, fed.size)?;
        let opened = match self.mount(repository, fed).await? {
            Some(Mount::Mounted) => return Ok(Outcome::Mounted),
            Some(Mount::Opened(upload)) => Some(upload),
            Some(Mount::Refused) | None => None,
        };
        match self.send(repository, Some(fed), opened).await? {
            Some(_) => Ok(Outcome::Moved),
            None => Err(PushError::Reader {
                blob: self.job.name.clone(),
            }),
        }
    }

    /// Asks for the blob from repositories that may have it, until one gives it.
    async fn mount(&self, repository: &Repository, fed: &Fed) -> Result<Option<Mount>, PushError> {
        let mut last = None;
        for from in self.mount_candidates(repository, fed.digest) {
            self.started(Phase::Mount);
            let answer = repository
                .mount(fed.digest, &from)
                .await
                .map_err(|cause| PushError::registry(&self.job.name, cause))?;
            if matches!(answer, Mount::Mounted) {
                return Ok(Some(answer));
            }
            // Only one opened upload is needed.
            if let Some(Mount::Opened(upload)) = last.replace(answer) {
                repository.cancel_upload(upload).await;
            }
        }
        Ok(last)
    }

    fn mount_candidates(&self, repository: &Repository, digest: Digest) -> Vec<String> {
        let remembered = self
            .context
            .options
            .cache
            .as_ref()
            .map(|cache| cache.journal.repositories(repository.host(), digest));
        let mut names = self.job.mount_from.clone();
        names.extend(remembered.unwrap_or_default());
        let mut seen = std::collections::BTreeSet::new();
        names.retain(|name| name != repository.name() && seen.insert(name.clone()));
        names.truncate(3);
        names
    }

    /// Into a layout on disk.
    async fn write(
        &self,
        layout: &crate::layout::Layout,
        expected: Option<Digest>,
    ) -> Result<Fed, PushError> {
        self.started(Phase::Upload);
        let feed = self.feed(expected, Start::default(), None);
        layout::write(layout, &self.job.name, feed, |bytes| self.advanced(bytes))
            .await?
            .map_err(|error| self.feed_error(error))
    }

    pub(super) fn feed(
        &self,
        expected: Option<Digest>,
        start: Start,
        segment: Option<u64>,
    ) -> Feed {
        feed::start(feed::Order {
            blob: Arc::clone(&self.job.blob),
            source: Arc::clone(&self.job.source),
            expected,
            start,
            segment,
        })
    }

    fn check_size(&self, repository: &Repository, size: u64) -> Result<(), PushError> {
        match UploadForm::largest_blob(repository.host()) {
            Some(most) if size > most => Err(PushError::TooLarge {
                blob: self.job.name.clone(),
                size,
                host: repository.host().to_owned(),
                most,
            }),
            _ => Ok(()),
        }
    }

    /// Keeps what was found out for the next run. A cache that cannot be written is only slower.
    fn remember(&self, fed: &Fed) {
        let Some(cache) = &self.context.options.cache else {
            return;
        };
        let recipe = Recipe::of(&self.job.blob, self.job.source.as_ref());
        let remembered = Remembered {
            digest: fed.digest,
            content_digest: fed.content_digest,
            size: fed.size,
        };
        let digests = recipe.map_or(Ok(()), |recipe| cache.digests.remember(recipe, remembered));
        let journal = match self.context.destination {
            Destination::Repository(repository) => {
                cache
                    .journal
                    .record(repository.host(), repository.name(), fed.digest)
            }
            Destination::Layout(_) => Ok(()),
        };
        if let Err(error) = digests.and(journal) {
            tracing::warn!(%error, "the next push will read more than it needs to");
        }
    }

    pub(super) fn started(&self, phase: Phase) {
        self.context.progress.event(Event::Started {
            blob: self.index,
            phase,
        });
    }

    fn advanced(&self, bytes: u64) {
        self.context.progress.event(Event::Advanced {
            blob: self.index,
            bytes,
        });
    }

    pub(super) fn feed_error(&self, error: FeedError) -> PushError {
        let blob = self.job.name.clone();
        match error {
            FeedError::Source(cause) => PushError::Source { blob, cause },
            FeedError::Mismatch { expected, actual } => PushError::Mismatch {
                blob,
                expected,
                actual,
            },
            FeedError::Encoding(cause) => PushError::Encoding { blob, cause },
            FeedError::Abandoned => PushError::Reader { blob },
        }
    }
}
