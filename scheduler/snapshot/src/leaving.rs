//! Pods on their way out: whose room can be promised before it is free.

use k8s_openapi::api::core::v1::Pod;

use crate::cluster::{Memory, key_of};
use crate::pod;

/// Which pods on their way out count as gone soon.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Leaving {
    /// Those that were evicted: their room was made for somebody. One that merely is replaced or deleted does not keep
    /// others from its node.
    #[default]
    Evicted,
    /// All: whoever waits for what they hold need not have others evicted.
    All,
}

/// How long after its deadline a pod is still believed to go, seconds. One that stays longer is stuck, by a finalizer or
/// a dead kubelet, and nobody should wait for it.
const STUCK_AFTER_SECONDS: i64 = 60;

/// What the API server writes into the condition `DisruptionTarget` of a pod that is evicted.
const BY_EVICTION: &str = "EvictionByEvictionAPI";

/// Whether a pod that we placed will be gone soon.
#[must_use]
pub fn leaves(found: &Pod, memory: &Memory, now_seconds: i64) -> bool {
    if !pod::is_ours(found) {
        return false;
    }
    let Some(deadline) = found.metadata.deletion_timestamp.as_ref() else {
        return was_evicted_by_us(found, memory);
    };
    let stuck = now_seconds.saturating_sub(deadline.0.as_second()) > STUCK_AFTER_SECONDS;
    let counts = match memory.leaving {
        Leaving::All => true,
        Leaving::Evicted => was_evicted_by_us(found, memory) || is_evicted(found),
    };
    counts && !stuck
}

/// Whether this very pod was evicted a moment ago, whatever the objects show.
#[must_use]
pub fn was_evicted_by_us(found: &Pod, memory: &Memory) -> bool {
    let known = memory.evicted.get(&key_of(found));
    known.is_some() && known == found.metadata.uid.as_ref()
}

/// Whether the object says that it was evicted.
fn is_evicted(found: &Pod) -> bool {
    let conditions = found.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| {
        condition.type_ == "DisruptionTarget"
            && condition.status == "True"
            && condition.reason.as_deref() == Some(BY_EVICTION)
    })
}
