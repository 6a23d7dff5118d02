//! What sizing and building depend on besides the Workspace: GPU shapes of own nodes and the engine configuration.
//!
//! The one read from the API server is the ConfigMap that the Workspace names, once per version of it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kaito_api::{Workspace, names};
use kaito_snapshot::cluster;
use kaito_snapshot::sizing::Surroundings;
use kube::ResourceExt;
use serde::Deserialize;

use super::build;
use crate::shared::Shared;
use crate::store::Key;

/// Key of the engine configuration in its ConfigMap.
const INFERENCE_KEY: &str = "inference_config.yaml";

/// Why observing failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ConfigMap could not be read.
    #[error("reading ConfigMap {0}/{1}")]
    ConfigMap(String, String, #[source] Box<kube::Error>),
}

/// What a look at one Workspace depends on.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// For sizing.
    pub surroundings: Surroundings,
    /// For building.
    pub build: build::Context,
    /// Digest of everything that the size was made from, but own nodes.
    pub inputs: String,
}

/// Collects the context of `workspace`.
///
/// # Errors
/// [`Error::ConfigMap`] when the configuration that it names cannot be read. One that does not exist is not an
/// error: the pods wait for it, as Kubernetes has it.
pub async fn context(shared: &Shared, workspace: &Workspace) -> Result<Context, Error> {
    let config = config_of(shared, workspace).await?;
    let version = config.as_ref().and_then(|config| config.resource_version());
    let nodes = shared.stores.nodes.all();
    let surroundings = Surroundings {
        mode: shared.config.node_mode,
        own_gpus: cluster::own_gpus(workspace, &nodes),
        has_own_nodes: !cluster::own_nodes(workspace, &nodes).is_empty(),
        max_model_len: config.as_deref().and_then(max_model_len),
    };
    let spec = serde_json::to_string(&workspace.spec).unwrap_or_default();
    let length = surroundings.max_model_len.unwrap_or(0).to_string();
    Ok(Context {
        inputs: names::digest(&[&spec, &length], 16),
        build: build::Context {
            images: shared.config.images.clone(),
            weights: shared.config.weights,
            data_reach: shared.config.data_reach,
            config_version: version,
        },
        surroundings,
    })
}

fn config_name(workspace: &Workspace) -> Option<&str> {
    let inference = workspace
        .spec
        .inference
        .as_ref()
        .and_then(|spec| spec.config.as_deref());
    let tuning = workspace
        .spec
        .tuning
        .as_ref()
        .and_then(|spec| spec.config.as_deref());
    inference.or(tuning).filter(|name| !name.is_empty())
}

/// Key of the ConfigMap that the Workspace names.
#[must_use]
pub fn config_key(workspace: &Workspace) -> Option<Key> {
    let namespace = workspace.metadata.namespace.clone().unwrap_or_default();
    config_name(workspace).map(|name| (namespace, name.to_owned()))
}

async fn config_of(
    shared: &Shared,
    workspace: &Workspace,
) -> Result<Option<Arc<ConfigMap>>, Error> {
    let Some(key) = config_key(workspace) else {
        return Ok(None);
    };
    let Some(seen) = shared.stores.configs.get(&key) else {
        return Ok(None);
    };
    shared
        .config_map(&key, seen.resource_version().as_deref())
        .await
        .map_err(|source| Error::ConfigMap(key.0, key.1, Box::new(source)))
}

/// `vllm.max-model-len` of the configuration, parsed as YAML; absent when it is not a positive number.
fn max_model_len(config: &ConfigMap) -> Option<u32> {
    #[derive(Deserialize)]
    struct Config {
        vllm: Option<Engine>,
    }
    #[derive(Deserialize)]
    struct Engine {
        #[serde(rename = "max-model-len")]
        max_model_len: Option<serde_json::Value>,
    }
    let text = config.data.as_ref()?.get(INFERENCE_KEY)?;
    let parsed: Config = serde_saphyr::from_str(text).ok()?;
    let value = parsed.vllm?.max_model_len?;
    let number = value
        .as_u64()
        .or_else(|| value.as_str()?.trim().parse().ok())?;
    u32::try_from(number).ok().filter(|length| *length > 0)
}

#[cfg(test)]
mod tests {
    use super::{INFERENCE_KEY, max_model_len};
    use k8s_openapi::api::core::v1::ConfigMap;

    fn config(text: &str) -> ConfigMap {
        let mut config = ConfigMap::default();
        config
            .data
            .get_or_insert_default()
            .insert(INFERENCE_KEY.to_owned(), text.to_owned());
        config
    }

    #[test]
    fn the_context_length_is_read_however_it_is_written() {
        for text in [
            "vllm: {max-model-len: 4096}",
            "vllm:\n  max-model-len: '4096' # half",
        ] {
            assert_eq!(max_model_len(&config(text)), Some(4096), "{text}");
        }
        for text in ["vllm: {max-model-len: auto}", "", "][", "vllm: {}"] {
            assert_eq!(max_model_len(&config(text)), None, "{text}");
        }
    }
}
