//! Seeded purchase problems: the shape of Karpenter's benchmark, and GPU pods on the priced SKU table.
//!
//! Shared by `--example purchases` (speed and size) and `tests/bench/optimum` (cost against HiGHS).

use kaito_placement::purchasing::{Kind, Lot, Offer, Problem};
use kaito_placement::snapshot::Resources;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A seeded sequence (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// One of a list.
    pub(crate) fn of<T: Copy>(&mut self, list: &[T]) -> T {
        let at = usize::try_from(self.next() % list.len() as u64).unwrap_or_default();
        list[at]
    }
}

/// Instance types `1..=types`: i vCPU, 2i GiB, 10i pods, less 100 m and 10 MiB; 0.1 per vCPU and 0.1 per 10⁹ bytes.
pub(crate) fn linear_offers(types: u64) -> Vec<Offer> {
    (1..=types)
        .map(|i| Offer {
            capacity: Resources {
                milli_cpu: 1_000 * i - 100,
                memory_bytes: 2 * i * GIB - 10 * MIB,
                ephemeral_bytes: 0,
                pods: 10 * i,
                gpus: 0,
            },
            micro_dollars: 100_000 * i + 2 * i * GIB / 10_000,
        })
        .collect()
}

/// `pods` plain pods, CPU and memory independent and uniform, each a lot of its own.
pub(crate) fn plain(pods: u64, offers: Vec<Offer>, seed: u64) -> Problem {
    let mut random = Random(seed);
    let mut kinds = Vec::new();
    for milli_cpu in [100, 250, 500, 1_000, 1_500] {
        for mib in [100, 256, 512, 1_024, 2_048, 4_096] {
            kinds.push(Kind {
                each: Resources {
                    milli_cpu,
                    memory_bytes: mib * MIB,
                    ephemeral_bytes: 0,
                    pods: 1,
                    gpus: 0,
                },
                suits: (0..offers.len()).collect(),
            });
        }
    }
    let all: Vec<usize> = (0..kinds.len()).collect();
    let lots = (0..pods)
        .map(|_| Lot {
            kind: random.of(&all),
            members: 1,
            spread: false,
        })
        .collect();
    Problem {
        kinds,
        lots,
        offers,
    }
}

/// The same pods in five equal classes, offers in three zones: plain; dealt round over the zones; hosts apart (gangs
/// of 14); all of one zone; hosts apart for the whole class (one gang per kind).
pub(crate) fn mixed(pods: u64, types: u64, seed: u64) -> Problem {
    let base = linear_offers(types);
    let per_zone = base.len();
    let offers: Vec<Offer> = (0..3).flat_map(|_| base.clone()).collect();
    let plain = plain(pods, offers, seed);
    let zone = |zone: usize| (zone * per_zone..(zone + 1) * per_zone).collect::<Vec<_>>();
    let mut problem = Problem {
        kinds: plain.kinds.clone(),
        offers: plain.offers.clone(),
        lots: Vec::new(),
    };
    let basic = plain.kinds.len();
    for place in 0..3 {
        for kind in &plain.kinds {
            problem.kinds.push(Kind {
                each: kind.each,
                suits: zone(place),
            });
        }
    }
    let mut apart = vec![[0_u64; 2]; basic];
    for (at, lot) in plain.lots.iter().enumerate() {
        let single = |kind| Lot { kind, ..*lot };
        match at % 5 {
            0 => problem.lots.push(single(lot.kind)),
            1 => problem
                .lots
                .push(single(lot.kind + basic * (1 + at / 5 % 3))),
            2 => apart[lot.kind][0] += 1,
            3 => problem.lots.push(single(lot.kind + basic)),
            _ => apart[lot.kind][1] += 1,
        }
    }
    for (kind, [gangs, class]) in apart.into_iter().enumerate() {
        let gang = |members| Lot {
            kind,
            members,
            spread: true,
        };
        problem.lots.extend((0..gangs / 14).map(|_| gang(14)));
        problem.lots.extend([gang(gangs % 14), gang(class)]);
    }
    problem.lots.retain(|lot| lot.members > 0);
    problem
}

/// Name, GPU memory in GiB and offer of every NVIDIA type that has a price and is not retired (all of them Azure's).
pub(crate) fn sku_offers() -> Vec<(String, u64, Offer)> {
    let table = include_str!("../../../api/data/instance_types.csv");
    let lines = table.lines().filter(|line| line.starts_with("azure"));
    lines
        .filter_map(|line| {
            let cells: Vec<&str> = line.split(',').collect();
            let number = |at: usize| cells[at].parse::<u64>().ok();
            let dollars: f64 = cells[9].parse().ok()?;
            let (gpus, memory) = (number(3)?, number(6)?);
            let (cpu, bytes) = (number(5)? * 1_000, memory * GIB);
            let usable = cells[2].starts_with("NVIDIA") && cells[10] == "no" && gpus > 0;
            let offer = Offer {
                capacity: Resources {
                    milli_cpu: cpu - (140 + cpu / 100),
                    memory_bytes: bytes - (750 * MIB + bytes / 20),
                    ephemeral_bytes: 870 * GIB,
                    pods: 110,
                    gpus,
                },
                micro_dollars: (dollars * 1e6).round() as u64,
            };
            usable.then(|| (cells[1].to_owned(), number(4).unwrap_or_default(), offer))
        })
        .collect()
}

/// GPU pods of up to `kinds` kinds on the SKU table: 1, 2, 4 or 8 GPUs of at least 16 to 80 GiB, 2 to 11 cores and 8 to
/// 100 GiB of memory for each GPU.
pub(crate) fn gpu(pods: u64, kinds: usize, seed: u64) -> Problem {
    let mut random = Random(seed);
    let skus = sku_offers();
    let mut problem = Problem {
        offers: skus.iter().map(|(_, _, offer)| *offer).collect(),
        ..Problem::default()
    };
    while problem.kinds.len() < kinds {
        let gpus = random.of(&[1, 1, 1, 2, 2, 4, 8]);
        let floor = random.of(&[16, 16, 24, 40, 80]);
        let each = Resources {
            milli_cpu: gpus * random.of(&[2_000, 4_000, 7_000, 11_000]),
            memory_bytes: gpus * random.of(&[8, 24, 50, 100]) * GIB,
            ephemeral_bytes: 20 * GIB,
            pods: 1,
            gpus,
        };
        let suits: Vec<usize> = (0..skus.len()).filter(|at| skus[*at].1 >= floor).collect();
        let fits = |at: &usize| skus[*at].2.capacity.holds(&each) > 0;
        if suits.iter().any(fits) {
            problem.kinds.push(Kind { each, suits });
        }
    }
    let all: Vec<usize> = (0..problem.kinds.len()).collect();
    problem.lots = (0..pods)
        .map(|_| Lot {
            kind: random.of(&all),
            members: 1,
            spread: false,
        })
        .collect();
    problem
}
