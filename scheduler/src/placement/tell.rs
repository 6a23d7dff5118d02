//! Tells pods without a Workspace why they wait, by an event on the first pod of each gang. Decides nothing.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use kaito_api::names;
use kaito_placement::plan::Plan;
use kaito_placement::snapshot::Snapshot;
use kaito_snapshot::cluster::Objects;
use kaito_snapshot::gangs;
use kube::runtime::events::{Event, EventType};

use super::memory::LoopMemory;
use super::split;
use super::victims::Evictions;
use crate::shared::Shared;
use crate::store::Key;

/// Events of one round at most: they must not hold up placing. The others follow in later rounds.
const MOST: usize = 16;
/// A pod that goes on waiting is told again after this time.
const AGAIN: Duration = Duration::from_secs(600);

/// Publishes what is due.
pub async fn tell(
    shared: &Shared,
    memory: &mut LoopMemory,
    objects: &Objects,
    snapshot: &Snapshot,
    plan: &Plan,
    evictions: &Evictions,
) {
    let reasons = reasons(objects, snapshot, plan, evictions);
    let waiting: HashSet<&Key> = reasons.keys().collect();
    let due = memory.untold(&waiting, MOST, AGAIN);
    let events = due.into_iter().filter_map(|key| {
        let (pod, why) = (shared.stores.pods.get(key)?, reasons.get(key)?.clone());
        Some(async move {
            let event = Event {
                type_: EventType::Normal,
                reason: "WaitingForNodes".to_owned(),
                note: Some(why),
                action: "Place".to_owned(),
                secondary: None,
            };
            shared.events.publish(event, pod.as_ref()).await;
        })
    });
    stream::iter(events)
        .for_each_concurrent(MOST, |event| event)
        .await;
}

/// The pods to tell, with what.
fn reasons(
    objects: &Objects,
    snapshot: &Snapshot,
    plan: &Plan,
    evictions: &Evictions,
) -> BTreeMap<Key, String> {
    let first: BTreeMap<&str, &String> = snapshot
        .demands
        .iter()
        .filter_map(|demand| Some((demand.name.as_str(), demand.members.first()?)))
        .collect();
    let waiting = plan.waiting.iter().filter_map(|one| {
        let (namespace, name) = split(&one.demand);
        let pod = first.get(one.demand.as_str())?;
        gangs::is_gang(&name).then(|| ((namespace, (*pod).clone()), evictions.message(one)))
    });
    let unknown = gangs::not_understood(objects)
        .into_iter()
        .map(|(pod, need)| {
            let gate = names::GATE;
            let text = format!(
                "cannot place a pod with {need}: do without it, or without the gate {gate} so that kube-scheduler decides"
            );
            (pod, text)
        });
    waiting.chain(unknown).collect()
}
