//! From weights to an answer on a real node: our own programs as pods from images that our own builder made, a real
//! model in a real registry, and text that a person accepts. Nothing is pretended.
//!
//! Needs root on Linux, so these run only when asked for: `tests/run --only node`.

#![cfg(target_os = "linux")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kaito_api::Workspace;
use kaito_tests::cluster;
use kaito_tests::fixture::Namespace;
use kaito_tests::model;
use kaito_tests::node::story::{self, curl, plugin, report, restricted, served, text};
use kaito_tests::node::{self, Node};
use kaito_tests::programs;
use kaito_tests::wait::{wait_for, wait_for_all};
use kube::api::DeleteParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};

/// Loading 100 MB and answering takes seconds; a machine that builds something else besides takes longer.
const LIMIT: Duration = Duration::from_secs(180);

fn workspace(weights: &str, adapters: &[(&str, &str)]) -> String {
    let adapters: Vec<Value> = adapters
        .iter()
        .map(|(name, image)| json!({"source": {"name": name, "image": image, "imagePullSecrets": ["registry"]}}))
        .collect();
    json!({
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": "small"},
        "resource": {"labelSelector": {"matchLabels": {"kubernetes.io/os": "linux"}}},
        "inference": {
            "preset": {
                "name": "smollm2-135m-instruct",
                "presetOptions": {"image": weights, "imagePullSecrets": ["registry"]},
            },
            "adapters": adapters,
        },
    })
    .to_string()
}

/// The weights as an image, and where they came from on this machine.
fn weights(node: &Node) -> String {
    let folder = tempfile::tempdir().unwrap();
    model::provide(folder.path()).unwrap();
    node.build_image(
        folder.path(),
        "models/smollm2",
        ["--preset=smollm2-135m-instruct"],
    )
    .unwrap()
}

/// An adapter that nobody trained: fixed numbers on the values of every layer, large enough to be noticed.
fn adapter(node: &Node, name: &str, scale: f32) -> String {
    const LAYERS: usize = 30;
    const HIDDEN: usize = 576;
    const RANK: usize = 4;
    let folder = tempfile::tempdir().unwrap();
    let config = json!({
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK,
        "target_modules": ["v_proj"], "base_model_name_or_path": "HuggingFaceTB/SmolLM2-135M-Instruct",
    });
    fs::write(
        folder.path().join("adapter_config.json"),
        config.to_string(),
    )
    .unwrap();
    let file = lora_file(LAYERS, HIDDEN, RANK, scale);
    fs::write(folder.path().join("adapter_model.safetensors"), file).unwrap();
    let image = format!("adapters/{name}");
    node.build_image(folder.path(), &image, ["--preset=smollm2-135m-instruct"])
        .unwrap()
}

/// Elements that the values of one token have in each layer: three heads of 64.
const VALUES: usize = 192;

/// A safetensors file with the two matrices of each layer's value projection.
fn lora_file(layers: usize, hidden: usize, rank: usize, scale: f32) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for layer in 0..layers {
        let module = format!("base_model.model.model.layers.{layer}.self_attn.v_proj");
        for (part, shape) in [("lora_A", [rank, hidden]), ("lora_B", [VALUES, rank])] {
            let begin = data.len();
            for index in 0..shape[0] * shape[1] {
                let step = u8::try_from((index * 37 + layer * 11) % 17).unwrap();
                let value = (f32::from(step) - 8.0) / 8.0 * scale;
                data.extend(value.to_le_bytes());
            }
            let entry =
                json!({"dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()]});
            header.insert(format!("{module}.{part}.weight"), entry);
        }
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.into_bytes());
    file.extend(data);
    file
}

/// The answer of an adapter, or of the base model, without chance.
fn greedy(address: &str, model: &str) -> String {
    story::greedy(address, model, QUESTION)
}

/// Installs our parts as a user would: from images, by the plugin.
async fn install(node: &Node) {
    let started = Instant::now();
    let scheduler = node.build_program(programs::SCHEDULER).unwrap();
    let runtime = story::image_flag(node, "runtime", programs::RUNTIME);
    report("images of our programs built and pushed", started);
    story::install(node, &scheduler, &[runtime]).await;
}

const QUESTION: &str = "Tell me the capital of France.";

#[tokio::test]
#[ignore = "needs root on Linux: tests/run --only node"]
async fn a_small_model_answers_from_a_pod_and_a_new_adapter_loses_no_request() {
    // The node's network has no way out.
    model::file().unwrap();
    let node = Node::start(node::Options::default()).await.unwrap();
    install(&node).await;
    the_scheduler_is_ready(&node).await;
    let weights = weights(&node);
    let namespace = restricted(&node, "infer").await;
    let started = Instant::now();
    namespace.apply(&workspace(&weights, &[])).await.unwrap();
    let address = served(&namespace, "small", LIMIT).await;
    report("Workspace applied to ready", started);
    weights_are_mounted(&namespace, &weights).await;
    let url = format!("http://{address}/chat");
    answers_the_node(&url);
    answers_a_pod(&node, &namespace, &url).await;
    answers_the_plugin(&namespace);
    roll_out_an_adapter(&node, &namespace, &weights, &address).await;
    lose_the_server_mid_answer(&node, &namespace, &address).await;
    is_deleted(&namespace).await;
    drop(namespace);
    story::stop(node);
}

async fn the_scheduler_is_ready(node: &Node) {
    let client = node.client().await.unwrap();
    let deployments: Api<Deployment> = Api::namespaced(client, cluster::SYSTEM_NAMESPACE);
    let scheduler = deployments.get("kaito-scheduler").await.unwrap();
    assert_eq!(scheduler.status.unwrap().ready_replicas, Some(1));
}

fn answers_the_node(url: &str) {
    let started = Instant::now();
    let answer = text(&curl(url, &json!({"prompt": QUESTION})));
    report("first answer", started);
    assert!(answer.contains("Paris"), "{answer}");
}

/// The plugin chats with the model, and shows its log and its status.
fn answers_the_plugin(namespace: &Namespace<'_>) {
    let chat = ["chat", "small", QUESTION, "--temperature=0"];
    let said = text(&plugin(namespace, &chat));
    assert!(said.contains("Paris"), "{said}");
    let log = text(&plugin(namespace, &["logs", "small"]));
    assert!(!log.trim().is_empty());
    let status = text(&plugin(namespace, &["status", "small"]));
    println!("{status}");
}

async fn is_deleted(namespace: &Namespace<'_>) {
    let workspaces: Api<Workspace> = namespace.api();
    workspaces
        .delete("small", &DeleteParams::default())
        .await
        .unwrap();
    let pods: Api<Pod> = namespace.api();
    let (ours, what) = ("kaito.sh/workspace", "its pods are gone");
    wait_for_all(&pods, ours, what, LIMIT, <[Pod]>::is_empty)
        .await
        .unwrap();
}

/// Ends the server with SIGKILL while it answers: the client is told by a broken transfer, and the next one is answered.
async fn lose_the_server_mid_answer(node: &Node, namespace: &Namespace<'_>, address: &str) {
    let before = greedy(address, model::PRESET);
    let body = json!({
        "model": model::PRESET, "stream": true, "max_tokens": 2048,
        "messages": [{"role": "user", "content": "Write a long story about the sea."}],
    });
    let mut client = Command::new("curl")
        .args(["-sS", "-N", "-m", "120", "-X", "POST"])
        .arg(format!("http://{address}/v1/chat/completions"))
        .args(["-H", "Content-Type: application/json", "-d"])
        .arg(body.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    let first = lines.find_map(|line| line.ok().filter(|line| line.starts_with("data:")));
    assert!(first.is_some(), "no part of an answer came");
    node.kill("kaito-runtime serve").unwrap();
    let rest: Vec<String> = lines.map_while(Result::ok).collect();
    assert!(rest.iter().all(|line| line != "data: [DONE]"), "{rest:?}");
    let status = client.wait().unwrap();
    // 18: the transfer ended before its end; 56: the connection was reset.
    assert!(matches!(status.code(), Some(18 | 56)), "{status}");
    served(namespace, "small", LIMIT).await;
    let started = Instant::now();
    let url = format!("http://{address}/v1/models");
    loop {
        let answered = Command::new("curl").args(["-sf", "-m", "5", &url]).output();
        if answered.unwrap().status.success() {
            break;
        }
        assert!(started.elapsed() < LIMIT, "the server does not come back");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    report("server killed to answering again", started);
    assert_eq!(greedy(address, model::PRESET), before);
}

async fn weights_are_mounted(namespace: &Namespace<'_>, weights: &str) {
    let pods: Api<Pod> = namespace.api();
    let found = pods.list(&Default::default()).await.unwrap().items;
    let spec = found.first().unwrap().spec.clone().unwrap();
    let volumes = spec.volumes.unwrap();
    let image = volumes.iter().find_map(|volume| volume.image.as_ref());
    assert_eq!(image.unwrap().reference.as_deref(), Some(weights));
    assert!(spec.init_containers.is_none());
    assert_eq!(spec.automount_service_account_token, Some(false));
}

/// The same question from a pod of the cluster, as the walkthrough has it.
async fn answers_a_pod(node: &Node, namespace: &Namespace<'_>, url: &str) {
    let image = node::Image::busybox().unwrap().user("65532:65532");
    let image = node.push(&image, "tests/client", "1").unwrap();
    let pod = format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: client}}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 0
  imagePullSecrets: [{{name: registry}}]
  securityContext: {{runAsNonRoot: true, runAsUser: 65532, seccompProfile: {{type: RuntimeDefault}}}}
  containers:
    - name: client
      image: {image}
      args: ['-c', 'exec sleep 86400']
      securityContext: {{allowPrivilegeEscalation: false, capabilities: {{drop: [ALL]}}}}
"
    );
    namespace.apply(&pod).await.unwrap();
    let pods: Api<Pod> = namespace.api();
    wait_for(&pods, "client", "the client runs", LIMIT, |pod| {
        let status = pod.and_then(|pod| pod.status.as_ref());
        status.and_then(|status| status.phase.as_deref()) == Some("Running")
    })
    .await
    .unwrap();
    let body = json!({"prompt": QUESTION}).to_string();
    let output = namespace
        .plane()
        .kubectl_command()
        .args([
            "exec",
            "--namespace",
            namespace.name(),
            "client",
            "--",
            "wget",
            "-q",
            "-O",
            "-",
        ])
        .args([
            "--header",
            "Content-Type: application/json",
            "--post-data",
            &body,
            url,
        ])
        .output()
        .unwrap();
    let answer = text(&output);
    assert!(answer.contains("Paris"), "{answer}");
}

/// Asks without a pause while the Workspace gains an adapter: every request is answered, and the adapter answers
/// otherwise than the base model.
async fn roll_out_an_adapter(node: &Node, namespace: &Namespace<'_>, weights: &str, address: &str) {
    let image = adapter(node, "odd", 2.0);
    let base = greedy(address, "smollm2-135m-instruct");
    let (stop, asked) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let asking = {
        let (stop, asked, address) = (Arc::clone(&stop), Arc::clone(&asked), address.to_owned());
        // A thread of this one, so that it is in the node's network as well.
        std::thread::spawn(move || {
            let mut answers = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                answers.push(greedy(&address, "smollm2-135m-instruct"));
                asked.fetch_add(1, Ordering::Relaxed);
            }
            answers
        })
    };
    let started = Instant::now();
    namespace
        .apply(&workspace(weights, &[("odd", &image)]))
        .await
        .unwrap();
    let pods: Api<Pod> = namespace.api();
    wait_for_all(
        &pods,
        "kaito.sh/workspace",
        "only the new pod is there",
        LIMIT,
        |all| {
            let new = |pod: &Pod| {
                let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_ref());
                volumes.is_some_and(|volumes| {
                    volumes.iter().any(|volume| volume.name == "adapter-odd")
                })
            };
            all.len() == 1 && new(&all[0])
        },
    )
    .await
    .unwrap();
    report("new adapter rolled out", started);
    stop.store(true, Ordering::Relaxed);
    let answers = asking.join().expect("no request failed");
    assert!(asked.load(Ordering::Relaxed) > 0);
    assert!(
        answers.iter().all(|answer| *answer == base),
        "{base}: {answers:?}"
    );
    assert_ne!(greedy(address, "odd"), base);
    assert_eq!(greedy(address, "smollm2-135m-instruct"), base);
}

#[tokio::test]
#[ignore = "needs root on Linux: tests/run --only node"]
async fn where_images_cannot_be_mounted_the_weights_are_pulled_and_answer_all_the_same() {
    // The node's network has no way out.
    model::file().unwrap();
    let node = Node::start(node::Options::default()).await.unwrap();
    let weights = weights(&node);
    let images = [
        story::image_flag(&node, "runtime", programs::RUNTIME),
        story::image_flag(&node, "tools", programs::IMAGE_BUILDER),
        "--weights-delivery=pull".to_owned(),
        "--node-provisioner=byo".to_owned(),
    ];
    cluster::install(node.plane()).unwrap();
    let scheduler = cluster::start_scheduler(node.plane(), node.plane().endpoint(), &images)
        .await
        .unwrap();
    let namespace = restricted(&node, "pull").await;
    // Our programs' own images are in the same registry.
    let account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: default}\nimagePullSecrets: [{name: registry}]\n";
    namespace.apply(account).await.unwrap();
    namespace.apply(&workspace(&weights, &[])).await.unwrap();
    let address = served(&namespace, "small", LIMIT).await;
    let pods: Api<Pod> = namespace.api();
    let found = pods.list(&Default::default()).await.unwrap().items;
    let pod = found.first().unwrap();
    let init = pod.spec.as_ref().unwrap().init_containers.as_ref().unwrap();
    assert_eq!(init.len(), 1, "{}", pod.name_any());
    assert!(greedy(&address, "smollm2-135m-instruct").contains("Paris"));
    drop(namespace);
    drop(scheduler);
    story::stop(node);
}
