//! Who runs where, and what protects them: what evictions are planned from.
//!
//! Only pods that we placed are named, those of Workspaces and those that asked by `kaito.sh/gang`; everybody else is
//! part of what their node has used and never a victim. A pod on its way out is not named either: it leaves already.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kaito_api::names;
use kaito_placement::eviction::{Occupants, Running, RunningMember};
use kaito_placement::snapshot::{Constraints, Resources};

use crate::budgets::Budgets;
use crate::cluster::{Memory, Objects, SizedWorkspace, key_of, node_of, nodes_by_host};
use crate::leaving::was_evicted_by_us;
use crate::pod::{self, Stand};
use crate::{gangs, workspaces};

/// What may be done to those who run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Whether pods of lower priority are evicted for those of higher priority.
    pub preemption: Preemption,
    /// Most pods that are moved at once to save nodes; 0 to move none.
    pub most_moves: u64,
    /// A pod is not moved sooner than so long after its start, seconds.
    pub settled_after_seconds: i64,
}

/// Whether anybody is evicted for others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preemption {
    /// Those of lower priority are.
    On,
    /// Nobody is.
    #[default]
    Off,
}

/// Names everybody who runs. `now_seconds` counts since the epoch.
#[must_use]
pub fn occupants(
    objects: &Objects,
    budgets: &[Arc<PodDisruptionBudget>],
    memory: &Memory,
    rules: &Rules,
    now_seconds: i64,
) -> Occupants {
    let budgets = Budgets::new(budgets);
    let sized: HashMap<(&str, &str), SizedWorkspace<'_>> = objects
        .sized()
        .filter(|(_, (workspace, _))| workspace.metadata.deletion_timestamp.is_none())
        .collect();
    let crews = crews(objects, memory, &sized);
    let running = crews
        .iter()
        .filter_map(|(name, crew)| crew.running(name, &budgets, rules, now_seconds));
    Occupants {
        running: running.collect(),
        budgets: budgets.allowed(objects, memory),
        yielding: yielding(&crews),
        most_moves: rules.most_moves,
        settled_after_seconds: rules.settled_after_seconds,
        ..Occupants::default()
    }
}

/// A priority that nobody who runs is below, found without a closer look: where it is not below that of whoever waits,
/// [`occupants`] need not be asked.
#[must_use]
pub fn lowest_priority(objects: &Objects) -> Option<i32> {
    let of_workspaces = objects.workspaces.iter().filter_map(|(workspace, _)| {
        let scheduling = workspace.spec.scheduling.as_ref()?;
        scheduling.priority
    });
    let ours = objects.pods.iter().filter(|found| pod::is_ours(found));
    let of_pods = ours.map(|found| {
        let spec = found.spec.as_ref();
        spec.and_then(|spec| spec.priority).unwrap_or(0)
    });
    of_workspaces.chain(of_pods).min()
}

/// Pods that come and go together.
#[derive(Default)]
struct Crew<'a> {
    workspace: Option<SizedWorkspace<'a>>,
    /// Those that have a node, with it.
    here: Vec<(&'a Pod, String)>,
    /// Those behind the gate.
    waiting: Vec<&'a Pod>,
    /// Whether one was sent to a node a moment ago: it is neither here nor waiting, and the crew is left alone.
    arriving: bool,
    /// Whether one is on its way out.
    leaving: bool,
}

/// Crews by the name that their demands have.
fn crews<'a>(
    objects: &'a Objects,
    memory: &Memory,
    sized: &HashMap<(&'a str, &'a str), SizedWorkspace<'a>>,
) -> BTreeMap<String, Crew<'a>> {
    let by_host = nodes_by_host(&objects.nodes);
    let mut crews: BTreeMap<String, Crew<'a>> = BTreeMap::new();
    for found in &objects.pods {
        let namespace = found.metadata.namespace.as_deref().unwrap_or_default();
        let (name, workspace) = match pod::workspace_of(found) {
            Some(name) => match sized.get(&(namespace, name)) {
                Some(sized) => (format!("{namespace}/{name}"), Some(*sized)),
                None => continue,
            },
            None => match gangs::asking(found) {
                Some((name, _)) => (format!("{namespace}/{name}"), None),
                None => continue,
            },
        };
        let crew = crews.entry(name).or_default();
        crew.workspace = workspace;
        crew.add(found, memory, &by_host);
    }
    crews
}

/// Demands whose pods say that they do not preempt.
fn yielding(crews: &BTreeMap<String, Crew<'_>>) -> BTreeSet<String> {
    let never = |pod: &&Pod| {
        let policy = pod.spec.as_ref().and_then(|s| s.preemption_policy.as_ref());
        policy.is_some_and(|policy| policy == "Never")
    };
    let yielding = crews
        .iter()
        .filter(|(_, crew)| crew.waiting.iter().any(never));
    yielding.map(|(name, _)| name.clone()).collect()
}

impl<'a> Crew<'a> {
    fn add(&mut self, found: &'a Pod, memory: &Memory, by_host: &HashMap<String, String>) {
        if found.metadata.deletion_timestamp.is_some() || was_evicted_by_us(found, memory) {
            self.leaving = true;
            return;
        }
        match pod::stand(found) {
            Stand::Gated if memory.assumed.contains_key(&key_of(found)) => self.arriving = true,
            Stand::Gated => self.waiting.push(found),
            // A pod with our label that somebody else sent to its node has no pin.
            Stand::On(_) if pin(found).is_some() => {
                let node = node_of(found, memory, by_host);
                self.here.extend(node.map(|node| (found, node)));
            }
            Stand::On(_) | Stand::Elsewhere | Stand::Ended => {}
        }
    }

    fn running(
        &self,
        name: &str,
        budgets: &Budgets<'_>,
        rules: &Rules,
        now_seconds: i64,
    ) -> Option<Running> {
        if self.here.is_empty() || self.arriving {
            return None;
        }
        let specs: Vec<&PodSpec> = self.specs().collect();
        let covered: Vec<Vec<String>> = self.here.iter().map(|(pod, _)| budgets.of(pod)).collect();
        // The API server refuses to evict a pod that several budgets cover.
        let evictable = covered.iter().all(|covering| covering.len() <= 1);
        let tolerates = evictable && !self.is_protected();
        let covering: BTreeSet<String> = covered.into_iter().flatten().collect();
        Some(Running {
            name: name.to_owned(),
            priority: self.priority(&specs),
            preemptible: tolerates && rules.preemption == Preemption::On,
            movable: tolerates && self.is_movable(),
            started_seconds: self.started(now_seconds),
            members: self.members(),
            per_member: least_of_each(&specs),
            constraints: self.constraints(&specs),
            budgets: covering.into_iter().collect(),
            ..Running::default()
        })
    }

    fn specs(&self) -> impl Iterator<Item = &'a PodSpec> {
        self.here.iter().filter_map(|(pod, _)| pod.spec.as_ref())
    }

    fn priority(&self, specs: &[&PodSpec]) -> i32 {
        match self.workspace {
            Some((workspace, _)) => workspaces::priority(workspace, specs.first().copied()),
            None => gangs::priority(specs),
        }
    }

    fn constraints(&self, specs: &[&PodSpec]) -> Constraints {
        self.workspace
            .map_or_else(Constraints::default, |(workspace, sizing)| {
                workspaces::constraints(workspace, sizing, specs.first().copied())
            })
    }

    /// Whether somebody says that it is not to be evicted. Tuning is not unless its Workspace says so: what it has done
    /// since its last checkpoint is lost, and its Job gives up after a few pods.
    fn is_protected(&self) -> bool {
        let wish = |annotations: Option<&BTreeMap<String, String>>| {
            let value = annotations?.get(names::ANNOTATION_PREEMPTIBLE)?;
            value.parse::<bool>().ok()
        };
        let of_workspace = self.workspace.map(|(workspace, _)| {
            let default = workspace.spec.tuning.is_none();
            wish(workspace.metadata.annotations.as_ref()).unwrap_or(default)
        });
        let mut of_pods = self.here.iter();
        of_workspace == Some(false)
            || of_pods.any(|(pod, _)| wish(pod.metadata.annotations.as_ref()) == Some(false))
    }

    /// Whether its pods would come back and could go elsewhere: an inference server, whole and at rest. A pod without
    /// a Workspace is not moved: whether anybody makes it anew, and where it may go then, is not known.
    fn is_movable(&self) -> bool {
        let Some((workspace, sizing)) = self.workspace else {
            return false;
        };
        let Some(inference) = workspace.spec.inference.as_ref() else {
            return false;
        };
        let template = inference.template.as_ref().and_then(|t| t.spec.as_ref());
        let anywhere = template.is_none_or(|spec| {
            let selector = spec.node_selector.as_ref();
            gangs::unknown_need(spec).is_none()
                && selector.is_none_or(|labels| !labels.contains_key(names::LABEL_HOSTNAME))
        });
        let whole = u32::try_from(self.here.len()).is_ok_and(|pods| pods == sizing.replicas);
        anywhere && whole && self.waiting.is_empty() && !self.leaving
    }

    /// When the last of them started, seconds since the epoch. One that has not started loses nothing.
    fn started(&self, now_seconds: i64) -> i64 {
        let starts = self.here.iter().map(|(pod, _)| {
            let status = pod.status.as_ref();
            let start = status.and_then(|status| status.start_time.as_ref());
            start.map_or(now_seconds, |time| time.0.as_second())
        });
        starts.max().unwrap_or(now_seconds)
    }

    fn members(&self) -> Vec<RunningMember> {
        let named = self.here.iter().map(|(pod, node)| RunningMember {
            pod: pod.metadata.name.clone().unwrap_or_default(),
            node: node.clone(),
        });
        let mut members: Vec<RunningMember> = named.collect();
        members.sort();
        members
    }
}

/// The node that we sent the pod to.
fn pin(pod: &Pod) -> Option<&String> {
    let selector = pod.spec.as_ref()?.node_selector.as_ref()?;
    selector.get(names::LABEL_HOSTNAME)
}

/// What surely becomes free when any of them goes.
fn least_of_each(specs: &[&PodSpec]) -> Resources {
    let each = specs.iter().map(|spec| pod::resources(spec));
    each.reduce(|one, other| one.least(&other))
        .unwrap_or_default()
}
