//! Names, labels, annotations, finalizers and field managers, and the rule by which child names are made.
//!
//! Nothing else in the tree may spell one of these strings.

use sha2::{Digest, Sha256};

/// API group of our kinds.
pub const GROUP: &str = "kaito.sh";

/// Field manager of the Workspace driver's applies.
pub const MANAGER: &str = "kaito-scheduler";
/// Field manager of status writes.
pub const STATUS_MANAGER: &str = "kaito-scheduler-status";
/// Field manager of the node provisioner.
pub const PROVISIONER_MANAGER: &str = "kaito-provisioner";
/// Field manager of the kubectl plugin.
pub const PLUGIN_MANAGER: &str = "kubectl-kaito";

/// Scheduling gate that every pod of ours is born with; lifted when the pod has a node.
pub const GATE: &str = "kaito.sh/placement";
/// Keeps a Workspace until the nodes bought for it are returned.
pub const FINALIZER: &str = "workspace.finalizer.kaito.sh";
/// Karpenter's finalizer on NodeClaims and Nodes.
pub const TERMINATION_FINALIZER: &str = "karpenter.sh/termination";

/// Label: name of the owning Workspace, on pods, jobs, claims and nodes.
pub const LABEL_WORKSPACE: &str = "kaito.sh/workspace";
/// Label: namespace of the owning Workspace, on claims and nodes.
pub const LABEL_WORKSPACE_NAMESPACE: &str = "kaito.sh/workspacenamespace";
/// Label on pods without a Workspace that carry our gate: place this pod for me. With [`LABEL_GANG_SIZE`], all pods of
/// the namespace with the same value are placed together or not at all.
pub const LABEL_GANG: &str = "kaito.sh/gang";
/// Label beside [`LABEL_GANG`]: how many pods make the gang; absent or 1, each pod is placed by itself.
pub const LABEL_GANG_SIZE: &str = "kaito.sh/gang-size";
/// Label that Karpenter requires on a claim; KAITO's value is [`NODEPOOL`], a pool that does not exist.
pub const LABEL_NODEPOOL: &str = "karpenter.sh/nodepool";
/// Value of [`LABEL_NODEPOOL`] on claims we make.
pub const NODEPOOL: &str = "kaito";
/// Label: name of the claim that a node was bought by.
pub const LABEL_NODECLAIM: &str = "kaito.sh/nodeclaim";
/// Label: `true` on nodes of the simulated cloud.
pub const LABEL_SIMULATED: &str = "kaito.sh/simulated";
/// Well-known label: cloud instance type.
pub const LABEL_INSTANCE_TYPE: &str = "node.kubernetes.io/instance-type";
/// Well-known label: host name, the key that pods are pinned by.
pub const LABEL_HOSTNAME: &str = "kubernetes.io/hostname";
/// Well-known label: zone.
pub const LABEL_ZONE: &str = "topology.kubernetes.io/zone";
/// GPU feature discovery label: product name.
pub const LABEL_GPU_PRODUCT: &str = "nvidia.com/gpu.product";
/// GPU feature discovery label: GPUs on the node.
pub const LABEL_GPU_COUNT: &str = "nvidia.com/gpu.count";
/// GPU feature discovery label: MiB per GPU.
pub const LABEL_GPU_MEMORY: &str = "nvidia.com/gpu.memory";
/// Extended resource that device plugins advertise.
pub const RESOURCE_GPU: &str = "nvidia.com/gpu";
/// Taint key that KAITO and we put on bought GPU nodes (`sku=gpu:NoSchedule`).
pub const TAINT_SKU: &str = "sku";

/// Annotation: inference runtime: `vllm`, `transformers` or `native`. Absent: native where a small preset has no GPU,
/// vLLM elsewhere.
pub const ANNOTATION_RUNTIME: &str = "kaito.sh/runtime";
/// Container of a tuning Job that trains and reports its steps, one JSON object a line.
pub const TRAINER_CONTAINER: &str = "train";
/// Annotation: memory checks warn instead of refuse.
pub const ANNOTATION_BYPASS: &str = "kaito.sh/bypass-resource-checks";
/// Annotation: exactly `True` makes the Service a LoadBalancer.
pub const ANNOTATION_ENABLE_LB: &str = "kaito.sh/enablelb";
/// Annotation: node image family.
pub const ANNOTATION_IMAGE_FAMILY: &str = "kaito.sh/node-image-family";
/// Annotation: engine flag `balanced`, `interactivity` or `throughput`.
pub const ANNOTATION_PERFORMANCE_MODE: &str = "kaito.sh/performance-mode";
/// Annotation: weights from the node's disk, `true` or `false`.
pub const ANNOTATION_LOCAL_WEIGHTS: &str = "kaito.sh/use-local-weights";
/// Annotation on Workspaces and pods: `false`, never evicted for others nor moved; `true` on a tuning Workspace, evicted
/// like any other.
pub const ANNOTATION_PREEMPTIBLE: &str = "kaito.sh/preemptible";
/// Annotation on pods: hash of everything that must roll the pod when it changes.
pub const ANNOTATION_CONTENT_HASH: &str = "kaito.sh/content-hash";
/// Annotation on claims: UID of the Workspace that the claim was first bought for.
pub const ANNOTATION_BUYER_UID: &str = "kaito.sh/buyer-uid";
/// Annotation on claims: ordinal among the purchases of the buyer; the claim's name derives from both.
pub const ANNOTATION_BUYER_ORDINAL: &str = "kaito.sh/buyer-ordinal";
/// Annotation on pods: how long a simulated job runs, a Go duration.
pub const ANNOTATION_SIMULATED_DURATION: &str = "kaito.sh/simulated-duration";
/// Karpenter annotation that keeps a node from voluntary disruption.
pub const ANNOTATION_DO_NOT_DISRUPT: &str = "karpenter.sh/do-not-disrupt";

/// Keys of a Workspace's node selector that are ours to set: they name an owner and are no wish of the user.
pub const RESERVED_SELECTOR_KEYS: [&str; 8] = [
    LABEL_WORKSPACE,
    LABEL_WORKSPACE_NAMESPACE,
    "kaito.sh/ragengine",
    "kaito.sh/ragenginenamespace",
    "karpenter.kaito.sh/workspace-name",
    "karpenter.kaito.sh/workspace-namespace",
    "karpenter.kaito.sh/inferenceset",
    "karpenter.kaito.sh/inferenceset-namespace",
];

/// First `length` lower-case hexadecimal digits of the SHA-256 over `parts`, each followed by a NUL so that
/// `("a", "bc")` and `("ab", "c")` differ. `length` is cut to 64.
#[must_use]
pub fn digest(parts: &[&str], length: usize) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.as_bytes());
        hasher.update([0]);
    }
    let mut text = hex::encode(hasher.finalize());
    text.truncate(length.min(64));
    text
}

/// Name of the `ordinal`-th NodeClaim bought for the Workspace with `uid`: `ws` and nine hex digits, which is also
/// a valid AKS pool name (`^[a-z][a-z0-9]{0,11}$`).
#[must_use]
pub fn claim_name(uid: &str, ordinal: u32) -> String {
    format!("ws{}", digest(&[uid, &ordinal.to_string()], 9))
}

#[cfg(test)]
mod tests {
    use super::{claim_name, digest};

    #[test]
    fn parts_are_separated_before_hashing() {
        assert_ne!(digest(&["a", "bc"], 9), digest(&["ab", "c"], 9));
    }

    #[test]
    fn claim_names_are_valid_pool_names_and_differ_by_ordinal() {
        let first = claim_name("0a1b", 0);
        assert_eq!(first.len(), 11);
        assert!(first.starts_with("ws"));
        assert_ne!(first, claim_name("0a1b", 1));
    }
}
