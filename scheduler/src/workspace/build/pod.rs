//! What all pods of ours share: the gate, tolerations, security, shared memory.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Capabilities, EmptyDirVolumeSource, PodSchedulingGate, PodSecurityContext, PodSpec,
    ResourceRequirements, SeccompProfile, SecurityContext, Toleration, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kaito_api::names;
use kaito_placement::snapshot::Resources;
use kaito_snapshot::sizing::Sizing;

/// Puts the placement gate and the tolerations of GPU nodes on a pod, keeping what it has.
pub fn gate(spec: &mut PodSpec) {
    let gates = spec.scheduling_gates.get_or_insert_default();
    if !gates.iter().any(|gate| gate.name == names::GATE) {
        gates.push(PodSchedulingGate {
            name: names::GATE.to_owned(),
        });
    }
    let tolerations = spec.tolerations.get_or_insert_default();
    for key in [names::RESOURCE_GPU, names::TAINT_SKU] {
        if !tolerations
            .iter()
            .any(|toleration| toleration.key.as_deref() == Some(key))
        {
            tolerations.push(tolerates(key));
        }
    }
}

fn tolerates(key: &str) -> Toleration {
    Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some("NoSchedule".to_owned()),
        ..Toleration::default()
    }
}

/// Pod security that the `restricted` standard admits. Files are shared by group so that volumes can be written.
#[must_use]
pub fn security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(1000),
        fs_group: Some(1000),
        seccomp_profile: Some(SeccompProfile {
            type_: "RuntimeDefault".to_owned(),
            ..SeccompProfile::default()
        }),
        ..PodSecurityContext::default()
    }
}

/// Container security that the `restricted` standard admits.
#[must_use]
pub fn container_security() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities {
            drop: Some(vec!["ALL".to_owned()]),
            ..Capabilities::default()
        }),
        ..SecurityContext::default()
    }
}

/// Requests of CPU and memory, and GPUs as request and limit (Kubernetes wants them equal).
#[must_use]
pub fn resources(sizing: &Sizing) -> ResourceRequirements {
    let Resources {
        milli_cpu,
        memory_bytes,
        gpus,
        ..
    } = sizing.requests;
    let mut requests = BTreeMap::new();
    if milli_cpu > 0 {
        requests.insert("cpu".to_owned(), Quantity(format!("{milli_cpu}m")));
    }
    if memory_bytes > 0 {
        requests.insert(
            "memory".to_owned(),
            Quantity(format!("{}Mi", memory_bytes >> 20)),
        );
    }
    let mut limits = BTreeMap::new();
    if gpus > 0 {
        requests.insert(names::RESOURCE_GPU.to_owned(), Quantity(gpus.to_string()));
        limits.insert(names::RESOURCE_GPU.to_owned(), Quantity(gpus.to_string()));
    }
    ResourceRequirements {
        requests: Some(requests),
        limits: (!limits.is_empty()).then_some(limits),
        ..ResourceRequirements::default()
    }
}

/// An empty directory; in memory for `/dev/shm`, which collective libraries need large.
#[must_use]
pub fn empty_dir(name: &str, in_memory: bool) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            medium: in_memory.then(|| "Memory".to_owned()),
            ..EmptyDirVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// A mount of volume `name` at `path`.
#[must_use]
pub fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.to_owned(),
        mount_path: path.to_owned(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

/// `text` as part of a container or volume name: lower case, dashes for the rest, at most `longest` characters, and
/// a digest where that lost something, so that two names never become one.
#[must_use]
pub fn label_safe(text: &str, longest: usize) -> String {
    let lower = text.to_ascii_lowercase();
    let safe: String = lower
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let trimmed = safe.trim_matches('-');
    if trimmed == text && text.len() <= longest {
        return text.to_owned();
    }
    let kept: String = trimmed.chars().take(longest.saturating_sub(7)).collect();
    format!(
        "{}-{}",
        kept.trim_end_matches('-'),
        names::digest(&[text], 6)
    )
}

#[cfg(test)]
mod tests {
    use super::label_safe;

    #[test]
    fn names_that_would_collide_stay_apart() {
        assert_eq!(label_safe("style", 40), "style");
        assert_ne!(label_safe("Style", 40), label_safe("style", 40));
        assert_ne!(label_safe("a.b", 40), label_safe("a-b", 40));
        assert!(label_safe(&"x".repeat(300), 40).len() <= 40);
    }
}
