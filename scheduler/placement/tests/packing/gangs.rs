//! Gangs: whole or not at all, and together where they must be.

use std::collections::{BTreeMap, BTreeSet};

use kaito_placement::packing::{
    Amounts, DeviceMode, Domains, Gang, GpuRequest, Level, NodeShape, Packer, Placement, Policy,
    Request, Settings,
};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::generate::{any_nodes, any_request};
use crate::model::Model;

/// The domain of a node, as the gang's level sees it; `None` if it is in none.
fn domain(node: &NodeShape, level: Level) -> Option<Vec<String>> {
    let Domains {
        zone,
        block,
        rack,
        nvlink,
    } = node.domains.clone();
    let (own, path) = match level {
        Level::Node => (node.name.clone(), vec![node.name.clone()]),
        Level::Nvlink => (nvlink.clone(), vec![zone, block, rack, nvlink]),
        Level::Rack => (rack.clone(), vec![zone, block, rack]),
        Level::Block => (block.clone(), vec![zone, block]),
        Level::Zone => (zone.clone(), vec![zone]),
    };
    (!own.is_empty()).then_some(path)
}

/// How many members each domain could hold, by placing them one after the other on every node of the model.
fn room(model: &Model, gang: &Gang) -> BTreeMap<Vec<String>, u32> {
    let mut rooms = BTreeMap::new();
    for at in 0..model.nodes.len() {
        let shape = &model.nodes[at].shape;
        let found = match gang.required {
            None => Some(vec![]),
            Some(level) => domain(shape, level),
        };
        let Some(path) = found else { continue };
        // A packer for this node alone, in the model's state, says nothing here: the model counts by itself.
        let mut node = model.nodes[at].clone();
        let mut held = 0;
        while node.fits(&gang.each) && held < 20 {
            node.put_somewhere(&gang.each);
            held += 1;
        }
        *rooms.entry(path).or_default() += if gang.spread { held.min(1) } else { held };
    }
    rooms
}

fn any_level() -> impl Strategy<Value = Option<Level>> {
    proptest::sample::select(vec![
        None,
        Some(Level::Node),
        Some(Level::Nvlink),
        Some(Level::Rack),
        Some(Level::Block),
        Some(Level::Zone),
    ])
}

fn any_gang() -> impl Strategy<Value = Gang> {
    (
        1u32..7,
        any_request(),
        any_level(),
        any_level(),
        any::<bool>(),
    )
        .prop_map(|(members, each, required, preferred, spread)| Gang {
            members,
            each,
            required,
            preferred,
            spread,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(10_000) })]

    #[test]
    fn a_gang_is_placed_whole_where_it_must_be_or_not_at_all(
        nodes in any_nodes(),
        loads in vec(any_request(), 0..6),
        gangs in vec(any_gang(), 1..4),
        fgd in any::<bool>(),
    ) {
        let policy = if fgd { Policy::Fgd } else { Policy::Kaito };
        let mut packer = Packer::new(&nodes, &Settings { policy, seed: 0 }).unwrap();
        let mut model = Model::new(&nodes);
        for request in loads {
            let id = packer.register(&request).unwrap();
            if let Ok(placement) = packer.place(id).unwrap() {
                model.place(&request, &placement);
            }
        }
        for gang in gangs {
            let roomiest = room(&model, &gang).into_values().max().unwrap_or(0);
            match packer.place_gang(&gang).unwrap() {
                Ok(placed) => {
                    prop_assert_eq!(placed.len(), gang.members as usize);
                    placed.iter().for_each(|placement| model.place(&gang.each, placement));
                    check_places(&nodes, &gang, &placed);
                }
                Err(refusal) => {
                    prop_assert!(roomiest < gang.members, "{roomiest} members would fit: {refusal}");
                    prop_assert_eq!(refusal.fitting, u64::from(roomiest));
                }
            }
            prop_assert_eq!(packer.idle_milli() as u64, model.idle_milli());
        }
    }
}

fn check_places(nodes: &[NodeShape], gang: &Gang, placed: &[Placement]) {
    let used: BTreeSet<u32> = placed.iter().map(|placement| placement.node).collect();
    if gang.spread {
        assert_eq!(used.len(), placed.len(), "two members on one node");
    }
    if let Some(level) = gang.required {
        let domains: BTreeSet<_> = used
            .iter()
            .map(|node| domain(&nodes[*node as usize], level))
            .collect();
        assert_eq!(domains.len(), 1, "members in several domains");
        assert!(!domains.contains(&None), "a member in no domain");
    }
}

fn racks(count: u32, nodes_each: u32) -> Vec<NodeShape> {
    let node = |at: u32| NodeShape {
        name: format!("node-{at:03}"),
        model: "H100".into(),
        device_memory_mib: 81_920,
        devices: 8,
        mode: DeviceMode::Shared,
        capacity: Amounts {
            milli_cpu: 96_000,
            memory_mib: 786_432,
            ephemeral_mib: 0,
            pods: 110,
        },
        domains: Domains {
            zone: "z".into(),
            block: format!("b{}", at / nodes_each / 4),
            rack: format!("r{}", at / nodes_each),
            nvlink: String::new(),
        },
        ..NodeShape::default()
    };
    (0..count * nodes_each).map(node).collect()
}

fn whole_nodes(members: u32, required: Option<Level>, preferred: Option<Level>) -> Gang {
    let each = Request {
        amounts: Amounts {
            milli_cpu: 64_000,
            memory_mib: 0,
            ephemeral_mib: 0,
            pods: 1,
        },
        gpu: GpuRequest::Devices {
            count: 8,
            milli: 1000,
        },
        ..Request::default()
    };
    Gang {
        members,
        each,
        required,
        preferred,
        spread: false,
    }
}

#[test]
fn a_gang_takes_as_few_racks_as_can_be_and_the_tightest_for_the_rest() {
    let mut packer = Packer::new(&racks(8, 4), &Settings::default()).unwrap();
    // Leaves 4, 2 and 3 idle nodes in the first three racks.
    let pin = |node: &str| Request {
        selector: [("kubernetes.io/hostname".to_owned(), node.to_owned())].into(),
        ..whole_nodes(1, None, None).each
    };
    for node in ["node-004", "node-005", "node-008"] {
        let id = packer.register(&pin(node)).unwrap();
        let _ = packer.place(id).unwrap().unwrap();
    }
    let gang = whole_nodes(6, Some(Level::Block), Some(Level::Rack));
    let placed = packer.place_gang(&gang).unwrap().unwrap();
    let mut per_rack: BTreeMap<u32, u32> = BTreeMap::new();
    placed
        .iter()
        .for_each(|placement| *per_rack.entry(placement.node / 4).or_default() += 1);
    assert_eq!(
        per_rack.len(),
        2,
        "six nodes need two racks of four: {per_rack:?}"
    );
    let full = per_rack.values().max();
    assert_eq!(full, Some(&4));
    assert!(
        per_rack.contains_key(&1),
        "the rest goes where exactly two nodes are idle: {per_rack:?}"
    );
}

#[test]
fn a_gang_too_large_for_any_rack_is_refused_with_the_roomiest_rack_named() {
    let mut packer = Packer::new(&racks(8, 4), &Settings::default()).unwrap();
    let refusal = packer
        .place_gang(&whole_nodes(5, Some(Level::Rack), None))
        .unwrap()
        .unwrap_err();
    assert_eq!(
        refusal.to_string(),
        "all members must share one rack, but the roomiest of 8, z/b0/r0, holds 4 of 5 members"
    );
}

#[test]
fn a_preference_that_cannot_be_met_does_not_stand_in_the_way() {
    let mut packer = Packer::new(&racks(2, 4), &Settings::default()).unwrap();
    let gang = whole_nodes(8, None, Some(Level::Nvlink));
    assert_eq!(packer.place_gang(&gang).unwrap().unwrap().len(), 8);
    let refusal = packer.place_gang(&gang).unwrap().unwrap_err();
    assert_eq!(refusal.fitting, 0);
    assert!(
        refusal.to_string().contains("8 nodes: CPU taken"),
        "{refusal}"
    );
}
