//! How far a Workspace has come: queued, provision, image pull, load, ready, with the time each took; a tuning one goes
//! by way of prepare (images, data, weights), train and push.
//!
//! Times are those that the objects themselves carry, so that a late look shows the same durations as a live one.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kaito_api::{conditions, names, nodeclaim};
use serde::Serialize;

use super::facts::{Facts, created};
use super::pod;

/// Where one phase stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// Over.
    Done,
    /// Now.
    Active,
    /// Not begun.
    Pending,
    /// Not needed: no node had to be bought.
    Skipped,
    /// Ended badly.
    Failed,
}

/// One phase.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Phase {
    /// Name, as in the bar.
    pub name: &'static str,
    /// State.
    pub state: State,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// Seconds it took, or has taken so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<i64>,
}

/// Instants at which the phases began; each is known only if it has happened.
struct Milestones {
    created: Option<Timestamp>,
    bought: Option<Timestamp>,
    placed: Option<Timestamp>,
    started: Option<Timestamp>,
    /// When the training was over; for those whose result is pushed afterwards.
    trained: Option<Timestamp>,
    ready: Option<Timestamp>,
}

/// The phases of the Workspace, in order.
#[must_use]
pub fn phases(facts: &Facts, now: Timestamp) -> Vec<Phase> {
    let at = milestones(facts);
    let provision_end = at.placed.filter(|_| at.bought.is_some());
    let queue_end = at.bought.or(at.placed);
    let mut phases = vec![
        span("queued", at.created, queue_end, now),
        span("provision", at.bought, provision_end, now),
    ];
    if facts.is_tuning() {
        phases.extend([
            span("prepare", at.placed, at.started, now),
            span("train", at.started, at.trained, now),
            span("push", at.trained, at.ready, now),
            end("done", at.ready),
        ]);
    } else {
        phases.extend([
            span("image pull", at.placed, at.started, now),
            span("load", at.started, at.ready, now),
            end("ready", at.ready),
        ]);
    }
    if at.bought.is_none() && at.placed.is_some() {
        set_state(&mut phases, "provision", State::Skipped);
    }
    if state_of(facts) == Some("Failed") {
        let active = phases.iter_mut().find(|phase| phase.state == State::Active);
        if let Some(phase) = active {
            phase.state = State::Failed;
        }
    }
    phases
}

fn set_state(phases: &mut [Phase], name: &str, state: State) {
    if let Some(phase) = phases.iter_mut().find(|phase| phase.name == name) {
        phase.state = state;
    }
}

fn span(
    name: &'static str,
    begin: Option<Timestamp>,
    end: Option<Timestamp>,
    now: Timestamp,
) -> Phase {
    let Some(since) = begin else {
        return Phase {
            name,
            state: State::Pending,
            since: None,
            seconds: None,
        };
    };
    let state = if end.is_some() {
        State::Done
    } else {
        State::Active
    };
    let seconds = (end.unwrap_or(now).as_second() - since.as_second()).max(0);
    Phase {
        name,
        state,
        since: begin,
        seconds: Some(seconds),
    }
}

const fn end(name: &'static str, since: Option<Timestamp>) -> Phase {
    let state = if since.is_some() {
        State::Done
    } else {
        State::Pending
    };
    Phase {
        name,
        state,
        since,
        seconds: None,
    }
}

fn milestones(facts: &Facts) -> Milestones {
    let begun = created(facts.workspace.metadata.creation_timestamp.as_ref());
    let all = |time: fn(&k8s_openapi::api::core::v1::Pod) -> Option<Timestamp>| {
        latest_of_all(facts, time)
    };
    let done = done(facts);
    // What comes later proves what came before: a finished job's pods may be gone.
    let started = if facts.is_tuning() {
        all(|item| pod::began(item, names::TRAINER_CONTAINER).or_else(|| pod::started(item)))
    } else {
        all(pod::started)
    };
    let started = started.or(done);
    let placed = all(|item| pod::became(item, "PodScheduled")).or(started);
    Milestones {
        created: begun,
        bought: bought(facts, begun),
        placed,
        started,
        trained: all(|item| pod::ended_well(item, names::TRAINER_CONTAINER)).or(done),
        ready: done,
    }
}

/// When the first claim was made that is not older than the Workspace itself; older ones are shared nodes.
fn bought(facts: &Facts, begun: Option<Timestamp>) -> Option<Timestamp> {
    let claims = facts
        .claims
        .iter()
        .filter_map(|claim| created(claim.metadata.creation_timestamp.as_ref()));
    claims
        .filter(|made| begun.is_none_or(|begun| *made >= begun))
        .min()
}

/// The latest of a time that every pod has; absent while one of them lacks it.
fn latest_of_all(
    facts: &Facts,
    time: fn(&k8s_openapi::api::core::v1::Pod) -> Option<Timestamp>,
) -> Option<Timestamp> {
    let times: Option<Vec<Timestamp>> = facts.pods.iter().map(time).collect();
    times?.into_iter().max()
}

fn done(facts: &Facts) -> Option<Timestamp> {
    let kinds: &[&str] = if facts.is_tuning() {
        &[conditions::WORKSPACE_SUCCEEDED]
    } else {
        &[conditions::INFERENCE_READY, conditions::WORKSPACE_SUCCEEDED]
    };
    kinds
        .iter()
        .find_map(|kind| true_since(facts.condition(kind)?))
}

fn true_since(condition: &Condition) -> Option<Timestamp> {
    (condition.status == "True").then_some(condition.last_transition_time.0)
}

fn state_of(facts: &Facts) -> Option<&str> {
    facts.workspace.status.as_ref()?.state.as_deref()
}

/// The earliest stage of a claim that does not hold, or none if it is ready.
#[must_use]
pub fn claim_stage(claim: &kaito_api::NodeClaim) -> Option<(&'static str, Option<&Condition>)> {
    [
        nodeclaim::LAUNCHED,
        nodeclaim::REGISTERED,
        nodeclaim::INITIALIZED,
        nodeclaim::READY,
    ]
    .into_iter()
    .map(|stage| {
        (
            stage,
            claim
                .conditions()
                .iter()
                .find(|condition| condition.type_ == stage),
        )
    })
    .find(|(_, condition)| condition.is_none_or(|condition| condition.status != "True"))
}

#[cfg(test)]
mod tests {
    use super::{State, phases};
    use crate::view::facts::tests::yaml;

    fn shown(text: &str, now: &str) -> Vec<(&'static str, State, Option<i64>)> {
        let phases = phases(&yaml(text), now.parse().unwrap());
        phases
            .into_iter()
            .map(|phase| (phase.name, phase.state, phase.seconds))
            .collect()
    }

    const WORKSPACE: &str = r#"
kind: Workspace
apiVersion: kaito.sh/v1beta1
metadata: {name: phi, namespace: default, creationTimestamp: 2026-01-01T00:00:00Z}
resource: {labelSelector: {}}
inference: {preset: {name: phi-4}}
"#;

    #[test]
    fn a_new_workspace_is_queued() {
        let found = shown(WORKSPACE, "2026-01-01T00:00:07Z");
        assert_eq!(found[0], ("queued", State::Active, Some(7)));
        assert!(found[1..].iter().all(|phase| phase.1 == State::Pending));
    }

    #[test]
    fn a_bought_node_and_a_pulled_image_have_durations_of_their_own() {
        let text = format!(
            "{WORKSPACE}---
kind: NodeClaim
apiVersion: karpenter.sh/v1
metadata:
  name: ws1
  creationTimestamp: 2026-01-01T00:00:02Z
  labels: {{kaito.sh/workspace: phi, kaito.sh/workspacenamespace: default}}
spec: {{nodeClassRef: {{group: g, kind: k, name: default}}, requirements: []}}
---
kind: Pod
metadata: {{name: phi-a}}
spec: {{containers: [{{name: main}}]}}
status:
  conditions: [{{type: PodScheduled, status: 'True', lastTransitionTime: 2026-01-01T00:03:02Z}}]
"
        );
        let found = shown(&text, "2026-01-01T00:04:00Z");
        assert_eq!(found[0], ("queued", State::Done, Some(2)));
        assert_eq!(found[1], ("provision", State::Done, Some(180)));
        assert_eq!(found[2], ("image pull", State::Active, Some(58)));
        assert_eq!(found[3], ("load", State::Pending, None));
    }

    #[test]
    fn a_tuning_run_is_told_apart_into_preparing_training_and_pushing() {
        let text = format!(
            "{}---
kind: Pod
metadata: {{name: phi-a}}
spec: {{initContainers: [{{name: fetch-data}}, {{name: train}}], containers: [{{name: push}}]}}
status:
  conditions: [{{type: PodScheduled, status: 'True', lastTransitionTime: 2026-01-01T00:00:02Z}}]
  initContainerStatuses:
  - {{name: fetch-data, image: i, imageID: '', ready: true, restartCount: 0, state: {{terminated: {{exitCode: 0}}}}}}
  - name: train
    image: i
    imageID: ''
    ready: true
    restartCount: 1
    state: {{terminated: {{exitCode: 0, startedAt: 2026-01-01T00:00:20Z, finishedAt: 2026-01-01T00:02:00Z}}}}
  containerStatuses:
  - {{name: push, image: i, imageID: '', ready: false, restartCount: 0, state: {{waiting: {{reason: PodInitializing}}}}}}
",
            WORKSPACE.replace("inference: {preset", "tuning: {method: lora, preset")
        );
        let found = shown(&text, "2026-01-01T00:02:03Z");
        assert_eq!(found[2], ("prepare", State::Done, Some(18)));
        assert_eq!(found[3], ("train", State::Done, Some(100)));
        assert_eq!(found[4], ("push", State::Active, Some(3)));
        assert_eq!(found[5], ("done", State::Pending, None));
    }

    #[test]
    fn a_shared_node_skips_provisioning() {
        let text = format!(
            "{WORKSPACE}---
kind: Pod
metadata: {{name: phi-a}}
spec: {{containers: [{{name: main}}]}}
status:
  conditions: [{{type: PodScheduled, status: 'True', lastTransitionTime: 2026-01-01T00:00:01Z}}]
"
        );
        let found = shown(&text, "2026-01-01T00:00:03Z");
        assert_eq!(found[0], ("queued", State::Done, Some(1)));
        assert_eq!(found[1], ("provision", State::Skipped, None));
        assert_eq!(found[2], ("image pull", State::Active, Some(2)));
    }
}
