//! Leader election by a `coordination.k8s.io` Lease.
//!
//! Every write carries the resourceVersion that it was decided on, so two candidates can never both win. Another
//! holder counts as gone only when *we* have seen no change of the record for its duration on our own monotonic
//! clock; wall clocks are never compared. Our own claim is counted from before the request was sent.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, PostParams};
use kube::{Client, ResourceExt};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a claim holds after its last renewal, as others see it.
const DURATION: Duration = Duration::from_secs(15);
/// Seconds of [`DURATION`] on the wire.
const DURATION_SECONDS: i32 = 15;
/// How long we act on a claim after its last renewal: less than [`DURATION`], so that we stop before others start.
const ACT_FOR: Duration = Duration::from_secs(10);
/// How often a held claim is renewed.
const RENEW_EVERY: Duration = Duration::from_secs(5);
/// How often a failed request is tried again, and a foreign claim looked at.
const RETRY_EVERY: Duration = Duration::from_secs(2);
/// Longest that one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// The right to act, until it runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Somebody else leads, or nobody does yet.
    Following,
    /// We lead until then.
    Leading {
        /// Deadline on the monotonic clock.
        until: Instant,
    },
    /// No election: a single instance that was told so.
    Alone,
}

impl Claim {
    /// Whether a write may be sent now.
    #[must_use]
    pub fn is_current(&self) -> bool {
        match self {
            Self::Following => false,
            Self::Leading { until } => Instant::now() < *until,
            Self::Alone => true,
        }
    }
}

/// What we know of the record: since when it has not changed.
#[derive(Clone, Debug, Default)]
struct LastSeen {
    version: Option<String>,
    since: Option<Instant>,
}

impl LastSeen {
    fn look(&mut self, lease: &Lease, now: Instant) {
        if self.version != lease.resource_version() {
            self.version = lease.resource_version();
            self.since = Some(now);
        }
    }
}

/// What to do about the record.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Create,
    Acquire,
    Renew,
    Follow,
}

fn decide(lease: Option<&Lease>, seen: &LastSeen, me: &str, now: Instant) -> Step {
    let Some(spec) = lease.map(|lease| lease.spec.clone().unwrap_or_default()) else {
        return Step::Create;
    };
    let holder = spec.holder_identity.unwrap_or_default();
    if holder == me {
        return Step::Renew;
    }
    let duration = spec
        .lease_duration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(DURATION, Duration::from_secs);
    let quiet = seen
        .since
        .is_some_and(|since| now.duration_since(since) >= duration);
    if holder.is_empty() || quiet {
        Step::Acquire
    } else {
        Step::Follow
    }
}

/// Where the lease is and who we are.
#[derive(Clone, Debug)]
pub struct Election {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// This process: pod name and a number that no other process has.
    pub identity: String,
}

/// Why the election ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Renewals failed for too long, or another took over.
    #[error(
        "leadership of lease {0:?} was lost; this process ends so that it cannot act on old knowledge"
    )]
    Lost(String),
}

/// Runs the election, publishing the claim, until `shutdown`; then gives the lease back.
///
/// # Errors
/// [`Error::Lost`] when a claim that was held is lost.
pub async fn run(
    client: Client,
    election: Election,
    claim: Arc<watch::Sender<Claim>>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let api: Api<Lease> = Api::namespaced(client, &election.namespace);
    let mut seen = LastSeen::default();
    let mut led = false;
    loop {
        let asked = Instant::now();
        let held = step(&api, &election, &mut seen).await;
        if held {
            claim.send_replace(Claim::Leading {
                until: asked + ACT_FOR,
            });
            led = true;
        } else if led && !claim.borrow().is_current() {
            claim.send_replace(Claim::Following);
            return Err(Error::Lost(election.name));
        }
        let pause = if held { RENEW_EVERY } else { RETRY_EVERY };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => {
                claim.send_replace(Claim::Following);
                if led {
                    release(&api, &election).await;
                }
                return Ok(());
            }
        }
    }
}

/// Why work that needs the lease ended.
#[derive(Debug, thiserror::Error)]
pub enum LedError<E> {
    /// The lease was lost; the work was stopped at once.
    #[error("working as leader")]
    Lease(#[source] Error),
    /// The work failed.
    #[error(transparent)]
    Work(E),
}

/// Waits for the lease, runs `work` while it is held, and gives the lease back when `shutdown` has ended the work.
///
/// # Errors
/// [`LedError::Lease`] when the lease was lost, [`LedError::Work`] with what `work` returned.
pub async fn lead<E, W: Future<Output = Result<(), E>>>(
    client: Client,
    election: Election,
    shutdown: CancellationToken,
    work: impl FnOnce(CancellationToken) -> W,
) -> Result<(), LedError<E>> {
    let claim = Arc::new(watch::Sender::new(Claim::Following));
    let mut held = claim.subscribe();
    let stop = CancellationToken::new();
    let mut election = std::pin::pin!(run(client, election, claim, stop.clone()));
    tokio::select! {
        ended = election.as_mut() => return ended.map_err(LedError::Lease),
        () = shutdown.cancelled() => {
            stop.cancel();
            return election.await.map_err(LedError::Lease);
        }
        _ = held.wait_for(Claim::is_current) => {}
    }
    let worked = tokio::select! {
        ended = election.as_mut() => return ended.map_err(LedError::Lease),
        worked = work(shutdown) => worked,
    };
    stop.cancel();
    let given_back = election.await;
    worked.map_err(LedError::Work)?;
    given_back.map_err(LedError::Lease)
}

/// One look at the record and one write if there is one to make; whether we hold the lease now.
async fn step(api: &Api<Lease>, election: &Election, seen: &mut LastSeen) -> bool {
    let Ok(found) = timed(api.get_opt(&election.name)).await else {
        return false;
    };
    let now = Instant::now();
    if let Some(lease) = found.as_ref() {
        seen.look(lease, now);
    }
    let written = match decide(found.as_ref(), seen, &election.identity, now) {
        Step::Follow => return false,
        Step::Create => {
            let lease = record(election, None, true);
            timed(api.create(&PostParams::default(), &lease)).await
        }
        step @ (Step::Acquire | Step::Renew) => {
            let lease = record(election, found, step == Step::Acquire);
            timed(api.replace(&election.name, &PostParams::default(), &lease)).await
        }
    };
    if let Ok(lease) = written.as_ref() {
        seen.look(lease, Instant::now());
    }
    written.is_ok()
}

/// The record as we want it; `found` keeps resourceVersion and transition count.
fn record(election: &Election, found: Option<Lease>, acquired: bool) -> Lease {
    let mut lease = found.unwrap_or_default();
    lease.metadata.name = Some(election.name.clone());
    lease.metadata.managed_fields = None;
    let old = lease.spec.take().unwrap_or_default();
    let now = MicroTime(jiff::Timestamp::now());
    let transitions = old.lease_transitions.unwrap_or(0) + i32::from(acquired);
    lease.spec = Some(LeaseSpec {
        holder_identity: Some(election.identity.clone()),
        lease_duration_seconds: Some(DURATION_SECONDS),
        acquire_time: if acquired {
            Some(now.clone())
        } else {
            old.acquire_time
        },
        renew_time: Some(now),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    });
    lease
}

/// Empties the holder so that a standby takes over at once. Best effort: the lease runs out anyway.
async fn release(api: &Api<Lease>, election: &Election) {
    let Ok(Some(mut lease)) = timed(api.get_opt(&election.name)).await else {
        return;
    };
    let Some(spec) = lease.spec.as_mut() else {
        return;
    };
    if spec.holder_identity.as_deref() == Some(election.identity.as_str()) {
        spec.holder_identity = None;
        lease.metadata.managed_fields = None;
        if let Err(error) = timed(api.replace(&election.name, &PostParams::default(), &lease)).await
        {
            tracing::info!(%error, "the lease was not given back; it runs out by itself");
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error("no answer within {}s", REQUEST_TIMEOUT.as_secs())]
    Timeout,
    #[error(transparent)]
    Api(Box<kube::Error>),
}

async fn timed<T>(
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, RequestError> {
    let answer = match tokio::time::timeout(REQUEST_TIMEOUT, request).await {
        Ok(answer) => answer.map_err(|error| RequestError::Api(Box::new(error))),
        Err(_) => Err(RequestError::Timeout),
    };
    if let Err(error) = &answer {
        tracing::debug!(%error, "lease request failed");
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::{DURATION, LastSeen, Step, decide};
    use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
    use tokio::time::Instant;

    fn held_by(holder: &str, version: &str) -> Lease {
        let mut lease = Lease::default();
        lease.metadata.resource_version = Some(version.to_owned());
        lease.spec = Some(LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        });
        lease
    }

    #[test]
    fn another_holder_is_followed_until_its_record_has_been_quiet_for_its_duration() {
        let mut seen = LastSeen::default();
        let lease = held_by("other", "1");
        let first = Instant::now();
        seen.look(&lease, first);
        assert_eq!(decide(Some(&lease), &seen, "me", first), Step::Follow);
        let later = first + DURATION;
        assert_eq!(decide(Some(&lease), &seen, "me", later), Step::Acquire);
        let renewed = held_by("other", "2");
        seen.look(&renewed, later);
        assert_eq!(decide(Some(&renewed), &seen, "me", later), Step::Follow);
    }

    #[test]
    fn a_released_or_missing_lease_is_taken_and_our_own_renewed() {
        let seen = LastSeen::default();
        let now = Instant::now();
        assert_eq!(decide(None, &seen, "me", now), Step::Create);
        assert_eq!(
            decide(Some(&held_by("", "1")), &seen, "me", now),
            Step::Acquire
        );
        assert_eq!(
            decide(Some(&held_by("me", "1")), &seen, "me", now),
            Step::Renew
        );
    }
}
