//! The placement loop: one task that looks at the whole cluster, plans, and carries the plan out.
//!
//! Nothing else assigns, buys, releases or evicts. A round: change → freeze stores and memory → plan → check → write.

pub mod act;
pub mod evict;
pub mod memory;
pub mod record;
pub mod tell;
pub mod victims;

use std::sync::Arc;
use std::time::Duration;

use kaito_placement::check;
use kaito_placement::plan::Plan;
use kaito_placement::planner;
use kaito_placement::snapshot::Snapshot;
use kaito_snapshot::cluster::{self, Memory, Objects};
use kaito_snapshot::gangs;
use tokio_util::sync::CancellationToken;

use crate::shared::{Shared, Verdict};
use memory::LoopMemory;
use record::Recorder;
use victims::{Bounds, Decision, Evictions, Moves};

/// Changes that arrive together are planned together; also the least time between two rounds.
const DEBOUNCE: Duration = Duration::from_millis(5);
/// A round while a write is outstanding that no object shows yet.
const OUTSTANDING: Duration = Duration::from_secs(5);
/// A round while pods are leaving whose room is promised: one that is stuck must not hold it for ever.
const LEAVING: Duration = Duration::from_secs(30);
/// After an eviction was refused nobody is asked again for so long.
const AFTER_REFUSAL: Duration = Duration::from_secs(10);
/// A round without any change, in case a watch missed one.
const RESYNC: Duration = Duration::from_secs(600);

/// Runs rounds until `shutdown`. Waits for the stores and for leadership first.
pub async fn run(shared: Arc<Shared>, shutdown: CancellationToken) {
    let mut memory = LoopMemory::default();
    let mut recorder = shared.config.record.clone().map(Recorder::new);
    let mut pause = Duration::ZERO;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = shared.placement.notified() => {}
            () = tokio::time::sleep(pause) => {}
        }
        tokio::time::sleep(DEBOUNCE).await;
        if shutdown.is_cancelled() {
            return;
        }
        if shared.writer.is_leading() {
            pause = round(&shared, &mut memory, recorder.as_mut()).await;
        } else {
            pause = RESYNC;
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = shared.writer.wait_leading() => shared.placement.notify_one(),
            }
        }
    }
}

/// One round; how long until the next one is due by itself.
async fn round(
    shared: &Shared,
    memory: &mut LoopMemory,
    mut recorder: Option<&mut Recorder>,
) -> Duration {
    let now = jiff::Timestamp::now().as_second();
    let mut objects = objects(shared);
    memory.refresh(shared, &objects, now).await;
    objects.claims.extend(memory.ordered().cloned());
    let mut picture = memory.for_snapshot(shared);
    let (mut snapshot, mut plan) = think(shared, &objects, &picture, now);
    // Whoever waits comes before a node that is being emptied.
    if !plan.waiting.is_empty() && memory.keep_all() {
        picture = memory.for_snapshot(shared);
        (snapshot, plan) = think(shared, &objects, &picture, now);
    }
    if let Some(recorder) = recorder.as_deref_mut() {
        recorder.record(&snapshot, &plan, None).await;
    }
    if is_broken(shared, &check::check(&snapshot, &plan)) {
        return RESYNC;
    }
    let decision = victims::decide(
        shared,
        &objects,
        &picture,
        (snapshot, plan),
        bounds(shared, memory),
    );
    if let (Some(recorder), Some(sequel)) = (recorder, decision.recorded()) {
        let (snapshot, plan, evicting) = sequel;
        recorder.record(snapshot, plan, Some(evicting)).await;
    }
    let Decision {
        snapshot,
        plan,
        evictions,
    } = decision;
    measure(shared, &snapshot, &plan);
    judge(shared, &plan, &evictions);
    tell::tell(shared, memory, &objects, &snapshot, &plan, &evictions).await;
    let next = next_round(shared, &snapshot, &plan);
    let failed = act::carry_out(shared, memory, &objects, plan).await
        // What is evicted depends on where the plan has put the others.
        || evict::carry_out(shared, memory, &objects, &evictions).await;
    if failed {
        return Duration::from_secs(1);
    }
    if memory.is_waiting() {
        return OUTSTANDING.min(next);
    }
    match memory.refusal(AFTER_REFUSAL) {
        Some(_) => AFTER_REFUSAL.min(next),
        None => next,
    }
}

fn bounds<'m>(shared: &Shared, memory: &'m LoopMemory) -> Bounds<'m> {
    let pause = shared.config.pause_between_moves;
    Bounds {
        moves: if memory.has_moved_within(pause) {
            Moves::NotYet
        } else {
            Moves::Due
        },
        refused: memory.refusal(AFTER_REFUSAL),
    }
}

fn think(
    shared: &Shared,
    objects: &Objects,
    picture: &Memory,
    now_seconds: i64,
) -> (Snapshot, Plan) {
    let snapshot = cluster::snapshot(objects, picture, now_seconds);
    let started = std::time::Instant::now();
    let plan = planner::plan(&snapshot);
    shared
        .metrics
        .plan_seconds
        .observe(started.elapsed().as_secs_f64());
    (snapshot, plan)
}

/// When to look again though nothing changed.
fn next_round(shared: &Shared, snapshot: &Snapshot, plan: &Plan) -> Duration {
    let mut wait = plan.next_change_seconds.map_or(RESYNC, |at| {
        let seconds = (at - snapshot.now_seconds).max(1);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(1)).min(RESYNC)
    });
    if snapshot.nodes.iter().any(|node| node.leaving_pods > 0) {
        wait = wait.min(LEAVING);
    }
    if shared.config.evictions.most_moves > 0 {
        wait = wait.min(shared.config.pause_between_moves);
    }
    wait
}

/// A plan that its checker objects to is never carried out: it would promise a GPU twice or half a gang.
fn is_broken(shared: &Shared, violations: &[check::Violation]) -> bool {
    for violation in violations {
        shared.metrics.plan_violations.inc();
        tracing::error!(%violation, "the plan breaks an invariant and is dropped; please report this");
    }
    !violations.is_empty()
}

fn objects(shared: &Shared) -> Objects {
    let mut workspaces = shared.sized_workspaces();
    workspaces.sort_by(|(left, _), (right, _)| left.metadata.name.cmp(&right.metadata.name));
    Objects {
        workspaces,
        nodes: shared.stores.nodes.all(),
        pods: shared.stores.pods.all(),
        claims: shared.stores.claims.all(),
    }
}

fn measure(shared: &Shared, snapshot: &Snapshot, plan: &Plan) {
    let free: u64 = snapshot
        .nodes
        .iter()
        .filter(|node| node.available)
        .map(|node| node.allocatable.gpus.saturating_sub(node.used.gpus))
        .sum();
    shared
        .metrics
        .gpus_free
        .set(i64::try_from(free).unwrap_or(i64::MAX));
    let waiting = i64::try_from(plan.waiting.len()).unwrap_or(i64::MAX);
    shared.metrics.demands_waiting.set(waiting);
}

fn judge(shared: &Shared, plan: &Plan, evictions: &Evictions) {
    // Pods without a Workspace have no status of ours; they are told by events.
    let of_workspace = |demand: &str| !gangs::is_gang(&split(demand).1);
    for waiting in &plan.waiting {
        if !of_workspace(&waiting.demand) {
            continue;
        }
        let verdict = Verdict::Waiting {
            blocker: waiting.blocker.clone(),
            message: evictions.message(waiting),
        };
        shared.judge(split(&waiting.demand), verdict);
    }
    for assignment in &plan.assignments {
        if !of_workspace(&assignment.demand) {
            continue;
        }
        let verdict = Verdict::Placed {
            reason: assignment.reason.clone(),
        };
        shared.judge(split(&assignment.demand), verdict);
    }
}

/// `namespace/name` as a key.
fn split(demand: &str) -> crate::store::Key {
    let (namespace, name) = demand.split_once('/').unwrap_or(("", demand));
    (namespace.to_owned(), name.to_owned())
}
