//! All maximal contents of every machine: what it can hold so that nothing more fits.

use kaito_placement::purchasing::Problem;

/// What one machine holds, by kind.
pub struct Contents {
    /// Price of the machine, micro-dollars per hour.
    pub micro_dollars: u64,
    /// Pods of each kind.
    pub counts: Vec<u64>,
}

/// The covering program.
pub struct Program {
    /// Choices.
    pub contents: Vec<Contents>,
    /// Pods of each kind that are to be held.
    pub wanted: Vec<u64>,
}

/// Writes the program, unless there are more than `most` contents. Lots that spread are not supported.
pub fn program(problem: &Problem, most: usize) -> Option<Program> {
    let mut wanted = vec![0; problem.kinds.len()];
    for lot in &problem.lots {
        assert!(!lot.spread, "spread is not part of the program");
        wanted[lot.kind] += lot.members;
    }
    let mut contents = Vec::new();
    for (position, offer) in problem.offers.iter().enumerate() {
        let dearer = |other: &kaito_placement::purchasing::Offer| {
            let (a, b) = (other.capacity.amounts(), offer.capacity.amounts());
            let larger = a.iter().zip(b).all(|(a, b)| *a >= b);
            larger
                && (other.micro_dollars, a) != (offer.micro_dollars, b)
                && other.micro_dollars <= offer.micro_dollars
        };
        let menu: Vec<usize> = (0..problem.kinds.len())
            .filter(|kind| problem.kinds[*kind].suits.contains(&position) && wanted[*kind] > 0)
            .collect();
        let beaten = problem.offers.iter().enumerate().any(|(at, other)| {
            dearer(other)
                && menu
                    .iter()
                    .all(|kind| problem.kinds[*kind].suits.contains(&at))
        });
        if beaten {
            continue;
        }
        let mut walk = Walk {
            problem,
            menu: &menu,
            wanted: &wanted,
            counts: vec![0; problem.kinds.len()],
            found: Vec::new(),
            most,
        };
        if !walk.down(0, offer.capacity.amounts()) {
            return None;
        }
        contents.extend(walk.found.into_iter().map(|counts| Contents {
            micro_dollars: offer.micro_dollars,
            counts,
        }));
        if contents.len() > most {
            return None;
        }
    }
    Some(Program { contents, wanted })
}

struct Walk<'p> {
    problem: &'p Problem,
    menu: &'p [usize],
    wanted: &'p [u64],
    counts: Vec<u64>,
    found: Vec<Vec<u64>>,
    most: usize,
}

impl Walk<'_> {
    /// Tries all counts of the menu from `at` on; false if there are too many contents.
    fn down(&mut self, at: usize, free: [u64; 5]) -> bool {
        let Some(&kind) = self.menu.get(at) else {
            if self.is_maximal(&free) && self.counts.iter().any(|count| *count > 0) {
                self.found.push(self.counts.clone());
            }
            return self.found.len() <= self.most;
        };
        let need = self.problem.kinds[kind].each.amounts();
        let mut left = free;
        let mut fits = true;
        let mut count = 0;
        while fits && count <= self.wanted[kind] {
            self.counts[kind] = count;
            if !self.down(at + 1, left) {
                return false;
            }
            count += 1;
            for (left, need) in left.iter_mut().zip(need) {
                match left.checked_sub(need) {
                    Some(rest) => *left = rest,
                    None => fits = false,
                }
            }
        }
        self.counts[kind] = 0;
        true
    }

    fn is_maximal(&self, free: &[u64; 5]) -> bool {
        !self.menu.iter().any(|&kind| {
            let need = self.problem.kinds[kind].each.amounts();
            self.counts[kind] < self.wanted[kind]
                && free.iter().zip(need).all(|(free, need)| *free >= need)
        })
    }
}
