//! Where the objects of a placement come from: the cluster, or a recorded list. The only file of `plan` that reads.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kaito_api::{NodeClaim, Workspace};
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, ListParams, ObjectList};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cluster::{CallError, Cluster};
use crate::error::Failure;

/// Why a file holds nothing to plan with.
#[derive(Debug, thiserror::Error)]
enum Error {
    /// No file of this name.
    #[error("the path {path:?} does not exist")]
    Missing {
        /// As typed.
        path: String,
    },
    /// A file that cannot be read.
    #[error("cannot read {path}")]
    File {
        /// As typed.
        path: String,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// A file that is neither JSON nor YAML.
    #[error("error parsing {path}: {reason}")]
    Parse {
        /// As typed.
        path: String,
        /// What the parser says, with the place.
        reason: String,
    },
    /// An object in it that is not what it says.
    #[error("error parsing {path}: {object}")]
    Object {
        /// As typed.
        path: String,
        /// Its kind and name.
        object: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A record of nothing.
    #[error("{path} holds no nodes, pods or nodeclaims")]
    NoCluster {
        /// As typed.
        path: String,
    },
    /// A manifest of other things.
    #[error("{path} holds no Workspace")]
    NoWorkspace {
        /// As typed.
        path: String,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let failure = Self::of(&error);
        match error {
            Error::NoCluster { .. } => failure.with_hint(
                "Record a cluster with: kubectl get nodes,pods,nodeclaims -A -o json > FILE",
            ),
            _ => failure,
        }
    }
}

/// Nodes, pods, claims and Workspaces, and what could not be read.
#[derive(Clone, Debug, Default)]
pub struct Recorded {
    /// All nodes.
    pub nodes: Vec<Arc<Node>>,
    /// All pods.
    pub pods: Vec<Arc<Pod>>,
    /// All claims.
    pub claims: Vec<Arc<NodeClaim>>,
    /// All Workspaces.
    pub workspaces: Vec<Arc<Workspace>>,
    /// `max-model-len` of engine configurations, by namespace and name of the ConfigMap.
    pub context_limits: BTreeMap<(String, String), u32>,
    /// Whether nodes can be bought: the server knows NodeClaims, or the record does not say.
    pub can_buy: bool,
    /// Reads that failed, one sentence each.
    pub notes: Vec<String>,
}

/// Reads everything that placement depends on from the cluster. Nodes and pods must be readable; claims and other
/// Workspaces are left out with a note if they are not.
///
/// # Errors
/// Nodes or pods cannot be listed.
pub async fn from_cluster(cluster: &Cluster) -> Result<Recorded, Failure> {
    let client = || cluster.client().clone();
    let (nodes, pods, claims, workspaces) = futures::join!(
        list::<Node>(cluster, Api::all(client())),
        list::<Pod>(cluster, Api::all(client())),
        list::<NodeClaim>(cluster, Api::all(client())),
        list::<DynamicObject>(cluster, cluster.all_workspaces()),
    );
    let mut recorded = Recorded {
        can_buy: true,
        ..Recorded::default()
    };
    recorded.nodes = shared(nodes.map_err(|error| cluster.explain(error, "list nodes"))?);
    recorded.pods = shared(pods.map_err(|error| cluster.explain(error, "list pods"))?);
    match claims {
        Ok(found) => recorded.claims = shared(found),
        Err(error) if is_missing(&error) => recorded.can_buy = false,
        Err(error) => recorded.notes.push(note(
            cluster,
            error,
            "nodeclaims",
            "list nodeclaims.karpenter.sh",
        )),
    }
    match workspaces {
        Ok(found) => {
            for object in found {
                match object.try_parse::<Workspace>() {
                    Ok(workspace) => recorded.workspaces.push(Arc::new(workspace)),
                    Err(error) => recorded
                        .notes
                        .push(format!("a Workspace was left out: {error}")),
                }
            }
        }
        Err(error) => recorded.notes.push(note(
            cluster,
            error,
            "workspaces",
            "list workspaces.kaito.sh",
        )),
    }
    Ok(recorded)
}

/// Reads the engine configurations that `workspaces` name: their context length is part of the size.
pub async fn read_configurations(
    cluster: &Cluster,
    recorded: &mut Recorded,
    workspaces: &[Arc<Workspace>],
) {
    for workspace in workspaces {
        let Some(name) = workspace
            .spec
            .inference
            .as_ref()
            .and_then(|inference| inference.config.as_ref())
        else {
            continue;
        };
        let namespace = workspace
            .namespace()
            .unwrap_or_else(|| cluster.namespace().to_owned());
        let api: Api<ConfigMap> = Api::namespaced(cluster.client().clone(), &namespace);
        match cluster.attempt(api.get(name)).await {
            Ok(found) => keep_limit(recorded, namespace, &found),
            Err(error) => recorded.notes.push(note(
                cluster,
                error,
                &format!("configmap {name}"),
                "get configmaps",
            )),
        }
    }
}

/// Key of the engine configuration in its ConfigMap.
const CONFIGURATION_KEY: &str = "inference_config.yaml";

fn keep_limit(recorded: &mut Recorded, namespace: String, found: &ConfigMap) {
    let text = found
        .data
        .as_ref()
        .and_then(|data| data.get(CONFIGURATION_KEY));
    if let Some(limit) = text.and_then(|text| context_limit(text)) {
        recorded
            .context_limits
            .insert((namespace, found.name_any()), limit);
    }
}

/// `vllm.max-model-len`, as number or as text; absent when it is not a positive number.
fn context_limit(text: &str) -> Option<u32> {
    let configuration: Value = serde_saphyr::from_str(text).ok()?;
    let value = configuration.get("vllm")?.get("max-model-len")?;
    let number = value
        .as_u64()
        .or_else(|| value.as_str()?.trim().parse().ok())?;
    u32::try_from(number).ok().filter(|limit| *limit > 0)
}

/// Objects per page of a list.
const PAGE: u32 = 500;

/// All pages of a list.
async fn list<K>(cluster: &Cluster, api: Api<K>) -> Result<Vec<K>, CallError>
where
    K: Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut all = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page: ObjectList<K> = cluster.attempt(api.list(&params)).await?;
        all.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params.continue_token = Some(token),
            None => return Ok(all),
        }
    }
}

fn shared<K>(items: Vec<K>) -> Vec<Arc<K>> {
    items.into_iter().map(Arc::new).collect()
}

fn is_missing(error: &CallError) -> bool {
    matches!(error, CallError::Request(kube::Error::Api(status)) if status.code == 404)
}

fn note(cluster: &Cluster, error: CallError, what: &str, request: &str) -> String {
    let failure = cluster.explain(error, request).to_string();
    format!("{what} could not be read and are left out: {failure}")
}

/// Reads a recorded list.
///
/// # Errors
/// The file cannot be read, or holds something else than a list of objects.
pub async fn from_file(path: &str) -> Result<Recorded, Failure> {
    let text = read(path).await?;
    let mut recorded = Recorded {
        can_buy: true,
        ..Recorded::default()
    };
    for document in documents(&text, path)? {
        for item in items(document) {
            take(&mut recorded, item, path)?;
        }
    }
    if recorded.nodes.is_empty() && recorded.pods.is_empty() && recorded.claims.is_empty() {
        let path = path.to_owned();
        return Err(Error::NoCluster { path }.into());
    }
    Ok(recorded)
}

/// Workspaces in a manifest.
///
/// # Errors
/// The file cannot be read or holds no Workspace.
pub async fn workspaces(path: &str) -> Result<Vec<Workspace>, Failure> {
    let text = read(path).await?;
    let mut found = Vec::new();
    for item in documents(&text, path)?.into_iter().flat_map(items) {
        if item.get("kind").and_then(Value::as_str) == Some("Workspace") {
            found.push(parse(item, path, "Workspace")?);
        }
    }
    if found.is_empty() {
        let path = path.to_owned();
        return Err(Error::NoWorkspace { path }.into());
    }
    Ok(found)
}

/// Longest file that is read, bytes; a recorded cluster of thousands of pods stays far below.
const LONGEST: u64 = 256 << 20;

async fn read(path: &str) -> Result<String, Failure> {
    use tokio::io::AsyncReadExt;
    let failure = |source: std::io::Error| Error::File {
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    if path == "-" {
        tokio::io::stdin()
            .take(LONGEST)
            .read_to_string(&mut text)
            .await
            .map_err(failure)?;
        return Ok(text);
    }
    if !Path::new(path).exists() {
        let path = path.to_owned();
        return Err(Error::Missing { path }.into());
    }
    let file = tokio::fs::File::open(path).await.map_err(failure)?;
    file.take(LONGEST)
        .read_to_string(&mut text)
        .await
        .map_err(failure)?;
    Ok(text)
}

fn documents(text: &str, path: &str) -> Result<Vec<Value>, Failure> {
    let trimmed = text.trim_start();
    if trimmed.starts_with('{') {
        let value = serde_json::from_str(trimmed).map_err(|error| parse_failure(path, &error))?;
        return Ok(vec![value]);
    }
    let parsed: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|error| parse_failure(path, &error))?;
    Ok(parsed
        .into_iter()
        .filter(|document| !document.is_null())
        .collect())
}

fn parse_failure(path: &str, error: &dyn std::fmt::Display) -> Failure {
    let (path, reason) = (path.to_owned(), error.to_string());
    Error::Parse { path, reason }.into()
}

/// The objects of a `List`, or the object itself.
fn items(document: Value) -> Vec<Value> {
    let is_list = document
        .get("kind")
        .and_then(Value::as_str)
        .is_some_and(|kind| kind.ends_with("List"));
    match document {
        Value::Object(mut map) if is_list => match map.remove("items") {
            Some(Value::Array(items)) => items,
            _ => Vec::new(),
        },
        Value::Array(items) => items,
        other => vec![other],
    }
}

fn take(recorded: &mut Recorded, item: Value, path: &str) -> Result<(), Failure> {
    match item.get("kind").and_then(Value::as_str).unwrap_or_default() {
        "Node" => recorded.nodes.push(Arc::new(parse(item, path, "Node")?)),
        "Pod" => recorded.pods.push(Arc::new(parse(item, path, "Pod")?)),
        "NodeClaim" => recorded
            .claims
            .push(Arc::new(parse(item, path, "NodeClaim")?)),
        "Workspace" => recorded
            .workspaces
            .push(Arc::new(parse(item, path, "Workspace")?)),
        "ConfigMap" => {
            let found: ConfigMap = parse(item, path, "ConfigMap")?;
            let namespace = found.namespace().unwrap_or_else(|| "default".to_owned());
            keep_limit(recorded, namespace, &found);
        }
        // A record of everything is welcome; what placement does not depend on is passed over.
        _ => {}
    }
    Ok(())
}

fn parse<K: DeserializeOwned>(item: Value, path: &str, kind: &str) -> Result<K, Failure> {
    let name = item
        .pointer("/metadata/name")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    serde_json::from_value(item).map_err(|source| {
        let object = format!("{kind} {name:?}");
        let path = path.to_owned();
        Error::Object {
            path,
            object,
            source,
        }
        .into()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{context_limit, documents, items, take};

    #[test]
    fn a_recorded_list_is_sorted_by_kind_and_other_kinds_are_passed_over() {
        let list = json!({"kind": "List", "apiVersion": "v1", "items": [
            {"kind": "Node", "metadata": {"name": "n"}},
            {"kind": "Secret", "metadata": {"name": "s"}},
            {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": []}}]});
        let text = serde_json::to_string(&list).unwrap();
        let mut recorded = super::Recorded::default();
        for item in documents(&text, "f").unwrap().into_iter().flat_map(items) {
            take(&mut recorded, item, "f").unwrap();
        }
        assert_eq!((recorded.nodes.len(), recorded.pods.len()), (1, 1));
    }

    #[test]
    fn the_context_length_of_a_configuration_is_read_as_number_or_text() {
        assert_eq!(context_limit("vllm: {max-model-len: 4096}"), Some(4096));
        assert_eq!(context_limit("vllm: {max-model-len: '4096'}"), Some(4096));
        for text in [
            "vllm: {}",
            "max-model-len: 1",
            "vllm: {max-model-len: -1}",
            "vllm: {max-model-len: auto}",
            "[",
        ] {
            assert_eq!(context_limit(text), None, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_parsed_names_file_and_object() {
        let mut recorded = super::Recorded::default();
        let broken = json!({"kind": "Node", "metadata": {"name": "n"}, "spec": 7});
        let failure = take(&mut recorded, broken, "dump.json").unwrap_err();
        assert!(failure.lines()[0].starts_with("error: error parsing dump.json: Node \"n\": "));
        assert!(documents("{", "dump.json").is_err());
    }
}
