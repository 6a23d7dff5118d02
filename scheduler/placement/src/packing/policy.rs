//! The policies one can choose from, by name.

use std::fmt;
use std::str::FromStr;

/// How nodes are ranked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Any node that fits, uniformly; any device that fits, uniformly.
    Random,
    /// Lowest alignment of demand and idle first.
    DotProduct,
    /// Pods of one size together.
    GpuClustering,
    /// Fullest devices first, whole nodes last.
    GpuPacking,
    /// Least left over.
    BestFit,
    /// Fragmentation gradient descent (Weng et al., USENIX ATC 2023), told the typical pods.
    Fgd,
    /// One workload per node, as KAITO does with its own nodes.
    KaitoExclusive,
    /// Ours: the quantised gradient under a demand learnt as it arrives, with a price for CPU-starved GPUs and one for
    /// scarce makes of nodes.
    #[default]
    Kaito,
}

impl Policy {
    /// Every policy, the default last.
    pub const ALL: [Self; 8] = [
        Self::Random,
        Self::DotProduct,
        Self::GpuClustering,
        Self::GpuPacking,
        Self::BestFit,
        Self::Fgd,
        Self::KaitoExclusive,
        Self::Kaito,
    ];

    /// The name it is chosen by.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::DotProduct => "dot-product",
            Self::GpuClustering => "gpu-clustering",
            Self::GpuPacking => "gpu-packing",
            Self::BestFit => "best-fit",
            Self::Fgd => "fgd",
            Self::KaitoExclusive => "kaito-exclusive",
            Self::Kaito => "kaito",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// A name that no policy has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no policy is called {name:?}; there are {}", Policy::ALL.map(Policy::name).join(", "))]
pub struct UnknownPolicy {
    /// The name asked for.
    pub name: String,
}

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(name: &str) -> Result<Self, UnknownPolicy> {
        let known = Self::ALL.into_iter().find(|policy| policy.name() == name);
        known.ok_or_else(|| UnknownPolicy {
            name: name.to_owned(),
        })
    }
}
