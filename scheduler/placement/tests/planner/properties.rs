//! What holds for every snapshot.

use crate::fixtures::{gang, market, node, offer, with_priority};
use crate::snapshots::{any_demand, any_node, any_snapshot};
use kaito_placement::check::check;
use kaito_placement::plan::{Blocker, Plan, PlannedNode};
use kaito_placement::planner::{Limits, plan, plan_within};
use kaito_placement::snapshot::{Demand, Node, Purchase, Snapshot};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::{BTreeMap, BTreeSet};

/// How well a demand fares: 2 placed, 1 promised nodes to come, 0 neither.
fn fortune(plan: &Plan, demand: &str) -> u8 {
    if plan.assignments.iter().any(|one| one.demand == demand) {
        return 2;
    }
    let mut waiting = plan.waiting.iter().filter(|one| one.demand == demand);
    waiting
        .any(|one| matches!(one.blocker, Blocker::NodesLaunching { .. }))
        .into()
}

/// Micro-dollars per hour of what is ordered; what has no price costs nothing here.
fn cost(snapshot: &Snapshot, plan: &Plan) -> u64 {
    let price = |purchase: &PlannedNode| {
        let mut catalogue = snapshot.catalogue.iter();
        let sold = catalogue.find(|one| {
            (&one.name, &one.zone, one.capacity_type)
                == (
                    &purchase.instance_type,
                    &purchase.zone,
                    purchase.capacity_type,
                )
        });
        sold.and_then(|one| one.price_micro_dollars).unwrap_or(0)
    };
    plan.purchases.iter().map(price).sum()
}

fn in_planning_order(snapshot: &Snapshot) -> Vec<&Demand> {
    let mut demands: Vec<_> = snapshot.demands.iter().collect();
    demands.sort_by_key(|one| (-one.priority, one.created_seconds, &one.name));
    demands
}

fn with_node(snapshot: &Snapshot, node: Node) -> Snapshot {
    let mut larger = snapshot.clone();
    larger.nodes.push(Node {
        name: "node-more".to_owned(),
        claim: node.claim.map(|_| "claim-more".to_owned()),
        available: true,
        ..node
    });
    larger
}

fn shuffled() -> impl Strategy<Value = (Snapshot, Snapshot)> {
    any_snapshot().prop_flat_map(|snapshot| {
        let nodes = Just(snapshot.nodes.clone()).prop_shuffle();
        let demands = Just(snapshot.demands.clone()).prop_shuffle();
        let expected = Just(snapshot.expected.clone()).prop_shuffle();
        let catalogue = Just(snapshot.catalogue.clone()).prop_shuffle();
        (Just(snapshot), nodes, demands, expected, catalogue).prop_map(
            |(snapshot, nodes, demands, expected, catalogue)| {
                let other = Snapshot {
                    nodes,
                    demands,
                    expected,
                    catalogue,
                    ..snapshot.clone()
                };
                (snapshot, other)
            },
        )
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: ProptestConfig::default().cases.max(10_000), ..ProptestConfig::default() })]

    #[test]
    fn no_plan_over_commits_halves_a_gang_or_breaks_a_constraint(snapshot in any_snapshot()) {
        prop_assert_eq!(check(&snapshot, &plan(&snapshot)), []);
    }

    #[test]
    fn the_same_input_in_any_order_gives_the_same_plan((one, other) in shuffled()) {
        prop_assert_eq!(plan(&one), plan(&one));
        prop_assert_eq!(plan(&one), plan(&other));
    }

    #[test]
    fn a_plan_survives_being_written_and_read(snapshot in any_snapshot()) {
        let plan = plan(&snapshot);
        let text = serde_json::to_string(&plan).unwrap();
        prop_assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
        let text = serde_json::to_string(&snapshot).unwrap();
        prop_assert_eq!(serde_json::from_str::<Snapshot>(&text).unwrap(), snapshot);
    }

    /// Holds for the first in line in any company. It cannot hold for all: a gang that starts thanks to the new node
    /// may take places that smaller gangs behind it had in the meantime.
    #[test]
    fn one_more_node_never_makes_the_first_in_line_worse_off(
        snapshot in any_snapshot(),
        more in any_node(),
    ) {
        let Some(first) = in_planning_order(&snapshot).first().map(|one| &one.name) else {
            return Ok(());
        };
        let before = fortune(&plan(&snapshot), first);
        let after = fortune(&plan(&with_node(&snapshot, more)), first);
        prop_assert!(after >= before, "{} became {}", before, after);
    }

    /// With equal pods more capacity decides in favour of whoever comes first: at the first demand that fares
    /// differently, it fares better.
    #[test]
    fn one_more_node_is_never_a_loss_in_planning_order_among_equal_pods(
        sizes in vec((1..=4_usize, 0..=2_i32), 1..=6),
        gpus in vec(0..=4_u64, 0..=4),
        more in 1..=4_u64,
    ) {
        let demands = (0..).zip(sizes).map(|(index, (members, priority))| {
            with_priority(gang(&format!("d{index}"), members, 1), priority)
        });
        let nodes = (0..).zip(gpus).map(|(index, gpus)| node(&format!("n{index}"), gpus));
        let before = market(nodes.collect(), demands.collect(), vec![]);
        let mut after = before.clone();
        after.nodes.push(node("more", more));
        let fortunes = |snapshot: &Snapshot| -> Vec<u8> {
            let plan = plan(snapshot);
            let demands = in_planning_order(snapshot);
            demands.into_iter().map(|demand| fortune(&plan, &demand.name)).collect()
        };
        prop_assert!(fortunes(&after) >= fortunes(&before));
    }

    #[test]
    fn a_demand_that_fits_nowhere_changes_nothing_for_the_others(snapshot in any_snapshot()) {
        let mut crowded = snapshot.clone();
        crowded.demands.push(with_priority(gang("huge", 2, 1_000), 100));
        let mut with_huge = plan(&crowded);
        let first = with_huge.waiting.remove(0);
        prop_assert_eq!(first.demand, "default/huge");
        prop_assert_eq!(with_huge, plan(&snapshot));
    }

    /// What is bought together may change with who buys; who has a place to wait for does not.
    #[test]
    fn whoever_comes_last_takes_nothing_from_those_before(
        snapshot in any_snapshot(),
        last in any_demand(),
    ) {
        let mut longer = snapshot.clone();
        longer.demands.push(Demand {
            name: "ns/last".to_owned(),
            uid: "uid-last".to_owned(),
            priority: -1,
            ..last
        });
        let (alone, together) = (plan(&snapshot), plan(&longer));
        prop_assert!(together.assignments.starts_with(&alone.assignments));
        for demand in snapshot.demands.iter().filter(|one| one.purchase != Purchase::Never) {
            let (before, after) = (fortune(&alone, &demand.name), fortune(&together, &demand.name));
            prop_assert!(after >= before, "{} fared {before}, now {after}", demand.name);
        }
    }

    #[test]
    fn alone_in_buying_nobody_is_changed_by_whoever_comes_last(
        snapshot in any_snapshot(),
        last in any_demand(),
    ) {
        let each_for_itself = Limits { purchase_steps: 0 };
        let mut longer = snapshot.clone();
        longer.demands.push(Demand {
            name: "ns/last".to_owned(),
            uid: "uid-last".to_owned(),
            priority: -1,
            ..last
        });
        let alone = plan_within(&snapshot, &each_for_itself);
        let together = plan_within(&longer, &each_for_itself);
        prop_assert!(together.assignments.starts_with(&alone.assignments));
        prop_assert!(together.waiting.starts_with(&alone.waiting));
        prop_assert!(together.holds.starts_with(&alone.holds));
        prop_assert!(together.purchases.len() >= alone.purchases.len());
    }

    #[test]
    fn buying_together_never_costs_more_and_never_costs_anybody_a_place(snapshot in any_snapshot()) {
        let (together, alone) = (plan(&snapshot), plan_within(&snapshot, &Limits { purchase_steps: 0 }));
        prop_assert_eq!(check(&snapshot, &alone), []);
        prop_assert!(cost(&snapshot, &together) <= cost(&snapshot, &alone));
        prop_assert_eq!(&together.assignments, &alone.assignments);
        for demand in &snapshot.demands {
            prop_assert!(fortune(&together, &demand.name) >= fortune(&alone, &demand.name));
        }
    }

    /// What was ordered arrives, and the next plan finds everybody a place without buying again.
    #[test]
    fn a_purchase_is_made_once(sizes in vec(1..=6_usize, 1..=8), gpus in 1..=4_u64) {
        let demands = (0..).zip(sizes).map(|(index, members)| {
            crate::fixtures::buying(gang(&format!("d{index}"), members, 1), "Type")
        });
        let before = market(vec![], demands.collect(), vec![offer("Type", gpus, 100)]);
        let bought = plan(&before).purchases;
        let arrived = |available| {
            let nodes = (0..).zip(&bought).map(|(index, purchase)| Node {
                instance_type: Some(purchase.instance_type.clone()),
                available,
                ..crate::fixtures::launching(&format!("claim-{index}"), gpus)
            });
            plan(&Snapshot { nodes: nodes.collect(), ..before.clone() })
        };
        prop_assert_eq!(arrived(false).purchases, []);
        prop_assert_eq!(arrived(false).assignments, []);
        prop_assert_eq!(arrived(true).assignments.len(), before.demands.len());
    }
}

/// The properties above say little if the snapshots are all alike.
#[test]
fn arbitrary_snapshots_reach_every_outcome_often() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeMap::<&str, u32>::new();
    for _ in 0..1_000 {
        let snapshot = any_snapshot().new_tree(&mut runner).unwrap().current();
        for outcome in outcomes(&plan(&snapshot)) {
            *seen.entry(outcome).or_default() += 1;
        }
    }
    let rare: Vec<_> = seen.iter().filter(|(_, count)| **count < 20).collect();
    assert!(rare.is_empty() && seen.len() == 11, "{seen:#?}");
}

fn outcomes(plan: &Plan) -> BTreeSet<&'static str> {
    let blockers = plan.waiting.iter().map(|one| match one.blocker {
        Blocker::NodesLaunching { ordered: 0, .. } => "launching",
        Blocker::NodesLaunching { .. } => "ordered",
        Blocker::NoNodeFits { .. } => "no node fits",
        Blocker::NoInstanceTypeFits { .. } => "no type fits",
        Blocker::UnknownInstanceType { .. } => "unknown type",
        Blocker::OffersBlocked { .. } => "offers blocked",
    });
    let facts = [
        (!plan.assignments.is_empty(), "assigned"),
        (
            plan.assignments.iter().any(|one| one.members.len() > 1),
            "gang assigned",
        ),
        (!plan.releases.is_empty(), "released"),
        (
            plan.purchases.iter().any(|one| one.for_demands.len() > 1),
            "purchase shared",
        ),
        (plan.next_change_seconds.is_some(), "next change"),
    ];
    let facts = facts.into_iter().filter(|(holds, _)| *holds);
    blockers.chain(facts.map(|(_, name)| name)).collect()
}

#[test]
fn a_thousand_demands_on_a_thousand_nodes_are_all_placed() {
    let nodes = (0..1_000).map(|index| node(&format!("n{index:04}"), 8));
    let demands = (0..1_000).map(|index| gang(&format!("d{index:04}"), 2, 4));
    let snapshot = market(nodes.collect(), demands.collect(), vec![]);
    let plan = plan(&snapshot);
    assert_eq!(plan.assignments.len(), 1_000);
    assert_eq!(check(&snapshot, &plan), []);
}

#[test]
fn a_thousand_demands_that_fit_on_none_of_a_thousand_nodes_are_all_explained() {
    let nodes = (0..1_000).map(|index| node(&format!("n{index:04}"), 4));
    let demands = (0..1_000).map(|index| gang(&format!("d{index:04}"), 2, 8));
    let snapshot = market(nodes.collect(), demands.collect(), vec![]);
    let plan = plan(&snapshot);
    assert_eq!(plan.waiting.len(), 1_000);
    assert!(
        plan.waiting
            .iter()
            .all(|one| one.message.contains("1000 have GPUs 4 < 8"))
    );
}
