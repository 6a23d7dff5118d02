//! Property: under any schedule of creations, crashes, lost writes, restarts, time and deletions there is at most
//! one live machine per claim, quota and capacity hold, and after deletion nothing remains.
//!
//! The world below holds one claim and its nodes as plain values and applies the decisions' steps to them. It is no
//! model of an API server (versions, admission and watches are tested against the real one): it only remembers.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kaito_api::NodeClaim;
use kaito_api::names;
use proptest::prelude::*;
use serde_json::json;

use super::decide::{Limits, Observed, Progress, decide};
use super::step::Step;
use crate::cloud::simulated::model::{Model, later};
use crate::cloud::simulated::provider_id;
use crate::cloud::{Deletion, Launch, LaunchRequest};
use crate::plane::node::{self, Address};
use crate::recovery;
use crate::scenario::{Scale, Scenario};

const CLAIMS: usize = 4;
const QUOTA: usize = 3;

#[derive(Clone, Debug)]
enum Act {
    Create(usize),
    Delete(usize),
    /// The node object is removed by a stranger, finalizer and all.
    LoseNode(usize),
    Advance(u16),
    /// Reconciles a claim but carries out only the first steps: then the process is killed.
    CrashAfter(usize, usize),
    Reconcile(usize),
}

fn act() -> impl Strategy<Value = Act> {
    let claim = 0..CLAIMS;
    prop_oneof![
        2 => claim.clone().prop_map(Act::Create),
        2 => claim.clone().prop_map(Act::Delete),
        1 => claim.clone().prop_map(Act::LoseNode),
        4 => (1_u16..3_000).prop_map(Act::Advance),
        3 => (claim.clone(), 0_usize..3).prop_map(|(index, kept)| Act::CrashAfter(index, kept)),
        8 => claim.prop_map(Act::Reconcile),
    ]
}

#[derive(Default)]
struct Slot {
    claim: Option<NodeClaim>,
    node: Option<Node>,
    uid: String,
    progress: Progress,
    deletion: Option<Deletion>,
    held_since: Option<Timestamp>,
    status_writes: usize,
}

struct World {
    slots: Vec<Slot>,
    cloud: Model,
    now: Timestamp,
    born: usize,
}

fn cloud() -> Model {
    let text = "delays: {launch: 1s, register: 1s, ready: 500ms, devicePlugin: 500ms, delete: 1s}\n\
                quota: [{match: '*', nodes: 3}]\ncapacity: [{match: '*', nodes: 1}]\n\
                faults: [{match: {nth: [3]}, effect: launch-error}, {match: {nth: [5]}, effect: no-gpu}]";
    let scale = Scale {
        factor: NonZeroU32::MIN,
        seed: 3,
    };
    Model::new(Arc::new(Scenario::parse(text).unwrap()), scale)
}

impl World {
    fn new() -> Self {
        let slots = (0..CLAIMS).map(|_| Slot::default()).collect();
        Self {
            slots,
            cloud: cloud(),
            now: Timestamp::from_second(1_000).unwrap(),
            born: 0,
        }
    }

    fn create(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        if slot.claim.is_some() {
            return;
        }
        self.born += 1;
        slot.uid = format!("uid-{}", self.born);
        let value = json!({
            "metadata": {"name": format!("ws{index}"), "uid": slot.uid, "generation": 1,
                         "creationTimestamp": self.now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()},
            "spec": {"nodeClassRef": {"group": "kaito.sh", "kind": "KaitoNodeClass", "name": "d"},
                     "requirements": [{"key": names::LABEL_INSTANCE_TYPE, "operator": "In",
                                       "values": ["Standard_NC24ads_A100_v4"]}]}
        });
        slot.claim = Some(serde_json::from_value(value).unwrap());
        slot.progress = Progress::Unasked;
        slot.deletion = None;
    }

    fn delete(&mut self, index: usize) {
        let (now, slot) = (self.now, &mut self.slots[index]);
        let Some(claim) = &mut slot.claim else { return };
        if claim.metadata.finalizers.as_ref().is_none_or(Vec::is_empty) {
            slot.claim = None;
        } else {
            claim.metadata.deletion_timestamp.get_or_insert(Time(now));
        }
    }

    /// The process dies: everything but the API objects is forgotten, then read back from them.
    fn crash(&mut self) {
        self.cloud = cloud();
        for slot in &mut self.slots {
            slot.progress = Progress::Unasked;
            slot.deletion = None;
            slot.held_since = None;
            let node = slot.node.as_ref();
            if let Some(adoption) = recovery::adoption(slot.claim.as_ref(), node) {
                self.cloud.adopt(adoption);
            }
        }
    }

    fn play_node(&mut self, index: usize) {
        let (now, slot) = (self.now, &mut self.slots[index]);
        let Some(view) = self.cloud.view(&provider_id(&slot.uid), now) else {
            return;
        };
        let address = Address {
            ip: std::net::Ipv4Addr::LOCALHOST.into(),
            port: 1,
        };
        if node::may_join(slot.claim.as_ref(), slot.node.as_ref(), &view) {
            let mut node = node::build(&view, address, now);
            node.metadata.uid = Some(format!("node-of-{}", slot.uid));
            slot.node = Some(node);
        } else if let Some(node) = &mut slot.node
            && let Some(status) = node::status_if_changed(node, &view, address, now)
        {
            node.status = Some(status);
        }
    }

    fn reconcile(&mut self, index: usize, kept: usize) -> bool {
        self.play_node(index);
        let slot = &self.slots[index];
        let nodes: Vec<Arc<Node>> = slot.node.iter().cloned().map(Arc::new).collect();
        let second = SignedDuration::from_secs(20);
        let decision = decide(&Observed {
            claim: slot.claim.as_ref(),
            provider_id: &provider_id(&slot.uid),
            nodes: &nodes,
            pods: &[],
            progress: &slot.progress,
            deletion: slot.deletion,
            evict_not_before: &BTreeMap::new(),
            held_since: slot.held_since,
            limits: Limits {
                launch: second,
                registration: second,
                initialization: second,
                begun: Timestamp::UNIX_EPOCH,
            },
            now: self.now,
        });
        let held = decision
            .holds_status
            .then(|| self.slots[index].held_since.unwrap_or(self.now));
        self.slots[index].held_since = held;
        let steps = decision.steps.len();
        for step in decision.steps.into_iter().take(kept) {
            self.carry_out(index, step);
        }
        steps > 0
    }

    fn carry_out(&mut self, index: usize, step: Step) {
        let (now, slot) = (self.now, &mut self.slots[index]);
        match step {
            Step::AddFinalizer => {
                let finalizer = vec![names::TERMINATION_FINALIZER.to_owned()];
                slot.claim.as_mut().unwrap().metadata.finalizers = Some(finalizer);
            }
            Step::Launch => {
                let request = LaunchRequest::of(slot.claim.as_ref().unwrap()).unwrap();
                slot.progress = match self.cloud.create(&request, now) {
                    Ok(Launch::Pending { until }) => Progress::Pending { until },
                    Ok(Launch::Accepted(machine)) => Progress::Accepted(machine),
                    Err(error) => Progress::Refused {
                        error,
                        retry: later(now, SignedDuration::from_secs(1)),
                    },
                };
            }
            Step::Annotate {
                labels,
                annotations,
            } => {
                let metadata = &mut slot.claim.as_mut().unwrap().metadata;
                metadata.labels.get_or_insert_default().extend(labels);
                metadata
                    .annotations
                    .get_or_insert_default()
                    .extend(annotations);
            }
            Step::WriteStatus(status) => {
                let claim = slot.claim.as_mut().unwrap();
                assert_ne!(
                    claim.status.as_ref(),
                    Some(&*status),
                    "a status write without a change"
                );
                claim.status = Some(*status);
                slot.status_writes += 1;
            }
            Step::PatchNode { patch, .. } => self.patch_node(index, &patch),
            Step::DeleteClaim { if_absent: Some(_) } if slot.node.is_some() => {}
            Step::DeleteClaim { .. } => self.delete(index),
            Step::DeleteNode { .. } => {
                slot.node.as_mut().unwrap().metadata.deletion_timestamp = Some(Time(now));
            }
            Step::DeleteMachine { provider_id } => {
                slot.deletion = Some(self.cloud.delete(&provider_id, now));
            }
            Step::RemoveFinalizer => {
                assert!(slot.node.is_none(), "the claim went before its node");
                slot.claim = None;
            }
            Step::Report { .. } => {}
            Step::Evict(_) | Step::DeletePod { .. } => unreachable!("there are no pods here"),
        }
    }

    fn patch_node(&mut self, index: usize, patch: &serde_json::Value) {
        let slot = &mut self.slots[index];
        let mut value = serde_json::to_value(slot.node.as_ref().unwrap()).unwrap();
        merge(&mut value, patch);
        let node: Node = serde_json::from_value(value).unwrap();
        let released = node.metadata.finalizers.as_ref().is_none_or(Vec::is_empty);
        slot.node =
            Some(node).filter(|node| !(released && node.metadata.deletion_timestamp.is_some()));
    }

    fn check(&self) {
        let live = self.cloud.list(self.now);
        assert!(live.len() <= QUOTA, "quota: {live:?}");
        for id in &live {
            let owners = self
                .slots
                .iter()
                .filter(|slot| slot.claim.is_some() && provider_id(&slot.uid) == **id);
            assert_eq!(owners.count(), 1, "machine {id} without a claim");
        }
        for (index, slot) in self.slots.iter().enumerate() {
            let Some(node) = &slot.node else { continue };
            let id = node
                .spec
                .as_ref()
                .and_then(|spec| spec.provider_id.as_deref())
                .unwrap();
            assert_eq!(
                id,
                provider_id(&slot.uid),
                "node of slot {index} is another claim's"
            );
        }
    }

    fn settle(&mut self) {
        for _ in 0..400 {
            for index in 0..CLAIMS {
                while self.reconcile(index, usize::MAX) {
                    self.check();
                }
            }
            self.now = later(self.now, SignedDuration::from_millis(250));
        }
    }
}

/// JSON merge patch (RFC 7396) without nulls, which our node patches do not use.
fn merge(into: &mut serde_json::Value, from: &serde_json::Value) {
    match (into, from) {
        (serde_json::Value::Object(into), serde_json::Value::Object(from)) => {
            for (key, value) in from.iter().filter(|(_, value)| !value.is_null()) {
                merge(
                    into.entry(key.clone()).or_insert(serde_json::Value::Null),
                    value,
                );
            }
        }
        (into, from) => *into = from.clone(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn any_schedule_leaves_one_machine_per_claim_and_none_after_deletion(acts in prop::collection::vec(act(), 1..60)) {
        let mut world = World::new();
        for act in acts {
            match act {
                Act::Create(index) => world.create(index),
                Act::Delete(index) => world.delete(index),
                Act::LoseNode(index) => world.slots[index].node = None,
                Act::Advance(millis) => {
                    world.now = later(world.now, SignedDuration::from_millis(i64::from(millis)));
                }
                Act::Reconcile(index) => { world.reconcile(index, usize::MAX); }
                Act::CrashAfter(index, kept) => {
                    world.reconcile(index, kept);
                    world.crash();
                }
            }
            world.check();
        }
        for index in 0..CLAIMS {
            world.delete(index);
        }
        world.settle();
        prop_assert!(world.cloud.list(world.now).is_empty(), "{:?}", world.cloud.list(world.now));
        for slot in &world.slots {
            prop_assert!(slot.claim.is_none(), "claim {:?}", slot.claim);
            prop_assert!(slot.node.is_none(), "node {:?}", slot.node);
        }
    }

    #[test]
    fn undisturbed_claims_end_ready_or_given_up_with_few_status_writes(count in 1..=CLAIMS) {
        let mut world = World::new();
        for index in 0..count {
            world.create(index);
        }
        world.settle();
        for slot in &world.slots[..count] {
            // Launched; Registered with the node's wait; Ready: the delays of this cloud are longer than the hold.
            prop_assert!(slot.status_writes <= 6, "{} status writes", slot.status_writes);
            if let Some(claim) = &slot.claim {
                prop_assert!(kaito_api::conditions::is_true(claim.conditions(), "Ready"), "{:?}", claim.status);
            }
        }
        prop_assert_eq!(world.cloud.list(world.now).len(), count.min(QUOTA));
    }
}
