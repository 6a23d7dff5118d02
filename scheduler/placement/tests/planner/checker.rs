//! The checker finds the faults that are put into sound plans.

use crate::fixtures::{
    NOW, bought, busy, buying, gang, launching, market, node, offer, sku_taint, snapshot,
    with_priority,
};
use crate::snapshots::any_snapshot;
use kaito_placement::check::{Violation, check};
use kaito_placement::plan::{Blocker, MemberAssignment, Place, Plan, Release, Waiting};
use kaito_placement::planner::plan;
use kaito_placement::snapshot::{Node, Resources, Snapshot};
use proptest::prelude::*;
use proptest::sample::Index;

/// A snapshot in which something is assigned, held, bought and idle, and its plan.
fn busy_world() -> (Snapshot, Plan) {
    let demands = vec![
        gang("placed", 2, 1),
        buying(gang("promised", 3, 2), "Type"),
        gang("stuck", 1, 64),
    ];
    let here = Node {
        instance_type: Some("Other".to_owned()),
        ..node("here", 2)
    };
    let coming = Node {
        instance_type: Some("Type".to_owned()),
        ..launching("coming", 4)
    };
    let idle = Node {
        taints: vec![sku_taint()],
        ..bought("idle", 1)
    };
    let nodes = vec![here, coming, busy(bought("used", 1), 1), idle];
    let mut snapshot = market(nodes, demands, vec![offer("Type", 4, 100)]);
    snapshot.idle_since.insert("idle".to_owned(), NOW - 1_000);
    snapshot.idle_since.insert("used".to_owned(), NOW - 1_000);
    let plan = plan(&snapshot);
    (snapshot, plan)
}

#[test]
fn the_busy_world_has_something_of_everything_and_nothing_is_wrong_with_it() {
    let (snapshot, plan) = busy_world();
    assert_eq!(check(&snapshot, &plan), []);
    assert_eq!(plan.assignments.len(), 1);
    assert_eq!(plan.holds.len(), 2);
    assert_eq!(plan.purchases.len(), 1);
    assert_eq!(plan.releases.len(), 1);
    assert_eq!(plan.waiting.len(), 2);
}

/// Breaks a plan; the name says how.
type Fault = (&'static str, fn(&mut Snapshot, &mut Plan));

#[expect(
    clippy::indexing_slicing,
    reason = "the world that is spoiled has one of everything, as the first test says"
)]
const FAULTS: [Fault; 24] = [
    ("a member is dropped", |_, plan| {
        plan.assignments[0].members.pop();
    }),
    ("a member is renamed", |_, plan| {
        plan.assignments[0].members[0].member = "stranger".to_owned();
    }),
    ("an assignment is repeated", |_, plan| {
        plan.assignments.push(plan.assignments[0].clone());
    }),
    ("an assigned gang waits too", |_, plan| {
        let waiting = Waiting {
            demand: plan.assignments[0].demand.clone(),
            ..plan.waiting[1].clone()
        };
        plan.waiting.push(waiting);
    }),
    ("a demand is forgotten", |_, plan| {
        plan.waiting.pop();
    }),
    ("a demand is invented", |_, plan| {
        plan.waiting[1].demand = "default/stranger".to_owned();
    }),
    ("a placed gang is made to wait", |snapshot, plan| {
        let mut wants_more = snapshot.clone();
        wants_more.demands[0].per_member.gpus = 64;
        *plan = kaito_placement::planner::plan(&wants_more);
    }),
    ("a member goes to a node that is not there", |_, plan| {
        plan.assignments[0].members[0].node = "nowhere".to_owned();
    }),
    (
        "a member goes to a node that is still being launched",
        |_, plan| {
            plan.assignments[0].members[0].node = "coming".to_owned();
        },
    ),
    ("a member goes to a full node", |_, plan| {
        plan.assignments[0].members[0].node = "used".to_owned();
    }),
    ("the node gets a taint", |snapshot, _| {
        snapshot.nodes[0].taints.push(sku_taint());
    }),
    ("the node loses its memory", |snapshot, _| {
        snapshot.nodes[0].allocatable.memory_bytes = 1;
    }),
    ("the gang is to be spread", |snapshot, _| {
        snapshot.demands[0].constraints.spread = true;
    }),
    ("the gang needs larger GPUs", |snapshot, _| {
        snapshot.demands[0].constraints.gpu_memory_bytes = u64::MAX;
    }),
    ("a hold is dropped", |_, plan| {
        plan.holds.pop();
    }),
    ("a hold is doubled", |_, plan| {
        plan.holds.push(plan.holds[0].clone());
    }),
    ("a hold is on somebody else's place", |_, plan| {
        plan.holds[1].place = Place::Node {
            name: "here".to_owned(),
        };
    }),
    ("a purchase is doubled", |_, plan| {
        plan.purchases.push(plan.purchases[0].clone());
    }),
    ("a purchase is dropped", |_, plan| {
        plan.purchases.pop();
    }),
    (
        "a purchase takes the name of an earlier one",
        |snapshot, plan| {
            let uid = plan.purchases[0].buyer_uid.clone();
            snapshot.ordinals_taken.insert(uid, vec![0]);
        },
    ),
    ("a purchase is for one more", |_, plan| {
        plan.purchases[0]
            .for_demands
            .push("default/stuck".to_owned());
    }),
    ("a used claim is given back", |_, plan| {
        plan.releases.push(release("used"));
    }),
    (
        "a claim is given back that somebody waits for",
        |_, plan| {
            plan.releases.push(release("coming"));
        },
    ),
    ("the next change is forgotten", |snapshot, plan| {
        snapshot.idle_since.insert("idle".to_owned(), NOW);
        plan.releases.clear();
    }),
];

fn release(claim: &str) -> Release {
    Release {
        claim: claim.to_owned(),
        reason: String::new(),
    }
}

#[test]
fn every_seeded_fault_is_found() {
    for (name, spoil) in FAULTS {
        let (mut snapshot, mut plan) = busy_world();
        spoil(&mut snapshot, &mut plan);
        assert_ne!(check(&snapshot, &plan), [], "not found: {name}");
    }
}

#[test]
fn a_false_blocker_is_found() {
    let (snapshot, sound) = busy_world();
    let falsehoods = [
        Blocker::NodesLaunching {
            claims: vec!["coming".to_owned()],
            ordered: 0,
            leaving: vec![],
        },
        Blocker::NoNodeFits {
            excluded: vec![],
            fitting_members: 0,
        },
        Blocker::UnknownInstanceType {
            instance_type: "Type".to_owned(),
        },
    ];
    for blocker in falsehoods {
        let mut plan = sound.clone();
        plan.waiting[0].blocker = blocker.clone();
        assert_ne!(check(&snapshot, &plan), [], "{blocker:?}");
    }
}

#[test]
fn violations_say_what_is_wrong() {
    let snapshot = snapshot(vec![node("a", 1)], vec![gang("x", 1, 1)]);
    let mut plan = plan(&snapshot);
    plan.assignments.clear();
    let found: Vec<_> = check(&snapshot, &plan)
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(found, ["demand default/x is decided 0 times, not once"]);
}

/// A snapshot with at least one gang assigned, its plan, and which of the assignments to break.
fn assigned() -> impl Strategy<Value = (Snapshot, Plan, usize)> {
    (any_snapshot(), any::<Index>()).prop_map(|(mut snapshot, index)| {
        snapshot.nodes.push(node("sure", 4));
        snapshot
            .demands
            .push(with_priority(gang("sure", 2, 2), 100));
        let plan = plan(&snapshot);
        let chosen = index.index(plan.assignments.len());
        (snapshot, plan, chosen)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_dropped_member_is_found_in_any_plan((snapshot, mut plan, chosen) in assigned()) {
        plan.assignments[chosen].members.pop();
        let found = check(&snapshot, &plan);
        let named = found.iter().any(|one| matches!(one, Violation::HalfGang { .. }));
        prop_assert!(named, "{:?}", found);
    }

    #[test]
    fn a_double_assignment_is_found_in_any_plan((snapshot, mut plan, chosen) in assigned()) {
        plan.assignments.push(plan.assignments[chosen].clone());
        let found = check(&snapshot, &plan);
        let twice = |one: &Violation| matches!(one, Violation::NotDecidedOnce { times: 2, .. });
        prop_assert!(found.iter().any(twice), "{:?}", found);
    }

    #[test]
    fn a_swap_to_a_tainted_node_is_found_in_any_plan((mut snapshot, mut plan, chosen) in assigned()) {
        let taint = kaito_placement::snapshot::Taint { key: "never".to_owned(), ..sku_taint() };
        let demand = plan.assignments[chosen].demand.clone();
        // A toleration without a key tolerates every taint.
        let wanted = snapshot.demands.iter_mut().find(|one| one.name == demand).unwrap();
        wanted.constraints.tolerations.retain(|one| !one.key.is_empty());
        snapshot.nodes.push(Node { taints: vec![taint], ..node("tainted", 100) });
        plan.assignments[chosen].members[0].node = "tainted".to_owned();
        let found = check(&snapshot, &plan);
        let named = found.iter().any(|one| matches!(
            one,
            Violation::ConstraintBroken { constraint: "tolerations", place, .. } if place == "tainted"
        ));
        prop_assert!(named, "{:?}", found);
    }

    #[test]
    fn one_resource_too_few_is_found_in_any_plan((mut snapshot, plan, chosen) in assigned()) {
        let MemberAssignment { node, .. } = &plan.assignments[chosen].members[0];
        let node = snapshot.nodes.iter_mut().find(|one| one.name == *node).unwrap();
        // One pod needs one pod's place, so without places the node has one too few at least.
        node.allocatable = Resources { pods: node.used.pods, ..node.allocatable };
        let found = check(&snapshot, &plan);
        let named = found.iter().any(|one| matches!(one, Violation::OverCommitted { resource: "pods", .. }));
        prop_assert!(named, "{:?}", found);
    }
}
