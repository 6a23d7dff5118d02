//! Single facts: devices, filters, texts, and what packing is for.

use std::collections::BTreeMap;

use kaito_placement::packing::{
    Amounts, DeviceMode, GpuRequest, MigProfile, NodeShape, Obstacle, Packer, PackingError, Policy,
    Request, Settings,
};

use crate::generate::small_trace;

fn node(name: &str, devices: u8, cores: u64) -> NodeShape {
    NodeShape {
        name: name.into(),
        model: "A100".into(),
        device_memory_mib: 40_960,
        devices,
        capacity: Amounts {
            milli_cpu: cores * 1000,
            memory_mib: 65_536,
            ephemeral_mib: 0,
            pods: 10,
        },
        ..NodeShape::default()
    }
}

fn asks(cores: u64, gpu: GpuRequest) -> Request {
    let amounts = Amounts {
        milli_cpu: cores * 1000,
        memory_mib: 1024,
        ephemeral_mib: 0,
        pods: 1,
    };
    Request {
        amounts,
        gpu,
        ..Request::default()
    }
}

fn share(milli: u16) -> GpuRequest {
    GpuRequest::Devices { count: 1, milli }
}

fn whole(count: u8) -> GpuRequest {
    GpuRequest::Devices { count, milli: 1000 }
}

/// Node and device numbers of every request in turn; `None` where refused.
fn places(
    nodes: &[NodeShape],
    policy: Policy,
    requests: &[Request],
) -> Vec<Option<(u32, Vec<u8>)>> {
    let mut packer = Packer::new(nodes, &Settings { policy, seed: 1 }).unwrap();
    let place = |request| {
        let id = packer.register(request).unwrap();
        let placement = packer.place(id).unwrap().ok()?;
        Some((
            placement.node,
            placement.devices.iter().map(|one| one.0).collect(),
        ))
    };
    requests.iter().map(place).collect()
}

#[test]
fn mig_profiles_have_the_slots_of_the_vendors_table() {
    let rows = [
        ("1g.5gb", 40_960, Some((1, 1))),
        ("1g.10gb", 40_960, Some((1, 2))),
        ("3g.20gb", 40_960, Some((3, 4))),
        ("7g.40gb", 40_960, Some((7, 8))),
        ("1g.10gb", 81_920, Some((1, 1))),
        ("3g.40gb", 81_920, Some((3, 4))),
        ("1g.12gb", 96_256, Some((1, 1))),
        ("1g.24gb", 96_256, Some((1, 2))),
        ("2g.35gb", 144_384, Some((2, 2))),
        ("3g.71gb", 144_384, Some((3, 4))),
        ("2g.12gb", 24_576, Some((2, 4))),
        ("5g.20gb", 40_960, None),
        ("3g.40gb", 40_960, None),
        ("3g", 40_960, None),
        ("3g.20gb", 0, None),
    ];
    for (name, memory, wanted) in rows {
        let found = MigProfile::parse(name, memory).map(|profile| (profile.compute, profile.slots));
        assert_eq!(found, wanted, "{name} on {memory} MiB");
    }
}

#[test]
fn a_mig_device_holds_what_its_geometry_allows() {
    let nodes = [NodeShape {
        mode: DeviceMode::Partitioned,
        ..node("mig", 1, 64)
    }];
    let of = |profile: &str| {
        asks(
            1,
            GpuRequest::Partition {
                profile: profile.into(),
            },
        )
    };
    let requests = [of("3g.20gb"), of("4g.20gb"), of("1g.5gb")];
    let got: Vec<bool> = places(&nodes, Policy::BestFit, &requests)
        .iter()
        .map(Option::is_some)
        .collect();
    // 3g at slot 0 leaves 4g, which begins at 0 only, out; a 1g still fits beside it.
    assert!(got[0] && got[2] && !got[1]);
    let sevens = vec![of("1g.5gb"); 8];
    let placed = places(&nodes, Policy::BestFit, &sevens)
        .iter()
        .flatten()
        .count();
    assert_eq!(placed, 7);
}

#[test]
fn shares_fill_a_device_before_the_next_is_broken() {
    let requests = [
        asks(1, share(500)),
        asks(1, share(500)),
        asks(1, share(300)),
    ];
    let got = places(&[node("a", 4, 64)], Policy::Kaito, &requests);
    assert_eq!(
        got,
        [Some((0, vec![0])), Some((0, vec![0])), Some((0, vec![1]))]
    );
}

#[test]
fn gpu_memory_is_a_share_of_the_device_it_lands_on() {
    let half = asks(1, GpuRequest::Memory { mib: 20_480 });
    let mut packer = Packer::new(&[node("a", 1, 64)], &Settings::default()).unwrap();
    let id = packer.register(&half).unwrap();
    assert_eq!(packer.place(id).unwrap().unwrap().milli(), 500);
    let too_much = packer
        .register(&asks(1, GpuRequest::Memory { mib: 50_000 }))
        .unwrap();
    let refusal = packer.place(too_much).unwrap().unwrap_err();
    assert_eq!(
        refusal.excluded,
        BTreeMap::from([(Obstacle::DeviceMemory, 1)])
    );
    assert!(!refusal.could_fit());
}

#[test]
fn a_refusal_counts_every_node_at_its_first_obstacle() {
    let nodes = [node("a", 2, 8), node("b", 2, 64), node("c", 1, 64)];
    let mut packer = Packer::new(&nodes, &Settings::default()).unwrap();
    let pinned = |name: &str, request: Request| Request {
        selector: [("kubernetes.io/hostname".to_owned(), name.to_owned())].into(),
        ..request
    };
    for request in [
        pinned("a", asks(7, share(100))),
        pinned("b", asks(1, share(100))),
    ] {
        let id = packer.register(&request).unwrap();
        let _ = packer.place(id).unwrap().unwrap();
    }
    let id = packer.register(&asks(4, whole(2))).unwrap();
    let refusal = packer.place(id).unwrap().unwrap_err();
    assert_eq!(
        refusal.excluded,
        BTreeMap::from([(Obstacle::Cpu, 1), (Obstacle::Gpu, 1), (Obstacle::Size, 1)])
    );
    assert!(refusal.could_fit());
    let name = "no node fits: 1 node: node too small; 1 node: CPU taken; 1 node: GPUs taken";
    assert_eq!(refusal.to_string(), name);
}

#[test]
fn impossible_requests_and_double_releases_are_errors() {
    let mut packer = Packer::new(&[node("a", 2, 8)], &Settings::default()).unwrap();
    let bad = packer.register(&asks(1, share(1001))).unwrap_err();
    assert_eq!(
        bad.to_string(),
        "bad request: 1001 thousandths of a GPU: ask for 1 to 1000"
    );
    let id = packer.register(&asks(1, whole(1))).unwrap();
    let placement = packer.place(id).unwrap().unwrap();
    packer.release(&placement).unwrap();
    assert_eq!(
        packer.release(&placement),
        Err(PackingError::NotHeld { node: 0 })
    );
}

#[test]
fn cpu_poor_nodes_are_left_to_pods_that_need_little_cpu() {
    // Two GPUs with 16 cores: one pod of 11 would leave the second GPU 5 cores, too few for its like.
    let nodes = [node("poor", 2, 16), node("rich", 4, 64)];
    let got = places(
        &nodes,
        Policy::Kaito,
        &[asks(11, whole(1)), asks(11, whole(1))],
    );
    assert_eq!(got, [Some((1, vec![0])), Some((1, vec![1]))]);
}

#[test]
fn scarce_models_are_kept_for_those_who_accept_nothing_else() {
    let rare = NodeShape {
        model: "H100".into(),
        ..node("rare", 1, 8)
    };
    let nodes = [rare, node("common", 8, 64)];
    let picky = Request {
        models: ["H100".to_owned()].into(),
        ..asks(8, whole(1))
    };
    let mut requests = vec![picky.clone(), asks(8, whole(1))];
    let mut packer = Packer::new(&nodes, &Settings::default()).unwrap();
    let id = packer.register(&picky).unwrap();
    let first = packer.place(id).unwrap().unwrap();
    packer.release(&first).unwrap();
    let id = packer.register(&requests.pop().unwrap()).unwrap();
    assert_eq!(packer.place(id).unwrap().unwrap().node, 1);
}

/// A node of another pool came and went. Whoever asks for that pool presses on no make of nodes any more, though a node
/// of the same make is there.
#[test]
fn a_pool_whose_last_node_has_gone_is_forgotten() {
    let nodes = [node("large", 8, 16), node("small", 8, 8)];
    let labels = BTreeMap::from([("pool".to_owned(), "gone".to_owned())]);
    let gone = NodeShape {
        labels: labels.clone(),
        ..node("gone", 8, 16)
    };
    let for_the_pool = Request {
        selector: labels,
        ..asks(0, whole(1))
    };
    let mut fresh = Packer::new(&nodes, &Settings::default()).unwrap();
    let mut used = Packer::new(&nodes, &Settings::default()).unwrap();
    let position = used.add_node(&gone).unwrap();
    used.remove_node(position).unwrap();
    let place = |packer: &mut Packer| {
        let id = packer.register(&for_the_pool).unwrap();
        assert!(packer.place(id).unwrap().is_err());
        let id = packer.register(&asks(1, share(451))).unwrap();
        packer.place(id).unwrap().unwrap().node
    };
    assert_eq!((place(&mut fresh), place(&mut used)), (0, 0));
}

/// Percent of GPUs allocated once demand far beyond the cluster has arrived, mean of ten seeds.
fn allocated(policy: Policy) -> f64 {
    let percent = |seed: u64| {
        let (nodes, requests) = small_trace(seed);
        let mut packer = Packer::new(&nodes, &Settings { policy, seed }).unwrap();
        let ids: Vec<_> = requests
            .iter()
            .map(|one| packer.register(one).unwrap())
            .collect();
        packer.tell(&ids);
        let capacity = packer.idle_milli() as f64;
        for id in ids {
            let _ = packer.place(id).unwrap();
        }
        100.0 - 100.0 * packer.idle_milli() as f64 / capacity
    };
    (0..10).map(percent).sum::<f64>() / 10.0
}

#[test]
fn ours_strands_fewer_gpus_than_every_baseline_on_a_mixed_trace() {
    let ours = allocated(Policy::Kaito);
    for policy in Policy::ALL {
        let other = allocated(policy);
        assert!(
            policy == Policy::Kaito || ours > other,
            "{policy} {other:.2}, ours {ours:.2}"
        );
    }
}
