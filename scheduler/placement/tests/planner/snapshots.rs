//! Arbitrary snapshots: small enough to collide often, wide enough to reach every branch.

use crate::fixtures::{GIB, NOW, sku_taint, tolerating_sku};
use kaito_placement::snapshot::{
    BlockedOffer, CapacityType, Constraints, Demand, ExpectedPods, InstanceType, Node, Purchase,
    Resources, Snapshot, Taint, TaintEffect, Toleration,
};
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::BTreeMap;

const TYPES: [&str; 3] = ["Alpha", "Beta", "Gamma"];

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    let pairs = btree_map(select(vec!["pool", "zone"]), select(vec!["x", "y"]), 0..=1);
    pairs.prop_map(|pairs| {
        let owned = pairs.into_iter();
        owned
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    })
}

fn taint() -> impl Strategy<Value = Taint> {
    let effects = vec![
        TaintEffect::NoSchedule,
        TaintEffect::NoExecute,
        TaintEffect::PreferNoSchedule,
    ];
    (select(vec!["sku", "team"]), select(effects)).prop_map(|(key, effect)| Taint {
        key: key.to_owned(),
        effect,
        ..sku_taint()
    })
}

fn toleration() -> impl Strategy<Value = Toleration> {
    (
        select(vec!["sku", "team", ""]),
        option::of(Just("gpu".to_owned())),
    )
        .prop_map(|(key, value)| Toleration {
            key: key.to_owned(),
            value,
            ..tolerating_sku()
        })
}

fn resources(gpus: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = Resources> {
    (gpus, 1..=16_u64, 1..=64_u64, 1..=100_u64, 1..=8_u64).prop_map(
        |(gpus, cores, memory, ephemeral, pods)| Resources {
            milli_cpu: cores * 1000,
            memory_bytes: memory * GIB,
            ephemeral_bytes: ephemeral * GIB,
            pods,
            gpus,
        },
    )
}

/// A node without a name.
pub(crate) fn any_node() -> impl Strategy<Value = Node> {
    let kind = (
        option::of(select(TYPES.to_vec())),
        select(vec![0, 24 * GIB, 80 * GIB]),
    );
    let state = select(vec![
        (true, false),
        (true, false),
        (false, true),
        (false, false),
    ]);
    (
        (labels(), vec(taint(), 0..=1), kind),
        (resources(0..=8), 0..=100_u64, state, any::<bool>()),
    )
        .prop_map(
            |((labels, taints, kind), (allocatable, percent, state, bought))| {
                let part = |amount: u64| {
                    if percent < 60 {
                        0
                    } else {
                        amount * percent / 100
                    }
                };
                Node {
                    name: String::new(),
                    labels,
                    taints,
                    instance_type: kind.0.map(str::to_owned),
                    gpu_memory_bytes: kind.1,
                    allocatable,
                    used: Resources {
                        milli_cpu: part(allocatable.milli_cpu),
                        memory_bytes: part(allocatable.memory_bytes),
                        ephemeral_bytes: part(allocatable.ephemeral_bytes),
                        pods: part(allocatable.pods),
                        gpus: part(allocatable.gpus),
                    },
                    available: state.0,
                    expected: state.1,
                    unavailable_reason: if state.0 { "" } else { "not there" }.to_owned(),
                    claim: bought.then(String::new),
                    // Half of the nodes on their way are there already, and pods are leaving them.
                    leaving_pods: u64::from(!state.0 && state.1 && percent % 2 == 0),
                }
            },
        )
}

fn constraints() -> impl Strategy<Value = Constraints> {
    // Most demands ask for little, or nearly every one of them would fit nowhere.
    let rarely = |strategy: BoxedStrategy<BTreeMap<String, String>>| prop_oneof![4 => Just(BTreeMap::new()), 1 => strategy];
    (
        rarely(labels().boxed()),
        rarely(labels().boxed()),
        prop_oneof![3 => Just(None), 1 => select(vec!["alpha", "BETA", "gamma", "delta"]).prop_map(Some)],
        select(vec![0, 0, 40 * GIB]),
        vec(toleration(), 0..=2),
        prop_oneof![3 => Just(false), 1 => Just(true)],
        prop_oneof![2 => Just(false), 1 => Just(true)],
    )
        .prop_map(|(own, required, kind, gpu_memory_bytes, tolerations, spread, accepts_spot)| Constraints {
            own_node_labels: own,
            required_labels: required,
            instance_type: kind.map(str::to_owned),
            gpu_memory_bytes,
            tolerations,
            spread,
            accepts_spot,
        })
}

/// A demand without a name.
pub(crate) fn any_demand() -> impl Strategy<Value = Demand> {
    let purchase = select(vec![Purchase::Never, Purchase::Fixed, Purchase::Cheapest]);
    let needs = (0..=4_u64, 1..=4_u64, 1..=16_u64, 1..=25_u64).prop_map(
        |(gpus, cores, memory, ephemeral)| Resources {
            milli_cpu: cores * 1000,
            memory_bytes: memory * GIB,
            ephemeral_bytes: ephemeral * GIB,
            pods: 1,
            gpus,
        },
    );
    (
        (0..=2_i32, 0..=3_i64, 1..=4_usize),
        (needs, constraints(), purchase, vec(0..6_usize, 0..=2)),
    )
        .prop_map(
            |((priority, age, members), (per_member, constraints, purchase, placed))| Demand {
                priority,
                created_seconds: age,
                members: (0..members).map(|index| format!("pod-{index}")).collect(),
                per_member,
                constraints,
                purchase,
                placed_on: placed.into_iter().map(node_name).collect(),
                ..Demand::default()
            },
        )
}

fn instance_type(name: &'static str) -> impl Strategy<Value = InstanceType> {
    let blocked = option::weighted(0.3, -50..=50_i64);
    let price = option::weighted(0.9, 1..=20_u64);
    (
        resources(0..=8),
        select(vec![0, 24 * GIB, 80 * GIB]),
        price,
        blocked,
        0..=1_u32,
        (
            select(vec!["", "", "east-1", "east-2"]),
            prop_oneof![3 => Just(CapacityType::OnDemand), 1 => Just(CapacityType::Spot)],
        ),
    )
        .prop_map(
            move |(allocatable, gpu_memory_bytes, price, blocked, newer, (zone, capacity_type))| {
                InstanceType {
                    name: name.to_owned(),
                    gpu_model: "GPU".to_owned(),
                    gpu_memory_bytes,
                    compute_capability: 70 + 10 * newer,
                    allocatable,
                    price_micro_dollars: price.map(|dollars| dollars * 1_000_000),
                    blocked: blocked.map(|offset| BlockedOffer {
                        until_seconds: NOW + offset,
                        reason: "quota".to_owned(),
                    }),
                    zone: zone.to_owned(),
                    capacity_type,
                }
            },
        )
}

fn catalogue() -> impl Strategy<Value = Vec<InstanceType>> {
    let all = TYPES.map(instance_type);
    let elsewhere = TYPES.map(instance_type);
    (all, elsewhere, 0..=TYPES.len()).prop_map(|(types, elsewhere, count)| {
        let pairs = types.into_iter().zip(elsewhere).take(count);
        pairs
            .flat_map(|(one, other)| {
                let differs = (&one.zone, one.capacity_type) != (&other.zone, other.capacity_type);
                [Some(one), differs.then_some(other)]
            })
            .flatten()
            .collect()
    })
}

fn node_name(index: usize) -> String {
    format!("node-{index}")
}

/// Gives nodes their names; those of claims follow.
pub(crate) fn named(nodes: Vec<Node>) -> Vec<Node> {
    let named = nodes.into_iter().enumerate();
    named
        .map(|(index, node)| Node {
            name: node_name(index),
            claim: node.claim.map(|_| format!("claim-{index}")),
            ..node
        })
        .collect()
}

fn called(demands: Vec<Demand>) -> Vec<Demand> {
    let called = demands.into_iter().enumerate();
    called
        .map(|(index, demand)| Demand {
            name: format!("ns/demand-{index}"),
            uid: format!("uid-{index}"),
            ..demand
        })
        .collect()
}

/// Half of the time nothing is expected.
fn expected() -> impl Strategy<Value = Vec<ExpectedPods>> {
    let kind = (any_demand(), 1..=50_u64).prop_map(|(demand, pods)| ExpectedPods {
        pods,
        per_member: demand.per_member,
        constraints: demand.constraints,
    });
    prop_oneof![Just(Vec::new()), vec(kind, 1..=4)]
}

/// Any snapshot with up to six nodes and six demands.
pub(crate) fn any_snapshot() -> impl Strategy<Value = Snapshot> {
    let idle = vec(-500..=0_i64, 0..=6);
    (
        vec(any_node(), 0..=6).prop_map(named),
        (vec(any_demand(), 0..=6).prop_map(called), expected()),
        (catalogue(), vec(taint(), 0..=1), labels()),
        (vec(0..=3_u32, 0..=2), idle),
    )
        .prop_map(
            |(nodes, (demands, expected), (catalogue, taints, labels), (ordinals, idle))| {
                Snapshot {
                    now_seconds: NOW,
                    nodes,
                    demands,
                    expected,
                    catalogue,
                    purchase_taints: taints,
                    purchase_labels: labels,
                    ordinals_taken: BTreeMap::from([("uid-0".to_owned(), ordinals)]),
                    idle_grace_seconds: 300,
                    idle_since: (0..)
                        .zip(idle)
                        .map(|(index, offset)| (format!("claim-{index}"), NOW + offset))
                        .collect(),
                }
            },
        )
}
