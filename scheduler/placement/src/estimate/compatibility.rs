//! KAITO v0.12's node count, bit for bit, to compare with and to explain differences.
//!
//! Double-precision arithmetic in the order of its source (`pkg/workspace/estimator/nodesestimator/estimator.go`). Not
//! used to decide anything: it counts one request, divides latent caches over ranks and overrules the user.

use super::GIB;

const UTILIZATION: f64 = 0.84;
const WEIGHT_EXPANSION: f64 = 1.02;
const BASE_OVERHEAD_BYTES: f64 = 2.3 * GIB as f64;
const OVERHEAD_PER_WEIGHT: f64 = 0.05;
const DEFAULT_CONTEXT: u32 = 2048;

/// A preset as the formula sees it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Preset {
    /// Bytes of all weight files, see [`kaito_weight_bytes`].
    pub weight_bytes: u64,
    /// KV-cache bytes per token at two bytes per element.
    pub kv_bytes_per_token: u64,
    /// May span nodes.
    pub distributed: bool,
}

/// GPUs of one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeGpus {
    /// Number; 0 if unknown.
    pub count: u32,
    /// Memory of all of them in bytes; 0 if unknown.
    pub memory_bytes: u64,
}

/// The labels of an existing node that count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NodeLabels {
    /// Whether the node is ready.
    pub ready: bool,
    /// `nvidia.com/gpu.count`.
    pub gpu_count: Option<u32>,
    /// `nvidia.com/gpu.memory`: MiB of one GPU.
    pub gpu_memory_mib: Option<u64>,
}

/// Where the GPU shape comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape<'a> {
    /// The size table's entry for the instance type; `None` if it has none.
    InstanceType {
        /// Instance type.
        name: &'a str,
        /// Entry.
        gpus: Option<NodeGpus>,
    },
    /// Existing nodes that match the selector, in listing order.
    ExistingNodes {
        /// The nodes, or the API server's words if listing failed.
        nodes: Result<&'a [NodeLabels], &'a str>,
        /// Whole GPUs to take of each (`partition.count`).
        partition_count: Option<u32>,
    },
    /// A MIG partition with that profile, for example `3g.47gb`.
    Mig {
        /// Profile.
        profile: &'a str,
    },
}

/// Why KAITO counts no nodes; each by the name of its error kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompatibilityError {
    /// `unknown_instance_type`.
    #[error(
        "instance type {instance_type} is not in the size table; use one that `kubectl kaito plan` lists"
    )]
    UnknownInstanceType {
        /// The name asked for.
        instance_type: String,
    },
    /// `no_ready_nodes`.
    #[error("none of the {listed} matching nodes is ready; label or repair a GPU node")]
    NoReadyNodes {
        /// Nodes that match.
        listed: usize,
    },
    /// `node_list_failed`.
    #[error("listing the nodes failed ({reason}); try again")]
    NodeListFailed {
        /// The API server's words.
        reason: String,
    },
    /// `missing_gpu_labels`.
    #[error("the first ready node has no {label} label; run GPU feature discovery on it")]
    MissingGpuLabels {
        /// Label.
        label: &'static str,
    },
    /// `partition_too_large`.
    #[error("the partition takes {asked} GPUs, but the node has {available}; ask for fewer")]
    PartitionTooLarge {
        /// GPUs asked for.
        asked: u32,
        /// GPUs of the node.
        available: u32,
    },
    /// `invalid_mig_profile`.
    #[error("MIG profile {profile:?} is not of the form 3g.47gb; use one of the device's profiles")]
    InvalidMigProfile {
        /// Text.
        profile: String,
    },
    /// `mig_slice_too_small`.
    #[error(
        "the model needs {slices} MIG slices, but cannot use more than one; use a bigger profile"
    )]
    MigSliceTooSmall {
        /// Slices that the formula counts.
        slices: u32,
    },
    /// `gpu_too_small`.
    #[error(
        "overhead and KV cache of one GPU ({reserve_bytes} bytes) exceed what the engine may take ({usable_bytes} \
         bytes); use a bigger GPU or a smaller context"
    )]
    GpuTooSmall {
        /// Overhead and KV cache, bytes.
        reserve_bytes: u64,
        /// GPU memory × utilisation, bytes.
        usable_bytes: u64,
    },
    /// `not_distributable`.
    #[error("the model needs {nodes} nodes, but may not span nodes; use a bigger instance type")]
    NotDistributable {
        /// Nodes that the formula counts.
        nodes: u32,
    },
}

impl CompatibilityError {
    /// The kind's name in lower case with underscores, as used in tables and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::UnknownInstanceType { .. } => "unknown_instance_type",
            Self::NoReadyNodes { .. } => "no_ready_nodes",
            Self::NodeListFailed { .. } => "node_list_failed",
            Self::MissingGpuLabels { .. } => "missing_gpu_labels",
            Self::PartitionTooLarge { .. } => "partition_too_large",
            Self::InvalidMigProfile { .. } => "invalid_mig_profile",
            Self::MigSliceTooSmall { .. } => "mig_slice_too_small",
            Self::GpuTooSmall { .. } => "gpu_too_small",
            Self::NotDistributable { .. } => "not_distributable",
        }
    }
}

/// Counts nodes as KAITO v0.12 does: without a preset (template, no inference section, empty name) the requested
/// count, else the formula's, which overrules the requested one. `context` absent or 0: 2048 tokens.
///
/// # Errors
/// One variant of [`CompatibilityError`] per refusal of KAITO's.
pub fn kaito_nodes(
    preset: Option<&Preset>,
    shape: &Shape<'_>,
    requested: Option<u32>,
    context: Option<u32>,
) -> Result<u32, CompatibilityError> {
    let fallback = requested.unwrap_or(1);
    let Some(preset) = preset else {
        return Ok(fallback);
    };
    let gpus = resolve(shape)?;
    if gpus.count == 0 || gpus.memory_bytes == 0 {
        return Ok(fallback);
    }
    let context = context
        .filter(|&tokens| tokens > 0)
        .unwrap_or(DEFAULT_CONTEXT);
    let nodes = formula(preset, gpus, context)?;
    match shape {
        Shape::Mig { .. } if nodes > 1 => {
            Err(CompatibilityError::MigSliceTooSmall { slices: nodes })
        }
        _ if nodes > 1 && !preset.distributed => {
            Err(CompatibilityError::NotDistributable { nodes })
        }
        _ => Ok(nodes),
    }
}

/// Gives the weight size that KAITO counts for files of `bytes` bytes: printed as GiB with two decimals and read back
/// as a quantity, which rounds up to whole bytes.
///
/// ```
/// use kaito_placement::estimate::compatibility::kaito_weight_bytes;
/// assert_eq!(kaito_weight_bytes(16_060_556_376), 16_063_177_688); // 14.96Gi
/// ```
#[must_use]
pub fn kaito_weight_bytes(bytes: u64) -> u64 {
    let hundredths = u128::from(bytes) * 100;
    let gib = u128::from(GIB);
    let (whole, rest) = (hundredths / gib, hundredths % gib);
    // Exact halves go to the even neighbour, as in C's and Go's %.2f.
    let up = rest * 2 > gib || (rest * 2 == gib && !whole.is_multiple_of(2));
    let rounded = whole + u128::from(up);
    u64::try_from((rounded * gib).div_ceil(100)).unwrap_or(u64::MAX)
}

fn resolve(shape: &Shape<'_>) -> Result<NodeGpus, CompatibilityError> {
    match shape {
        Shape::InstanceType { name, gpus } => {
            gpus.ok_or_else(|| CompatibilityError::UnknownInstanceType {
                instance_type: (*name).to_owned(),
            })
        }
        Shape::ExistingNodes {
            nodes,
            partition_count,
        } => {
            let nodes = nodes.map_err(|reason| CompatibilityError::NodeListFailed {
                reason: reason.to_owned(),
            })?;
            partition(first_ready(nodes)?, *partition_count)
        }
        Shape::Mig { profile } => slice(profile),
    }
}

fn first_ready(nodes: &[NodeLabels]) -> Result<NodeGpus, CompatibilityError> {
    let node = nodes
        .iter()
        .find(|node| node.ready)
        .ok_or(CompatibilityError::NoReadyNodes {
            listed: nodes.len(),
        })?;
    let missing = |label| CompatibilityError::MissingGpuLabels { label };
    let count = node
        .gpu_count
        .ok_or_else(|| missing("nvidia.com/gpu.count"))?;
    let mib = node
        .gpu_memory_mib
        .ok_or_else(|| missing("nvidia.com/gpu.memory"))?;
    // floor(MiB / 1024 + 0.5): to the nearest GiB, halves up.
    let gib = mib.saturating_add(512) / 1024;
    Ok(NodeGpus {
        count,
        memory_bytes: gib.saturating_mul(GIB).saturating_mul(u64::from(count)),
    })
}

fn partition(node: NodeGpus, count: Option<u32>) -> Result<NodeGpus, CompatibilityError> {
    match count {
        None => Ok(node),
        Some(asked) if asked > node.count => Err(CompatibilityError::PartitionTooLarge {
            asked,
            available: node.count,
        }),
        Some(asked) => {
            let one = node.memory_bytes / u64::from(node.count.max(1));
            Ok(NodeGpus {
                count: asked,
                memory_bytes: one.saturating_mul(u64::from(asked)),
            })
        }
    }
}

/// One GPU of floor(GB of the profile) GiB.
fn slice(profile: &str) -> Result<NodeGpus, CompatibilityError> {
    let memory = profile
        .split_once("g.")
        .filter(|(slices, _)| slices.parse::<u32>().is_ok_and(|slices| slices > 0))
        .and_then(|(_, rest)| rest.split('+').next())
        .and_then(|size| size.strip_suffix("gb"))
        .and_then(whole_part)
        .filter(|&gib| gib > 0);
    match memory {
        Some(gib) => Ok(NodeGpus {
            count: 1,
            memory_bytes: gib.saturating_mul(GIB),
        }),
        None => Err(CompatibilityError::InvalidMigProfile {
            profile: profile.to_owned(),
        }),
    }
}

/// The digits before an optional decimal point.
fn whole_part(number: &str) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    fraction
        .bytes()
        .all(|byte| byte.is_ascii_digit())
        .then(|| whole.parse().ok())
        .flatten()
}

fn formula(preset: &Preset, gpus: NodeGpus, context: u32) -> Result<u32, CompatibilityError> {
    let per_node = f64::from(gpus.count);
    let memory = (gpus.memory_bytes / u64::from(gpus.count.max(1))) as f64;
    let weights = preset.weight_bytes as f64 * WEIGHT_EXPANSION;
    let cache = f64::from(context) * preset.kv_bytes_per_token as f64;
    let reserve = BASE_OVERHEAD_BYTES + cache / per_node;
    let usable = UTILIZATION * memory;
    if usable <= reserve {
        return Err(CompatibilityError::GpuTooSmall {
            reserve_bytes: whole(reserve),
            usable_bytes: whole(usable),
        });
    }
    let room = (usable - reserve) / (1.0 + OVERHEAD_PER_WEIGHT);
    let needed = whole(weights / room).saturating_add(1);
    let nodes = needed.div_ceil(u64::from(gpus.count));
    Ok(u32::try_from(nodes).unwrap_or(u32::MAX))
}

/// Cuts the fraction off; what does not fit becomes the nearest bound.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "cutting off is the formula; float casts saturate and NaN becomes 0"
)]
fn whole(value: f64) -> u64 {
    value as u64
}
