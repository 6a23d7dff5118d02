//! A cluster and a pod list in the proportions of the published openb trace, drawn from a seed.
//!
//! Shapes and shares are figures of Alibaba's cluster-trace-gpu-v2023 (1,213 GPU nodes, 8,152 pods), as summarised in
//! Weng et al., USENIX ATC 2023; no record of the trace is copied.

use kaito_placement::packing::{Amounts, GpuRequest, NodeShape, Request};

use crate::rng::Rng;
use crate::trace::Pod;

/// Model, devices, cores, GiB, nodes.
const NODES: [(&str, u8, u64, u64, usize); 12] = [
    ("G2", 8, 96, 384, 549),
    ("T4", 2, 104, 512, 387),
    ("T4", 4, 96, 384, 17),
    ("G3", 8, 128, 768, 39),
    ("P100", 2, 16, 120, 107),
    ("P100", 2, 64, 256, 27),
    ("V100M32", 8, 96, 768, 21),
    ("V100M32", 4, 48, 368, 9),
    ("V100M16", 4, 32, 128, 28),
    ("V100M16", 1, 8, 32, 19),
    ("V100M16", 8, 64, 256, 8),
    ("A10", 1, 128, 1024, 2),
];

/// Devices, thousandths of each, millicores, pods in a thousand.
const PODS: [(u8, u16, u64, usize); 24] = [
    (1, 810, 3_152, 128),
    (1, 1000, 11_300, 107),
    (1, 1000, 11_400, 73),
    (1, 1000, 3_152, 58),
    (1, 470, 11_908, 48),
    (0, 0, 12_500, 60),
    (1, 470, 8_000, 44),
    (1, 1000, 12_000, 40),
    (0, 0, 32_000, 47),
    (1, 1000, 18_700, 31),
    (1, 650, 11_908, 31),
    (1, 320, 4_000, 40),
    (1, 1000, 9_800, 24),
    (0, 0, 8_000, 27),
    (1, 1000, 8_000, 40),
    (1, 1000, 4_000, 40),
    (1, 1000, 15_700, 58),
    (1, 1000, 24_200, 21),
    (1, 230, 4_000, 30),
    (1, 590, 4_000, 20),
    (2, 1000, 24_000, 2),
    (4, 1000, 48_000, 2),
    (8, 1000, 64_200, 3),
    (8, 1000, 88_000, 2),
];
/// Pods drawn: as many as the trace has.
const DRAWN: usize = 8_152;

pub(crate) fn nodes(seed: u64) -> Vec<NodeShape> {
    let mut nodes = Vec::new();
    for (model, devices, cores, gib, count) in NODES {
        for _ in 0..count {
            let milli_cpu = cores * 1000;
            let capacity = Amounts {
                milli_cpu,
                memory_mib: gib * 1024,
                ephemeral_mib: 0,
                pods: 1001,
            };
            nodes.push(NodeShape {
                model: model.to_owned(),
                devices,
                capacity,
                ..NodeShape::default()
            });
        }
    }
    Rng::new(seed).shuffle(&mut nodes);
    nodes
}

pub(crate) fn pods(seed: u64) -> Vec<Pod> {
    let total: usize = PODS.iter().map(|pod| pod.3).sum();
    let mut rng = Rng::new(seed);
    let mut pods = Vec::with_capacity(DRAWN);
    for number in 0..DRAWN {
        let mut drawn = rng.below(total);
        let found = PODS.iter().find(|pod| {
            let hit = drawn < pod.3;
            drawn = drawn.saturating_sub(pod.3);
            hit
        });
        let Some((count, milli, milli_cpu, _)) = found.copied() else {
            continue;
        };
        let memory_mib = milli_cpu * (2 + rng.below(3) as u64);
        let gpu = match count {
            0 => GpuRequest::Nothing,
            _ => GpuRequest::Devices { count, milli },
        };
        let amounts = Amounts {
            milli_cpu,
            memory_mib,
            ephemeral_mib: 0,
            pods: 1,
        };
        pods.push(Pod {
            name: format!("pod-{number:04}"),
            request: Request {
                amounts,
                gpu,
                ..Request::default()
            },
            count: u64::from(count),
            milli: u64::from(milli),
        });
    }
    pods
}
