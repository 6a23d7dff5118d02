//! Machine sizes as the simulated cloud builds them: the catalogue's figures turned into node resources. Pure.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kaito_api::names;

/// Disk of a machine whose claim asks for none: KAITO's default request.
const DEFAULT_DISK_GIB: u64 = 1024;
/// Pods per node, the kubelet's default.
const PODS: u64 = 110;

/// A machine size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Size {
    /// Name in the cloud's spelling.
    pub name: String,
    /// Virtual CPUs.
    pub vcpu: u32,
    /// Memory in GiB.
    pub memory_gib: u32,
    /// GPU product, for example `NVIDIA A100`.
    pub gpu_model: String,
    /// GPUs.
    pub gpu_count: u32,
    /// Memory per GPU in GiB.
    pub gpu_memory_gib: u32,
    /// Whether the GPUs are NVIDIA's; the others are AMD's.
    pub nvidia: bool,
}

impl Size {
    /// Looks a size up by name, without case.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let found = kaito_api::catalogue::instance_type(name)?;
        Some(Self {
            name: found.name.clone(),
            vcpu: found.vcpu,
            memory_gib: found.memory_gib,
            gpu_model: found.gpu_model.clone(),
            gpu_count: found.gpu_count,
            gpu_memory_gib: found.gpu_memory_gib,
            nvidia: found.is_nvidia(),
        })
    }

    /// Extended resource under which the GPUs appear; `None` without GPUs.
    #[must_use]
    pub fn gpu_resource(&self) -> Option<&'static str> {
        match (self.gpu_count, self.nvidia) {
            (0, _) => None,
            (_, false) => Some("amd.com/gpu"),
            (_, true) => Some(names::RESOURCE_GPU),
        }
    }

    /// What the machine has.
    #[must_use]
    pub fn capacity(&self, disk_gib: Option<u64>) -> BTreeMap<String, Quantity> {
        let disk = disk_gib.unwrap_or(DEFAULT_DISK_GIB);
        let memory_mib = u64::from(self.memory_gib) * 1024;
        self.resources(u64::from(self.vcpu) * 1000, memory_mib, disk * 1024)
    }

    /// What pods can use: CPU less 140m and 1 %, memory less 750 MiB and 5 %, disk less 15 % (the reservations that
    /// AKS makes for kubelet and system, rounded).
    #[must_use]
    pub fn allocatable(&self, disk_gib: Option<u64>) -> BTreeMap<String, Quantity> {
        let milli_cpu = u64::from(self.vcpu) * 1000;
        let memory_mib = u64::from(self.memory_gib) * 1024;
        let disk_mib = disk_gib.unwrap_or(DEFAULT_DISK_GIB) * 1024;
        self.resources(
            milli_cpu.saturating_sub(140 + milli_cpu / 100),
            memory_mib.saturating_sub(750 + memory_mib / 20),
            disk_mib - disk_mib * 15 / 100,
        )
    }

    fn resources(
        &self,
        milli_cpu: u64,
        memory_mib: u64,
        disk_mib: u64,
    ) -> BTreeMap<String, Quantity> {
        let mut all = BTreeMap::from([
            ("cpu".to_owned(), cpu(milli_cpu)),
            ("memory".to_owned(), binary(memory_mib)),
            ("ephemeral-storage".to_owned(), binary(disk_mib)),
            ("pods".to_owned(), Quantity(PODS.to_string())),
        ]);
        if let Some(resource) = self.gpu_resource() {
            all.insert(resource.to_owned(), Quantity(self.gpu_count.to_string()));
        }
        all
    }

    /// Labels that GPU feature discovery would set, and KAITO's mark of a GPU node.
    #[must_use]
    pub fn gpu_labels(&self) -> BTreeMap<String, String> {
        if self.gpu_resource() != Some(names::RESOURCE_GPU) {
            return BTreeMap::new();
        }
        let product = self.gpu_model.replace(' ', "-");
        let memory_mib = u64::from(self.gpu_memory_gib) * 1024;
        BTreeMap::from([
            (names::LABEL_GPU_PRODUCT.to_owned(), product),
            (
                names::LABEL_GPU_COUNT.to_owned(),
                self.gpu_count.to_string(),
            ),
            (names::LABEL_GPU_MEMORY.to_owned(), memory_mib.to_string()),
            ("accelerator".to_owned(), "nvidia".to_owned()),
        ])
    }
}

/// CPU in the canonical form that the API server answers with, so that comparing finds no false difference.
fn cpu(milli: u64) -> Quantity {
    if milli.is_multiple_of(1000) {
        Quantity((milli / 1000).to_string())
    } else {
        Quantity(format!("{milli}m"))
    }
}

/// Bytes in the canonical form: the largest unit that divides them.
fn binary(mib: u64) -> Quantity {
    let units = ["Mi", "Gi", "Ti", "Pi"];
    let mut amount = mib;
    let mut unit = 0;
    while unit + 1 < units.len() && amount > 0 && amount.is_multiple_of(1024) {
        amount /= 1024;
        unit += 1;
    }
    Quantity(format!("{amount}{}", units.get(unit).unwrap_or(&"Mi")))
}

#[cfg(test)]
mod tests {
    use super::Size;

    #[test]
    fn a_machine_keeps_back_what_the_system_needs() {
        let size = Size::named("standard_nc24ads_a100_v4").unwrap();
        assert_eq!(size.name, "Standard_NC24ads_A100_v4");
        let allocatable = size.allocatable(Some(100));
        assert_eq!(allocatable["cpu"].0, "23620m");
        assert_eq!(allocatable["memory"].0, "213266Mi");
        assert_eq!(allocatable["ephemeral-storage"].0, "85Gi");
        assert_eq!(allocatable["nvidia.com/gpu"].0, "1");
        assert_eq!(size.gpu_labels()["nvidia.com/gpu.memory"], "81920");
    }

    #[test]
    fn quantities_are_canonical() {
        let capacity = Size::named("Standard_NC24ads_A100_v4")
            .unwrap()
            .capacity(Some(2048));
        let shown = ["cpu", "memory", "ephemeral-storage"].map(|name| capacity[name].0.as_str());
        assert_eq!(shown, ["24", "220Gi", "2Ti"]);
    }

    #[test]
    fn unknown_sizes_are_not_invented() {
        assert_eq!(Size::named("Standard_Nothing"), None);
    }
}
