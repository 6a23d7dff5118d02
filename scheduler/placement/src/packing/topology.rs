//! Which nodes stand together: racks in blocks in zones, numbered once. Knows nothing of what runs on them.
#![expect(
    clippy::indexing_slicing,
    reason = "levels index an array of their own number; domain numbers are handed out here"
)]

use std::collections::{BTreeSet, HashMap};

use super::model::{Domains, Level, NodeShape};

/// A node that is in no domain of a level.
pub(super) const NOWHERE: u32 = u32::MAX;

/// Levels, closest first, as indices.
pub(super) const LEVELS: usize = 5;

/// All domains of all levels.
#[derive(Debug, Default)]
pub(super) struct Topology {
    levels: [LevelDomains; LEVELS],
    /// Nodes in all.
    nodes: u32,
}

/// Domains of one level.
#[derive(Debug, Default)]
struct LevelDomains {
    numbers: HashMap<String, u32>,
    /// Per node.
    domain_of: Vec<u32>,
    names: Vec<String>,
    /// Per domain, ascending.
    nodes: Vec<Vec<u32>>,
}

impl Topology {
    pub(super) fn new(shapes: &[NodeShape]) -> Self {
        let mut topology = Self::default();
        for shape in shapes {
            topology.add(shape);
        }
        topology
    }

    /// Adds the next node.
    pub(super) fn add(&mut self, shape: &NodeShape) {
        for level in [
            Level::Node,
            Level::Nvlink,
            Level::Rack,
            Level::Block,
            Level::Zone,
        ] {
            let domains = &mut self.levels[level as usize];
            let path = path(level, &shape.domains, &shape.name);
            let domain = path.map_or(NOWHERE, |path| domains.number(path));
            domains.domain_of.push(domain);
            if domain != NOWHERE {
                domains.nodes[domain as usize].push(self.nodes);
            }
        }
        self.nodes += 1;
    }

    /// The domain a node is in, [`NOWHERE`] if none.
    pub(super) fn domain_of(&self, level: Level, node: u32) -> u32 {
        self.levels[level as usize].domain_of[node as usize]
    }

    /// How many domains a level has.
    pub(super) fn count(&self, level: Level) -> usize {
        self.levels[level as usize].names.len()
    }

    /// A domain's full name, outermost first.
    pub(super) fn name(&self, level: Level, domain: u32) -> &str {
        &self.levels[level as usize].names[domain as usize]
    }

    /// Nodes of a domain, ascending; of the whole cluster without one.
    pub(super) fn nodes(&self, within: Option<(Level, u32)>) -> Vec<u32> {
        match within {
            Some((level, domain)) => self.levels[level as usize].nodes[domain as usize].clone(),
            None => (0..self.nodes).collect(),
        }
    }

    /// Domains of `level` that have nodes in a domain, ascending.
    pub(super) fn inside(&self, within: Option<(Level, u32)>, level: Level) -> Vec<u32> {
        let of_level = &self.levels[level as usize];
        let Some((outer, domain)) = within else {
            return (0..u32::try_from(of_level.names.len()).unwrap_or(NOWHERE)).collect();
        };
        let nodes = &self.levels[outer as usize].nodes[domain as usize];
        let domains = nodes.iter().map(|node| of_level.domain_of[*node as usize]);
        let distinct: BTreeSet<u32> = domains.filter(|domain| *domain != NOWHERE).collect();
        distinct.into_iter().collect()
    }
}

impl LevelDomains {
    fn number(&mut self, path: String) -> u32 {
        if let Some(number) = self.numbers.get(&path) {
            return *number;
        }
        let number = u32::try_from(self.names.len()).unwrap_or(NOWHERE);
        self.names.push(path.clone());
        self.nodes.push(Vec::new());
        self.numbers.insert(path, number);
        number
    }
}

/// Names are only unique inside the next wider domain, so a domain is known by its whole path.
fn path(level: Level, domains: &Domains, node: &str) -> Option<String> {
    let Domains {
        zone,
        block,
        rack,
        nvlink,
    } = domains;
    let (own, parts): (&str, Vec<&str>) = match level {
        Level::Node => (node, vec![node]),
        Level::Nvlink => (nvlink, vec![zone, block, rack, nvlink]),
        Level::Rack => (rack, vec![zone, block, rack]),
        Level::Block => (block, vec![zone, block]),
        Level::Zone => (zone, vec![zone]),
    };
    (!own.is_empty()).then(|| parts.join("/"))
}
