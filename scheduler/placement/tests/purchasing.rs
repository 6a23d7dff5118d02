//! The purchase solver from outside: what it buys holds everything, however little it may think.

#![expect(clippy::indexing_slicing, reason = "a test fails by panicking")]

use kaito_placement::purchasing::{Kind, Lot, Offer, Problem, Solution, solve};
use kaito_placement::snapshot::Resources;
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn resources(gpus: u64, cores: u64, gib: u64) -> Resources {
    Resources {
        milli_cpu: cores * 1_000,
        memory_bytes: gib << 30,
        ephemeral_bytes: 0,
        pods: 1,
        gpus,
    }
}

fn any_problem() -> impl Strategy<Value = Problem> {
    let kind = (0..=4_u64, 1..=8_u64, 1..=32_u64, vec(any::<bool>(), 6));
    let offer = (0..=8_u64, 1..=32_u64, 4..=128_u64, 1..=40_u64);
    let lot = (0..5_usize, 0..=9_u64, proptest::bool::weighted(0.2));
    (vec(kind, 1..=5), vec(offer, 1..=6), vec(lot, 0..=10)).prop_map(|(kinds, offers, lots)| {
        let count = offers.len();
        Problem {
            offers: offers
                .into_iter()
                .map(|(gpus, cores, gib, dollars)| Offer {
                    capacity: Resources {
                        pods: 20,
                        ..resources(gpus, cores, gib)
                    },
                    micro_dollars: dollars * 1_000_000,
                })
                .collect(),
            lots: lots
                .into_iter()
                .map(|(kind, members, spread)| Lot {
                    kind: kind % kinds.len(),
                    members,
                    spread,
                })
                .collect(),
            kinds: kinds
                .into_iter()
                .map(|(gpus, cores, gib, suits)| Kind {
                    each: resources(gpus, cores, gib),
                    suits: (0..count).filter(|at| suits[*at]).collect(),
                })
                .collect(),
        }
    })
}

/// What is wrong with a solution, found without any of the solver's code.
fn faults(problem: &Problem, solution: &Solution) -> Vec<String> {
    let mut faults = Vec::new();
    let mut held: BTreeMap<usize, u64> = BTreeMap::new();
    let mut cost = 0;
    for machine in &solution.machines {
        let offer = &problem.offers[machine.offer];
        let mut left = offer.capacity.amounts().map(i128::from);
        cost += offer.micro_dollars;
        if machine.holds.is_empty() {
            faults.push("a machine holds nothing".to_owned());
        }
        for (lot, members) in &machine.holds {
            let kind = &problem.kinds[problem.lots[*lot].kind];
            *held.entry(*lot).or_default() += members;
            for (left, need) in left.iter_mut().zip(kind.each.amounts()) {
                *left -= i128::from(need) * i128::from(*members);
            }
            if !kind.suits.contains(&machine.offer) {
                faults.push(format!("lot {lot} is on an offer that does not suit it"));
            }
            if problem.lots[*lot].spread && *members > 1 {
                faults.push(format!("lot {lot} is not spread"));
            }
        }
        if left.iter().any(|left| *left < 0) {
            faults.push(format!("a machine is over-committed: {left:?}"));
        }
        let lots: std::collections::BTreeSet<_> =
            machine.holds.iter().map(|(lot, _)| lot).collect();
        if lots.len() != machine.holds.len() {
            faults.push("a machine names a lot twice".to_owned());
        }
    }
    for (position, lot) in problem.lots.iter().enumerate() {
        if held.get(&position).copied().unwrap_or(0) != lot.members {
            faults.push(format!("lot {position} is not held whole"));
        }
    }
    if cost != solution.micro_dollars {
        faults.push(format!("costs {cost}, said {}", solution.micro_dollars));
    }
    faults
}

fn can_be_held(problem: &Problem) -> bool {
    problem
        .lots
        .iter()
        .filter(|lot| lot.members > 0)
        .all(|lot| {
            let kind = &problem.kinds[lot.kind];
            let mut suits = kind.suits.iter();
            suits.any(|at| problem.offers[*at].capacity.holds(&kind.each) > 0)
        })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: ProptestConfig::default().cases.max(10_000), ..ProptestConfig::default() })]

    #[test]
    fn everything_is_held_by_machines_that_suit_it(problem in any_problem(), steps in prop_oneof![Just(0_u64), 0..5_000_u64, Just(100_000)]) {
        let solution = solve(&problem, steps);
        prop_assert_eq!(solution.is_some(), can_be_held(&problem));
        if let Some(solution) = solution {
            prop_assert_eq!(faults(&problem, &solution), Vec::<String>::new());
            prop_assert_eq!(solve(&problem, steps), Some(solution));
        }
    }

    /// Pods of one GPU each, machines of one price per size: the optimum follows from a table.
    #[test]
    fn equal_pods_are_bought_for_within_three_percent_of_the_optimum(
        pods in 20..=60_u64,
        prices in (3..=9_u64, 5..=18_u64, 9..=36_u64),
    ) {
        let sizes = [(1, prices.0), (2, prices.1), (4, prices.2)];
        let problem = Problem {
            kinds: vec![Kind { each: resources(1, 1, 1), suits: vec![0, 1, 2] }],
            lots: vec![Lot { kind: 0, members: pods, spread: false }],
            offers: sizes
                .iter()
                .map(|(gpus, dollars)| Offer {
                    capacity: Resources { pods: 110, ..resources(*gpus, 99, 99) },
                    micro_dollars: dollars * 1_000_000,
                })
                .collect(),
        };
        let mut cheapest = vec![0_u64];
        for wanted in 1..=pods {
            let ways = sizes.iter().map(|(gpus, dollars)| {
                dollars + cheapest[usize::try_from(wanted.saturating_sub(*gpus)).unwrap()]
            });
            let least = ways.min().unwrap();
            cheapest.push(least);
        }
        let optimum = cheapest.last().unwrap() * 1_000_000;
        let found = solve(&problem, 1_000_000).unwrap().micro_dollars;
        prop_assert!(found * 100 <= optimum * 103, "{found} for {optimum}");
    }
}

#[test]
fn a_pod_that_fits_nothing_has_no_solution() {
    let problem = Problem {
        kinds: vec![Kind {
            each: resources(2, 1, 1),
            suits: vec![0],
        }],
        lots: vec![Lot {
            kind: 0,
            members: 1,
            spread: false,
        }],
        offers: vec![Offer {
            capacity: resources(1, 8, 8),
            micro_dollars: 1,
        }],
    };
    assert_eq!(solve(&problem, 1_000), None);
}

#[test]
fn pods_that_complement_each_other_share_a_machine() {
    let problem = Problem {
        kinds: vec![
            Kind {
                each: resources(0, 6, 2),
                suits: vec![0],
            },
            Kind {
                each: resources(0, 2, 6),
                suits: vec![0],
            },
        ],
        lots: vec![
            Lot {
                kind: 0,
                members: 10,
                spread: false,
            },
            Lot {
                kind: 1,
                members: 10,
                spread: false,
            },
        ],
        offers: vec![Offer {
            capacity: Resources {
                pods: 10,
                ..resources(0, 8, 8)
            },
            micro_dollars: 1_000_000,
        }],
    };
    let solution = solve(&problem, 1_000_000).unwrap();
    assert_eq!(solution.machines.len(), 10);
}
