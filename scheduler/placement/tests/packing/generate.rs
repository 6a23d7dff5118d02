//! Small clusters and requests, at random and from a seed.

use std::collections::{BTreeMap, BTreeSet};

use kaito_placement::packing::{Amounts, DeviceMode, Domains, GpuRequest, NodeShape, Request};
use kaito_placement::snapshot::{Taint, TaintEffect, Toleration};
use proptest::collection::vec;
use proptest::prelude::*;

/// One step of a run.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Place the request with this number, modulo how many there are.
    Place(usize),
    /// Release the placement with this number, modulo how many there are.
    Release(usize),
}

pub(crate) fn any_steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0usize..1000).prop_map(Step::Place),
        1 => (0usize..1000).prop_map(Step::Release),
    ];
    vec(step, 1..most)
}

fn amounts(cores: u64, gib: u64, pods: u64) -> Amounts {
    Amounts {
        milli_cpu: cores * 1000,
        memory_mib: gib * 1024,
        ephemeral_mib: 10_240,
        pods,
    }
}

fn no_schedule() -> Taint {
    Taint {
        key: "sku".into(),
        value: "gpu".into(),
        effect: TaintEffect::NoSchedule,
    }
}

/// Nodes whose devices are shared by thousandths, and that carry no taints or labels.
pub(crate) fn any_plain_nodes() -> impl Strategy<Value = Vec<NodeShape>> {
    let node = (
        0usize..4,
        prop_oneof![Just(8u64), Just(16), Just(32)],
        2u64..6,
    );
    vec(node, 1..7).prop_map(|nodes| {
        let node = |(at, (kind, cores, pods)): (usize, (usize, u64, u64))| NodeShape {
            name: format!("node-{at}"),
            model: ["T4", "A10", "A100", "A10"][kind].into(),
            devices: [2, 1, 4, 8][kind],
            capacity: amounts(cores, 4 * cores, pods * 3),
            ..NodeShape::default()
        };
        nodes.into_iter().enumerate().map(node).collect()
    })
}

/// Requests that ask thousandths or whole devices, some of named models.
pub(crate) fn any_plain_requests() -> impl Strategy<Value = Vec<Request>> {
    let gpu = prop_oneof![
        2 => Just((0u8, 0u16)),
        4 => Just((1, 1000)),
        4 => prop_oneof![Just(200u16), Just(330), Just(500), Just(800)].prop_map(|milli| (1, milli)),
        2 => Just((2, 1000)),
        1 => Just((4, 1000)),
        1 => Just((2, 400)),
    ];
    let models =
        prop_oneof![4 => Just(vec![]), 1 => Just(vec!["T4"]), 1 => Just(vec!["A10", "A100"])];
    let request = (gpu, 0u64..9, 0u64..12, models);
    vec(request, 1..7).prop_map(|requests| {
        let request = |((count, milli), cores, gib, models): (_, u64, u64, Vec<&str>)| Request {
            amounts: Amounts {
                ephemeral_mib: 100,
                ..amounts(cores, gib, 1)
            },
            gpu: match count {
                0 => GpuRequest::Nothing,
                _ => GpuRequest::Devices { count, milli },
            },
            models: models.into_iter().map(str::to_owned).collect(),
            ..Request::default()
        };
        requests.into_iter().map(request).collect()
    })
}

/// Nodes of every sort: MIG, taints, labels, racks, storage.
pub(crate) fn any_nodes() -> impl Strategy<Value = Vec<NodeShape>> {
    let node = (
        0usize..4,
        1u64..5,
        any::<[bool; 2]>(),
        0u8..3,
        0u8..2,
        1u64..9,
    );
    vec(node, 1..9).prop_map(|nodes| {
        type Drawn = (usize, u64, [bool; 2], u8, u8, u64);
        let node = |(at, drawn): (usize, Drawn)| {
            let (kind, size, [tainted, labelled], rack, block, pods) = drawn;
            NodeShape {
                name: format!("node-{at}"),
                model: ["T4", "A100", "A100", ""][kind].into(),
                device_memory_mib: [16_384, 40_960, 81_920, 0][kind],
                devices: [2, 4, 8, 0][kind],
                mode: if kind == 1 {
                    DeviceMode::Partitioned
                } else {
                    DeviceMode::Shared
                },
                capacity: amounts(8 * size, 32 * size, pods),
                labels: if labelled {
                    BTreeMap::from([("pool".into(), "a".into())])
                } else {
                    BTreeMap::new()
                },
                taints: if tainted { vec![no_schedule()] } else { vec![] },
                domains: Domains {
                    zone: "z1".into(),
                    block: format!("b{block}"),
                    rack: if rack == 2 {
                        String::new()
                    } else {
                        format!("r{rack}")
                    },
                    nvlink: String::new(),
                },
            }
        };
        nodes.into_iter().enumerate().map(node).collect()
    })
}

fn any_gpu() -> impl Strategy<Value = GpuRequest> {
    prop_oneof![
        Just(GpuRequest::Nothing),
        (1u8..5).prop_map(|count| GpuRequest::Devices { count, milli: 1000 }),
        (1u16..=1000).prop_map(|milli| GpuRequest::Devices { count: 1, milli }),
        (1u64..60_000).prop_map(|mib| GpuRequest::Memory { mib }),
        prop_oneof![
            Just("1g.5gb"),
            Just("1g.10gb"),
            Just("2g.10gb"),
            Just("3g.20gb"),
            Just("4g.20gb"),
            Just("7g.40gb"),
            Just("3g.40gb"),
            Just("9g.1gb"),
        ]
        .prop_map(|profile| GpuRequest::Partition {
            profile: profile.into()
        }),
    ]
}

/// One request of any sort.
pub(crate) fn any_request() -> impl Strategy<Value = Request> {
    (
        any_gpu(),
        0u64..9,
        0u64..20,
        0usize..3,
        any::<[bool; 2]>(),
        0usize..12,
        0u64..3,
    )
        .prop_map(
            |(gpu, cores, gib, models, [tolerant, choosy], host, floor)| {
                let mut selector = BTreeMap::new();
                if choosy {
                    selector.insert("pool".to_owned(), "a".to_owned());
                }
                if host < 2 {
                    selector.insert("kubernetes.io/hostname".to_owned(), format!("node-{host}"));
                }
                let models: &[&str] = [&[] as &[&str], &["T4"], &["A100"]][models];
                Request {
                    amounts: Amounts {
                        ephemeral_mib: 1000 * cores,
                        ..amounts(cores, gib, 1)
                    },
                    gpu,
                    models: models
                        .iter()
                        .map(|model| (*model).to_owned())
                        .collect::<BTreeSet<_>>(),
                    device_memory_mib: floor * 20_000,
                    selector,
                    tolerations: if tolerant {
                        vec![Toleration {
                            key: "sku".into(),
                            value: None,
                            effect: None,
                        }]
                    } else {
                        vec![]
                    },
                }
            },
        )
}

/// A cluster in the small with the mix of a production trace: CPU-poor small nodes, large ones, mostly whole GPUs, many
/// shares, a few whole nodes. Drawn from a seed by a linear congruential generator (Knuth's MMIX constants).
pub(crate) fn small_trace(seed: u64) -> (Vec<NodeShape>, Vec<Request>) {
    let mut state = seed.wrapping_mul(2) + 1;
    let mut draw = |bound: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) as usize) % bound
    };
    let kinds = [
        ("A100", 8, 96),
        ("A100", 8, 96),
        ("T4", 2, 104),
        ("P100", 2, 16),
        ("V100", 4, 32),
    ];
    let nodes = (0..60)
        .map(|at| {
            let (model, devices, cores) = kinds[draw(kinds.len())];
            NodeShape {
                name: format!("node-{at:03}"),
                model: model.into(),
                devices,
                capacity: amounts(cores, 4 * cores, 200),
                ..NodeShape::default()
            }
        })
        .collect();
    let pods = [
        (1, 1000, 11),
        (1, 1000, 12),
        (1, 1000, 4),
        (1, 1000, 18),
        (1, 810, 3),
        (1, 470, 12),
        (1, 470, 8),
        (1, 320, 4),
        (0, 0, 12),
        (1, 1000, 11),
    ];
    let requests = (0..900)
        .map(|_| {
            let (count, milli, cores) = if draw(60) == 0 {
                (8, 1000, 88)
            } else {
                pods[draw(pods.len())]
            };
            Request {
                amounts: Amounts {
                    ephemeral_mib: 0,
                    ..amounts(cores, 2 * cores, 1)
                },
                gpu: if count == 0 {
                    GpuRequest::Nothing
                } else {
                    GpuRequest::Devices { count, milli }
                },
                ..Request::default()
            }
        })
        .collect();
    (nodes, requests)
}
