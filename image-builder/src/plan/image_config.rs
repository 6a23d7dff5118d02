//! The config of an image: of its own, or a base image's extended. May do no I/O.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{BasePlatform, Options, PlanError};
use crate::digest::Digest;
use crate::oci::Platform;

/// What a layer adds to an image's history.
pub(super) struct LayerRecord {
    pub(super) content_digest: Digest,
    pub(super) name: String,
}

/// One entry of an image's history.
#[derive(Serialize)]
struct History {
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    created_by: String,
}

/// The config for a platform, with these layers on top of the base image's.
pub(super) fn write(
    options: &Options,
    platform: &Platform,
    base: Option<&BasePlatform>,
    layers: &[LayerRecord],
    created: Option<&str>,
    default_program: Option<&str>,
) -> Result<Value, PlanError> {
    let mut config = match base {
        Some(base) => base_config(options, base)?,
        None => Map::new(),
    };
    if let Some(created) = created {
        config.insert("created".to_owned(), json!(created));
    }
    config.insert("architecture".to_owned(), json!(platform.architecture));
    config.insert("os".to_owned(), json!(platform.os));
    if let Some(variant) = &platform.variant {
        config.insert("variant".to_owned(), json!(variant));
    }
    let mut run = take_object(&mut config, "config");
    set_run(&mut run, options, default_program);
    if !run.is_empty() {
        config.insert("config".to_owned(), Value::Object(run));
    }
    let mut rootfs = take_object(&mut config, "rootfs");
    rootfs.insert("type".to_owned(), json!("layers"));
    let digests = layers.iter().map(|layer| json!(layer.content_digest));
    extend_array(&mut rootfs, "diff_ids", digests);
    config.insert("rootfs".to_owned(), Value::Object(rootfs));
    let history = layers.iter().map(|layer| {
        json!(History {
            created: created.map(str::to_owned),
            created_by: format!("kaito image-builder: {}", layer.name),
        })
    });
    extend_array(&mut config, "history", history);
    Ok(Value::Object(config))
}

fn base_config(options: &Options, base: &BasePlatform) -> Result<Map<String, Value>, PlanError> {
    let reference = || {
        let image = options.base_image.as_ref();
        image
            .map(|image| image.reference.clone())
            .unwrap_or_default()
    };
    let refused = |reason: String| PlanError::BaseConfig {
        reference: reference(),
        reason,
    };
    let value: Value =
        serde_json::from_slice(&base.config).map_err(|cause| refused(cause.to_string()))?;
    let Value::Object(config) = value else {
        return Err(refused("it is no JSON object".to_owned()));
    };
    let digests = config
        .get("rootfs")
        .and_then(|rootfs| rootfs.get("diff_ids"))
        .and_then(Value::as_array)
        .map_or(0, Vec::len);
    let layers = base.manifest.layers.len();
    if digests != layers {
        return Err(refused(format!(
            "it lists {digests} layers, its manifest {layers}"
        )));
    }
    Ok(config)
}

/// Sets what the options say; the rest stays as the base image has it.
fn set_run(run: &mut Map<String, Value>, options: &Options, default_program: Option<&str>) {
    let wanted = &options.run;
    if let Some(user) = &wanted.user {
        run.insert("User".to_owned(), json!(user));
    }
    if !wanted.exposed_ports.is_empty() {
        let mut ports = take_object(run, "ExposedPorts");
        for port in &wanted.exposed_ports {
            ports.insert(port.clone(), json!({}));
        }
        run.insert("ExposedPorts".to_owned(), Value::Object(ports));
    }
    set_environment(run, options);
    let has_program = run.contains_key("Entrypoint") || run.contains_key("Cmd");
    if !wanted.entrypoint.is_empty() {
        run.insert("Entrypoint".to_owned(), json!(wanted.entrypoint));
        // The base image's arguments were for its own program.
        run.remove("Cmd");
    } else if let (Some(program), false) = (default_program, has_program) {
        run.insert("Entrypoint".to_owned(), json!([program]));
    }
    if !wanted.arguments.is_empty() {
        run.insert("Cmd".to_owned(), json!(wanted.arguments));
    }
    if let Some(directory) = &wanted.working_directory {
        run.insert("WorkingDir".to_owned(), json!(directory));
    }
    if !options.labels.is_empty() {
        let mut labels = take_object(run, "Labels");
        for (name, value) in &options.labels {
            labels.insert(name.clone(), json!(value));
        }
        run.insert("Labels".to_owned(), Value::Object(labels));
    }
}

fn set_environment(run: &mut Map<String, Value>, options: &Options) {
    if options.run.environment.is_empty() {
        return;
    }
    let present = match run.remove("Env") {
        Some(Value::Array(present)) => present,
        _ => Vec::new(),
    };
    let overridden = |entry: &Value| {
        let name = entry.as_str().and_then(|entry| entry.split('=').next());
        name.is_some_and(|name| options.run.environment.contains_key(name))
    };
    let environment: Vec<Value> = present
        .into_iter()
        .filter(|entry| !overridden(entry))
        .chain(
            options
                .run
                .environment
                .iter()
                .map(|(name, value)| json!(format!("{name}={value}"))),
        )
        .collect();
    run.insert("Env".to_owned(), Value::Array(environment));
}

fn take_object(map: &mut Map<String, Value>, name: &str) -> Map<String, Value> {
    match map.remove(name) {
        Some(Value::Object(object)) => object,
        _ => Map::new(),
    }
}

fn extend_array(map: &mut Map<String, Value>, name: &str, more: impl Iterator<Item = Value>) {
    let mut array = match map.remove(name) {
        Some(Value::Array(array)) => array,
        _ => Vec::new(),
    };
    array.extend(more);
    map.insert(name.to_owned(), Value::Array(array));
}
