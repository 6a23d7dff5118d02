//! The server container of the native runtime: kaito-runtime with its own engine, on the CPU.

use k8s_openapi::api::core::v1::{Container, SecurityContext};
use kaito_api::Workspace;
use kaito_api::catalogue::Preset;
use kaito_api::workspace::AdapterSpec;
use kaito_snapshot::runtime;

use super::Context;
use super::engine::{ADAPTERS_PATH, WEIGHTS_PATH};

/// `container` as the server of `preset`: what is the same for all engines stays.
#[must_use]
pub fn container(
    container: Container,
    workspace: &Workspace,
    preset: &Preset,
    context: &Context,
) -> Container {
    let inference = workspace.spec.inference.as_ref();
    let adapters = inference.and_then(|inference| inference.adapters.as_deref());
    Container {
        image: Some(context.images.runtime.clone()),
        args: Some(arguments(workspace, preset, adapters.unwrap_or_default())),
        security_context: container.security_context.map(|security| SecurityContext {
            read_only_root_filesystem: Some(true),
            ..security
        }),
        ..container
    }
}

fn arguments(workspace: &Workspace, preset: &Preset, adapters: &[AdapterSpec]) -> Vec<String> {
    let short = preset.short_name().to_lowercase();
    let mut arguments = vec![
        "serve".to_owned(),
        format!("--model={WEIGHTS_PATH}"),
        format!("--port={}", super::SERVER_PORT),
        format!("--served-model-name={short}"),
        format!(
            "--kv-cache-mib={}",
            runtime::native_cache_bytes(preset) >> 20
        ),
    ];
    if let Some(context) = workspace.spec.resource.context_length {
        arguments.push(format!("--max-model-len={context}"));
    }
    for adapter in adapters {
        let source = adapter.source.as_ref();
        if let Some(name) = source.and_then(|source| source.name.as_ref()) {
            arguments.push(format!("--adapter={name}={ADAPTERS_PATH}/{name}"));
        }
    }
    arguments
}
