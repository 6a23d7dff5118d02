//! A blob to a registry: in the form that it takes, as often as it is worth trying.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::blob::{SMALL, Way};
use super::error::PushError;
use super::feed::{self, Fed, Feed, FeedError, Start};
use super::segments;
use crate::content::Encoding;
use crate::progress::{Event, Phase};
use crate::registry::{
    Class, OnSent, Patched, RegistryError, Repository, RequestBody, StreamBody, Upload, UploadForm,
};

/// How one attempt failed.
pub(super) enum Attempt {
    /// For good.
    Final(Box<PushError>),
    /// The registry or the connection: its class says what can be done.
    Registry(RegistryError),
}

impl Way<'_> {
    /// Sends the blob, as often and in as many forms as it takes. `None` when no form without a known digest is left.
    pub(super) async fn send(
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
                    Duration::ZERO
                }
                Step::Form(other) => {
                    form = other;
                    repository.client().learn_form(repository.host(), form);
                    Duration::ZERO
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
        let sent = Arc::new(AtomicU64::new(0));
        let body = StreamBody::new(items, length, self.counting(Arc::clone(&sent)));
        let end = || sent.load(Ordering::Relaxed);
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

    /// The form to begin with. What is known goes in one request, unless the host limits bodies and it is not small.
    fn form_for(&self, repository: &Repository, known: Option<&Fed>) -> UploadForm {
        match (self.form(repository), known) {
            (UploadForm::Streamed, Some(_)) => UploadForm::Monolithic,
            (UploadForm::Segmented(_), Some(fed)) if fed.size <= SMALL => UploadForm::Monolithic,
            (form, _) => form,
        }
    }

    pub(super) fn form(&self, repository: &Repository) -> UploadForm {
        let learned = repository.client().upload_form(repository.host());
        self.context.options.form.unwrap_or(learned)
    }

    pub(super) fn on_sent(&self) -> OnSent {
        let (progress, blob) = (Arc::clone(self.context.progress), self.index);
        Arc::new(move |bytes| progress.event(Event::Advanced { blob, bytes }))
    }

    fn counting(&self, sent: Arc<AtomicU64>) -> OnSent {
        let report = self.on_sent();
        Arc::new(move |bytes| {
            sent.fetch_add(bytes, Ordering::Relaxed);
            report(bytes);
        })
    }
}

/// What to do after an attempt failed.
enum Step {
    Wait(Duration),
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
            Step::Wait(Duration::ZERO)
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
