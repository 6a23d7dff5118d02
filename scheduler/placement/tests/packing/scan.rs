//! The incremental index decides exactly as a scan of every node does.

use std::collections::BTreeMap;

use kaito_placement::packing::{
    NodeShape, Packer, Placement, Policy, Request, RequestId, Settings,
};
use proptest::prelude::*;

use crate::generate::{Step, any_plain_nodes, any_plain_requests, any_steps};
use crate::model::Model;
use crate::naive::{Choice, Expectation, Kind, Make, Naive, kind, makes, models, size_class};

/// Packer and scan side by side.
struct Race {
    policy: Policy,
    packer: Packer,
    model: Model,
    models: Vec<String>,
    makes: Vec<Make>,
    capacity: (i64, i64),
    expectation: Expectation,
    counts: BTreeMap<Kind, u64>,
    renewed_at: u64,
    held: Vec<[u32; 5]>,
    running: Vec<(Placement, usize)>,
}

impl Race {
    fn new(nodes: &[NodeShape], policy: Policy) -> Self {
        let model = Model::new(nodes);
        let models = models(&model);
        let milli = nodes
            .iter()
            .map(|node| i64::from(node.devices) * 1000)
            .sum();
        let cpu = nodes
            .iter()
            .map(|node| node.capacity.milli_cpu as i64)
            .sum();
        Self {
            policy,
            packer: Packer::new(nodes, &Settings { policy, seed: 0 }).unwrap(),
            capacity: (milli, cpu),
            held: vec![[0; 5]; nodes.len()],
            makes: makes(&model, &models),
            model,
            models,
            expectation: Expectation::default(),
            counts: BTreeMap::new(),
            renewed_at: 0,
            running: Vec::new(),
        }
    }

    fn tell(&mut self, requests: &[Request], ids: &[RequestId]) {
        self.packer.tell(ids);
        if self.policy == Policy::Fgd {
            let mut counts = BTreeMap::new();
            for request in requests {
                *counts.entry(kind(request, &self.models)).or_default() += 1;
            }
            self.expectation = Expectation::from(&counts, &self.makes);
        }
    }

    fn learn(&mut self, request: &Request) {
        if self.policy != Policy::Kaito {
            return;
        }
        *self.counts.entry(kind(request, &self.models)).or_default() += 1;
        let arrived: u64 = self.counts.values().sum();
        if arrived * 2 >= self.renewed_at * 3 {
            self.renewed_at = arrived;
            self.expectation = Expectation::from(&self.counts, &self.makes);
        }
    }

    fn place(&mut self, request: &Request, id: RequestId) {
        self.learn(request);
        let wanted = Naive {
            policy: self.policy,
            model: &self.model,
            models: &self.models,
            expectation: &self.expectation,
            held: &self.held,
            capacity: self.capacity,
        }
        .choose(request);
        let got = self.packer.place(id).unwrap().ok();
        let shown = |placement: &Placement| {
            let devices: Vec<usize> = placement
                .devices
                .iter()
                .map(|one| usize::from(one.0))
                .collect();
            (placement.node as usize, devices)
        };
        let wanted = wanted.map(|Choice { node, devices, .. }| (node, devices));
        assert_eq!(got.as_ref().map(shown), wanted, "{request:?}");
        if let Some(placement) = got {
            let (_, count, milli, _) = kind(request, &self.models);
            let class = size_class(count, milli);
            if count > 0 {
                self.held[placement.node as usize][class] += 1;
            }
            self.model.place(request, &placement);
            self.running
                .push((placement, if count > 0 { class } else { usize::MAX }));
        }
    }

    fn release(&mut self, number: usize) {
        if self.running.is_empty() {
            return;
        }
        let (placement, class) = self.running.swap_remove(number % self.running.len());
        self.packer.release(&placement).unwrap();
        self.model.release(&placement);
        if class != usize::MAX {
            self.held[placement.node as usize][class] -= 1;
        }
    }
}

fn any_policy() -> impl Strategy<Value = Policy> {
    let compared = Policy::ALL
        .into_iter()
        .filter(|policy| *policy != Policy::Random);
    let others = proptest::sample::select(compared.collect::<Vec<_>>());
    prop_oneof![1 => Just(Policy::Kaito), 1 => others]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(10_000) })]

    #[test]
    fn the_index_decides_as_a_scan_of_every_node_does(
        nodes in any_plain_nodes(),
        requests in any_plain_requests(),
        steps in any_steps(60),
        policy in any_policy(),
    ) {
        let mut race = Race::new(&nodes, policy);
        let ids: Vec<RequestId> =
            requests.iter().map(|request| race.packer.register(request).unwrap()).collect();
        race.tell(&requests, &ids);
        for step in steps {
            match step {
                Step::Place(number) => {
                    let at = number % requests.len();
                    race.place(&requests[at], ids[at]);
                }
                Step::Release(number) => race.release(number),
            }
        }
    }
}
