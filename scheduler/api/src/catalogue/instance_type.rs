//! One GPU instance type: what it has and what it costs.

use super::Row;

/// Who sells an instance type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cloud {
    /// Microsoft Azure.
    Azure,
    /// Amazon Web Services.
    Aws,
    /// Azure Arc, on a customer's own machines.
    Arc,
}

/// A GPU instance type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceTypeInfo {
    /// Who sells it.
    pub cloud: Cloud,
    /// Canonical spelling.
    pub name: String,
    /// Vendor and model of the GPU, for example `NVIDIA A100`.
    pub gpu_model: String,
    /// GPUs per machine; 0 where the share of a GPU is not published.
    pub gpu_count: u32,
    /// Nominal memory per GPU, GiB; 0 where not published.
    pub gpu_memory_gib: u32,
    /// Virtual CPUs.
    pub vcpu: u32,
    /// Main memory, GiB; 0 where not published.
    pub memory_gib: u32,
    /// Whether local NVMe disks come with it.
    pub nvme: bool,
    /// CUDA compute capability times ten (8.6 is 86); 0 on GPUs that are not NVIDIA's.
    pub compute_capability: u32,
    /// On-demand price per hour in region eastus, millionths of a US dollar; absent where none is published.
    pub price_micro_dollars: Option<u64>,
    /// Whether the cloud has announced its end.
    pub retired: bool,
    /// Remarks, separated by semicolons.
    pub notes: String,
}

impl InstanceTypeInfo {
    /// Whether its GPUs are NVIDIA's, the only ones that the engines run on.
    #[must_use]
    pub fn is_nvidia(&self) -> bool {
        self.gpu_model.starts_with("NVIDIA ")
    }

    /// Whether a machine may be bought unasked: NVIDIA, everything known that sizing needs, priced, not retired.
    #[must_use]
    pub fn can_be_bought(&self) -> bool {
        self.is_nvidia()
            && self.gpu_count > 0
            && self.gpu_memory_gib > 0
            && self.memory_gib > 0
            && self.price_micro_dollars.is_some()
            && !self.retired
    }

    /// Nominal GPU memory of one machine, GiB; 0 where unknown.
    #[must_use]
    pub const fn total_gpu_memory_gib(&self) -> u32 {
        self.gpu_count.saturating_mul(self.gpu_memory_gib)
    }

    pub(super) fn parse(row: &Row<'_>) -> Option<Self> {
        Some(Self {
            cloud: match row.text("cloud")? {
                "azure" => Cloud::Azure,
                "aws" => Cloud::Aws,
                "arc" => Cloud::Arc,
                _ => return None,
            },
            name: row.owned("name")?,
            gpu_model: row.owned("gpu_model")?,
            gpu_count: row.number("gpu_count")?,
            gpu_memory_gib: row.number("gpu_memory_gib")?,
            vcpu: row.number("vcpu")?,
            memory_gib: row.number("memory_gib")?,
            nvme: row.text("nvme")? == "yes",
            compute_capability: u32::try_from(
                row.decimal("compute_capability", 1)?.unwrap_or_default(),
            )
            .ok()?,
            price_micro_dollars: row.decimal("price_usd_per_hour", 6)?,
            retired: row.text("retired")? == "yes",
            notes: row.owned("notes")?,
        })
    }
}
