//! Which of the nodes that would do: those that the pods to expect can use least.

use crate::fixtures::{GIB, gang, node, nodes_of, plan, pod, snapshot};
use kaito_placement::snapshot::{Constraints, Demand, ExpectedPods, Node, Resources, Snapshot};

fn expected(pods: u64, per_member: Resources) -> ExpectedPods {
    ExpectedPods {
        pods,
        per_member,
        ..ExpectedPods::default()
    }
}

fn expecting(snapshot: Snapshot, expected: Vec<ExpectedPods>) -> Snapshot {
    Snapshot {
        expected,
        ..snapshot
    }
}

fn with_used(node: Node, gpus: u64) -> Node {
    Node {
        used: pod(gpus),
        ..node
    }
}

/// Two GPUs are free on `a`, four on `b`.
#[test]
fn without_an_expectation_the_tightest_node_is_taken() {
    let nodes = vec![with_used(node("a", 8), 6), with_used(node("b", 8), 4)];
    let plan = plan(&snapshot(nodes, vec![gang("one", 1, 1)]));
    assert_eq!(nodes_of(&plan, "one"), ["a"]);
}

/// Three GPUs are free on `a`, two on `b`, where a pair still fits. Pairs are what comes: the third GPU of `a` is of no
/// use to them.
#[test]
fn a_gpu_that_nobody_else_could_use_is_taken_first() {
    let nodes = || vec![with_used(node("a", 8), 5), with_used(node("b", 8), 6)];
    let demands = || vec![gang("one", 1, 1)];
    let blind = plan(&snapshot(nodes(), demands()));
    assert_eq!(nodes_of(&blind, "one"), ["b"]);
    let pairs = vec![expected(20, pod(2))];
    let seeing = plan(&expecting(snapshot(nodes(), demands()), pairs));
    assert_eq!(nodes_of(&seeing, "one"), ["a"]);
}

/// Two kinds of machine would do, and the smaller is the tighter fit; but pods come that can go there only.
#[test]
fn a_scarce_kind_of_machine_is_kept_for_those_who_can_go_nowhere_else() {
    let scarce = |name: &str| Node {
        instance_type: Some("Scarce".to_owned()),
        allocatable: Resources {
            memory_bytes: 200 * GIB,
            ..node(name, 1).allocatable
        },
        ..node(name, 1)
    };
    let nodes = || {
        let mut all = vec![scarce("a")];
        all.extend(["b", "c", "d"].map(|name| node(name, 1)));
        all
    };
    let picky = ExpectedPods {
        constraints: Constraints {
            instance_type: Some("scarce".to_owned()),
            ..Constraints::default()
        },
        ..expected(30, pod(1))
    };
    let easy = expected(10, pod(1));
    let demands = || vec![gang("easy", 1, 1)];
    let blind = plan(&snapshot(nodes(), demands()));
    assert_eq!(nodes_of(&blind, "easy"), ["a"]);
    let seeing = plan(&expecting(
        snapshot(nodes(), demands()),
        vec![picky.clone(), easy],
    ));
    assert_eq!(nodes_of(&seeing, "easy"), ["b"]);
    // Whoever is picky still gets it.
    let wish = Demand {
        constraints: picky.constraints.clone(),
        ..gang("picky", 1, 1)
    };
    let served = plan(&expecting(snapshot(nodes(), vec![wish]), vec![picky]));
    assert_eq!(nodes_of(&served, "picky"), ["a"]);
}

/// A pod that asks for much CPU takes it where the GPUs beside it keep enough: `a` is the tighter fit, but would be left
/// with a GPU and ten cores, and twelve is what a GPU needs here.
#[test]
fn cpu_is_taken_where_the_gpus_beside_it_keep_enough() {
    let cores = |cores: u64, gpus| Resources {
        milli_cpu: cores * 1_000,
        ..pod(gpus)
    };
    let nodes = || {
        let mut tight = node("a", 2);
        tight.allocatable.milli_cpu = 110_000;
        vec![tight, with_used(node("b", 8), 5)]
    };
    let demands = || {
        vec![Demand {
            per_member: cores(100, 1),
            ..gang("hungry", 1, 1)
        }]
    };
    let blind = plan(&snapshot(nodes(), demands()));
    assert_eq!(nodes_of(&blind, "hungry"), ["a"]);
    let usual = vec![expected(30, cores(12, 1))];
    let seeing = plan(&expecting(snapshot(nodes(), demands()), usual));
    assert_eq!(nodes_of(&seeing, "hungry"), ["b"]);
}

/// Three GPUs are free on `a` and `b`, four on `c`: two single pods take the third of each, and no pair is lost.
#[test]
fn every_member_of_a_gang_is_judged_anew() {
    let nodes = vec![
        with_used(node("a", 8), 5),
        with_used(node("b", 8), 5),
        with_used(node("c", 8), 4),
    ];
    let pairs = vec![expected(20, pod(2))];
    let seeing = expecting(snapshot(nodes, vec![gang("two", 2, 1)]), pairs);
    assert_eq!(nodes_of(&plan(&seeing), "two"), ["a", "b"]);
}

/// Machines that the engine has no model for are used like any other, by tightness.
#[test]
fn a_machine_with_more_gpus_than_the_engine_knows_is_still_used() {
    let seeing = expecting(
        snapshot(vec![node("huge", 72)], vec![gang("one", 2, 36)]),
        vec![expected(20, pod(2))],
    );
    assert_eq!(nodes_of(&plan(&seeing), "one"), ["huge", "huge"]);
}
