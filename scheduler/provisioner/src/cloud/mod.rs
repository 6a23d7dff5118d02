//! What the lifecycle needs from a cloud: one trait, its values and its errors.
//!
//! A cloud knows machines, not Kubernetes: it may not hold a `kube::Client`. Time is an argument.

pub mod simulated;

use std::collections::BTreeMap;
use std::future::Future;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Taint;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kaito_api::{NodeClaim, names};

/// A source of machines. Every method can be repeated after a crash: machines are keyed by the claim's UID.
pub trait Cloud: Send + Sync + 'static {
    /// Provider id of the machine of the claim with this UID; equal to its node's `spec.providerID`. It is known
    /// before the machine exists, so that a lost answer loses nothing.
    fn provider_id(&self, claim_uid: &str) -> String;

    /// Asks for the machine, or for the progress of an earlier request for the same claim. Never makes a second one.
    ///
    /// # Errors
    /// [`LaunchError`]; [`LaunchError::is_final`] tells whether to try again.
    fn create(
        &self,
        request: &LaunchRequest,
        now: Timestamp,
    ) -> impl Future<Output = Result<Launch, LaunchError>> + Send;

    /// Asks for the machine's end. Accepted is not gone: it is called again until [`Deletion::NotFound`].
    fn delete(&self, provider_id: &str, now: Timestamp) -> impl Future<Output = Deletion> + Send;
}

/// A machine that is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct LaunchRequest {
    /// Name of the claim.
    pub claim: String,
    /// UID of the claim.
    pub uid: String,
    /// Acceptable instance types, the preferred first; may be empty.
    pub instance_types: Vec<String>,
    /// Acceptable zone labels; empty for all.
    pub zones: Vec<String>,
    /// Ephemeral disk in GiB, if the claim asks for one.
    pub disk_gib: Option<u64>,
    /// Labels of the claim.
    pub labels: BTreeMap<String, String>,
    /// Taints of the node.
    pub taints: Vec<Taint>,
    /// Taints of the node that somebody else removes.
    pub startup_taints: Vec<Taint>,
}

impl LaunchRequest {
    /// The request that a claim stands for; `None` before the API server has given it a name and a UID.
    #[must_use]
    pub fn of(claim: &NodeClaim) -> Option<Self> {
        let spec = &claim.spec;
        let values = |key: &str| -> Vec<String> {
            let wanted = spec
                .requirements
                .iter()
                .find(|entry| entry.key == key && entry.operator == "In");
            wanted
                .and_then(|entry| entry.values.clone())
                .unwrap_or_default()
        };
        let mut instance_types = values(names::LABEL_INSTANCE_TYPE);
        if instance_types.is_empty() {
            instance_types.extend(claim.instance_type().map(str::to_owned));
        }
        let requests = spec
            .resources
            .as_ref()
            .and_then(|resources| resources.requests.as_ref());
        Some(Self {
            claim: claim.metadata.name.clone()?,
            uid: claim.metadata.uid.clone()?,
            instance_types,
            zones: values(names::LABEL_ZONE),
            disk_gib: requests
                .and_then(|all| all.get("storage"))
                .and_then(whole_gib),
            labels: claim.metadata.labels.clone().unwrap_or_default(),
            taints: spec.taints.clone().unwrap_or_default(),
            startup_taints: spec.startup_taints.clone().unwrap_or_default(),
        })
    }
}

/// Disk sizes are written in Gi or Ti by everybody; another unit means the default size.
fn whole_gib(quantity: &Quantity) -> Option<u64> {
    let text = quantity.0.as_str();
    let (number, factor) = match text.strip_suffix("Gi") {
        Some(number) => (number, 1),
        None => (text.strip_suffix("Ti")?, 1024),
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// A machine that the cloud has accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Machine {
    /// Cloud id.
    pub provider_id: String,
    /// Labels that the choice of machine settles: type, zone, region, capacity type, architecture, system.
    pub labels: BTreeMap<String, String>,
    /// Annotations that the cloud keeps on the claim.
    pub annotations: BTreeMap<String, String>,
    /// What the machine has.
    pub capacity: BTreeMap<String, Quantity>,
    /// What pods can use of it.
    pub allocatable: BTreeMap<String, Quantity>,
    /// Extended resource of its GPUs (`nvidia.com/gpu`), absent without GPUs.
    pub gpu_resource: Option<String>,
}

/// Answer to a request for a machine.
#[derive(Clone, Debug, PartialEq)]
pub enum Launch {
    /// Under way; ask again at the given time.
    Pending {
        /// When.
        until: Timestamp,
    },
    /// Accepted: it will come up without further requests.
    Accepted(Box<Machine>),
}

/// Answer to a request for a machine's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// Under way; ask again at the given time.
    Accepted {
        /// When.
        until: Timestamp,
    },
    /// There is no such machine.
    NotFound,
}

/// Why the cloud gave no machine. Messages carry no ids, times or counters, so that repeating one changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LaunchError {
    /// The zones have no such machine free.
    #[error(
        "no capacity for {instance_type} in {place}{limit}; choose another instance type or wait"
    )]
    InsufficientCapacity {
        /// Type asked for.
        instance_type: String,
        /// Zones tried.
        place: String,
        /// What the zones have in all, with a leading blank; empty when scripted.
        limit: String,
    },
    /// The subscription may not have more.
    #[error(
        "quota {family} in {region} does not allow another {instance_type}{limit}; ask for a higher quota or choose another instance type"
    )]
    QuotaExceeded {
        /// Type asked for.
        instance_type: String,
        /// Name of the counter.
        family: String,
        /// Region.
        region: String,
        /// The limit, with a leading blank; empty when scripted.
        limit: String,
    },
    /// No such type.
    #[error(
        "instance type {instance_type} is not in the catalogue of this cloud; correct the name"
    )]
    UnknownInstanceType {
        /// Type asked for.
        instance_type: String,
    },
    /// The claim names no type.
    #[error(
        "the claim names no instance type; add a requirement `node.kubernetes.io/instance-type In [..]`"
    )]
    NoInstanceType,
    /// No zone of the region is acceptable.
    #[error("none of the zones asked for ({zones}) is in region {region}; correct the zones")]
    NoSuchZone {
        /// Zones asked for.
        zones: String,
        /// Region.
        region: String,
    },
    /// The call failed; worth another try.
    #[error("the cloud refused to create {instance_type} for now; it is tried again")]
    CreateFailed {
        /// Type asked for.
        instance_type: String,
    },
}

impl LaunchError {
    /// Reason on the claim's Launched condition.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::InsufficientCapacity { .. } => kaito_api::nodeclaim::INSUFFICIENT_CAPACITY,
            Self::QuotaExceeded { .. } => "QuotaExceeded",
            Self::UnknownInstanceType { .. } => "InstanceTypeNotFound",
            Self::NoInstanceType => "InstanceTypeMissing",
            Self::NoSuchZone { .. } => "ZoneNotFound",
            Self::CreateFailed { .. } => "LaunchFailed",
        }
    }

    /// Whether another try for the same claim is pointless: the claim is given up.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        !matches!(self, Self::CreateFailed { .. })
    }
}
