//! The manifests that the program carries, in the order in which they are installed. Pure.

use kaito_api::names::PLUGIN_MANAGER;
use kube::api::ApiResource;
use kube::core::{GroupVersionKind, ObjectMeta};
use serde_json::{Map, Value, json};

use crate::cluster::kinds::Kind;
use crate::error::Failure;
use crate::manifest::reader;

const NAMESPACE: &str = include_str!("../../../../scheduler/deploy/namespace.yaml");
const WORKSPACE_CRD: &str = include_str!("../../../../scheduler/deploy/crds/workspaces.yaml");
const CLAIM_CRD: &str = include_str!("../../../../scheduler/deploy/crds/nodeclaims.yaml");
const ADMISSION: &str = include_str!("../../../../scheduler/deploy/admission/workspaces.yaml");
const RBAC_SCHEDULER: &str = include_str!("../../../../scheduler/deploy/rbac-scheduler.yaml");
const RBAC_PROVISIONER: &str = include_str!("../../../../scheduler/deploy/rbac-provisioner.yaml");
const WORKLOADS: &str = include_str!("../../../../scheduler/deploy/workloads.yaml");
const PROVISIONER: &str = include_str!("../../../../scheduler/deploy/workloads-provisioner.yaml");

/// What stands for the scheduler's image in the manifests.
const IMAGE: &str = "IMAGE";
/// Label that tells what this program installed from what others did.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Name of the NodeClaim CRD.
pub const NODE_CLAIM_CRD: &str = "nodeclaims.karpenter.sh";

/// What is installed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// CRDs and nothing else.
    pub crds_only: bool,
    /// Deployments too.
    pub workloads: bool,
    /// Image of the scheduler and the provisioner.
    pub image: Option<String>,
    /// Further arguments of the scheduler.
    pub scheduler_arguments: Vec<String>,
    /// Secret in our namespace that lets nodes pull the image.
    pub pull_secret: Option<String>,
    /// The provisioner with the simulated cloud too.
    pub simulated_cloud: bool,
}

/// Objects that are applied together; the next part needs this one to work.
#[derive(Clone, Debug, PartialEq)]
pub struct Part {
    /// What it is.
    pub role: Role,
    /// Objects in order.
    pub objects: Vec<Value>,
}

/// What a part is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The namespace.
    Namespace,
    /// The CRDs.
    Definitions,
    /// The admission policy.
    Admission,
    /// Accounts and their rights.
    Rights,
    /// Deployments.
    Workloads,
}

/// The selected parts in the order of installation.
///
/// # Errors
/// Only when a manifest in this program cannot be read; its tests would show that.
pub fn parts(selection: &Selection) -> Result<Vec<Part>, Failure> {
    let mut parts = vec![part(Role::Definitions, &[WORKSPACE_CRD, CLAIM_CRD])?];
    if selection.crds_only {
        return Ok(parts);
    }
    parts.insert(0, part(Role::Namespace, &[NAMESPACE])?);
    parts.push(part(Role::Admission, &[ADMISSION])?);
    parts.push(part(Role::Rights, &[RBAC_SCHEDULER, RBAC_PROVISIONER])?);
    if selection.workloads {
        parts.push(workloads(selection)?);
    }
    Ok(parts)
}

fn workloads(selection: &Selection) -> Result<Part, Failure> {
    let mut workloads = part(Role::Workloads, &[WORKLOADS])?;
    if let Some(scheduler) = workloads.objects.first_mut() {
        append_arguments(scheduler, &selection.scheduler_arguments);
    }
    if selection.simulated_cloud {
        let provisioner = part(Role::Workloads, &[PROVISIONER])?;
        workloads.objects.extend(provisioner.objects);
    }
    for object in &mut workloads.objects {
        set_image(object, selection.image.as_deref().unwrap_or(IMAGE));
        if let Some(secret) = &selection.pull_secret {
            set_pull_secret(object, secret);
        }
    }
    Ok(workloads)
}

/// Arguments after those that the manifest has: the last one of a name wins.
fn append_arguments(object: &mut Value, arguments: &[String]) {
    let present = object
        .pointer_mut("/spec/template/spec/containers/0/args")
        .and_then(Value::as_array_mut);
    if let Some(present) = present {
        present.extend(arguments.iter().cloned().map(Value::String));
    }
}

fn set_pull_secret(object: &mut Value, secret: &str) {
    let pod = object
        .pointer_mut("/spec/template/spec")
        .and_then(Value::as_object_mut);
    if let Some(pod) = pod {
        let secrets = json!([{ "name": secret }]);
        pod.insert("imagePullSecrets".to_owned(), secrets);
    }
}

fn part(role: Role, texts: &[&str]) -> Result<Part, Failure> {
    let mut objects = Vec::new();
    for text in texts {
        let reading = reader::read("embedded manifest", text);
        if let Some(problem) = reading.problems.first() {
            return Err(Failure::error(problem));
        }
        objects.extend(
            reading
                .documents
                .iter()
                .map(crate::manifest::Document::value),
        );
    }
    objects.iter_mut().for_each(mark);
    Ok(Part { role, objects })
}

/// Labels an object as installed by this program.
fn mark(object: &mut Value) {
    let metadata = object.get_mut("metadata").and_then(Value::as_object_mut);
    if let Some(metadata) = metadata {
        let labels = metadata
            .entry("labels")
            .or_insert_with(|| Value::Object(Map::new()));
        if let Some(labels) = labels.as_object_mut() {
            labels.insert(
                LABEL_MANAGED_BY.to_owned(),
                Value::String(PLUGIN_MANAGER.to_owned()),
            );
        }
    }
}

/// Whether a stored object was installed by this program.
#[must_use]
pub fn is_ours(metadata: &ObjectMeta) -> bool {
    let labels = metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(LABEL_MANAGED_BY))
        .is_some_and(|value| value == PLUGIN_MANAGER)
}

/// Puts the image where the manifests leave it open.
fn set_image(object: &mut Value, image: &str) {
    let containers = object
        .pointer_mut("/spec/template/spec/containers")
        .and_then(Value::as_array_mut);
    for container in containers.into_iter().flatten() {
        if container.get("image").and_then(Value::as_str) == Some(IMAGE)
            && let Some(map) = container.as_object_mut()
        {
            map.insert("image".to_owned(), Value::String(image.to_owned()));
        }
    }
}

/// Whether an object is the NodeClaim CRD, which may be Karpenter's.
#[must_use]
pub fn is_node_claim_crd(object: &Value) -> bool {
    object.get("kind").and_then(Value::as_str) == Some("CustomResourceDefinition")
        && object.pointer("/metadata/name").and_then(Value::as_str) == Some(NODE_CLAIM_CRD)
}

/// The kind CustomResourceDefinition.
#[must_use]
pub fn crd_kind() -> Kind {
    let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    Kind {
        resource: ApiResource::from_gvk_with_plural(&kind, "customresourcedefinitions"),
        namespaced: false,
    }
}

#[cfg(test)]
mod tests {
    use super::{Role, Selection, parts};
    use crate::output::format::reference;

    #[test]
    fn every_embedded_object_can_be_read_and_is_named() {
        let selection = Selection {
            crds_only: false,
            workloads: true,
            image: Some("registry/x:1".to_owned()),
            scheduler_arguments: vec!["--node-provisioner=byo".to_owned()],
            pull_secret: Some("pull".to_owned()),
            simulated_cloud: true,
        };
        let parts = parts(&selection).unwrap();
        let references: Vec<String> = parts
            .iter()
            .flat_map(|part| &part.objects)
            .map(reference)
            .collect();
        assert!(references.len() >= 9, "{references:?}");
        for expected in [
            "namespace/kaito-system",
            "customresourcedefinition.apiextensions.k8s.io/workspaces.kaito.sh",
            "customresourcedefinition.apiextensions.k8s.io/nodeclaims.karpenter.sh",
            "validatingadmissionpolicy.admissionregistration.k8s.io/workspaces.kaito.sh",
            "serviceaccount/kaito-scheduler",
            "serviceaccount/kaito-provisioner",
            "deployment.apps/kaito-scheduler",
            "deployment.apps/kaito-provisioner",
        ] {
            assert!(
                references.iter().any(|reference| reference == expected),
                "{expected} not in {references:?}"
            );
        }
        let text = serde_json::to_string(&parts.last().unwrap().objects).unwrap();
        assert!(text.contains("\"registry/x:1\"") && !text.contains("\"IMAGE\""));
        assert_eq!(text.matches("--node-provisioner=byo").count(), 1);
        assert_eq!(
            text.matches("\"imagePullSecrets\":[{\"name\":\"pull\"}]")
                .count(),
            2
        );
    }

    #[test]
    fn the_definitions_can_be_installed_alone() {
        let parts = parts(&Selection {
            crds_only: true,
            ..Selection::default()
        })
        .unwrap();
        assert_eq!(
            parts.iter().map(|part| part.role).collect::<Vec<_>>(),
            [Role::Definitions]
        );
    }
}
