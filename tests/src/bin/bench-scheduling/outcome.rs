//! What came of it, in numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use serde::Serialize;

use crate::Arguments;
use crate::pods::Ask;
use crate::side::{GPUS, Side};
use crate::watched::Places;

/// One side's result.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Outcome {
    /// Whose.
    pub(crate) side: &'static str,
    /// Pods that got a node.
    pub(crate) pods_bound: usize,
    /// From the first pod's creation to the last binding, seconds.
    pub(crate) seconds: f64,
    /// Bound pods per second of that time.
    pub(crate) pods_per_second: f64,
    /// Nodes with at least one pod.
    pub(crate) nodes_used: usize,
    /// Free GPUs on those nodes.
    pub(crate) gpus_stranded: u32,
    /// Gangs all of whose pods got a node.
    pub(crate) gangs_whole: usize,
    /// Gangs of which some pods got a node and others none, at the end.
    pub(crate) gangs_half_placed: usize,
    /// GPUs that those gangs hold for nothing, at the end.
    pub(crate) gpus_held_by_half_gangs: u32,
    /// GPU-seconds held by gangs before they were whole, until the end of the run for those that never were.
    pub(crate) gpu_seconds_held_before_whole: f64,
}

impl Outcome {
    pub(crate) fn new(
        side: Side,
        asks: &[Ask],
        places: &Places,
        (started, ended): (Instant, Instant),
    ) -> Self {
        let last = places.values().map(|bound| bound.at).max();
        let seconds = last.map_or(0.0, |at| at.duration_since(started).as_secs_f64());
        let mut used: BTreeMap<&str, u32> = BTreeMap::new();
        let mut gangs: BTreeMap<usize, Vec<&Ask>> = BTreeMap::new();
        for ask in asks {
            if let Some(bound) = places.get(&ask.name) {
                *used.entry(&bound.node).or_default() += ask.gpus;
            }
            if let Some(gang) = ask.gang {
                gangs.entry(gang).or_default().push(ask);
            }
        }
        let mut outcome = Self {
            side: side.name(),
            pods_bound: places.len(),
            seconds,
            pods_per_second: if seconds > 0.0 {
                places.len() as f64 / seconds
            } else {
                0.0
            },
            nodes_used: used.len(),
            gpus_stranded: used.values().map(|used| GPUS.saturating_sub(*used)).sum(),
            gangs_whole: 0,
            gangs_half_placed: 0,
            gpus_held_by_half_gangs: 0,
            gpu_seconds_held_before_whole: 0.0,
        };
        for members in gangs.values() {
            outcome.take_gang(members, places, ended);
        }
        outcome
    }

    fn take_gang(&mut self, members: &[&Ask], places: &Places, ended: Instant) {
        let bound: Vec<(Instant, u32)> = members
            .iter()
            .filter_map(|ask| Some((places.get(&ask.name)?.at, ask.gpus)))
            .collect();
        let whole = bound.len() == members.len();
        if whole {
            self.gangs_whole += 1;
        } else if !bound.is_empty() {
            self.gangs_half_placed += 1;
            self.gpus_held_by_half_gangs += bound.iter().map(|(_, gpus)| gpus).sum::<u32>();
        }
        let last = bound.iter().map(|(at, _)| *at).max();
        let until = if whole { last.unwrap_or(ended) } else { ended };
        self.gpu_seconds_held_before_whole += bound
            .iter()
            .map(|(at, gpus)| until.duration_since(*at).as_secs_f64() * f64::from(*gpus))
            .sum::<f64>();
    }
}

/// Both sides, with what they were asked.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    nodes: usize,
    gpus_per_node: u32,
    pods: usize,
    gangs: usize,
    gang_size: usize,
    gpus_per_gang_pod: u32,
    scheduler_requests_per_second: u32,
    /// What is real and what is not.
    note: &'static str,
    /// Results, ours first.
    pub(crate) sides: Vec<Outcome>,
}

impl Report {
    pub(crate) fn new(arguments: &Arguments) -> Self {
        Self {
            nodes: arguments.nodes,
            gpus_per_node: GPUS,
            pods: arguments.pods,
            gangs: arguments.gangs,
            gang_size: arguments.gang_size,
            gpus_per_gang_pod: arguments.gang_gpus,
            scheduler_requests_per_second: arguments.scheduler_qps,
            note: "real control plane, one side after the other on fresh ones; nodes and running pods are emulated; \
                   both sides get the same pods, ours with the gate kaito.sh/placement",
            sides: Vec::new(),
        }
    }
}

/// A line of the table: what it shows, and how it reads that from a side.
type Row = (&'static str, fn(&Outcome) -> String);

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} nodes of {} GPUs; {} pods of 1 GPU and {} gangs of {} pods of {} GPU(s): {} GPUs asked for, {} there",
            self.nodes,
            self.gpus_per_node,
            self.pods,
            self.gangs,
            self.gang_size,
            self.gpus_per_gang_pod,
            self.pods + self.gangs * self.gang_size * self.gpus_per_gang_pod as usize,
            self.nodes * self.gpus_per_node as usize,
        )?;
        writeln!(f, "{}\n", self.note)?;
        let rows: [Row; 10] = [
            ("measured", |one| one.side.to_owned()),
            ("pods bound", |one| one.pods_bound.to_string()),
            ("seconds", |one| format!("{:.1}", one.seconds)),
            ("pods/s", |one| format!("{:.0}", one.pods_per_second)),
            ("nodes used", |one| one.nodes_used.to_string()),
            ("GPUs stranded on them", |one| one.gpus_stranded.to_string()),
            ("whole gangs", |one| one.gangs_whole.to_string()),
            ("half-placed gangs", |one| one.gangs_half_placed.to_string()),
            ("GPUs that those hold", |one| {
                one.gpus_held_by_half_gangs.to_string()
            }),
            ("GPU-seconds held before a gang was whole", |one| {
                format!("{:.0}", one.gpu_seconds_held_before_whole)
            }),
        ];
        for (what, cell) in rows {
            write!(f, "{what:<42}")?;
            for side in &self.sides {
                write!(f, "{:>24}", cell(side))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::Outcome;
    use crate::pods::Ask;
    use crate::side::Side;
    use crate::watched::{Bound, Places};

    #[test]
    fn a_gang_with_a_pod_left_over_is_half_placed_and_holds_its_gpus() {
        let start = Instant::now();
        let ask = |name: &str| Ask {
            name: name.to_owned(),
            gang: Some(0),
            gpus: 2,
        };
        let at = start + Duration::from_secs(1);
        let node = "node-0".to_owned();
        let places = Places::from([("a".to_owned(), Bound { node, at })]);
        let end = start + Duration::from_secs(4);
        let outcome = Outcome::new(Side::Kaito, &[ask("a"), ask("b")], &places, (start, end));
        assert_eq!(outcome.gangs_half_placed, 1);
        assert_eq!(outcome.gpus_held_by_half_gangs, 2);
        assert_eq!(outcome.gpus_stranded, 6);
        assert_eq!(outcome.gpu_seconds_held_before_whole, 6.0);
    }
}
