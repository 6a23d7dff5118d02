//! The simulated cloud as a state machine: machines, quota, capacity and scripted faults. No clock, no I/O, no
//! threads; the same calls in the same order give the same answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kaito_api::names;

use super::size::Size;
use super::{ANNOTATION_FAULT, provider_id};
use crate::cloud::{Deletion, Launch, LaunchError, LaunchRequest, Machine};
use crate::scenario::{Effect, Scale, Scenario};

/// Label: how the machine is paid for.
pub(crate) const LABEL_CAPACITY_TYPE: &str = "karpenter.sh/capacity-type";
/// Label: region.
pub(crate) const LABEL_REGION: &str = "topology.kubernetes.io/region";

/// Pause before a failed call may be repeated successfully; also the pause after a claim finds its machine leaving.
const RETRY: SignedDuration = SignedDuration::from_secs(1);

/// How far a machine has come up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Not yet accepted.
    Launching,
    /// Accepted; no node.
    Booting,
    /// Its node has appeared.
    Joined,
    /// Its node is Ready.
    Ready,
    /// Its GPUs are there.
    Complete,
}

/// A machine as it is at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// What was asked for.
    pub request: LaunchRequest,
    /// What was given.
    pub machine: Machine,
    /// Its size.
    pub size: Size,
    /// How far it is.
    pub stage: Stage,
    /// When it gets further; `None` when it does not.
    pub next: Option<Timestamp>,
}

/// A machine that an earlier process launched, as claims and nodes tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Adoption {
    /// What was asked for.
    pub request: LaunchRequest,
    /// Type that was given.
    pub instance_type: String,
    /// Zone label that was given.
    pub zone: String,
    /// When it was accepted.
    pub launched: Timestamp,
    /// Value of [`ANNOTATION_FAULT`], if any.
    pub fault: Option<String>,
}

#[derive(Clone, Debug)]
pub(super) struct Instance {
    request: LaunchRequest,
    pub(super) size: Size,
    pub(super) zone: String,
    launched: Timestamp,
    fault: Option<Effect>,
    gone: Option<Timestamp>,
}

/// The cloud.
#[derive(Clone, Debug)]
pub struct Model {
    pub(super) scenario: Arc<Scenario>,
    pub(super) scale: Scale,
    pub(super) instances: BTreeMap<String, Instance>,
    /// Launches that each fault rule's type has matched so far.
    pub(super) hits: Vec<u64>,
}

impl Model {
    /// An empty cloud.
    #[must_use]
    pub fn new(scenario: Arc<Scenario>, scale: Scale) -> Self {
        let hits = vec![0; scenario.faults.len()];
        Self {
            scenario,
            scale,
            instances: BTreeMap::new(),
            hits,
        }
    }

    /// Creates the machine of a claim, or tells how far an earlier request for it is.
    ///
    /// # Errors
    /// [`LaunchError`] by quota, capacity or script.
    pub fn create(
        &mut self,
        request: &LaunchRequest,
        now: Timestamp,
    ) -> Result<Launch, LaunchError> {
        self.forget_gone(now);
        let id = provider_id(&request.uid);
        if let Some(instance) = self.instances.get(&id) {
            let until = instance.gone.unwrap_or(instance.launched);
            if instance.gone.is_some() || until > now {
                return Ok(Launch::Pending {
                    until: until.max(later(now, RETRY)),
                });
            }
            return Ok(Launch::Accepted(Box::new(self.machine(instance))));
        }
        let (size, zone, fault) = self.allocate(request)?;
        let launched = later(
            now,
            self.scenario
                .delays
                .launch
                .pick(self.scale, &request.claim, "launch"),
        );
        let instance = Instance {
            request: request.clone(),
            size,
            zone,
            launched,
            fault,
            gone: None,
        };
        let answer = if launched > now {
            Launch::Pending { until: launched }
        } else {
            Launch::Accepted(Box::new(self.machine(&instance)))
        };
        self.instances.insert(id, instance);
        Ok(answer)
    }

    /// Begins or continues a machine's end.
    pub fn delete(&mut self, id: &str, now: Timestamp) -> Deletion {
        self.forget_gone(now);
        let Some(instance) = self.instances.get_mut(id) else {
            return Deletion::NotFound;
        };
        let delay = self
            .scenario
            .delays
            .delete
            .pick(self.scale, &instance.request.claim, "delete");
        let until = *instance.gone.get_or_insert_with(|| later(now, delay));
        self.forget_gone(now);
        if self.instances.contains_key(id) {
            Deletion::Accepted { until }
        } else {
            Deletion::NotFound
        }
    }

    /// Takes over a machine of an earlier process, even beyond today's quota: it exists. Unknown types are ignored.
    pub fn adopt(&mut self, adoption: Adoption) {
        let Some(size) = Size::named(&adoption.instance_type) else {
            return;
        };
        let fault = match adoption.fault.as_deref() {
            Some("never-register") => Some(Effect::NeverRegister),
            Some("no-gpu") => Some(Effect::NoGpu),
            _ => None,
        };
        let Adoption {
            request,
            zone,
            launched,
            ..
        } = adoption;
        let id = provider_id(&request.uid);
        self.instances.insert(
            id,
            Instance {
                request,
                size,
                zone,
                launched,
                fault,
                gone: None,
            },
        );
    }

    /// A machine as it is at `now`.
    #[must_use]
    pub fn view(&self, id: &str, now: Timestamp) -> Option<View> {
        let instance = self
            .instances
            .get(id)
            .filter(|instance| instance.gone.is_none_or(|gone| gone > now))?;
        let steps = self.timeline(instance);
        let reached = steps.iter().take_while(|(at, _)| *at <= now).last();
        Some(View {
            request: instance.request.clone(),
            machine: self.machine(instance),
            size: instance.size.clone(),
            stage: reached.map_or(Stage::Launching, |(_, stage)| *stage),
            next: steps.iter().map(|(at, _)| *at).find(|at| *at > now),
        })
    }

    /// Provider ids of the machines that are not gone at `now`.
    #[must_use]
    pub fn list(&self, now: Timestamp) -> Vec<&str> {
        let live = self
            .instances
            .iter()
            .filter(|(_, instance)| instance.gone.is_none_or(|gone| gone > now));
        live.map(|(id, _)| id.as_str()).collect()
    }

    /// When the machine reaches which stage, in order; stages that a fault withholds are missing.
    fn timeline(&self, instance: &Instance) -> Vec<(Timestamp, Stage)> {
        let delays = &self.scenario.delays;
        let pick = |delay: crate::scenario::Delay, purpose| {
            delay.pick(self.scale, &instance.request.claim, purpose)
        };
        let joined = later(instance.launched, pick(delays.register, "register"));
        let ready = later(joined, pick(delays.ready, "ready"));
        let complete = later(ready, pick(delays.device_plugin, "device-plugin"));
        let mut steps = vec![
            (instance.launched, Stage::Booting),
            (joined, Stage::Joined),
            (ready, Stage::Ready),
            (complete, Stage::Complete),
        ];
        match instance.fault {
            Some(Effect::NeverRegister) => steps.truncate(1),
            Some(Effect::NoGpu) => steps.truncate(3),
            _ => {}
        }
        steps
    }

    fn machine(&self, instance: &Instance) -> Machine {
        let size = &instance.size;
        let fault = match instance.fault {
            Some(Effect::NeverRegister) => Some("never-register"),
            Some(Effect::NoGpu) => Some("no-gpu"),
            _ => None,
        };
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        Machine {
            provider_id: provider_id(&instance.request.uid),
            labels: BTreeMap::from([
                label(names::LABEL_INSTANCE_TYPE, &size.name),
                label(names::LABEL_ZONE, &instance.zone),
                label(LABEL_REGION, &self.scenario.region.0),
                label(LABEL_CAPACITY_TYPE, "on-demand"),
                label("kubernetes.io/arch", "amd64"),
                label("kubernetes.io/os", "linux"),
                label(names::LABEL_SIMULATED, "true"),
            ]),
            annotations: fault
                .map(|fault| label(ANNOTATION_FAULT, fault))
                .into_iter()
                .collect(),
            capacity: size.capacity(instance.request.disk_gib),
            allocatable: size.allocatable(instance.request.disk_gib),
            gpu_resource: size.gpu_resource().map(str::to_owned),
        }
    }

    fn forget_gone(&mut self, now: Timestamp) {
        self.instances
            .retain(|_, instance| instance.gone.is_none_or(|gone| gone > now));
    }
}

/// `at` plus `duration`; the end of time when that does not exist.
pub(crate) fn later(at: Timestamp, duration: SignedDuration) -> Timestamp {
    at.checked_add(duration).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    const A100: &str = "Standard_NC24ads_A100_v4";

    fn model(scenario: &str) -> Model {
        let scale = Scale {
            factor: NonZeroU32::MIN,
            seed: 1,
        };
        Model::new(Arc::new(Scenario::parse(scenario).unwrap()), scale)
    }

    fn request(name: &str) -> LaunchRequest {
        LaunchRequest {
            claim: name.to_owned(),
            uid: format!("uid-{name}"),
            instance_types: vec![A100.to_owned()],
            zones: vec![],
            disk_gib: None,
            labels: BTreeMap::new(),
            taints: vec![],
            startup_taints: vec![],
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn a_machine_comes_up_stage_by_stage() {
        let mut cloud =
            model("delays: {launch: 10s, register: 20s, ready: 5s, devicePlugin: 7s, delete: 3s}");
        assert_eq!(
            cloud.create(&request("a"), at(0)),
            Ok(Launch::Pending { until: at(10) })
        );
        assert!(matches!(
            cloud.create(&request("a"), at(10)),
            Ok(Launch::Accepted(_))
        ));
        let stages = [
            (9, Stage::Launching),
            (10, Stage::Booting),
            (30, Stage::Joined),
            (35, Stage::Ready),
        ];
        for (second, stage) in stages {
            assert_eq!(
                cloud.view("simulated:///uid-a", at(second)).unwrap().stage,
                stage,
                "at {second}"
            );
        }
        let done = cloud.view("simulated:///uid-a", at(42)).unwrap();
        assert_eq!((done.stage, done.next), (Stage::Complete, None));
    }

    #[test]
    fn asking_again_never_makes_a_second_machine() {
        let mut cloud = model("delays: {launch: 0s}");
        for second in 0..5 {
            cloud.create(&request("a"), at(second)).unwrap();
        }
        assert_eq!(cloud.list(at(9)), ["simulated:///uid-a"]);
    }

    #[test]
    fn deletion_frees_quota_only_when_the_machine_is_gone() {
        let mut cloud =
            model("{delays: {launch: 0s, delete: 5s}, quota: [{match: '*', nodes: 1}]}");
        cloud.create(&request("a"), at(0)).unwrap();
        assert_eq!(
            cloud.delete("simulated:///uid-a", at(1)),
            Deletion::Accepted { until: at(6) }
        );
        assert_eq!(
            cloud.create(&request("b"), at(2)).unwrap_err().reason(),
            "QuotaExceeded"
        );
        assert_eq!(
            cloud.delete("simulated:///uid-a", at(6)),
            Deletion::NotFound
        );
        assert!(cloud.create(&request("b"), at(6)).is_ok());
    }

    #[test]
    fn quota_messages_are_stable_and_name_type_family_and_limit() {
        let mut cloud = model("quota: [{match: 'Standard_NC*', vcpus: 30, name: NCADSA100v4}]");
        cloud.create(&request("a"), at(0)).unwrap();
        let first = cloud.create(&request("b"), at(0)).unwrap_err().to_string();
        let second = cloud.create(&request("c"), at(99)).unwrap_err().to_string();
        assert_eq!(first, second);
        for part in [A100, "NCADSA100v4", "limit 30 vCPU", "24 more", "eastus"] {
            assert!(first.contains(part), "{first}");
        }
    }

    #[test]
    fn capacity_is_per_zone_and_the_refusal_names_the_zones() {
        let mut cloud = model("{zones: ['1', '2'], capacity: [{match: '*', nodes: 1}]}");
        cloud.create(&request("a"), at(0)).unwrap();
        cloud.create(&request("b"), at(0)).unwrap();
        let error = cloud.create(&request("c"), at(0)).unwrap_err();
        assert_eq!(error.reason(), "InsufficientCapacity");
        assert!(
            error
                .to_string()
                .contains("eastus-1, eastus-2 (limit 2 nodes"),
            "{error}"
        );
    }

    #[test]
    fn the_next_acceptable_type_is_taken_when_the_first_is_refused() {
        let mut cloud = model("{delays: {launch: 0s}, capacity: [{match: '*A100*', nodes: 0}]}");
        let mut wish = request("a");
        wish.instance_types.push("Standard_NC4as_T4_v3".to_owned());
        let Ok(Launch::Accepted(machine)) = cloud.create(&wish, at(0)) else {
            panic!("refused")
        };
        assert_eq!(
            machine.labels[names::LABEL_INSTANCE_TYPE],
            "Standard_NC4as_T4_v3"
        );
    }

    #[test]
    fn scripted_faults_hit_the_named_ordinals_of_their_type() {
        let mut cloud = model(
            "{delays: {launch: 0s, register: 0s}, faults: [{match: {instanceType: '*A100*', nth: [2]}, effect: launch-error}, \
             {match: {nth: [4]}, effect: never-register}]}",
        );
        assert!(cloud.create(&request("a"), at(0)).is_ok());
        let error = cloud.create(&request("b"), at(0)).unwrap_err();
        assert!(!error.is_final(), "{error}");
        assert!(cloud.create(&request("b"), at(1)).is_ok());
        assert!(cloud.create(&request("c"), at(1)).is_ok());
        let view = cloud.view("simulated:///uid-c", at(9_999)).unwrap();
        assert_eq!((view.stage, view.next), (Stage::Booting, None));
        assert_eq!(view.machine.annotations[ANNOTATION_FAULT], "never-register");
    }

    #[test]
    fn an_adopted_machine_counts_against_quota_and_keeps_its_fault() {
        let mut cloud = model("quota: [{match: '*', nodes: 1}]");
        cloud.adopt(Adoption {
            request: request("a"),
            instance_type: A100.to_owned(),
            zone: "eastus-2".to_owned(),
            launched: at(0),
            fault: Some("no-gpu".to_owned()),
        });
        assert_eq!(
            cloud.view("simulated:///uid-a", at(9_999)).unwrap().stage,
            Stage::Ready
        );
        assert!(cloud.create(&request("b"), at(1)).is_err());
    }

    #[test]
    fn unknown_types_and_zones_are_final_refusals() {
        let mut cloud = model("");
        let mut unknown = request("a");
        unknown.instance_types = vec!["Standard_X".to_owned()];
        let mut elsewhere = request("b");
        elsewhere.zones = vec!["mars-1".to_owned()];
        let mut nothing = request("c");
        nothing.instance_types.clear();
        for wish in [unknown, elsewhere, nothing] {
            assert!(cloud.create(&wish, at(0)).unwrap_err().is_final());
        }
        assert!(cloud.list(at(0)).is_empty());
    }
}
