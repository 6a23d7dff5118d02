//! Who goes where now.

use crate::fixtures::{
    bought, busy, gang, launching, node, nodes_of, plan, pod, sku_taint, snapshot, tolerating_sku,
    waiting, with_priority,
};
use kaito_placement::plan::{Blocker, Hold, Place};
use kaito_placement::snapshot::{Constraints, Demand, Node, Resources, TaintEffect};
use std::collections::BTreeMap;

fn constrained(demand: Demand, constraints: Constraints) -> Demand {
    Demand {
        constraints,
        ..demand
    }
}

fn labels(key: &str, value: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(key.to_owned(), value.to_owned())])
}

#[test]
fn two_one_gpu_demands_share_a_two_gpu_node() {
    let plan = plan(&snapshot(
        vec![node("a", 2), node("b", 2)],
        vec![gang("one", 1, 1), gang("two", 1, 1)],
    ));
    assert_eq!(nodes_of(&plan, "one"), nodes_of(&plan, "two"));
}

#[test]
fn the_tightest_node_is_taken_first() {
    let nodes = vec![node("a", 8), busy(node("b", 4), 2), node("c", 4)];
    let plan = plan(&snapshot(nodes, vec![gang("one", 1, 2)]));
    assert_eq!(nodes_of(&plan, "one"), ["b"]);
}

#[test]
fn among_equal_rests_the_node_with_less_spare_memory_then_the_name_decides() {
    let mut small = node("z", 2);
    small.allocatable.memory_bytes /= 2;
    let nodes = vec![node("b", 2), node("a", 2), small];
    let demands = ["one", "two"].map(|name| gang(name, 1, 2)).to_vec();
    let plan = plan(&snapshot(nodes, demands));
    assert_eq!(nodes_of(&plan, "one"), ["z"]);
    assert_eq!(nodes_of(&plan, "two"), ["a"]);
}

#[test]
fn a_gang_fills_the_tightest_nodes_in_the_order_of_its_members() {
    let nodes = vec![node("a", 4), node("b", 1), node("c", 2)];
    let plan = plan(&snapshot(nodes, vec![gang("one", 5, 1)]));
    assert_eq!(nodes_of(&plan, "one"), ["b", "c", "c", "a", "a"]);
}

#[test]
fn a_gang_is_never_placed_in_part() {
    let plan = plan(&snapshot(vec![node("a", 2)], vec![gang("one", 3, 1)]));
    assert!(plan.assignments.is_empty());
    let Blocker::NoNodeFits {
        fitting_members, ..
    } = waiting(&plan, "one").blocker
    else {
        panic!("{plan:#?}");
    };
    assert_eq!(fitting_members, 2);
}

#[test]
fn priority_goes_before_age_and_age_before_name() {
    let aged = |name, created_seconds| Demand {
        created_seconds,
        ..gang(name, 1, 1)
    };
    let demands = vec![
        aged("b-new", 20),
        aged("c-old", 10),
        with_priority(aged("d-important", 30), 1),
        aged("a-new", 20),
    ];
    let plan = plan(&snapshot(vec![node("n", 4)], demands));
    let order: Vec<_> = plan.assignments.iter().map(|one| &one.demand).collect();
    assert_eq!(
        order,
        [
            "default/d-important",
            "default/c-old",
            "default/a-new",
            "default/b-new"
        ]
    );
}

#[test]
fn every_resource_counts_not_only_gpus() {
    let shortages = [
        Resources {
            milli_cpu: 1,
            ..pod(1)
        },
        Resources {
            memory_bytes: 1,
            ..pod(1)
        },
        Resources {
            ephemeral_bytes: 1,
            ..pod(1)
        },
        Resources { pods: 0, ..pod(1) },
        Resources { gpus: 0, ..pod(1) },
    ];
    for allocatable in shortages {
        let short = Node {
            allocatable,
            ..node("a", 1)
        };
        let plan = plan(&snapshot(vec![short], vec![gang("one", 1, 1)]));
        assert!(plan.assignments.is_empty(), "{allocatable:?}");
    }
}

#[test]
fn an_exactly_sized_node_is_enough() {
    let exact = Node {
        allocatable: pod(1),
        ..node("a", 1)
    };
    let plan = plan(&snapshot(vec![exact], vec![gang("one", 1, 1)]));
    assert_eq!(nodes_of(&plan, "one"), ["a"]);
}

#[test]
fn taints_are_tolerated_by_key_value_and_effect() {
    let tainted = Node {
        taints: vec![sku_taint()],
        ..node("a", 1)
    };
    let tolerant = |toleration| {
        constrained(
            gang("one", 1, 1),
            Constraints {
                tolerations: vec![toleration],
                ..Constraints::default()
            },
        )
    };
    let good = tolerating_sku();
    let mut everything = good.clone();
    (everything.key, everything.value) = (String::new(), None);
    let mut other_value = good.clone();
    other_value.value = Some("cpu".to_owned());
    let mut other_effect = good.clone();
    other_effect.effect = Some(TaintEffect::NoExecute);
    for (toleration, placed) in [
        (good, 1),
        (everything, 1),
        (other_value, 0),
        (other_effect, 0),
    ] {
        let demand = tolerant(toleration.clone());
        let plan = plan(&snapshot(vec![tainted.clone()], vec![demand]));
        assert_eq!(plan.assignments.len(), placed, "{toleration:?}");
    }
}

#[test]
fn prefer_no_schedule_keeps_nobody_away() {
    let mut taint = sku_taint();
    taint.effect = TaintEffect::PreferNoSchedule;
    let nodes = vec![Node {
        taints: vec![taint],
        ..node("a", 1)
    }];
    let plan = plan(&snapshot(nodes, vec![gang("one", 1, 1)]));
    assert_eq!(nodes_of(&plan, "one"), ["a"]);
}

#[test]
fn own_nodes_need_the_selectors_labels_but_bought_nodes_are_shared() {
    let demand = constrained(
        gang("one", 1, 1),
        Constraints {
            own_node_labels: labels("apps", "one"),
            ..Constraints::default()
        },
    );
    let on_own = plan(&snapshot(vec![node("a", 1)], vec![demand.clone()]));
    assert!(on_own.assignments.is_empty());
    let on_bought = plan(&snapshot(vec![bought("a", 1)], vec![demand.clone()]));
    assert_eq!(nodes_of(&on_bought, "one"), ["a"]);
    let labelled = Node {
        labels: labels("apps", "one"),
        ..node("a", 1)
    };
    let on_labelled = plan(&snapshot(vec![labelled], vec![demand]));
    assert_eq!(nodes_of(&on_labelled, "one"), ["a"]);
}

#[test]
fn the_pods_own_node_selector_holds_on_bought_nodes_too() {
    let demand = constrained(
        gang("one", 1, 1),
        Constraints {
            required_labels: labels("zone", "1"),
            ..Constraints::default()
        },
    );
    let plan = plan(&snapshot(vec![bought("a", 1)], vec![demand]));
    assert!(plan.assignments.is_empty());
}

#[test]
fn instance_types_are_compared_without_case_and_unknown_ones_do_not_pass() {
    let demand = constrained(
        gang("one", 1, 1),
        Constraints {
            instance_type: Some("standard_nc48ads_a100_V4".to_owned()),
            ..Constraints::default()
        },
    );
    let same = plan(&snapshot(vec![node("a", 1)], vec![demand.clone()]));
    assert_eq!(nodes_of(&same, "one"), ["a"]);
    for instance_type in [None, Some("Standard_NC6s_v3".to_owned())] {
        let other = Node {
            instance_type,
            ..node("a", 1)
        };
        let plan = plan(&snapshot(vec![other], vec![demand.clone()]));
        assert!(plan.assignments.is_empty());
    }
}

#[test]
fn too_little_gpu_memory_is_refused_and_unknown_memory_passes() {
    let demand = constrained(
        gang("one", 1, 1),
        Constraints {
            gpu_memory_bytes: 40 << 30,
            ..Constraints::default()
        },
    );
    for (gpu_memory_bytes, placed) in [(0, 1), (24 << 30, 0), (40 << 30, 1)] {
        let nodes = vec![Node {
            gpu_memory_bytes,
            ..node("a", 1)
        }];
        let plan = plan(&snapshot(nodes, vec![demand.clone()]));
        assert_eq!(plan.assignments.len(), placed, "{gpu_memory_bytes}");
    }
}

#[test]
fn spread_members_go_to_different_nodes_and_not_to_where_one_is() {
    let demand = Demand {
        placed_on: vec!["a".to_owned()],
        ..constrained(
            gang("one", 2, 1),
            Constraints {
                spread: true,
                ..Constraints::default()
            },
        )
    };
    let nodes = vec![node("a", 8), node("b", 8), node("c", 8)];
    let plan = plan(&snapshot(nodes, vec![demand]));
    assert_eq!(nodes_of(&plan, "one"), ["b", "c"]);
}

#[test]
fn cordoned_nodes_get_nobody() {
    let cordoned = Node {
        available: false,
        unavailable_reason: "cordoned".to_owned(),
        ..node("a", 8)
    };
    let plan = plan(&snapshot(vec![cordoned], vec![gang("one", 1, 1)]));
    assert!(plan.assignments.is_empty());
    assert!(plan.holds.is_empty());
}

#[test]
fn a_gang_that_waits_for_a_launching_node_holds_its_free_places() {
    let demands = vec![with_priority(gang("large", 2, 2), 1), gang("small", 1, 1)];
    let nodes = vec![node("here", 2), launching("coming", 2)];
    let plan = plan(&snapshot(nodes, demands));
    assert_eq!(
        waiting(&plan, "large").blocker,
        Blocker::NodesLaunching {
            claims: vec!["coming".to_owned()],
            ordered: 0,
            leaving: vec![],
        }
    );
    let hold = |name: &str| Hold {
        demand: "default/large".to_owned(),
        place: Place::Node {
            name: name.to_owned(),
        },
        members: 1,
    };
    assert_eq!(plan.holds, [hold("here"), hold("coming")]);
    waiting(&plan, "small");
}

#[test]
fn a_gang_that_can_never_run_holds_nothing_and_blocks_nobody() {
    let demands = vec![with_priority(gang("huge", 9, 8), 9), gang("small", 1, 1)];
    let plan = plan(&snapshot(vec![node("a", 8)], demands));
    assert_eq!(nodes_of(&plan, "small"), ["a"]);
}

#[test]
fn an_overfull_node_is_not_a_reason_to_panic() {
    let plan = plan(&snapshot(
        vec![busy(node("a", 2), 5)],
        vec![gang("one", 1, 1)],
    ));
    assert!(plan.assignments.is_empty());
}

#[test]
fn an_empty_snapshot_gives_an_empty_plan() {
    let plan = plan(&snapshot(vec![], vec![]));
    assert_eq!(plan, kaito_placement::plan::Plan::default());
}

#[test]
fn room_that_pods_are_leaving_is_kept_for_the_first_in_order() {
    let left = Node {
        available: false,
        expected: true,
        leaving_pods: 1,
        ..node("left", 2)
    };
    // One place of the large gang is free already; whoever was evicted from it must not come back to it meanwhile.
    let demands = vec![with_priority(gang("large", 2, 2), 1), gang("evicted", 1, 2)];
    let plan = plan(&snapshot(vec![node("free", 2), left], demands));
    let large = waiting(&plan, "large");
    assert_eq!(
        large.blocker,
        Blocker::NodesLaunching {
            claims: vec![],
            ordered: 0,
            leaving: vec!["left".to_owned()],
        }
    );
    assert!(large.message.ends_with("waits for 1 pod to leave left"));
    waiting(&plan, "evicted");
}
