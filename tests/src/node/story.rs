//! What every story on a real node does: install our parts from images, ask a model as a user would, read what a
//! command said. Panics where a test would.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Service;
use kaito_api::conditions;
use kube::Api;
use serde_json::{Value, json};

use super::{Node, Traces};
use crate::cluster;
use crate::fixture::{Namespace, apply_yaml, dump};

/// Name of the secret with the registry's password, in every namespace of a story.
pub const SECRET: &str = "registry";

/// A secret that lets pods pull from the node's registry, and push to it.
#[must_use]
pub fn pull_secret(node: &Node) -> String {
    let config = node.registry().docker_config();
    format!(
        "apiVersion: v1
kind: Secret
metadata: {{name: {SECRET}}}
type: kubernetes.io/dockerconfigjson
stringData: {{.dockerconfigjson: '{config}'}}
"
    )
}

/// A namespace in which only pods of the `restricted` standard are admitted, with the pull secret.
pub async fn restricted<'a>(node: &'a Node, prefix: &str) -> Namespace<'a> {
    let namespace = Namespace::create(node.plane(), prefix).await.unwrap();
    restrict(&namespace);
    namespace.apply(&pull_secret(node)).await.unwrap();
    namespace
}

/// From now on only pods of the `restricted` standard are admitted to the namespace.
pub fn restrict(namespace: &Namespace<'_>) {
    let labelled = namespace
        .plane()
        .kubectl_command()
        .args(["label", "namespace", namespace.name()])
        .arg("pod-security.kubernetes.io/enforce=restricted")
        .output()
        .unwrap();
    text(&labelled);
}

/// Installs our parts as a user would, by the plugin: the scheduler from `image`, on existing nodes only, with `flags`
/// of `install` besides.
pub async fn install(node: &Node, image: &str, flags: &[String]) {
    let client = node.client().await.unwrap();
    let system = cluster::SYSTEM_NAMESPACE;
    let namespace = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {system}}}\n");
    apply_yaml(&client, "default", &namespace).await.unwrap();
    apply_yaml(&client, system, &pull_secret(node))
        .await
        .unwrap();
    let output = node
        .plane()
        .kubectl_command()
        .args(["kaito", "install", "--nodes=byo"])
        .arg(format!("--image-pull-secret={SECRET}"))
        .arg(format!("--image={image}"))
        .args(flags)
        .output()
        .unwrap();
    if !output.status.success() {
        dump(node.plane(), system);
    }
    text(&output);
}

/// The flag of `install` that names the image of a program, which is built and pushed.
#[must_use]
pub fn image_flag(node: &Node, flag: &str, program: &str) -> String {
    format!("--{flag}-image={}", node.build_program(program).unwrap())
}

/// Takes the node down, and finds nothing that it has left.
pub fn stop(node: Node) {
    let identity = node.identity();
    node.stop().unwrap();
    assert_eq!(identity.traces().unwrap(), Traces::default());
}

/// The plugin by way of kubectl, as users call it, in a namespace.
#[must_use]
pub fn plugin(namespace: &Namespace<'_>, arguments: &[&str]) -> Output {
    namespace
        .plane()
        .kubectl_command()
        .arg("kaito")
        .args(arguments)
        .args(["--namespace", namespace.name()])
        .output()
        .unwrap()
}

/// What a command that went well printed.
#[track_caller]
pub fn text(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Waits until a Workspace serves, and gives the address of its Service.
pub async fn served(namespace: &Namespace<'_>, name: &str, limit: Duration) -> String {
    let ready = namespace.until(name, conditions::WORKSPACE_READY, limit);
    ready.await.unwrap();
    let address = address(namespace, name).await;
    is_routed(&address);
    address
}

/// Waits until the Service leads somewhere: kube-proxy learns of a ready pod when we do, and acts on it a little later.
fn is_routed(address: &str) {
    let found = Command::new("curl")
        .args([
            "-sS",
            "--fail",
            "-m",
            "60",
            "--retry",
            "30",
            "--retry-delay",
            "1",
        ])
        .args(["--retry-connrefused", &format!("http://{address}/health")])
        .output()
        .unwrap();
    text(&found);
}

/// Address of a Workspace's Service.
async fn address(namespace: &Namespace<'_>, name: &str) -> String {
    let services: Api<Service> = namespace.api();
    let service = services.get(name).await.unwrap();
    service.spec.unwrap().cluster_ip.unwrap()
}

/// What a user types in a shell: `curl -X POST http://CLUSTERIP/chat …`.
#[must_use]
pub fn curl(url: &str, body: &Value) -> Output {
    Command::new("curl")
        .args(["-sS", "-m", "120", "--fail-with-body", "-X", "POST", url])
        .args(["-H", "accept: application/json"])
        .args(["-H", "Content-Type: application/json"])
        .args(["-d", &body.to_string()])
        .output()
        .unwrap()
}

/// The answer of an adapter, or of the base model, without chance.
#[must_use]
pub fn greedy(address: &str, model: &str, question: &str) -> String {
    let body = json!({
        "model": model, "temperature": 0, "max_tokens": 24,
        "messages": [{"role": "user", "content": question}],
    });
    let url = format!("http://{address}/v1/chat/completions");
    let answer: Value = serde_json::from_str(&text(&curl(&url, &body))).unwrap();
    let said = &answer["choices"][0]["message"]["content"];
    said.as_str().unwrap().to_owned()
}

/// Prints how long something took.
pub fn report(what: &str, since: Instant) {
    println!("{what}: {:.1} s", since.elapsed().as_secs_f64());
}
