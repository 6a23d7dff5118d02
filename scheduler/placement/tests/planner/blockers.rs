//! The blocker that is named is the true one: it alone stands in the way, and without it the gang is placed.

use crate::fixtures::{GIB, busy, gang, node, plan, sku_taint, snapshot, waiting};
use kaito_placement::plan::Blocker;
use kaito_placement::snapshot::{Constraints, Demand, Node};
use proptest::prelude::*;
use proptest::sample::select;
use std::collections::BTreeMap;

/// One thing that can be in the way of a gang on otherwise good nodes.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Cordoned,
    Tainted,
    Unlabelled,
    SelectedElsewhere,
    OtherType,
    UnknownType,
    SmallGpus,
    Occupied,
    TooFewGpus,
    TooLittleMemory,
    TooFewCores,
    TooLittleStorage,
    TooFewPods,
    GpusInUse,
}

const FAULTS: [Fault; 14] = [
    Fault::Cordoned,
    Fault::Tainted,
    Fault::Unlabelled,
    Fault::SelectedElsewhere,
    Fault::OtherType,
    Fault::UnknownType,
    Fault::SmallGpus,
    Fault::Occupied,
    Fault::TooFewGpus,
    Fault::TooLittleMemory,
    Fault::TooFewCores,
    Fault::TooLittleStorage,
    Fault::TooFewPods,
    Fault::GpusInUse,
];

fn labels() -> BTreeMap<String, String> {
    BTreeMap::from([("pool".to_owned(), "gpu".to_owned())])
}

/// A gang that asks for something of every kind.
fn choosy(members: usize, gpus: u64) -> Demand {
    Demand {
        constraints: Constraints {
            own_node_labels: labels(),
            required_labels: BTreeMap::from([("zone".to_owned(), "1".to_owned())]),
            instance_type: Some("Standard_NC48ads_A100_v4".to_owned()),
            gpu_memory_bytes: 40 * GIB,
            tolerations: vec![],
            spread: true,
            accepts_spot: false,
        },
        ..gang("x", members, gpus)
    }
}

/// A node that pleases it.
fn good(index: usize, gpus: u64) -> Node {
    let mut labels = labels();
    labels.insert("zone".to_owned(), "1".to_owned());
    Node {
        labels,
        ..node(&format!("n{index}"), gpus)
    }
}

/// The same world with one fault in all nodes (or, for one fault, in the demand), and what it is called.
fn spoil(fault: Fault, demand: &mut Demand, nodes: &mut [Node]) -> &'static str {
    for node in &mut *nodes {
        match fault {
            Fault::Cordoned => {
                node.available = false;
                node.unavailable_reason = "cordoned".to_owned();
            }
            Fault::Tainted => node.taints.push(sku_taint()),
            Fault::Unlabelled => drop(node.labels.remove("pool")),
            Fault::SelectedElsewhere => drop(node.labels.insert("zone".to_owned(), "2".to_owned())),
            Fault::OtherType => node.instance_type = Some("Standard_NC6s_v3".to_owned()),
            Fault::UnknownType => node.instance_type = None,
            Fault::SmallGpus => node.gpu_memory_bytes = 24 * GIB,
            Fault::Occupied => demand.placed_on.push(node.name.clone()),
            Fault::TooFewGpus => node.allocatable.gpus = demand.per_member.gpus - 1,
            Fault::TooLittleMemory => node.allocatable.memory_bytes = GIB,
            Fault::TooFewCores => node.allocatable.milli_cpu = 500,
            Fault::TooLittleStorage => node.allocatable.ephemeral_bytes = GIB / 2,
            Fault::TooFewPods => node.allocatable.pods = 0,
            Fault::GpusInUse => *node = busy(node.clone(), node.allocatable.gpus),
        }
    }
    match fault {
        Fault::Cordoned => "cordoned",
        Fault::Tainted => "taint sku=gpu:NoSchedule not tolerated",
        Fault::Unlabelled => "no label pool=gpu",
        Fault::SelectedElsewhere => "no label zone=1 (pod's node selector)",
        Fault::OtherType => "instance type Standard_NC6s_v3, not Standard_NC48ads_A100_v4",
        Fault::UnknownType => "unknown instance type, not Standard_NC48ads_A100_v4",
        Fault::SmallGpus => "GPU memory 24 < 40 GiB",
        Fault::Occupied => "a member already (one per node)",
        Fault::TooFewGpus => "GPUs ",
        Fault::TooLittleMemory => "memory 1 < ",
        Fault::TooFewCores => "CPU 0.5 < ",
        Fault::TooLittleStorage => "ephemeral storage 0.5 < 20 GiB",
        Fault::TooFewPods => "pods 0 < 1",
        Fault::GpusInUse => "free GPUs 0 < ",
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: ProptestConfig::default().cases.max(10_000), ..ProptestConfig::default() })]

    #[test]
    fn the_named_blocker_is_the_only_one_and_without_it_the_gang_is_placed(
        fault in select(FAULTS.to_vec()),
        members in 1..=3_usize,
        spare in 0..=2_usize,
        gpus in 1..=4_u64,
        larger in 0..=4_u64,
    ) {
        let count = members + spare;
        let clean: Vec<_> = (0..count).map(|index| good(index, gpus + larger)).collect();
        let demand = choosy(members, gpus);
        let mended = plan(&snapshot(clean.clone(), vec![demand.clone()]));
        prop_assert_eq!(mended.assignments.len(), 1);

        let (mut spoiled, mut spoiled_demand) = (clean, demand);
        let constraint = spoil(fault, &mut spoiled_demand, &mut spoiled);
        let plan = plan(&snapshot(spoiled, vec![spoiled_demand]));
        let waiting = waiting(&plan, "x");
        let Blocker::NoNodeFits { excluded, fitting_members } = &waiting.blocker else {
            return Err(TestCaseError::fail(format!("{waiting:?}")));
        };
        prop_assert_eq!(*fitting_members, 0);
        prop_assert_eq!(excluded.len(), 1);
        prop_assert!(excluded[0].constraint.starts_with(constraint), "{:?}", excluded);
        prop_assert_eq!(excluded[0].count as usize, count);
        prop_assert!(waiting.message.contains(constraint));
    }
}
