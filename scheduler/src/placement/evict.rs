//! Carries an eviction plan out, through the Eviction subresource alone. It chooses nobody.
//!
//! Each eviction is guarded by the pod's UID, so that a repeat meets the same pod or nobody, and a disruption budget that
//! says no is waited for. Nothing needs to be remembered of whom a place was made for: the room of evicted pods counts as
//! room on its way, which the planner promises by priority, and the evicted are of lower priority than whoever they left
//! for. A process that ends between two evictions leaves the rest to the next one, which plans anew.

use std::collections::HashMap;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream;
use k8s_openapi::api::core::v1::Pod;
use kaito_placement::eviction::Occupants;
use kaito_placement::plan::{Consolidation, Preemption};
use kaito_placement::replay::Evicting;
use kaito_snapshot::cluster::{self, Objects};
use kube::ResourceExt;
use kube::runtime::events::{Event, EventType};

use super::memory::LoopMemory;
use super::split;
use super::victims::Evictions;
use crate::shared::Shared;
use crate::store::Key;
use crate::writer::{Error, Evicted};

/// Evictions under way at once.
const CONCURRENCY: usize = 16;

/// A pod to evict.
struct Step {
    pod: Key,
    uid: String,
    /// Whether a budget covers it.
    guarded: bool,
    reason: &'static str,
    note: String,
    found: Arc<Pod>,
}

/// Evicts; whether something failed or was refused, so that a new round should look at it soon.
pub async fn carry_out(
    shared: &Shared,
    memory: &mut LoopMemory,
    objects: &Objects,
    evictions: &Evictions,
) -> bool {
    let Some(Evicting {
        occupants,
        evictions,
    }) = evictions.due()
    else {
        return false;
    };
    let orders = Orders::new(objects, occupants);
    let mut failed = false;
    for preemption in &evictions.preemptions {
        failed |= evict_all(shared, memory, orders.of_preemption(preemption)).await;
    }
    for consolidation in &evictions.consolidations {
        // Before the first pod goes, so that none of their successors comes back.
        memory.start_emptying(&consolidation.node);
        if evict_all(shared, memory, orders.of_consolidation(consolidation)).await {
            memory.keep(&consolidation.node);
            failed = true;
        }
    }
    failed
}

/// Pods and budgets by name, to make steps of plans.
struct Orders<'a> {
    pods: HashMap<Key, &'a Arc<Pod>>,
    guarded: HashMap<&'a str, bool>,
}

impl<'a> Orders<'a> {
    fn new(objects: &'a Objects, occupants: &'a Occupants) -> Self {
        let pods = objects.pods.iter();
        let running = occupants.running.iter();
        Self {
            pods: pods.map(|found| (cluster::key_of(found), found)).collect(),
            guarded: running
                .map(|one| (one.name.as_str(), !one.budgets.is_empty()))
                .collect(),
        }
    }

    fn of_preemption(&self, preemption: &Preemption) -> Vec<Step> {
        let victims = preemption.victims.iter();
        let steps = victims.flat_map(|victim| {
            let why = format!("for {}: {}", preemption.demand, victim.reason);
            victim.pods.iter().filter_map(move |pod| {
                let note = format!("pod {pod} leaves {why}; {}", preemption.reason);
                self.step(&victim.workload, pod, "Preempted", note)
            })
        });
        steps.collect()
    }

    fn of_consolidation(&self, consolidation: &Consolidation) -> Vec<Step> {
        let moves = consolidation.moves.iter();
        let steps = moves.filter_map(|one| {
            let note = format!(
                "pod {} leaves node {}, which is given back; {} has room for its successor; {}",
                one.pod, consolidation.node, one.to, consolidation.reason
            );
            self.step(&one.workload, &one.pod, "Moved", note)
        });
        steps.collect()
    }

    fn step(&self, workload: &str, pod: &str, reason: &'static str, note: String) -> Option<Step> {
        let (namespace, _) = split(workload);
        let pod = (namespace, pod.to_owned());
        let found = Arc::clone(self.pods.get(&pod)?);
        Some(Step {
            uid: found.uid()?,
            guarded: self.guarded.get(workload).copied().unwrap_or(true),
            pod,
            reason,
            note,
            found,
        })
    }
}

/// Evicts pods that go together; whether one of them stays. Those that a budget covers are asked first and one after
/// the other: if one may not go now, nobody else need go for the same sake.
async fn evict_all(shared: &Shared, memory: &mut LoopMemory, steps: Vec<Step>) -> bool {
    let (guarded, free): (Vec<Step>, Vec<Step>) = steps.into_iter().partition(|one| one.guarded);
    for step in guarded {
        if !gone(shared, memory, &step, evict(shared, &step).await) {
            return true;
        }
    }
    let requests = free.into_iter().map(|step| async move {
        let answer = evict(shared, &step).await;
        (step, answer)
    });
    let answers: Vec<_> = stream::iter(requests)
        .buffer_unordered(CONCURRENCY)
        .collect()
        .await;
    let mut stays = false;
    for (step, answer) in answers {
        stays |= !gone(shared, memory, &step, answer);
    }
    stays
}

async fn evict(shared: &Shared, step: &Step) -> Result<Evicted, Error> {
    let answer = shared.writer.evict(&step.pod, &step.uid).await;
    if matches!(answer, Ok(Evicted::Leaves)) {
        tell(shared, step).await;
    }
    answer
}

/// Notes what became of a request; whether the pod goes.
fn gone(
    shared: &Shared,
    memory: &mut LoopMemory,
    step: &Step,
    answer: Result<Evicted, Error>,
) -> bool {
    let (namespace, name) = &step.pod;
    match answer {
        Ok(Evicted::Leaves) => {
            tracing::info!(namespace, name, reason = step.note, "pod evicted");
            shared.metrics.evictions.inc();
            memory.evict(step.pod.clone(), step.uid.clone());
            true
        }
        Ok(Evicted::Gone) => true,
        Ok(Evicted::NotNow(why)) => {
            tracing::info!(namespace, name, why, "a budget keeps the pod for now");
            memory.refuse(why);
            false
        }
        // It is another pod by now; the next plan knows it.
        Err(error) if error.is_stale() => false,
        // Without an answer it may go; asking again does no harm.
        Err(error) => {
            let error = crate::error_chain(&error);
            tracing::warn!(namespace, name, error, "the pod was not evicted");
            memory.refuse(error);
            false
        }
    }
}

/// Tells the victim's Workspace, or the pod itself, for whom and why.
async fn tell(shared: &Shared, step: &Step) {
    let event = Event {
        type_: EventType::Normal,
        reason: step.reason.to_owned(),
        note: Some(step.note.clone()),
        action: "Evict".to_owned(),
        secondary: None,
    };
    let workspace = kaito_snapshot::pod::workspace_of(&step.found).and_then(|name| {
        shared
            .stores
            .workspaces
            .get(&(step.pod.0.clone(), name.to_owned()))
    });
    match workspace {
        Some(workspace) => shared.events.publish(event, workspace.as_ref()).await,
        None => shared.events.publish(event, step.found.as_ref()).await,
    }
}
