//! A real node: what kubelet, containerd, kube-proxy and a registry make of our objects. Only the GPUs are *pretended*.
//!
//! Needs root on Linux, so these run only when asked for: `tests/run --only node`.

#![cfg(target_os = "linux")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures::{AsyncBufReadExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Event, Node as NodeObject, Pod, Service};
use kaito_api::{Workspace, conditions};
use kaito_tests::binaries::{Binary, find_or_build};
use kaito_tests::cluster;
use kaito_tests::device_plugin::{DevicePlugin, GPU, VARIABLE};
use kaito_tests::fixture::{Namespace, apply_yaml};
use kaito_tests::node::story::{self, pull_secret, report, restrict};
use kaito_tests::node::{self, Identity, Image, Node, Traces};
use kaito_tests::programs;
use kaito_tests::reported::{is_ready, is_true, waits_for};
use kaito_tests::wait::{wait_for, wait_for_all, wait_for_none};
use kube::api::{DeleteParams, LogParams};
use kube::{Api, ResourceExt};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

mod gpus;
mod killed;

const LIMIT: Duration = Duration::from_secs(120);

/// Settings of the whole machine that kubelet likes to change.
fn host_settings() -> Vec<String> {
    let files = [
        "vm/overcommit_memory",
        "kernel/panic",
        "kernel/panic_on_oops",
    ];
    let read = |file: &&str| fs::read_to_string(Path::new("/proc/sys").join(file)).unwrap();
    files.iter().map(read).collect()
}

/// A pod as the `restricted` standard wants it, that serves its folder `/www` on port 8080.
fn web_server(image: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: web, labels: {{app: web}}}}
spec:
  automountServiceAccountToken: false
  imagePullSecrets: [{{name: registry}}]
  securityContext: {{runAsNonRoot: true, runAsUser: 65532, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
    - name: web
      image: {image}
      args: ['-c', 'echo serving as $(id -u); exec httpd -f -v -p 8080 -h /www']
      ports: [{{containerPort: 8080}}]
      readinessProbe: {{httpGet: {{path: /index.html, port: 8080}}, periodSeconds: 1}}
      resources: {{requests: {{cpu: 10m, memory: 16Mi}}, limits: {{memory: 64Mi}}}}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {{drop: [ALL]}}
      volumeMounts: [{{name: model, mountPath: /model}}]
  volumes:
    - name: model
      image: {{reference: MODEL, pullPolicy: IfNotPresent}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
"
    )
}

/// A pod that sleeps, with as many GPUs as asked for. It has time to end, so that its GPUs are counted as free only
/// once kubelet has ended it.
fn sleeper(name: &str, image: &str, gpus: u32) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  imagePullSecrets: [{{name: registry}}]
  containers:
    - name: main
      image: {image}
      args: ['-c', 'echo given: ${VARIABLE}; exec sleep 86400']
      resources: {{limits: {{{GPU}: {gpus}}}}}
"
    )
}

async fn wait_for_ready(pods: &Api<Pod>, name: &str) -> Pod {
    let what = format!("pod {name} is ready");
    let found = wait_for(pods, name, &what, LIMIT, is_ready).await;
    found.unwrap().unwrap()
}

/// Runs a command in a pod, as a user does, and returns what it printed; it must succeed.
fn execute(namespace: &Namespace<'_>, pod: &str, command: &[&str]) -> String {
    let output = namespace
        .plane()
        .kubectl_command()
        .args(["exec", "--namespace", namespace.name(), pod, "--"])
        .args(command)
        .output()
        .unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// How much of a resource kube-scheduler may hand out on the node.
fn allocatable(object: Option<&NodeObject>, resource: &str) -> u64 {
    let amounts = object
        .and_then(|object| object.status.as_ref())
        .and_then(|status| status.allocatable.as_ref());
    let amount = amounts.and_then(|amounts| amounts.get(resource));
    amount.map_or(0, |amount| amount.0.parse().unwrap())
}

/// Takes the node down and looks for what it has left.
fn stop(node: Node, before: &[String]) {
    story::stop(node);
    assert_eq!(host_settings(), before);
}

#[tokio::test]
#[ignore = "needs root on Linux: tests/run --only node"]
async fn a_restricted_pod_with_a_model_volume_serves_from_our_registry_and_nothing_is_left() {
    let before = host_settings();
    let started = Instant::now();
    let node = Node::start(node::Options::default()).await.unwrap();
    report("node ready", started);
    let image = Image::busybox().unwrap().user("65532:65532");
    let server = node.push(&image, "tests/web", "1").unwrap();
    let weights = Image::empty().file("weights", b"0.1 0.2 0.3".to_vec(), 0o444);
    let model = node.push(&weights, "tests/model", "1").unwrap();
    // Pinned by digest, as weights have to be.
    let model = format!(
        "{}@{}",
        model.trim_end_matches(":1"),
        weights.digest().unwrap()
    );

    let namespace = Namespace::create(node.plane(), "web").await.unwrap();
    restrict(&namespace);
    let pods: Api<Pod> = namespace.api();
    let yaml = web_server(&server).replace("MODEL", &model);

    let started = Instant::now();
    // Without the secret the registry refuses; with it the very same pod gets its image.
    namespace.apply(&yaml).await.unwrap();
    wait_for_refusal(&namespace.api()).await;
    report("pull refused without the secret", started);
    let started = Instant::now();
    namespace.apply(&pull_secret(&node)).await.unwrap();
    wait_for_ready(&pods, "web").await;
    report("pod ready with the secret", started);

    serves_as_an_ordinary_user(&pods).await;
    the_model_is_mounted_read_only(&namespace);
    service_answers(&node, &namespace).await;
    refuses_what_is_not_restricted(&namespace, &server).await;
    drop(namespace);
    let started = Instant::now();
    stop(node, &before);
    report("node stopped", started);
}

async fn serves_as_an_ordinary_user(pods: &Api<Pod>) {
    let log = pods.log_stream("web", &LogParams::default()).await;
    let lines: Vec<String> = log.unwrap().lines().try_collect().await.unwrap();
    assert_eq!(lines[0], "serving as 65532", "{lines:?}");
}

fn the_model_is_mounted_read_only(namespace: &Namespace<'_>) {
    let text = execute(namespace, "web", &["cat", "/model/weights"]);
    assert_eq!(text, "0.1 0.2 0.3");
    let write = "touch /model/new 2>/dev/null || echo refused";
    let written = execute(namespace, "web", &["sh", "-c", write]);
    assert_eq!(written, "refused\n");
    let mounts = execute(namespace, "web", &["cat", "/proc/self/mountinfo"]);
    let mut mounts = mounts.lines();
    let mount = mounts.find(|line| line.contains(" /model ")).unwrap();
    assert!(mount.contains(" ro,") || mount.contains(" ro "), "{mount}");
}

async fn wait_for_refusal(events: &Api<Event>) {
    wait_for_all(events, "", "the pull is refused", LIMIT, |all| {
        let message = |event: &Event| event.message.clone().unwrap_or_default();
        let refused = |text: String| {
            text.contains("no basic auth credentials")
                || text.contains("authorization failed")
                || text.contains("401")
        };
        all.iter().any(|event| refused(message(event)))
    })
    .await
    .unwrap();
}

async fn service_answers(node: &Node, namespace: &Namespace<'_>) {
    let services: Api<Service> = namespace.api();
    let service = services.get("web").await.unwrap();
    let address = service.spec.unwrap().cluster_ip.unwrap();
    let url = format!("http://{address}/index.html");
    assert_eq!(fetch(node, &url).await, "it works\n");
    let fetch = ["wget", "-q", "-O", "-", &url];
    assert_eq!(execute(namespace, "web", &fetch), "it works\n");
}

/// Fetches a page from the node. Tries again while nobody answers: kube-proxy hears of a ready pod a moment after we do.
async fn fetch(node: &Node, url: &str) -> String {
    let deadline = Instant::now() + LIMIT;
    loop {
        let output = node.run("curl", ["-sS", "-m", "5", url]).unwrap();
        if output.status.success() {
            return String::from_utf8(output.stdout).unwrap();
        }
        assert!(Instant::now() < deadline, "{output:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn refuses_what_is_not_restricted(namespace: &Namespace<'_>, image: &str) {
    let error = namespace
        .apply(&sleeper("lax", image, 0))
        .await
        .unwrap_err();
    let text = format!("{:#}", anyhow::Error::from(error));
    assert!(text.contains("violates PodSecurity \"restricted"), "{text}");
}
