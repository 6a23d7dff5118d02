//! What a scenario's cloud has, and what goes wrong in it: quota, capacity and scripted faults. Pure.

use serde::Deserialize;

/// Instance types by name: `*` any text, `?` one character, case ignored (clouds are careless with it).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pattern(pub(super) String);

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() {
            Err("a pattern may not be empty; use `*` for all".to_owned())
        } else {
            Ok(Self(text))
        }
    }
}

impl Default for Pattern {
    fn default() -> Self {
        Self("*".to_owned())
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl Pattern {
    /// Whether `name` matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let pattern: Vec<char> = self.0.to_lowercase().chars().collect();
        let name: Vec<char> = name.to_lowercase().chars().collect();
        // `reach[i]`: the pattern read so far can have consumed the first `i` characters of the name. Quadratic at
        // worst, where backtracking would be exponential.
        let mut reach = vec![false; name.len() + 1];
        if let Some(first) = reach.first_mut() {
            *first = true;
        }
        for token in pattern {
            let mut next = vec![false; name.len() + 1];
            for (index, slot) in next.iter_mut().enumerate() {
                let before = index.checked_sub(1);
                *slot = match token {
                    '*' => reach.iter().take(index + 1).any(|reached| *reached),
                    _ => before.is_some_and(|before| {
                        reach.get(before) == Some(&true)
                            && (token == '?' || name.get(before) == Some(&token))
                    }),
                };
            }
            reach = next;
        }
        reach.last() == Some(&true)
    }
}

/// What an amount is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Machines.
    Nodes(u32),
    /// Virtual CPUs.
    Vcpus(u32),
}

/// One quota counter over all machines whose type matches.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawQuota")]
pub struct Quota {
    /// Machines that count.
    pub pattern: Pattern,
    /// Name of the counter in messages: the family's, or the pattern.
    pub name: String,
    /// Limit.
    pub limit: Limit,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawQuota {
    #[serde(rename = "match", default)]
    pattern: Pattern,
    name: Option<String>,
    nodes: Option<u32>,
    vcpus: Option<u32>,
}

impl TryFrom<RawQuota> for Quota {
    type Error = &'static str;

    fn try_from(raw: RawQuota) -> Result<Self, &'static str> {
        let limit = match (raw.nodes, raw.vcpus) {
            (Some(nodes), None) => Limit::Nodes(nodes),
            (None, Some(vcpus)) => Limit::Vcpus(vcpus),
            _ => return Err("a quota has exactly one of `nodes` and `vcpus`"),
        };
        let name = raw.name.unwrap_or_else(|| raw.pattern.to_string());
        Ok(Self {
            pattern: raw.pattern,
            name,
            limit,
        })
    }
}

/// Free machines of matching types.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Capacity {
    /// Machines that count, together.
    #[serde(rename = "match", default)]
    pub pattern: Pattern,
    /// Zone number; absent for each zone on its own.
    #[serde(default)]
    pub zone: Option<String>,
    /// Machines that the zone has.
    pub nodes: u32,
}

/// One scripted failure.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Fault {
    /// Which launches it hits.
    #[serde(rename = "match", default)]
    pub matches: Match,
    /// What happens to them.
    pub effect: Effect,
}

/// Which launches a fault hits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Match {
    /// Type asked for.
    pub instance_type: Pattern,
    /// Ordinals, from 1, among the launches that this rule's type matches; empty for all. Counted per process.
    pub nth: Vec<std::num::NonZeroU64>,
}

/// What a scripted failure does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Refused for lack of capacity; final.
    Capacity,
    /// Refused for lack of quota; final.
    Quota,
    /// The call fails; tried again.
    LaunchError,
    /// Launched, but its node never appears.
    NeverRegister,
    /// The node appears and becomes Ready without its GPUs.
    NoGpu,
}
