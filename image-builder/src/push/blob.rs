//! The way of one blob: known already, to be mounted, or to be sent, in the form that the registry takes.

use std::sync::Arc;

use super::destination::Destination;
use super::error::PushError;
use super::feed::{self, Fed, Feed, FeedError, Start};
use super::{CacheUse, PushOptions, PushedBlob, documents, layout, segments};
use crate::cache::{Cache, Recipe, Remembered};
use crate::content::{Blob, Encoding, MadeBlob};
use crate::digest::Digest;
use crate::oci::Descriptor;
use crate::progress::{Event, Outcome, Phase, Progress};
use crate::registry::{
    Class, Mount, OnSent, Patched, RegistryError, Repository, RequestBody, StreamBody, Upload,
    UploadForm,
};
use crate::source::Source;

/// Blobs up to this size are read before anything is asked: their digest then tells whether to send them at all.
const SMALL: u64 = 4 << 20;

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

/// How one attempt failed.
pub(super) enum Attempt {
    /// For good.
    Final(Box<PushError>),
    /// The registry or the connection: its class says what can be done.
    Registry(RegistryError),
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

    /// Sends the blob, as often and in as many forms as it takes. `None` when no form without a known digest is left.
    async fn send(
        &self,
        repository: &Repository,
        known: Option<&Fed>,
        mut opened: Option<Upload>,
    ) -> Result<Option<Fed>, PushError> {
        let mut form = self.form_for(repository, known);
        let mut next = 2;
        let mut token = Renewal::Open;
        loop {
            if known.is_none() && form == UploadForm::Monolithic {
                return Ok(None);
            }
            self.started(Phase::Upload);
            let attempt = self.attempt(repository, form, known, opened.take()).await;
            let error = match attempt {
                Ok(fed) => return Ok(Some(fed)),
                Err(Attempt::Final(error)) => return Err(*error),
                Err(Attempt::Registry(error)) => error,
            };
            let wait = match next_step(&error, form, repository, next, token) {
                Step::Wait(wait) => wait,
                Step::NewToken => {
                    token = Renewal::Used;
                    std::time::Duration::ZERO
                }
                Step::Form(other) => {
                    form = other;
                    repository.client().learn_form(repository.host(), form);
                    std::time::Duration::ZERO
                }
                Step::Stop => return Err(PushError::registry(&self.job.name, error)),
            };
            self.context.progress.event(Event::Retried {
                blob: self.index,
                attempt: next,
                reason: reason(&error),
            });
            tokio::time::sleep(wait).await;
            next += 1;
        }
    }

    async fn attempt(
        &self,
        repository: &Repository,
        form: UploadForm,
        known: Option<&Fed>,
        opened: Option<Upload>,
    ) -> Result<Fed, Attempt> {
        let upload = match opened {
            Some(upload) => upload,
            None => repository.open_upload().await.map_err(Attempt::Registry)?,
        };
        match (form, known) {
            (UploadForm::Segmented(size), _) => {
                segments::send(self, repository, upload, size, known).await
            }
            (_, Some(fed)) => self.put(repository, &upload, fed).await,
            (_, None) => self.stream(repository, upload).await,
        }
    }

    /// The digest is known: one `PUT` with everything.
    async fn put(
        &self,
        repository: &Repository,
        upload: &Upload,
        fed: &Fed,
    ) -> Result<Fed, Attempt> {
        let feed = self.feed(Some(fed.digest), Start::default(), None);
        let Feed { items, outcome, .. } = feed;
        let body = StreamBody::new(items, Some(fed.size), self.on_sent());
        let answer = repository
            .finish_upload(upload, fed.digest, RequestBody::Stream(body))
            .await;
        let fed = feed::settled(outcome, &answer).await;
        self.judge(answer, fed).map(|((), fed)| fed)
    }

    /// The digest comes out while the blob is sent: one `PATCH` with everything, then `PUT` with the digest.
    async fn stream(&self, repository: &Repository, mut upload: Upload) -> Result<Fed, Attempt> {
        let blob = &self.job.blob;
        let length = (blob.encoding == Encoding::Plain).then(|| blob.content_size());
        let Feed { items, outcome, .. } = self.feed(None, Start::default(), None);
        let sent = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let body = StreamBody::new(items, length, self.counting(Arc::clone(&sent)));
        let end = || sent.load(std::sync::atomic::Ordering::Relaxed);
        let answer = repository
            .patch(&mut upload, None, RequestBody::Stream(body), end)
            .await;
        let fed = feed::settled(outcome, &answer).await;
        let (patched, fed) = self.judge(answer, fed)?;
        self.close(repository, &upload, patched, fed).await
    }

    /// Gives an upload that has all bytes its digest.
    pub(super) async fn close(
        &self,
        repository: &Repository,
        upload: &Upload,
        patched: Patched,
        fed: Fed,
    ) -> Result<Fed, Attempt> {
        if patched == Patched::Created(Some(fed.digest)) {
            return Ok(fed);
        }
        if let Patched::Created(_) = patched {
            // Stored early under a name that is not told: what counts is whether ours is there.
            let size = repository
                .blob_size(fed.digest)
                .await
                .map_err(Attempt::Registry)?;
            if size == Some(fed.size) {
                return Ok(fed);
            }
        }
        let empty = RequestBody::Empty;
        repository
            .finish_upload(upload, fed.digest, empty)
            .await
            .map_err(Attempt::Registry)?;
        Ok(fed)
    }

    /// What an attempt came to: a fault of the source outweighs what the cut connection says.
    pub(super) fn judge<T>(
        &self,
        answer: Result<T, RegistryError>,
        fed: Result<Fed, FeedError>,
    ) -> Result<(T, Fed), Attempt> {
        match (answer, fed) {
            (Ok(answer), Ok(fed)) => Ok((answer, fed)),
            (Err(error), Ok(_) | Err(FeedError::Abandoned)) => Err(Attempt::Registry(error)),
            (_, Err(error)) => Err(Attempt::Final(Box::new(self.feed_error(error)))),
        }
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

    /// The form to begin with. What is known goes in one request, unless the host limits bodies and it is not small.
    fn form_for(&self, repository: &Repository, known: Option<&Fed>) -> UploadForm {
        match (self.form(repository), known) {
            (UploadForm::Streamed, Some(_)) => UploadForm::Monolithic,
            (UploadForm::Segmented(_), Some(fed)) if fed.size <= SMALL => UploadForm::Monolithic,
            (form, _) => form,
        }
    }

    fn form(&self, repository: &Repository) -> UploadForm {
        let learned = repository.client().upload_form(repository.host());
        self.context.options.form.unwrap_or(learned)
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

    pub(super) fn on_sent(&self) -> OnSent {
        let (progress, blob) = (Arc::clone(self.context.progress), self.index);
        Arc::new(move |bytes| progress.event(Event::Advanced { blob, bytes }))
    }

    fn counting(&self, sent: Arc<std::sync::atomic::AtomicU64>) -> OnSent {
        let report = self.on_sent();
        Arc::new(move |bytes| {
            sent.fetch_add(bytes, std::sync::atomic::Ordering::Relaxed);
            report(bytes);
        })
    }

    fn started(&self, phase: Phase) {
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

/// What to do after an attempt failed.
enum Step {
    Wait(std::time::Duration),
    /// The token that was refused was thrown away; the next attempt has a new one.
    NewToken,
    Form(UploadForm),
    Stop,
}

/// Whether a refused token may still be renewed: once per blob.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Renewal {
    Open,
    Used,
}

fn next_step(
    error: &RegistryError,
    form: UploadForm,
    repository: &Repository,
    next: u32,
    token: Renewal,
) -> Step {
    match error.class() {
        Class::Form => {
            let status = error.status().map_or(416, |status| status.as_u16());
            form.after(status).map_or(Step::Stop, Step::Form)
        }
        Class::Unauthorized
            if error.status().is_some_and(|status| status == 401) && token == Renewal::Open =>
        {
            Step::NewToken
        }
        // The upload is gone, not the repository, which would have refused to open one.
        Class::Missing if next <= repository.client().retry().attempts => {
            Step::Wait(std::time::Duration::ZERO)
        }
        class => repository
            .client()
            .retry()
            .wait(next, class)
            .map_or(Step::Stop, Step::Wait),
    }
}

/// One line about a failure, for people who watch.
fn reason(error: &RegistryError) -> String {
    use std::error::Error as _;

    match error.source() {
        Some(cause) => cause.to_string(),
        None => error.to_string(),
    }
}
