//! The steps that every test on a control plane repeats: a namespace of its own, objects from YAML as a user writes
//! them, nodes without machines, and on failure a picture of what was there.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace as NamespaceObject;
use k8s_openapi::api::core::v1::Node;
use kaito_api::Workspace;
use kube::api::{DynamicObject, ObjectMeta, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, Resource, ResourceExt, discovery};
use serde_json::json;

use crate::control_plane::{self, ControlPlane};
use crate::supervise::tail;
use crate::{reported, wait};

/// Field manager of what tests apply.
const MANAGER: &str = "kaito-tests";

/// Kinds shown when a test fails, as kubectl's `get` takes them; kinds that are not installed are passed over.
const SHOWN: [&str; 9] = [
    "workspaces.kaito.sh",
    "deployments",
    "statefulsets",
    "jobs",
    "pods",
    "services",
    "events",
    "nodeclaims.karpenter.sh",
    "nodes",
];

/// Lines shown of each program's log when a test fails.
const LOG_LINES: usize = 60;

/// Why a test could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No client could be made.
    #[error("cannot connect to the control plane")]
    Client(#[from] control_plane::Error),
    /// The text is not a list of Kubernetes objects.
    #[error("cannot read the YAML of the test's objects")]
    Yaml(#[source] Box<serde_saphyr::Error>),
    /// An object has no `apiVersion` and `kind`.
    #[error("object {name} has no usable apiVersion and kind")]
    Untyped {
        /// Its name, if it has one.
        name: String,
    },
    /// The API server refused something.
    #[error("cannot {what}")]
    Api {
        /// The operation, with its object.
        what: String,
        /// The reason.
        #[source]
        source: Box<kube::Error>,
    },
}

fn failed(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
    let what = what.into();
    move |source| Error::Api {
        what,
        source: Box::new(source),
    }
}

/// A fresh namespace of one test, with a client. Dropped during a panic, it prints the objects in it and the logs of
/// our programs. It is not deleted: it ends with the control plane.
pub struct Namespace<'a> {
    plane: &'a ControlPlane,
    client: Client,
    name: String,
}

impl<'a> Namespace<'a> {
    /// Makes a namespace named `prefix` and a random suffix.
    ///
    /// # Errors
    /// [`Error`] if the API server does not answer or refuses.
    pub async fn create(plane: &'a ControlPlane, prefix: &str) -> Result<Self, Error> {
        let client = plane.client().await?;
        let object = NamespaceObject {
            metadata: ObjectMeta {
                generate_name: Some(format!("{prefix}-")),
                ..Default::default()
            },
            ..Default::default()
        };
        let namespaces: Api<NamespaceObject> = Api::all(client.clone());
        let made = namespaces.create(&PostParams::default(), &object).await;
        let name = made
            .map_err(failed(format!("make a namespace for {prefix}")))?
            .name_any();
        Ok(Self {
            plane,
            client,
            name,
        })
    }

    /// Waits until a condition of a Workspace is true.
    ///
    /// # Errors
    /// [`wait::Error`] if it is not within `limit`, or the watch fails.
    pub async fn until(&self, name: &str, kind: &str, limit: Duration) -> Result<(), wait::Error> {
        let workspaces: Api<Workspace> = self.api();
        let what = format!("{kind} of {name} is true");
        let is_true = |found: Option<&Workspace>| reported::is_true(found, kind);
        wait::wait_for(&workspaces, name, &what, limit, is_true)
            .await
            .map(drop)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A client with every right.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The control plane that it is on.
    #[must_use]
    pub const fn plane(&self) -> &'a ControlPlane {
        self.plane
    }

    /// Typed access to objects in the namespace.
    #[must_use]
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client(), &self.name)
    }

    /// Applies every document of a YAML text, here unless it names another namespace. See [`apply_yaml`].
    ///
    /// # Errors
    /// [`Error`] for the first object that is refused.
    pub async fn apply(&self, yaml: &str) -> Result<Vec<DynamicObject>, Error> {
        apply_yaml(&self.client, &self.name, yaml).await
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            dump(self.plane, &self.name);
        }
    }
}

/// Applies every document of a YAML text in turn (server-side, forced) and returns what the API server made of them.
///
/// # Errors
/// [`Error`] for the first object that cannot be read or is refused.
pub async fn apply_yaml(
    client: &Client,
    namespace: &str,
    yaml: &str,
) -> Result<Vec<DynamicObject>, Error> {
    let objects: Vec<DynamicObject> =
        serde_saphyr::from_multiple(yaml).map_err(|source| Error::Yaml(Box::new(source)))?;
    let mut applied = Vec::with_capacity(objects.len());
    for object in objects {
        applied.push(apply_object(client, namespace, &object).await?);
    }
    Ok(applied)
}

async fn apply_object(
    client: &Client,
    namespace: &str,
    object: &DynamicObject,
) -> Result<DynamicObject, Error> {
    let name = object.name_any();
    let kind = object
        .types
        .as_ref()
        .and_then(|types| GroupVersionKind::try_from(types).ok());
    let kind = kind.ok_or_else(|| Error::Untyped { name: name.clone() })?;
    let found = discovery::pinned_kind(client, &kind).await;
    let (resource, capabilities) = found.map_err(failed(format!("find the kind {}", kind.kind)))?;
    let namespace = object.namespace().unwrap_or_else(|| namespace.to_owned());
    let api: Api<DynamicObject> =
        Api::dynamic(client.clone(), &resource, &capabilities.scope).constrain(&namespace);
    api.patch(
        &name,
        &PatchParams::apply(MANAGER).force(),
        &Patch::Apply(object),
    )
    .await
    .map_err(failed(format!("apply {} {namespace}/{name}", kind.kind)))
}

/// What a made-up node has.
#[derive(Debug, Clone, Copy)]
pub struct NodeShape<'a> {
    /// Value of the instance type label.
    pub instance_type: &'a str,
    /// CPU cores.
    pub cpu: u32,
    /// Memory, GiB.
    pub memory_gib: u32,
    /// GPUs.
    pub gpus: u32,
}

/// Makes a Node that is Ready and has no machine behind it: pods are bound to it, nothing runs them.
///
/// # Errors
/// [`Error::Api`] if the API server refuses.
pub async fn create_node(client: &Client, name: &str, shape: NodeShape<'_>) -> Result<Node, Error> {
    let nodes: Api<Node> = Api::all(client.clone());
    let body = json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": name, "labels": {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
            "node.kubernetes.io/instance-type": shape.instance_type,
        }},
    });
    let apply = PatchParams::apply(MANAGER).force();
    nodes
        .patch(name, &apply, &Patch::Apply(body))
        .await
        .map_err(failed(format!("make node {name}")))?;
    let quantities = json!({
        "cpu": shape.cpu.to_string(),
        "memory": format!("{}Gi", shape.memory_gib),
        "ephemeral-storage": "1000Gi",
        "pods": "110",
        "nvidia.com/gpu": shape.gpus.to_string(),
    });
    let now = jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string();
    let status = json!({ "apiVersion": "v1", "kind": "Node", "status": {
        "capacity": quantities,
        "allocatable": quantities,
        "conditions": [{
            "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "made up by a test",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        }],
    }});
    nodes
        .patch_status(name, &apply, &Patch::Apply(status))
        .await
        .map_err(failed(format!("report node {name} as ready")))
}

/// Prints the objects of a namespace, the nodes, and the ends of our programs' logs to standard error.
///
/// Runs kubectl, because a panicking test can no longer await anything.
pub fn dump(plane: &ControlPlane, namespace: &str) {
    let mut out = io::stderr();
    for kind in SHOWN {
        let output = plane
            .kubectl_command()
            .args([
                "get",
                kind,
                "--namespace",
                namespace,
                "--output",
                "wide",
                "--ignore-not-found",
            ])
            .output();
        if let Ok(output) = output
            && output.status.success()
            && !output.stdout.is_empty()
        {
            let _ = writeln!(
                out,
                "--- {kind}\n{}",
                String::from_utf8_lossy(&output.stdout).trim_end()
            );
        }
    }
    for log in program_logs(plane.folder()) {
        let _ = writeln!(out, "--- {}\n{}", log.display(), tail(&log, LOG_LINES));
    }
}

/// Logs of the programs under test: those of the servers are long and rarely the answer.
fn program_logs(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    paths
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("kaito-") && name.ends_with(".log")
        })
        .collect()
}
