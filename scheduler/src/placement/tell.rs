//! Tells pods without a Workspace why they wait, by an event on the first pod of each gang. Decides nothing.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use kaito_placement::plan::{Plan, Waiting};
use kaito_placement::snapshot::Snapshot;
use kaito_snapshot::gangs;
use kube::runtime::events::{Event, EventType};

use super::memory::LoopMemory;
use super::split;
use crate::shared::Shared;

/// Events of one round at most: they must not hold up placing. The others follow in later rounds.
const MOST: usize = 16;
/// A demand that goes on waiting is told again after this time.
const AGAIN: Duration = Duration::from_secs(600);

/// Publishes what is due.
pub async fn tell(shared: &Shared, memory: &mut LoopMemory, snapshot: &Snapshot, plan: &Plan) {
    let waiting: HashMap<&str, &Waiting> = plan
        .waiting
        .iter()
        .filter(|waiting| gangs::is_gang(&split(&waiting.demand).1))
        .map(|waiting| (waiting.demand.as_str(), waiting))
        .collect();
    let names: HashSet<&str> = waiting.keys().copied().collect();
    let due = memory.untold(&names, MOST, AGAIN);
    let events = snapshot
        .demands
        .iter()
        .filter(|demand| due.contains(&demand.name.as_str()))
        .filter_map(|demand| {
            let why = waiting.get(demand.name.as_str())?;
            let (namespace, _) = split(&demand.name);
            let pod = (namespace, demand.members.first()?.clone());
            Some((shared.stores.pods.get(&pod)?, why.message.clone()))
        })
        .map(|(pod, message)| async move {
            let event = Event {
                type_: EventType::Normal,
                reason: "WaitingForNodes".to_owned(),
                note: Some(message),
                action: "Place".to_owned(),
                secondary: None,
            };
            shared.events.publish(event, pod.as_ref()).await;
        });
    stream::iter(events)
        .for_each_concurrent(MOST, |event| event)
        .await;
}
