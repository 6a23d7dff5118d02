//! What holds for every policy, every cluster and every order of arrivals and departures.

use kaito_placement::packing::{NodeShape, Packer, Placement, Policy, Request, Settings};
use kaito_placement::snapshot::Toleration;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::generate::{Step, any_nodes, any_request, any_steps};
use crate::model::Model;

fn any_policy() -> impl Strategy<Value = Policy> {
    proptest::sample::select(Policy::ALL.to_vec())
}

/// What happened, in order: the placement, or the refusal as text.
fn replay(
    nodes: &[NodeShape],
    requests: &[Request],
    steps: &[Step],
    settings: &Settings,
) -> Vec<String> {
    let mut packer = Packer::new(nodes, settings).unwrap();
    let mut running: Vec<Placement> = Vec::new();
    let mut story = Vec::new();
    for step in steps {
        match step {
            Step::Place(number) => {
                let id = packer.register(&requests[number % requests.len()]).unwrap();
                let placed = packer.place(id).unwrap();
                story.push(format!("{placed:?}"));
                running.extend(placed);
            }
            Step::Release(number) if !running.is_empty() => {
                let placement = running.swap_remove(number % running.len());
                packer.release(&placement).unwrap();
            }
            Step::Release(_) => {}
        }
    }
    story
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(10_000) })]

    /// The model asserts on every placement that no device passes 1000 thousandths, no MIG slot is given twice and no
    /// node passes its CPU, memory, storage or pods.
    #[test]
    fn nothing_is_overcommitted_nothing_is_lost_and_only_what_fits_nowhere_is_refused(
        nodes in any_nodes(),
        requests in vec(any_request(), 1..6),
        steps in any_steps(40),
        policy in any_policy(),
    ) {
        let mut packer = Packer::new(&nodes, &Settings { policy, seed: 7 }).unwrap();
        let mut model = Model::new(&nodes);
        let capacity = model.idle_milli();
        let mut running: Vec<Placement> = Vec::new();
        for step in steps {
            match step {
                Step::Place(number) => {
                    let request = &requests[number % requests.len()];
                    let id = packer.register(request).unwrap();
                    match packer.place(id).unwrap() {
                        Ok(placement) => {
                            model.place(request, &placement);
                            running.push(placement);
                        }
                        Err(refusal) => {
                            let counted: u32 = refusal.excluded.values().sum();
                            prop_assert_eq!(counted as usize, nodes.len());
                            // The same request under another name is judged by a look at every node.
                            let mut twin = request.clone();
                            twin.tolerations.push(Toleration {
                                key: format!("unused-{number}-{}", running.len()),
                                value: None,
                                effect: None,
                            });
                            let twin = packer.register(&twin).unwrap();
                            prop_assert_eq!(packer.place(twin).unwrap(), Err(refusal));
                            let fitting = model.fitting(request);
                            let busy = |at: &usize| {
                                model.nodes[*at].idle.pods != model.nodes[*at].shape.capacity.pods
                            };
                            let refusable = match policy {
                                Policy::KaitoExclusive => fitting.iter().all(busy),
                                _ => fitting.is_empty(),
                            };
                            prop_assert!(refusable);
                        }
                    }
                }
                Step::Release(number) if !running.is_empty() => {
                    let placement = running.swap_remove(number % running.len());
                    packer.release(&placement).unwrap();
                    model.release(&placement);
                }
                Step::Release(_) => {}
            }
            let held: u64 = running.iter().map(Placement::milli).sum();
            prop_assert_eq!(packer.idle_milli() as u64 + held, capacity);
            prop_assert_eq!(packer.idle_milli() as u64, model.idle_milli());
        }
    }

    #[test]
    fn the_same_calls_get_the_same_answers(
        nodes in any_nodes(),
        requests in vec(any_request(), 1..5),
        steps in any_steps(25),
        policy in any_policy(),
        seed in any::<u64>(),
    ) {
        let settings = Settings { policy, seed };
        prop_assert_eq!(
            replay(&nodes, &requests, &steps, &settings),
            replay(&nodes, &requests, &steps, &settings)
        );
    }

    #[test]
    fn a_cluster_that_was_emptied_decides_as_one_that_was_never_used(
        nodes in any_nodes(),
        requests in vec(any_request(), 1..5),
        steps in any_steps(25),
    ) {
        let settings = Settings { policy: Policy::BestFit, seed: 0 };
        let mut used = Packer::new(&nodes, &settings).unwrap();
        let mut running: Vec<Placement> = Vec::new();
        for step in &steps {
            if let Step::Place(number) = step {
                let id = used.register(&requests[number % requests.len()]).unwrap();
                running.extend(used.place(id).unwrap());
            }
        }
        for placement in running {
            used.release(&placement).unwrap();
        }
        let mut fresh = Packer::new(&nodes, &settings).unwrap();
        for request in &requests {
            let (old, new) = (used.register(request).unwrap(), fresh.register(request).unwrap());
            prop_assert_eq!(used.place(old).unwrap(), fresh.place(new).unwrap());
        }
    }

    /// The state that follows from watch events is the state built from the whole list.
    #[test]
    fn nodes_that_come_and_go_leave_a_packer_like_one_made_of_the_rest(
        nodes in any_nodes(),
        passing in any_nodes(),
        first in 0usize..9,
        requests in vec(any_request(), 1..6),
        steps in any_steps(30),
        policy in any_policy(),
    ) {
        let settings = Settings { policy, seed: 3 };
        let mut whole = Packer::new(&nodes, &settings).unwrap();
        let mut grown = Packer::new(&nodes[..first.min(nodes.len())], &settings).unwrap();
        for request in &requests {
            whole.register(request).unwrap();
            grown.register(request).unwrap();
        }
        for node in nodes.iter().skip(first) {
            grown.add_node(node).unwrap();
        }
        for (number, node) in passing.iter().enumerate() {
            let passing = NodeShape { name: format!("passing-{number}"), ..node.clone() };
            let position = grown.add_node(&passing).unwrap();
            grown.remove_node(position).unwrap();
            prop_assert!(grown.remove_node(position).is_err());
        }
        for step in steps {
            if let Step::Place(number) = step {
                let request = &requests[number % requests.len()];
                let (one, other) = (whole.register(request).unwrap(), grown.register(request).unwrap());
                prop_assert_eq!(whole.place(one).unwrap(), grown.place(other).unwrap());
            }
        }
        prop_assert_eq!(whole.idle_milli(), grown.idle_milli());
    }
}
