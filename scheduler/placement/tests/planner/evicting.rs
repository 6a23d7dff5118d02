//! Who makes place for whom, and which nodes are emptied.

use crate::fixtures::{NOW, bought, gang, market, node, offer, pod, snapshot, with_priority};
use kaito_placement::check::{check, check_evictions};
use kaito_placement::eviction::{self, Occupants, Running, RunningMember};
use kaito_placement::plan::EvictionPlan;
use kaito_placement::planner;
use kaito_placement::snapshot::{Demand, Node, Resources, Snapshot};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::{BTreeMap, BTreeSet};

/// A workload with one pod on each of `nodes`, each of `gpus` GPUs, running for ten minutes.
fn running(name: &str, nodes: &[&str], gpus: u64) -> Running {
    Running {
        name: format!("default/{name}"),
        preemptible: true,
        movable: true,
        started_seconds: NOW - 600,
        members: nodes
            .iter()
            .enumerate()
            .map(|(index, node)| RunningMember {
                pod: format!("{name}-{index}"),
                node: (*node).to_owned(),
            })
            .collect(),
        per_member: pod(gpus),
        ..Running::default()
    }
}

/// The nodes with what runs on them taken as used.
fn occupied(mut nodes: Vec<Node>, running: &[Running]) -> Vec<Node> {
    for one in running {
        for member in &one.members {
            for node in nodes.iter_mut().filter(|node| node.name == member.node) {
                node.used = node.used.saturating_add(&one.per_member);
            }
        }
    }
    nodes
}

fn evict(snapshot: &Snapshot, occupants: &Occupants) -> EvictionPlan {
    let plan = planner::plan(snapshot);
    let evictions = eviction::plan(snapshot, &plan, occupants);
    assert_eq!(check_evictions(snapshot, &plan, occupants, &evictions), []);
    evictions
}

fn victims(evictions: &EvictionPlan) -> Vec<&str> {
    let victims = evictions.preemptions.iter().flat_map(|one| &one.victims);
    victims.map(|one| one.workload.as_str()).collect()
}

fn important(name: &str, members: usize, gpus: u64) -> Demand {
    with_priority(gang(name, members, gpus), 10)
}

fn occupants(running: Vec<Running>) -> Occupants {
    Occupants {
        running,
        most_moves: 100,
        ..Occupants::default()
    }
}

#[test]
fn the_youngest_of_the_least_important_leaves() {
    let mut all = vec![
        running("old", &["n"], 1),
        running("young", &["n"], 1),
        running("dear", &["n"], 1),
    ];
    all[0].started_seconds -= 1_000;
    all[2].priority = 5;
    all[2].started_seconds = NOW;
    let snapshot = snapshot(
        occupied(vec![node("n", 3)], &all),
        vec![important("a", 1, 1)],
    );
    assert_eq!(
        victims(&evict(&snapshot, &occupants(all))),
        ["default/young"]
    );
}

#[test]
fn one_large_victim_spares_the_small_ones_taken_before_it() {
    let mut all = vec![running("small", &["n"], 1), running("large", &["n"], 4)];
    all[1].started_seconds -= 1_000;
    let snapshot = snapshot(
        occupied(vec![node("n", 5)], &all),
        vec![important("a", 1, 4)],
    );
    assert_eq!(
        victims(&evict(&snapshot, &occupants(all))),
        ["default/large"]
    );
}

#[test]
fn a_gang_leaves_whole_and_a_gang_comes_whole() {
    let all = vec![running("gang", &["n1", "n2"], 2)];
    let nodes = occupied(vec![node("n1", 2), node("n2", 2)], &all);
    let snapshot = snapshot(nodes, vec![important("a", 2, 2)]);
    let evictions = evict(&snapshot, &occupants(all));
    assert_eq!(
        evictions.preemptions[0].victims[0].pods,
        ["gang-0", "gang-1"]
    );
    assert_eq!(evictions.preemptions[0].members.len(), 2);
}

#[test]
fn a_gang_that_would_not_fit_even_so_evicts_nobody() {
    let all = vec![running("one", &["n"], 1), running("other", &["n"], 1)];
    let nodes = occupied(vec![node("n", 2)], &all);
    let snapshot = snapshot(
        nodes,
        vec![important("huge", 3, 1), important("small", 1, 1)],
    );
    let evictions = evict(&snapshot, &occupants(all));
    assert_eq!(evictions.refusals[0].demand, "default/huge");
    assert_eq!(victims(&evictions).len(), 1, "the small one is not held up");
}

#[test]
fn a_queue_beyond_its_share_is_reclaimed_from_down_to_its_share_only() {
    let all: Vec<_> = (0..4)
        .map(|index| Running {
            queue: "a".to_owned(),
            ..running(&format!("r{index}"), &["n"], 1)
        })
        .collect();
    let nodes = occupied(vec![node("n", 4)], &all);
    let demands: Vec<_> = (0..4)
        .map(|index| gang(&format!("b{index}"), 1, 1))
        .collect();
    let snapshot = snapshot(nodes, demands);
    let occupants = Occupants {
        surplus_gpus: BTreeMap::from([("a".to_owned(), 3)]),
        reclaiming: snapshot
            .demands
            .iter()
            .map(|one| one.name.clone())
            .collect(),
        ..occupants(all)
    };
    let evictions = evict(&snapshot, &occupants);
    assert_eq!(evictions.preemptions.len(), 3);
    assert!(
        evictions.refusals[0]
            .reason
            .contains("within the queue's share")
    );
}

#[test]
fn the_node_with_the_fewest_pods_is_emptied_into_gaps_of_others() {
    let all = vec![
        running("x", &["claim-a"], 1),
        running("y", &["claim-b"], 1),
        running("z", &["claim-b"], 1),
    ];
    let nodes = occupied(vec![bought("claim-a", 4), bought("claim-b", 4)], &all);
    let snapshot = market(
        nodes,
        vec![],
        vec![kaito_placement::snapshot::InstanceType {
            name: "Standard_NC48ads_A100_v4".to_owned(),
            ..offer("", 4, 735)
        }],
    );
    let evictions = evict(&snapshot, &occupants(all));
    assert_eq!(evictions.consolidations.len(), 1);
    let emptied = &evictions.consolidations[0];
    assert_eq!(
        (emptied.node.as_str(), emptied.moves[0].to.as_str()),
        ("claim-a", "claim-b")
    );
    assert!(
        emptied.reason.contains("saves $7.35/h"),
        "{}",
        emptied.reason
    );
}

#[test]
fn own_nodes_protected_pods_and_parts_of_gangs_are_left_where_they_are() {
    let mut all = vec![
        running("own", &["mine"], 1),
        running("protected", &["claim-a"], 1),
        running("gang", &["claim-b", "claim-c"], 1),
        running("full", &["claim-d"], 4),
    ];
    all[1].budgets = vec!["none".to_owned()];
    all.push(Running {
        movable: false,
        ..running("settled", &["claim-e"], 1)
    });
    let names = ["claim-a", "claim-b", "claim-c", "claim-d", "claim-e"];
    let mut nodes: Vec<_> = names.iter().map(|name| bought(name, 4)).collect();
    nodes.push(node("mine", 4));
    let snapshot = snapshot(occupied(nodes, &all), vec![]);
    let evictions = evict(&snapshot, &occupants(all));
    assert_eq!(evictions.consolidations, []);
}

#[test]
fn what_has_just_started_is_not_moved_though_it_might_be_evicted() {
    let all = vec![running("x", &["claim-a"], 1), running("y", &["claim-b"], 1)];
    let nodes = occupied(vec![bought("claim-a", 4), bought("claim-b", 4)], &all);
    let snapshot = snapshot(nodes, vec![]);
    let settled = |seconds| Occupants {
        settled_after_seconds: seconds,
        ..occupants(all.clone())
    };
    assert_eq!(evict(&snapshot, &settled(601)).consolidations, []);
    assert_eq!(evict(&snapshot, &settled(600)).consolidations.len(), 1);
}

#[test]
fn a_gang_that_is_not_to_preempt_waits() {
    let all = vec![running("x", &["n"], 1)];
    let snapshot = snapshot(
        occupied(vec![node("n", 1)], &all),
        vec![important("polite", 1, 1), important("other", 1, 1)],
    );
    let occupants = Occupants {
        yielding: BTreeSet::from(["default/polite".to_owned()]),
        ..occupants(all)
    };
    let evictions = evict(&snapshot, &occupants);
    assert_eq!(evictions.preemptions[0].demand, "default/other");
    assert!(evictions.refusals[0].reason.contains("not to preempt"));
}

#[test]
fn while_a_gang_waits_for_room_no_node_is_emptied() {
    let all = vec![running("x", &["claim-a"], 1), running("y", &["claim-b"], 3)];
    let nodes = occupied(vec![bought("claim-a", 4), bought("claim-b", 4)], &all);
    let snapshot = snapshot(nodes, vec![gang("waits", 1, 4)]);
    let evictions = evict(&snapshot, &occupants(all));
    assert_eq!(evictions.consolidations, []);
    assert_eq!(evictions.refusals.len(), 1);
}

/// One thing that protects everybody who runs.
#[derive(Clone, Copy, Debug)]
enum Shield {
    Rank,
    Forbidden,
    Young,
    Budget,
}

fn shielded(mut one: Running, shield: Shield) -> Running {
    match shield {
        Shield::Rank => one.priority = 10,
        Shield::Forbidden => one.preemptible = false,
        Shield::Young => one.minimum_runtime_seconds = 601,
        Shield::Budget => one.budgets = vec!["pdb".to_owned()],
    }
    one
}

/// GPUs, priority and kind of budget; age, least runtime and queue; bits, and where its pods are.
type Tenant = (
    (u64, i32, usize),
    (i64, i64, &'static str),
    (u8, Vec<usize>),
);

fn any_tenant() -> impl Strategy<Value = Tenant> {
    (
        (1..=3_u64, 0..=12_i32, 0..=2_usize),
        (
            0..=800_i64,
            select(vec![0, 300, 700_i64]),
            select(vec!["", "a", "b"]),
        ),
        (any::<u8>(), vec(0..6_usize, 1..=3)),
    )
}

/// Settles a tenant where there is room for its pods; `None` if there is none at all.
fn settled(nodes: &mut [Node], index: usize, tenant: Tenant) -> Option<Running> {
    let ((gpus, priority, kind), (age, least, queue), (bits, spots)) = tenant;
    let mut names: Vec<String> = Vec::new();
    let count = nodes.len();
    for spot in spots {
        let node = &mut nodes[spot % count];
        let free = node.allocatable.saturating_sub(&node.used);
        if free.holds(&pod(gpus)) > 0 {
            node.used = node.used.saturating_add(&pod(gpus));
            names.push(node.name.clone());
        }
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    (!names.is_empty()).then(|| Running {
        priority,
        preemptible: bits & 7 != 0,
        movable: bits & 56 != 0,
        started_seconds: NOW - age,
        minimum_runtime_seconds: least,
        queue: queue.to_owned(),
        budgets: match kind {
            0 => vec![],
            1 => vec!["wide".to_owned()],
            _ => vec!["wide".to_owned(), "narrow".to_owned()],
        },
        ..running(&format!("r{index}"), &names, gpus)
    })
}

/// Members, GPUs, priority, whether they spread, whether their queue reclaims.
type Wish = (usize, u64, i32, bool, bool);

/// The demands, and the names of those that reclaim and of those that have nobody evicted.
fn wished(wishes: Vec<Wish>) -> (Vec<Demand>, BTreeSet<String>, BTreeSet<String>) {
    let (mut reclaiming, mut yielding) = (BTreeSet::new(), BTreeSet::new());
    let demands = (0..)
        .zip(wishes)
        .map(|(index, (members, gpus, priority, spread, reclaims))| {
            let mut demand = with_priority(gang(&format!("d{index}"), members, gpus), priority);
            demand.constraints.spread = spread;
            if reclaims {
                reclaiming.insert(demand.name.clone());
            } else if priority % 5 == 4 {
                yielding.insert(demand.name.clone());
            }
            demand
        })
        .collect();
    (demands, reclaiming, yielding)
}

fn any_node_of(index: usize, (gpus, ours): (u64, bool)) -> Node {
    if ours {
        bought(&format!("n{index}"), gpus)
    } else {
        node(&format!("n{index}"), gpus)
    }
}

/// Whatever can be said about a small cluster and who runs there.
fn any_world() -> impl Strategy<Value = (Snapshot, Occupants)> {
    let wish = (
        1..=3_usize,
        1..=4_u64,
        0..=12_i32,
        any::<bool>(),
        any::<bool>(),
    );
    let limits = (0..=3_u64, 0..=4_u64, 0..=5_u64, select(vec![0, 300_i64]));
    let nodes = vec((1..=6_u64, any::<bool>()), 1..=5);
    (nodes, vec(any_tenant(), 0..=8), vec(wish, 0..=4), limits).prop_map(
        |(nodes, tenants, wishes, limits)| {
            let (budget, surplus, most_moves, settled_after_seconds) = limits;
            let mut nodes: Vec<Node> = (0..)
                .zip(nodes)
                .map(|(index, shape)| any_node_of(index, shape))
                .collect();
            let running = (0..)
                .zip(tenants)
                .filter_map(|(index, tenant)| settled(&mut nodes, index, tenant))
                .collect();
            let (demands, reclaiming, yielding) = wished(wishes);
            let budgets = [("wide", budget * 2), ("narrow", budget)];
            let occupants = Occupants {
                running,
                budgets: budgets.map(|(name, left)| (name.to_owned(), left)).into(),
                surplus_gpus: BTreeMap::from([("a".to_owned(), surplus)]),
                reclaiming,
                yielding,
                most_moves,
                settled_after_seconds,
            };
            (snapshot(nodes, demands), occupants)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: ProptestConfig::default().cases.max(10_000), ..ProptestConfig::default() })]

    /// No over-commit, no half gang, no budget overdrawn, nobody protected touched, nobody who could be spared.
    #[test]
    fn no_eviction_breaks_a_rule((snapshot, occupants) in any_world()) {
        let plan = planner::plan(&snapshot);
        let evictions = eviction::plan(&snapshot, &plan, &occupants);
        prop_assert_eq!(check_evictions(&snapshot, &plan, &occupants, &evictions), []);
    }

    #[test]
    fn the_same_world_in_any_order_gives_the_same_evictions(
        (snapshot, occupants) in any_world(),
        turn in 0..8_usize,
    ) {
        let plan = planner::plan(&snapshot);
        let (mut other_snapshot, mut other) = (snapshot.clone(), occupants.clone());
        other_snapshot.nodes.reverse();
        let places = other.running.len().max(1);
        other.running.rotate_left(turn % places);
        let one = eviction::plan(&snapshot, &plan, &occupants);
        prop_assert_eq!(&one, &eviction::plan(&other_snapshot, &plan, &other));
        let text = serde_json::to_string(&one).unwrap();
        prop_assert_eq!(serde_json::from_str::<EvictionPlan>(&text).unwrap(), one);
    }

    /// Once the victims are gone, the planner itself places those that they left for.
    #[test]
    fn whoever_is_made_place_for_is_placed_when_the_victims_are_gone(
        (snapshot, occupants) in any_world(),
    ) {
        let plan = planner::plan(&snapshot);
        let evictions = eviction::plan(&snapshot, &plan, &occupants);
        let Some(first) = evictions.preemptions.first() else {
            return Ok(());
        };
        let gone: BTreeSet<_> = first.victims.iter().map(|one| one.workload.as_str()).collect();
        let mut after = snapshot.clone();
        for node in &mut after.nodes {
            let leave = occupants.running.iter().filter(|one| gone.contains(one.name.as_str()));
            for one in leave {
                let pods = one.members.iter().filter(|member| member.node == node.name).count();
                node.used = node.used.saturating_sub(&one.per_member.times(pods as u64));
            }
        }
        for assignment in &plan.assignments {
            let demand = snapshot.demands.iter().find(|one| one.name == assignment.demand).unwrap();
            for member in &assignment.members {
                let mut nodes = after.nodes.iter_mut();
                let node = nodes.find(|node| node.name == member.node).unwrap();
                node.used = node.used.saturating_add(&demand.per_member);
            }
        }
        after.demands.retain(|one| one.name == first.demand);
        let placed = planner::plan(&after);
        prop_assert_eq!(check(&after, &placed), []);
        prop_assert_eq!(placed.assignments.len(), 1);
    }

    /// The refusal names what protects the tenants, and without that the gang gets their place.
    #[test]
    fn the_protection_that_is_named_is_the_only_one(
        shield in select(vec![Shield::Rank, Shield::Forbidden, Shield::Young, Shield::Budget]),
        tenants in 1..=4_usize,
        gpus in 1..=2_u64,
    ) {
        let total = tenants as u64 * gpus;
        let bare: Vec<_> = (0..tenants)
            .map(|index| running(&format!("r{index}"), &["n"], gpus))
            .collect();
        let nodes = occupied(vec![node("n", total)], &bare);
        let snapshot = snapshot(nodes, vec![important("a", 1, total)]);
        let open = evict(&snapshot, &occupants(bare.clone()));
        prop_assert_eq!(victims(&open).len(), tenants);
        let safe = bare.into_iter().map(|one| shielded(one, shield)).collect();
        let refused = evict(&snapshot, &occupants(safe));
        let words = match shield {
            Shield::Rank => "of equal or higher priority",
            Shield::Forbidden => "not preemptible",
            Shield::Young => "younger than the minimum runtime",
            Shield::Budget => "held by a disruption budget",
        };
        prop_assert_eq!(refused.preemptions.len(), 0);
        prop_assert!(refused.refusals[0].reason.contains(words), "{:?}", refused.refusals);
        let others = ["equal or higher", "not preemptible", "younger", "budget", "too little"];
        let named = others.iter().filter(|one| refused.refusals[0].reason.contains(**one)).count();
        prop_assert_eq!(named, 1);
    }
}

/// The properties above say little if nothing ever happens.
#[test]
fn arbitrary_worlds_reach_every_kind_of_eviction() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeMap::<&str, u32>::new();
    for _ in 0..1_000 {
        let (snapshot, occupants) = any_world().new_tree(&mut runner).unwrap().current();
        let evictions = evict(&snapshot, &occupants);
        let many = evictions
            .preemptions
            .iter()
            .any(|one| one.victims.len() > 1);
        let reclaimed = evictions
            .preemptions
            .iter()
            .flat_map(|one| &one.victims)
            .any(|one| one.reason.contains("share"));
        let facts = [
            (!evictions.preemptions.is_empty(), "preempted"),
            (many, "several victims"),
            (reclaimed, "reclaimed"),
            (!evictions.refusals.is_empty(), "refused"),
            (!evictions.consolidations.is_empty(), "consolidated"),
        ];
        for (_, name) in facts.into_iter().filter(|(holds, _)| *holds) {
            *seen.entry(name).or_default() += 1;
        }
    }
    // Five of a thousand here are fifty of the ten thousand cases above.
    let rare: Vec<_> = seen.iter().filter(|(_, count)| **count < 5).collect();
    assert!(rare.is_empty() && seen.len() == 5, "{seen:#?}");
}

type Fault = (&'static str, fn(&mut EvictionPlan, &mut Occupants));

/// What makes the plan of [`every_seeded_fault_in_an_eviction_plan_is_found`] unsound, and what the checker says then.
const FAULTS: [Fault; 9] = [
    ("not to preempt", |_, occupants| {
        occupants.yielding.insert("default/x".to_owned());
    }),
    ("could be spared", |plan, _| {
        let extra = kaito_placement::plan::Victim {
            workload: "default/a".to_owned(),
            pods: vec!["a-0".to_owned()],
            reason: String::new(),
        };
        plan.preemptions[0].victims.push(extra);
    }),
    ("does not leave whole", |plan, _| {
        plan.preemptions[0].victims[0].pods.clear()
    }),
    ("placed whole", |plan, _| {
        plan.preemptions[0].members.clear()
    }),
    ("no room", |plan, _| {
        plan.preemptions[0].members[0].node = "m".to_owned()
    }),
    ("no room", |plan, _| plan.preemptions[0].victims.clear()),
    ("budget", |_, occupants| {
        for one in &mut occupants.running {
            one.budgets = vec!["pdb".to_owned()];
        }
    }),
    ("may not be evicted", |_, occupants| {
        for one in &mut occupants.running {
            one.preemptible = false;
        }
    }),
    ("equal or higher priority", |_, occupants| {
        for one in &mut occupants.running {
            one.priority = 99;
        }
    }),
];

/// The checker is worth something only if it objects.
#[test]
fn every_seeded_fault_in_an_eviction_plan_is_found() {
    let mut all = vec![
        running("a", &["n"], 1),
        running("b", &["n"], 1),
        running("gang", &["n", "m"], 1),
    ];
    all[0].started_seconds -= 50;
    let nodes = occupied(vec![node("n", 3), node("m", 1)], &all);
    let world = snapshot(nodes, vec![important("x", 1, 1)]);
    let occupants = occupants(all);
    let plan = planner::plan(&world);
    let sound = eviction::plan(&world, &plan, &occupants);
    for (words, spoil) in FAULTS {
        let (mut evictions, mut occupants) = (sound.clone(), occupants.clone());
        spoil(&mut evictions, &mut occupants);
        let found = check_evictions(&world, &plan, &occupants, &evictions);
        let texts: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert!(
            texts.iter().any(|text| text.contains(words)),
            "{words}: {texts:?}"
        );
    }
    let nothing = Resources::default();
    assert_ne!(world.nodes[0].used, nothing, "somebody runs there");
}
