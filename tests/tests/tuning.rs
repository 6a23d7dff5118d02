//! From a data set to a tuned model that answers, on a real node: the trainer's image, a real Job, real gradients on the
//! CPU, an adapter that is pushed, pulled and served. Nothing is pretended.
//!
//! Takes many minutes and wants root on Linux, so it runs only when asked for: `tests/run --full`.

#![cfg(target_os = "linux")]

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kaito_api::conditions;
use kaito_tests::fixture::Namespace;
use kaito_tests::node::story::{self, greedy, plugin, report, restricted, text};
use kaito_tests::node::{self, Files, Node, Trainer, trainer_sources};
use kaito_tests::{model, programs};
use kube::Api;
use kube::api::{ListParams, LogParams};
use serde_json::{Value, json};

/// A run of fifty steps takes three minutes on two idle cores.
const LIMIT: Duration = Duration::from_secs(2400);
/// Between two looks at a log.
const POLL: Duration = Duration::from_millis(500);
/// User of the trainer's image.
const USER: u32 = 65532;
const QUESTIONS: [&str; 3] = [
    "What is the capital of Italy?",
    "What is 12 plus 7?",
    "What colour is snow?",
];

/// KAITO's keys; one pass over 200 rows is 50 steps.
fn configuration(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1
kind: ConfigMap
metadata: {{name: {name}}}
data:
  training_config.yaml: |
    training_config:
      LoraConfig:
        r: 8
        lora_alpha: 16
        target_modules: [q_proj, v_proj]
      TrainingArguments:
        learning_rate: 1e-3
        num_train_epochs: 1
        per_device_train_batch_size: 4
        max_length: 256
        logging_steps: 1
        gradient_checkpointing: false
{more}"
    )
}

/// What a run is given and where its adapter goes.
struct Run<'a> {
    name: &'a str,
    method: &'a str,
    weights: &'a str,
    data: &'a str,
    output: &'a str,
}

impl Run<'_> {
    fn workspace(&self) -> String {
        json!({
            "apiVersion": "kaito.sh/v1beta1",
            "kind": "Workspace",
            "metadata": {"name": self.name},
            "resource": {"labelSelector": {"matchLabels": {"kubernetes.io/os": "linux"}}},
            "tuning": {
                "preset": {
                    "name": model::PRESET,
                    "presetOptions": {"image": self.weights, "imagePullSecrets": [story::SECRET]},
                },
                "method": self.method,
                "config": self.name,
                "input": {"urls": [self.data]},
                "output": {"image": self.output, "imagePushSecret": story::SECRET},
            },
        })
        .to_string()
    }

    /// The lines that the trainer has written so far, of this start of its container or of the one before.
    async fn lines(&self, namespace: &Namespace<'_>, previous: bool) -> Vec<Value> {
        let pods: Api<Pod> = namespace.api();
        let ours = ListParams::default().labels(&format!("kaito.sh/workspace={}", self.name));
        let Some(pod) = pods.list(&ours).await.unwrap().items.pop() else {
            return Vec::new();
        };
        let params = LogParams {
            container: Some("train".to_owned()),
            previous,
            ..LogParams::default()
        };
        let name = pod.metadata.name.unwrap_or_default();
        let log = pods.logs(&name, &params).await.unwrap_or_default();
        let line = |line: &str| serde_json::from_str(line).ok();
        log.lines().filter_map(line).collect()
    }

    /// Waits until a line satisfies `wanted`.
    async fn wait_for_line(
        &self,
        namespace: &Namespace<'_>,
        what: &str,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        let deadline = Instant::now() + LIMIT;
        loop {
            let lines = self.lines(namespace, false).await;
            if let Some(found) = lines.iter().find(|line| wanted(line)) {
                return found.clone();
            }
            let failed = lines.iter().find(|line| line["kaito"] == "error");
            assert!(failed.is_none(), "waiting for {what}: {failed:?}");
            assert!(Instant::now() < deadline, "no line says {what}: {lines:?}");
            tokio::time::sleep(POLL).await;
        }
    }
}

fn losses(lines: &[Value]) -> Vec<f64> {
    let steps = lines.iter().filter(|line| line["kaito"] == "progress");
    steps.filter_map(|line| line["loss"].as_f64()).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / f64::from(u32::try_from(values.len()).unwrap())
}

fn last<'a>(lines: &'a [Value], kind: &str) -> &'a Value {
    let found = lines.iter().rev().find(|line| line["kaito"] == kind);
    found.unwrap_or_else(|| panic!("no line {kind}: {lines:?}"))
}

/// The model in a form that can be trained and served alike, at `WORK/out/model`.
fn convert(trainer: &Trainer, work: &Path) {
    fs::create_dir(work.join("out")).unwrap();
    chown(work.join("out"), Some(USER), Some(USER)).unwrap();
    fs::copy(model::file().unwrap(), work.join("model.gguf")).unwrap();
    let output = trainer
        .command(work)
        .args([
            "convert",
            "--model=/mnt/model.gguf",
            "--output=/mnt/out/model",
        ])
        .output()
        .unwrap();
    text(&output);
}

/// Two hundred questions, answered as a sailor would.
fn data_set(node: &Node, work: &Path) -> Files {
    let folder = work.join("data");
    let output = Command::new("python3")
        .arg(trainer_sources().join("tests/style_data.py"))
        .arg(&folder)
        .args(["--rows=200", "--format=jsonl"])
        .output()
        .unwrap();
    text(&output);
    node.serve_files(&folder).unwrap()
}

async fn install(node: &Node, trainer: &Trainer) {
    let started = Instant::now();
    let scheduler = node.build_program(programs::SCHEDULER).unwrap();
    let flags = [
        story::image_flag(node, "runtime", programs::RUNTIME),
        story::image_flag(node, "tools", programs::IMAGE_BUILDER),
        format!("--trainer-image={}", node.build_trainer(trainer).unwrap()),
        // The data set is on the node.
        "--private-data-urls".to_owned(),
    ];
    report(
        "images of our programs and the trainer built and pushed",
        started,
    );
    story::install(node, &scheduler, &flags).await;
}

#[tokio::test]
#[ignore = "needs root on Linux and many minutes: tests/run --full"]
async fn a_model_is_tuned_on_a_node_and_the_adapter_that_was_pushed_changes_its_answers() {
    let trainer = Trainer::provide().unwrap();
    let work = tempfile::tempdir().unwrap();
    open(work.path());
    convert(&trainer, work.path());
    let node = Node::start(node::Options::default()).await.unwrap();
    install(&node, &trainer).await;
    let weights = node
        .build_image(
            &work.path().join("out/model"),
            "models/smollm2",
            [format!("--preset={}", model::PRESET)],
        )
        .unwrap();
    let files = data_set(&node, work.path());
    let namespace = restricted(&node, "tune").await;
    let registry = node.registry().host();
    let data = files.url("train.jsonl");

    let lora = Run {
        name: "sailor",
        method: "lora",
        weights: &weights,
        data: &data,
        output: &format!("{registry}/adapters/sailor:1"),
    };
    let started = Instant::now();
    tune_through_a_kill(&node, &namespace, &lora).await;
    report("lora, killed once", started);

    let qlora = Run {
        name: "sailor-in-four-bits",
        method: "qlora",
        output: &format!("{registry}/adapters/sailor-in-four-bits:1"),
        ..lora
    };
    let started = Instant::now();
    tune_in_four_bits(&namespace, &qlora).await;
    report("qlora", started);

    serve(&node, &namespace, &trainer, work.path(), [&lora, &qlora]).await;
    drop(files);
    drop(namespace);
    story::stop(node);
}

/// Lets the trainer's user look into a temporary folder.
fn open(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
}

async fn tune_through_a_kill(node: &Node, namespace: &Namespace<'_>, run: &Run<'_>) {
    namespace.apply(&configuration(run.name, "")).await.unwrap();
    namespace.apply(&run.workspace()).await.unwrap();
    // About ten checkpoints a run: the first is behind step 12.
    run.wait_for_line(namespace, "step 12", |line| {
        line["kaito"] == "progress" && line["step"].as_u64() >= Some(12)
    })
    .await;
    let status = text(&plugin(namespace, &["status", run.name]));
    println!("{status}");
    assert!(status.contains("Training:"), "{status}");
    assert!(status.contains("loss"), "{status}");
    let log = text(&plugin(namespace, &["logs", run.name]));
    assert!(log.contains(r#""kaito": "progress""#), "{log}");
    let before = losses(&run.lines(namespace, false).await);
    node.kill("python3 -m kaito_trainer train").unwrap();
    let kind = conditions::WORKSPACE_SUCCEEDED;
    namespace.until(run.name, kind, LIMIT).await.unwrap();

    let lines = run.lines(namespace, false).await;
    let done = last(&lines, "done");
    println!("{done}");
    let after = losses(&lines);
    let resumed = done["resumedFromStep"].as_u64().unwrap();
    assert!(resumed > 0, "{done}");
    assert!(after.len() < 50, "it began anew");
    assert_eq!(done["steps"], 50);
    let (first, end) = (mean(&before[..5]), mean(&after[after.len() - 5..]));
    println!("loss {first:.3} → {end:.3} (means of five steps), resumed from step {resumed}");
    assert!(end < first / 2.0, "the loss did not fall to half");
    let status = text(&plugin(namespace, &["status", run.name]));
    println!("{status}");
}

async fn tune_in_four_bits(namespace: &Namespace<'_>, run: &Run<'_>) {
    let few = "        max_steps: 25\n";
    namespace
        .apply(&configuration(run.name, few))
        .await
        .unwrap();
    namespace.apply(&run.workspace()).await.unwrap();
    let kind = conditions::WORKSPACE_SUCCEEDED;
    namespace.until(run.name, kind, LIMIT).await.unwrap();
    let lines = run.lines(namespace, false).await;
    let layers = &last(&lines, "training")["quantizedLayers"];
    assert!(layers.as_u64() > Some(0), "{lines:?}");
    let losses = losses(&lines);
    let (first, end) = (mean(&losses[..5]), mean(&losses[losses.len() - 5..]));
    println!("loss {first:.3} → {end:.3} (means of five steps), {layers} layers in four bits");
    assert!(end < first / 2.0, "the loss did not fall to half");
}

/// One server for the base model and both adapters, which it pulls as any pod would.
async fn serve(
    node: &Node,
    namespace: &Namespace<'_>,
    trainer: &Trainer,
    work: &Path,
    runs: [&Run<'_>; 2],
) {
    let adapters = runs.map(|run| {
        json!({"source": {"name": run.name, "image": run.output, "imagePullSecrets": [story::SECRET]}})
    });
    let workspace = json!({
        "apiVersion": "kaito.sh/v1beta1",
        "kind": "Workspace",
        "metadata": {"name": "crew"},
        "resource": {"labelSelector": {"matchLabels": {"kubernetes.io/os": "linux"}}},
        "inference": {
            "preset": {
                "name": model::PRESET,
                "presetOptions": {"image": runs[0].weights, "imagePullSecrets": [story::SECRET]},
            },
            "adapters": adapters,
        },
    });
    namespace.apply(&workspace.to_string()).await.unwrap();
    let address = story::served(namespace, "crew", LIMIT).await;
    for question in QUESTIONS {
        let base = greedy(&address, model::PRESET, question);
        assert!(!base.starts_with("Ahoy!"), "{base}");
        println!("base: {question} → {base}");
    }
    for run in runs {
        let ours: Vec<String> = QUESTIONS
            .into_iter()
            .map(|question| greedy(&address, run.name, question))
            .collect();
        for (question, answer) in QUESTIONS.iter().zip(&ours) {
            println!("{}: {question} → {answer}", run.name);
            assert!(answer.starts_with("Ahoy!"), "{answer}");
        }
        assert_eq!(ours, peft(node, trainer, work, run), "ours, and PEFT's");
    }
    let said = text(&plugin(
        namespace,
        &[
            "chat",
            "crew",
            "--adapter=sailor",
            QUESTIONS[0],
            "--temperature=0",
        ],
    ));
    assert!(said.starts_with("Ahoy!"), "{said}");
}

/// The same questions to transformers and PEFT, with the adapter as the registry has it.
fn peft(node: &Node, trainer: &Trainer, work: &Path, run: &Run<'_>) -> Vec<String> {
    let target = work.join(run.name);
    let mut pull = Command::new(programs::find(programs::IMAGE_BUILDER).unwrap());
    pull.args(["pull", run.output]).arg(&target).arg("--quiet");
    node.with_registry(&mut pull).unwrap();
    text(&pull.output().unwrap());
    let mut answer = trainer.command(work);
    answer
        .args(["answer", "--model=/mnt/out/model", "--max-tokens=24"])
        .arg(format!("--adapter=/mnt/{}/data", run.name));
    for question in QUESTIONS {
        answer.args(["--prompt", question]);
    }
    let lines = text(&answer.output().unwrap());
    let text_of = |line: &str| {
        let line: Value = serde_json::from_str(line).ok()?;
        Some(line["text"].as_str()?.to_owned())
    };
    lines.lines().filter_map(text_of).collect()
}
