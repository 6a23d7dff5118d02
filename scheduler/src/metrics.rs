//! Numbers about this process, for `/metrics`. Labels are enums, never names of objects or error texts.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

/// How a look at a Workspace ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Result {
    /// Nothing failed.
    Ok,
    /// Decided on old knowledge.
    Stale,
    /// Failed.
    Error,
}

/// Label of reconciles.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ByResult {
    /// How it ended.
    pub result: Result,
}

/// All metrics of the scheduler.
#[derive(Debug)]
pub struct Metrics {
    /// Looks at Workspaces.
    pub reconciles: Family<ByResult, Counter>,
    /// Seconds that a plan took.
    pub plan_seconds: Histogram,
    /// Workspaces that wait for a node.
    pub demands_waiting: Gauge,
    /// Pods sent to nodes.
    pub assignments: Counter,
    /// Nodes ordered.
    pub purchases: Counter,
    /// Nodes given back.
    pub releases: Counter,
    /// Pods evicted.
    pub evictions: Counter,
    /// GPUs on available nodes that nobody uses.
    pub gpus_free: Gauge,
    /// 1 while this process leads.
    pub leader: Gauge,
    /// Plan violations that the checker found; anything but 0 is a bug.
    pub plan_violations: Counter<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            reconciles: Family::default(),
            plan_seconds: Histogram::new(exponential_buckets(0.0001, 4.0, 8)),
            demands_waiting: Gauge::default(),
            assignments: Counter::default(),
            purchases: Counter::default(),
            releases: Counter::default(),
            evictions: Counter::default(),
            gpus_free: Gauge::default(),
            leader: Gauge::default(),
            plan_violations: Counter::default(),
        }
    }
}

impl Metrics {
    /// A registry of all of them under the prefix `kaito`.
    #[must_use]
    pub fn registry(&self) -> Registry {
        let mut all = Registry::with_prefix("kaito");
        let Self {
            reconciles,
            plan_seconds,
            demands_waiting,
            assignments,
            purchases,
            releases,
            evictions,
            gpus_free,
            leader,
            plan_violations,
        } = self;
        all.register("reconciles", "Looks at Workspaces", reconciles.clone());
        all.register_with_unit(
            "plan",
            "Time of a plan",
            Unit::Seconds,
            plan_seconds.clone(),
        );
        all.register(
            "demands_waiting",
            "Workspaces waiting for nodes",
            demands_waiting.clone(),
        );
        all.register("assignments", "Pods sent to nodes", assignments.clone());
        all.register("purchases", "Nodes ordered", purchases.clone());
        all.register("releases", "Nodes given back", releases.clone());
        all.register("evictions", "Pods evicted", evictions.clone());
        all.register("gpus_free", "GPUs that nobody uses", gpus_free.clone());
        all.register("leader", "Whether this process leads", leader.clone());
        all.register(
            "plan_violations",
            "Broken plan invariants",
            plan_violations.clone(),
        );
        all
    }
}
