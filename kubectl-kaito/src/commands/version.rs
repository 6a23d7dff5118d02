//! `version`: this program, the server, and the CRDs it serves.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use serde_json::{Map, Value, json};

use crate::Context;
use crate::cluster::Cluster;
use crate::error::{Exit, Failure};
use crate::output::escape;
use crate::output::format::{self, DOCUMENT, Format, OutputFlag, Shape};
use crate::output::table::Headers;

/// The CRDs that kaito works with.
const CRDS: [&str; 2] = ["workspaces.kaito.sh", "nodeclaims.karpenter.sh"];

/// Flags of `version`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Show only this program's version; needs no cluster and no kubeconfig
    #[arg(long)]
    pub client: bool,
    /// Output format: json, yaml or jsonpath=TEMPLATE
    #[command(flatten)]
    pub output: OutputFlag,
}

/// Prints the versions.
///
/// # Errors
/// The server cannot be asked; what is known about the client is printed before.
pub async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let format = args.output.format(DOCUMENT)?;
    let mut document = json!({
        "apiVersion": "cli.kaito.sh/v1alpha1",
        "kind": "Version",
        "client": client(),
    });
    let failure = if args.client {
        None
    } else {
        add_server(&mut document, context).await.err()
    };
    match format {
        Format::Human => context.printer.data(&human(&document))?,
        other => {
            format::print(
                &context.printer,
                &other,
                &[document],
                Shape::Single,
                Headers::Show,
            )?;
        }
    }
    match failure {
        Some(failure) => Err(failure),
        None => Ok(Exit::Success),
    }
}

fn client() -> Value {
    json!({
        "version": format!("v{}", env!("CARGO_PKG_VERSION")),
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
        "kubernetes": "v1.36",
    })
}

async fn add_server(document: &mut Value, context: &Context) -> Result<(), Failure> {
    let cluster = Cluster::connect(context).await?;
    let info = cluster
        .call("get version", cluster.client().apiserver_version())
        .await?;
    let crds: Api<CustomResourceDefinition> = Api::all(cluster.client().clone());
    let mut versions = Map::new();
    for name in CRDS {
        // Reading CRDs may be forbidden to users; that is a note in the result, not a failure.
        let value = match cluster
            .find(
                "get customresourcedefinitions.apiextensions.k8s.io",
                crds.get(name),
            )
            .await
        {
            Ok(Some(crd)) => served(&crd),
            Ok(None) => json!("not installed"),
            Err(failure) => json!(failure.to_string()),
        };
        versions.insert(name.to_owned(), value);
    }
    if let Some(map) = document.as_object_mut() {
        map.insert(
            "server".to_owned(),
            json!({"version": info.git_version, "platform": info.platform}),
        );
        map.insert("crds".to_owned(), Value::Object(versions));
    }
    Ok(())
}

fn served(crd: &CustomResourceDefinition) -> Value {
    let names: Vec<&str> = crd
        .spec
        .versions
        .iter()
        .filter(|version| version.served)
        .map(|version| version.name.as_str())
        .collect();
    json!(names)
}

fn human(document: &Value) -> String {
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
    let mut lines = Vec::new();
    if let Some(version) = text("/client/version") {
        lines.push(format!("Client Version: {version}"));
    }
    if let Some(version) = text("/server/version") {
        lines.push(format!("Server Version: {version}"));
    }
    let crds = document.get("crds").and_then(Value::as_object);
    for (name, value) in crds.into_iter().flatten() {
        let shown = match value {
            Value::Array(names) => names
                .iter()
                .filter_map(Value::as_str)
                .collect::<Vec<_>>()
                .join(", "),
            other => other.as_str().unwrap_or_default().to_owned(),
        };
        lines.push(format!("CRD {name}: {shown}"));
    }
    lines
        .iter()
        .map(|line| format!("{}\n", escape::single_line(line)))
        .collect()
}
