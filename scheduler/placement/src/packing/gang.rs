//! Gangs: equal pods that get their places together or not at all, close to each other if they ask for it.
//!
//! Which domain: among those of the required level that can hold all members, the one that spreads the gang over the
//! fewest domains of the preferred level, then the tightest. Inside it the roomiest preferred domains are filled and the
//! remainder goes to the tightest that takes it. Which nodes: the policy's own ranking. The decision reads sums that
//! are kept per request ([`Room`]), so it looks only at domains, and at the nodes of those chosen.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::PackingError;
use super::model::{Gang, Level, Placement};
use super::packer::Packer;
use super::refusal::Refusal;
use super::request::{RequestId, Spec};
use super::room::{Limits, Room};
use super::topology::NOWHERE;

/// Most requests whose [`Room`] is kept; each takes four bytes per node.
const MOST_ROOMS: usize = 64;

/// A gang that cannot be placed whole, and what stands in its way.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GangRefusal {
    /// Members asked.
    pub members: u32,
    /// Members that the roomiest domain could take.
    pub fitting: u64,
    /// The level at which all members must be together; absent for anywhere.
    pub level: Option<Level>,
    /// The roomiest domain of that level by its path, empty if there is none.
    pub domain: String,
    /// How many domains of that level there are.
    pub domains: u32,
    /// What keeps one more member off each node.
    pub each: Refusal,
}

impl fmt::Display for GangRefusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            members,
            fitting,
            level,
            domain,
            domains,
            each,
        } = self;
        match level {
            None => write!(
                formatter,
                "the cluster holds {fitting} of {members} members"
            )?,
            Some(level) if *domains == 0 => {
                return write!(formatter, "no node says which {level} it is in");
            }
            Some(level) => write!(
                formatter,
                "all members must share one {level}, but the roomiest of {domains}, {domain}, holds {fitting} \
                 of {members} members"
            )?,
        }
        if each.excluded.is_empty() {
            return Ok(());
        }
        write!(formatter, "; of the others, {}", each.counts())
    }
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Node => "node",
            Self::Nvlink => "NVLink domain",
            Self::Rack => "rack",
            Self::Block => "block",
            Self::Zone => "zone",
        })
    }
}

/// The level at which a gang wants few domains, if that is closer than where it must be anyway.
fn preference(gang: &Gang) -> Option<Level> {
    gang.preferred
        .filter(|preferred| gang.required.is_none_or(|required| *preferred < required))
}

/// A part of the cluster, all of it if `None`.
type Domain = Option<(Level, u32)>;

impl Packer {
    /// Places every member of a gang, or none and says why. One placement per member.
    ///
    /// # Errors
    /// The members' request asks for something impossible on any node, or the gang has no members.
    pub fn place_gang(
        &mut self,
        gang: &Gang,
    ) -> Result<Result<Vec<Placement>, GangRefusal>, PackingError> {
        if gang.members == 0 {
            let what = "a gang of no members: ask for at least 1".to_owned();
            return Err(PackingError::BadRequest { what });
        }
        let id = self.register(&gang.each)?;
        let spec = Arc::clone(
            self.specs
                .spec(id)
                .ok_or(PackingError::UnknownRequest { id })?,
        );
        self.learn(id, u64::from(gang.members));
        let room = self.take_room(id, &spec, gang);
        let placed = match self.choose_domain(&room, gang) {
            Some(domain) => self.fill(&spec, &room, gang, domain),
            None => None,
        };
        let result = placed.ok_or_else(|| self.refuse(id, &spec, &room, gang));
        self.rooms.insert((id.0, gang.spread), room);
        Ok(result)
    }

    fn take_room(&mut self, id: RequestId, spec: &Spec, gang: &Gang) -> Room {
        self.gangs_asked += 1;
        let mut room = self.rooms.remove(&(id.0, gang.spread)).unwrap_or_default();
        if self.rooms.len() >= MOST_ROOMS {
            let oldest = self
                .rooms
                .iter()
                .min_by_key(|(_, room)| room.last_used)
                .map(|(key, _)| *key);
            if let Some(oldest) = oldest {
                self.rooms.remove(&oldest);
            }
        }
        let limits = Limits {
            per_node: if gang.spread { 1 } else { u32::MAX },
            only: self.only_node(spec),
        };
        room.catch_up(&mut self.cluster, &self.topology, spec, limits);
        room.last_used = self.gangs_asked;
        room
    }

    /// The part of the cluster that all members go to; `None` if no part allowed can hold them.
    fn choose_domain(&self, room: &Room, gang: &Gang) -> Option<Domain> {
        let members = u64::from(gang.members);
        let candidates: Vec<Domain> = match gang.required {
            None => vec![None],
            Some(level) => {
                let domains = self.topology.inside(None, level);
                domains
                    .into_iter()
                    .map(|domain| Some((level, domain)))
                    .collect()
            }
        };
        candidates
            .into_iter()
            .filter(|domain| room.within(*domain) >= members)
            .min_by_key(|domain| {
                let parts = preference(gang)
                    .map_or(0, |level| self.split(room, *domain, level, members).len());
                (parts, room.within(*domain))
            })
    }

    /// Domains of `level` inside `within` that hold `members`, as few as can be: the roomiest first, and for the
    /// remainder the tightest that takes it. Holds fewer members only if too few nodes are in any domain of that level.
    fn split(&self, room: &Room, within: Domain, level: Level, members: u64) -> Vec<u32> {
        let of = |domain: u32| room.within(Some((level, domain)));
        let mut inside = self.topology.inside(within, level);
        inside.retain(|domain| of(*domain) > 0);
        inside.sort_by_key(|domain| Reverse(of(*domain)));
        let mut left = members;
        let mut chosen = Vec::new();
        for (at, domain) in inside.iter().enumerate() {
            if left == 0 {
                break;
            }
            if of(*domain) < left {
                left -= of(*domain);
                chosen.push(*domain);
                continue;
            }
            let rest = inside.iter().skip(at).filter(|domain| of(**domain) >= left);
            chosen.extend(rest.min_by_key(|domain| of(**domain)));
            left = 0;
        }
        chosen
    }

    /// Places all members in a domain; takes everything back if that fails.
    fn fill(
        &mut self,
        spec: &Spec,
        room: &Room,
        gang: &Gang,
        within: Domain,
    ) -> Option<Vec<Placement>> {
        let mut left = gang.members as usize;
        let mut placed: Vec<Placement> = Vec::with_capacity(left);
        let parts = preference(gang).map_or_else(Vec::new, |level| {
            let chosen = self.split(room, within, level, u64::from(gang.members));
            chosen
                .into_iter()
                .map(|domain| Some((level, domain)))
                .collect()
        });
        // The domain itself comes last, for nodes that are in no domain of the preferred level.
        for part in parts.into_iter().chain([within]) {
            let outside = |node: &u32| {
                preference(gang).is_some_and(|level| {
                    part == within && self.topology.domain_of(level, *node) != NOWHERE
                })
            };
            let skips = part == within && !placed.is_empty();
            let nodes = self.topology.nodes(part).into_iter();
            let nodes = nodes.filter(|node| room.on(*node) > 0 && !(skips && outside(node)));
            let nodes: Vec<u32> = nodes.collect();
            let got = self.fill_nodes(spec, &nodes, left, gang);
            left -= got.len();
            placed.extend(got);
            if left == 0 {
                return Some(placed);
            }
        }
        for placement in &placed {
            // What was placed a moment ago is there to give back.
            let _ = self.release(placement);
        }
        None
    }

    /// Places up to `most` members on these nodes, always on the best of them.
    fn fill_nodes(
        &mut self,
        spec: &Spec,
        nodes: &[u32],
        most: usize,
        gang: &Gang,
    ) -> Vec<Placement> {
        let mut best: BinaryHeap<_> = nodes
            .iter()
            .filter_map(|node| Some((self.rate_node(spec, *node)?, Reverse(*node))))
            .collect();
        let mut placed = Vec::new();
        while placed.len() < most
            && let Some((_, Reverse(node))) = best.pop()
        {
            placed.extend(self.put(spec, node));
            if !gang.spread {
                best.extend(
                    self.rate_node(spec, node)
                        .map(|rating| (rating, Reverse(node))),
                );
            }
        }
        placed
    }

    fn refuse(&mut self, id: RequestId, spec: &Spec, room: &Room, gang: &Gang) -> GangRefusal {
        let domains = gang
            .required
            .map_or_else(Vec::new, |level| self.topology.inside(None, level));
        let roomiest = gang.required.and_then(|level| {
            let of = |domain: &u32| room.within(Some((level, *domain)));
            let most = domains
                .iter()
                .max_by_key(|domain| (of(domain), Reverse(**domain)))?;
            Some((level, *most))
        });
        GangRefusal {
            members: gang.members,
            fitting: if gang.required.is_some() && roomiest.is_none() {
                0
            } else {
                room.within(roomiest)
            },
            level: gang.required,
            domain: roomiest.map_or_else(String::new, |(level, at)| {
                self.topology.name(level, at).to_owned()
            }),
            domains: u32::try_from(domains.len()).unwrap_or(u32::MAX),
            each: self.explain(id, spec, None),
        }
    }
}
