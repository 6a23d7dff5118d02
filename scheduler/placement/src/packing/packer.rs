//! The packer: state, index and expectation put together.
//!
//! Callers are the planner, the benches and the examples. It decides nothing about time, queues or money.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::PackingError;
use super::cluster::{Cluster, State, signed};
use super::device::WHOLE_MILLI;
use super::fragment::Fragments;
use super::index::Index;
use super::model::{NodeShape, Placement, Request};
use super::outlook::{Outlook, Terms};
use super::policy::Policy;
use super::rate::{Rater, Rating};
use super::refusal::{Obstacle, Refusal, obstacle};
use super::request::{RequestId, Spec, Specs};
use super::room::Room;
use super::topology::{NOWHERE, Topology};
use super::typical::{Census, ONE};
use super::verdicts::Reasons;

/// How a packer decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// Ranking of nodes.
    pub policy: Policy,
    /// Seed of the random policy; no other uses it.
    pub seed: u64,
}

/// Fragmentation of a whole cluster under a list of pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragmentation {
    /// Idle thousandths that the expected pods cannot use, Σ F, times 2^20.
    pub fragment: i64,
    /// Idle thousandths, Σ T.
    pub idle_milli: i64,
}

impl Fragmentation {
    /// The fragmentation ratio, Σ F / Σ T, in percent; 0 if nothing is idle.
    #[must_use]
    pub fn percent(&self) -> f64 {
        if self.idle_milli == 0 {
            return 0.0;
        }
        100.0 * self.fragment as f64 / (self.idle_milli as f64 * ONE as f64)
    }
}

/// Holds a cluster's state and places pods on it.
#[derive(Debug)]
pub struct Packer {
    pub(super) cluster: Cluster,
    pub(super) specs: Specs,
    pub(super) rater: Rater,
    pub(super) index: Index,
    outlook: Outlook,
    /// Millicores and thousandths of all nodes when idle.
    capacity: (i64, i64),
    names: HashMap<String, u32>,
    pub(super) random: u64,
    /// Fragments under a list told for measurement; the policy does not see it.
    gauge: Option<Fragments>,
    reasons: Reasons,
    pub(super) topology: Topology,
    /// Room for the gangs asked for lately, by request number and whether members must spread.
    pub(super) rooms: BTreeMap<(u32, bool), Room>,
    pub(super) gangs_asked: u64,
}

impl Packer {
    /// A packer for idle nodes. Their order decides between nodes that are otherwise equal, the first winning.
    ///
    /// # Errors
    /// A node with too many devices, or too many GPU kinds.
    pub fn new(nodes: &[NodeShape], settings: &Settings) -> Result<Self, PackingError> {
        let mut cluster = Cluster::new(nodes)?;
        if settings.policy == Policy::GpuClustering {
            cluster.keep_pod_classes();
        }
        let mut outlook = Outlook::default();
        for (_, group) in cluster.live() {
            let make = cluster.classes.make_of(group.state.class);
            let members = i64::try_from(group.members.len()).unwrap_or(i64::MAX);
            outlook.add_devices(
                make,
                cluster.configs.idle_milli(group.state.config) * members,
            );
        }
        let capacity = (cluster.idle_milli_cpu, cluster.idle_milli);
        let mut rater = Rater::new(settings.policy);
        rater.weigh_by(capacity.0, capacity.1);
        let names = (0..)
            .zip(nodes)
            .map(|(position, node)| (node.name.clone(), position))
            .collect();
        Ok(Self {
            cluster,
            specs: Specs::default(),
            rater,
            index: Index::default(),
            outlook,
            capacity,
            names,
            random: settings.seed,
            gauge: None,
            reasons: Reasons::default(),
            topology: Topology::new(nodes),
            rooms: BTreeMap::new(),
            gangs_asked: 0,
        })
    }

    /// Adds an idle node behind all others and returns its position: a node came.
    ///
    /// # Errors
    /// A node with too many devices, or one GPU kind too many; nothing is changed then.
    pub fn add_node(&mut self, node: &NodeShape) -> Result<u32, PackingError> {
        let inhabited = self.cluster.classes.inhabited();
        let position = self.cluster.add(node)?;
        self.judge_again_unless(inhabited);
        self.names.insert(node.name.clone(), position);
        self.topology.add(node);
        let state = self.cluster.state_of(position);
        self.account(state, 1);
        Ok(position)
    }

    /// Takes a node out with all that runs there: a node went, or must not be used any more.
    ///
    /// # Errors
    /// There is no such node.
    pub fn remove_node(&mut self, position: u32) -> Result<(), PackingError> {
        let inhabited = self.cluster.classes.inhabited();
        let state = self.cluster.remove(position)?;
        self.judge_again_unless(inhabited);
        self.names.retain(|_, named| *named != position);
        self.account(Some(state), -1);
        Ok(())
    }

    /// Judges all requests anew, unless as many classes have nodes as before: where a request can go, and who presses on
    /// which make, follows from the classes that there are.
    fn judge_again_unless(&mut self, inhabited: usize) {
        if self.cluster.classes.inhabited() != inhabited {
            self.specs
                .judge_again(&self.cluster.classes, &mut self.cluster.configs);
        }
    }

    /// Notes that a node like this came (1) or went (−1).
    fn account(&mut self, state: Option<State>, change: i64) {
        let number = state.map_or(u32::MAX, |state| state.class);
        if let Some(class) = self.cluster.classes.list.get(number as usize) {
            let milli = i64::from(class.devices) * i64::from(WHOLE_MILLI) * change;
            let make = self.cluster.classes.make_of(number);
            self.outlook.add_devices(make, milli);
            self.capacity.0 += signed(class.capacity.milli_cpu) * change;
            self.capacity.1 += milli;
        }
        self.rater.weigh_by(self.capacity.0, self.capacity.1);
        self.index.renew();
    }

    /// Places one pod on a given node, or says what that node lacks: for pods that run already.
    ///
    /// # Errors
    /// The request number or the node is not known.
    pub fn place_on(
        &mut self,
        id: RequestId,
        node: u32,
    ) -> Result<Result<Placement, Obstacle>, PackingError> {
        let spec = Arc::clone(
            self.specs
                .spec(id)
                .ok_or(PackingError::UnknownRequest { id })?,
        );
        let state = self
            .cluster
            .state_of(node)
            .ok_or(PackingError::NotHeld { node })?;
        if let Some(obstacle) = obstacle(&mut self.cluster, &spec, &state) {
            return Ok(Err(obstacle));
        }
        Ok(self.put(&spec, node).ok_or(Obstacle::Occupied))
    }

    /// Makes a request known, so that it can be placed by number. Nothing is learnt from it yet.
    ///
    /// # Errors
    /// The request asks for something impossible on any node, such as 0 GPUs.
    pub fn register(&mut self, request: &Request) -> Result<RequestId, PackingError> {
        self.specs
            .intern(&self.cluster.classes, &mut self.cluster.configs, request)
    }

    /// Tells FGD the pods to expect, one number per pod. Every other policy ignores it, ours learns by itself.
    pub fn tell(&mut self, pods: &[RequestId]) {
        if self.rater.policy == Policy::Fgd {
            let typical = self.census(pods).typical();
            self.rater.expect(
                &typical,
                Terms::default(),
                self.cluster.classes.kind_count(),
            );
            self.index.renew();
        }
    }

    /// From now on [`Packer::fragmentation`] measures under these pods, one number per pod.
    pub fn measure_under(&mut self, pods: &[RequestId]) {
        let typical = self.census(pods).typical();
        self.gauge = Some(Fragments::new(&typical, self.cluster.classes.kind_count()));
    }

    fn census(&self, pods: &[RequestId]) -> Census {
        let mut census = Census::default();
        let present = self.outlook.present(&self.cluster.classes.makes);
        for spec in pods.iter().filter_map(|id| self.specs.spec(*id)) {
            census.add(spec.pod.limited_to(present), 1);
        }
        census
    }

    /// Places one pod now, or says why no node fits.
    ///
    /// # Errors
    /// The number is not one of this packer's.
    pub fn place(&mut self, id: RequestId) -> Result<Result<Placement, Refusal>, PackingError> {
        let spec = self
            .specs
            .spec(id)
            .ok_or(PackingError::UnknownRequest { id })?;
        let spec = Arc::clone(spec);
        self.learn(id, 1);
        let node = match self.rater.policy {
            Policy::Random => self.any_node(&spec),
            _ if spec.host.is_some() => self.named_node(&spec),
            _ => self
                .index
                .best(&mut self.cluster, &mut self.rater, id.0, &spec)
                .map(|(_, node)| node),
        };
        let placed = node.and_then(|node| self.put(&spec, node));
        Ok(placed.ok_or_else(|| self.explain(id, &spec, Some(Obstacle::Occupied))))
    }

    /// Gives back what a placement holds.
    ///
    /// # Errors
    /// The node does not hold it; nothing is changed then.
    pub fn release(&mut self, placement: &Placement) -> Result<(), PackingError> {
        self.cluster.give_back(placement)
    }

    /// Idle GPU and how much of it is fragments, under the pods told to [`Packer::measure_under`].
    pub fn fragmentation(&mut self) -> Fragmentation {
        let mut sum = Fragmentation {
            fragment: 0,
            idle_milli: self.cluster.idle_milli,
        };
        if let Some(gauge) = &mut self.gauge {
            for (_, group) in self.cluster.live() {
                let step = gauge.step(signed(group.state.idle.milli_cpu));
                let fragment = gauge.of(&self.cluster.configs, group.state.config, step);
                sum.fragment += fragment * i64::try_from(group.members.len()).unwrap_or(0);
            }
        }
        sum
    }

    /// Takes note of arrivals, and renews what is expected when it is time.
    pub(super) fn learn(&mut self, id: RequestId, pods: u64) {
        if self.rater.policy != Policy::Kaito {
            return;
        }
        self.outlook.observe(id, pods);
        if self.outlook.is_due() {
            let (typical, terms) = {
                let makes = &self.cluster.classes.makes;
                self.outlook.renew(&self.specs.list, makes)
            };
            self.rater
                .expect(&typical, terms, self.cluster.classes.kind_count());
            self.index.renew();
        }
    }

    /// Places on a node that fits.
    pub(super) fn put(&mut self, spec: &Spec, node: u32) -> Option<Placement> {
        let state = self.cluster.state_of(node)?;
        let successor = match self.rater.policy {
            Policy::Random => self.any_device(spec, node)?,
            _ => {
                let make = self.cluster.classes.make_of(state.class);
                let (configs, devices) = self.cluster.devices_of(node);
                self.rater.choose(make, configs, spec, &state, devices)?
            }
        };
        let shape = self.cluster.configs.shape(spec.shape_on(state.class)?);
        self.cluster.take(node, &spec.amounts, shape, successor)
    }

    /// How good a node is for a request; `None` if it does not fit.
    pub(super) fn rate_node(&mut self, spec: &Spec, node: u32) -> Option<Rating> {
        let state = self.cluster.state_of(node)?;
        let Cluster {
            classes, configs, ..
        } = &mut self.cluster;
        self.rater.rate(classes, configs, spec, &state)
    }

    fn named_node(&mut self, spec: &Spec) -> Option<u32> {
        let node = self.only_node(spec).filter(|node| *node != NOWHERE)?;
        self.rate_node(spec, node).map(|_| node)
    }

    /// The only node a request allows, if it names one; [`NOWHERE`] if there is no such node.
    pub(super) fn only_node(&self, spec: &Spec) -> Option<u32> {
        let host = spec.host.as_ref()?;
        Some(self.names.get(host).copied().unwrap_or(NOWHERE))
    }

    /// What each node lacks for one more pod; nodes that would hold it are counted under `fitting`, or left out.
    pub(super) fn explain(
        &mut self,
        id: RequestId,
        spec: &Spec,
        fitting: Option<Obstacle>,
    ) -> Refusal {
        let Some(only) = self.only_node(spec) else {
            return self.reasons.explain(&mut self.cluster, id.0, spec, fitting);
        };
        let all: usize = self
            .cluster
            .live()
            .map(|(_, group)| group.members.len())
            .sum();
        let mut others = u32::try_from(all).unwrap_or(u32::MAX);
        let mut refusal = Refusal::default();
        if let Some(state) = self.cluster.state_of(only) {
            let obstacle = obstacle(&mut self.cluster, spec, &state).or(fitting);
            refusal
                .excluded
                .extend(obstacle.map(|obstacle| (obstacle, 1)));
            others -= 1;
        }
        if others > 0 {
            *refusal.excluded.entry(Obstacle::Selector).or_default() += others;
        }
        refusal
    }

    /// Idle thousandths of GPUs.
    #[must_use]
    pub const fn idle_milli(&self) -> i64 {
        self.cluster.idle_milli
    }
}
