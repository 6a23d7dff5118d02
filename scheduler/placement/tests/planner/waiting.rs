//! What waiting gangs are told: sentences with counts, in a stable order, with a way out.

use crate::fixtures::{
    GIB, NOW, busy, buying, buying_cheapest, gang, launching, market, node, offer, plan, refused,
    sku_taint, snapshot, waiting, with_priority,
};
use kaito_placement::plan::{Blocker, Excluded};
use kaito_placement::snapshot::{Constraints, Demand, Node, Snapshot};

fn of_40_gib(demand: Demand) -> Demand {
    Demand {
        constraints: Constraints {
            gpu_memory_bytes: 40 * GIB,
            ..demand.constraints
        },
        ..demand
    }
}

fn small_gpu(name: &str) -> Node {
    Node {
        gpu_memory_bytes: 24 * GIB,
        ..node(name, 1)
    }
}

fn tainted(name: &str) -> Node {
    Node {
        taints: vec![sku_taint()],
        ..node(name, 2)
    }
}

#[test]
fn nodes_are_counted_once_each_under_the_first_constraint_they_fail() {
    let both = Node {
        gpu_memory_bytes: 24 * GIB,
        ..tainted("d")
    };
    let nodes = vec![
        small_gpu("a"),
        small_gpu("b"),
        small_gpu("c"),
        tainted("e"),
        both,
    ];
    let plan = plan(&snapshot(nodes, vec![of_40_gib(gang("x", 2, 1))]));
    let waiting = waiting(&plan, "x");
    let excluded = |constraint: &str, count| Excluded {
        constraint: constraint.to_owned(),
        count,
    };
    assert_eq!(
        waiting.blocker,
        Blocker::NoNodeFits {
            excluded: vec![
                excluded("GPU memory 24 < 40 GiB", 3),
                excluded("taint sku=gpu:NoSchedule not tolerated", 2),
            ],
            fitting_members: 0
        }
    );
    assert_eq!(
        waiting.message,
        "needs 2 pods × 1 GPU of ≥ 40 GiB; 5 nodes: 3 have GPU memory 24 < 40 GiB, \
         2 have taint sku=gpu:NoSchedule not tolerated; \
         cheapest unblock: tolerate the taints of node e"
    );
}

#[test]
fn scattered_gpus_are_called_fragmented() {
    let nodes = vec![
        busy(node("a", 2), 1),
        busy(node("b", 2), 1),
        busy(node("c", 2), 2),
    ];
    let plan = plan(&snapshot(nodes, vec![gang("x", 1, 2)]));
    assert_eq!(
        waiting(&plan, "x").message,
        "needs 1 pod × 2 GPUs; 3 nodes: 2 fragmented: largest free block 1 of 2 GPUs, \
         1 has free GPUs 0 < 2; cheapest unblock: free room for 1 more pod on node a"
    );
}

#[test]
fn too_few_gpus_are_not_called_fragmented() {
    let nodes = vec![busy(node("a", 4), 3), busy(node("b", 4), 3)];
    let plan = plan(&snapshot(nodes, vec![gang("x", 1, 3)]));
    let message = &waiting(&plan, "x").message;
    assert!(message.contains("2 have free GPUs 1 < 3"), "{message}");
}

#[test]
fn a_gang_that_fits_in_part_is_told_how_far() {
    let plan = plan(&snapshot(vec![node("a", 2)], vec![gang("x", 3, 1)]));
    assert_eq!(
        waiting(&plan, "x").message,
        "needs 3 pods × 1 GPU; 1 node, 2 of 3 pods would fit; \
         cheapest unblock: add nodes with room for 3 pods × 1 GPU"
    );
}

#[test]
fn a_cordoned_node_that_would_do_is_the_way_out() {
    let cordoned = Node {
        available: false,
        unavailable_reason: "cordoned".to_owned(),
        ..node("a", 2)
    };
    let plan = plan(&snapshot(vec![cordoned], vec![gang("x", 1, 1)]));
    assert_eq!(
        waiting(&plan, "x").message,
        "needs 1 pod × 1 GPU; 1 node: 1 cordoned; cheapest unblock: make node a available"
    );
}

#[test]
fn without_nodes_the_cheapest_purchase_is_the_way_out() {
    let catalogue = vec![offer("One", 1, 367), offer("Two", 2, 735)];
    let plan = plan(&market(vec![], vec![gang("x", 1, 1)], catalogue));
    assert_eq!(
        waiting(&plan, "x").message,
        "needs 1 pod × 1 GPU; no nodes; cheapest unblock: buy One at $3.67/h"
    );
}

#[test]
fn launching_and_ordered_nodes_are_named() {
    let demands = vec![buying_cheapest(gang("x", 3, 1))];
    let nodes = vec![launching("ws-1", 1)];
    let plan = plan(&market(nodes, demands, vec![offer("One", 1, 367)]));
    assert_eq!(
        waiting(&plan, "x").message,
        "needs 3 pods × 1 GPU; waits for 1 node being launched (ws-1) and 2 × One ordered now"
    );
    assert_eq!(
        plan.purchases[0].reason,
        "2 × One at $3.67/h ($7.34/h in all): cheapest of 1 suitable type for 2 pods \
         of 3 pods × 1 GPU; no node there or on its way has room"
    );
}

#[test]
fn refused_offers_are_named_with_the_clouds_words() {
    let demands = vec![buying(gang("x", 1, 1), "One")];
    let blocked = refused(offer("One", 1, 367), NOW + 90, "quota exceeded");
    let catalogue = vec![blocked, offer("Two", 2, 735)];
    let plan = plan(&market(vec![], demands, catalogue));
    assert_eq!(
        waiting(&plan, "x").message,
        "needs 1 pod × 1 GPU; no nodes; refused by the cloud: One (quota exceeded); \
         next try in 90 s; cheapest unblock: use instance type Two at $7.35/h"
    );
}

#[test]
fn types_are_counted_under_the_constraint_that_excludes_them() {
    let demands = vec![buying_cheapest(gang("x", 1, 8))];
    let catalogue = vec![
        offer("One", 1, 367),
        offer("Two", 2, 735),
        offer("Uno", 1, 360),
    ];
    let plan = plan(&market(vec![], demands, catalogue));
    assert_eq!(
        waiting(&plan, "x").message,
        "needs 1 pod × 8 GPUs; no nodes; 3 instance types: 2 have GPUs 1 < 8, 1 has GPUs 2 < 8"
    );
}

#[test]
fn a_demand_behind_others_is_told_what_they_left_over() {
    let demands = vec![with_priority(gang("first", 1, 2), 1), gang("x", 1, 1)];
    let plan = plan(&snapshot(vec![node("a", 2)], demands));
    assert_eq!(
        waiting(&plan, "x").message,
        "needs 1 pod × 1 GPU; 1 node: 1 has free GPUs 0 < 1; \
         cheapest unblock: free room for 1 more pod on node a"
    );
}

#[test]
fn amounts_are_rounded_so_that_they_never_look_equal() {
    let mut short = node("a", 1);
    short.allocatable.memory_bytes = 16 * GIB - 1;
    let plan = plan(&Snapshot {
        ..snapshot(vec![short], vec![gang("x", 1, 1)])
    });
    let message = &waiting(&plan, "x").message;
    assert!(message.contains("has memory 15.9 < 16 GiB"), "{message}");
}
