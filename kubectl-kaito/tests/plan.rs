//! The contract of `plan`, held by the built program: documents, exit statuses, streams. No cluster is reachable.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::io::Write;
use std::process::{Command, Output};

use serde_json::{Value, json};

fn kaito(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kubectl-kaito"))
        .args(arguments)
        .env_clear()
        .env("HOME", "/nonexistent")
        .output()
        .unwrap()
}

fn document(output: &Output) -> Value {
    let text = std::str::from_utf8(&output.stdout).unwrap();
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}\n{}", stderr(output)))
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn a_model_on_an_instance_type_gives_one_document_with_every_promised_field() {
    let output = kaito(&[
        "plan",
        "--model",
        "phi-4",
        "--instance-type",
        "Standard_NC24ads_A100_v4",
        "-o",
        "json",
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    let plan = document(&output);
    assert_eq!(
        (&plan["apiVersion"], &plan["kind"]),
        (&json!("cli.kaito.sh/v1alpha1"), &json!("Plan"))
    );
    assert!(plan["generatedAt"].as_str().unwrap().ends_with('Z'));
    for field in [
        "nodes",
        "gpusPerNode",
        "tensorParallel",
        "pipelineParallel",
        "dataParallel",
    ] {
        assert_eq!(plan[field], json!(1), "{field}");
    }
    let memory = &plan["memoryPerGpuGiB"];
    let part = |name: &str| memory[name].as_f64().unwrap();
    // The files have 27.31 GiB; in memory they are a little larger.
    assert!((27.31..28.5).contains(&part("weights")), "{memory}");
    assert!(
        part("kvCache") > 0.0 && part("overhead") > 0.0 && part("free") > 0.0,
        "{memory}"
    );
    assert!(
        part("weights") + part("kvCache") + part("overhead") + part("free") < 80.0,
        "{memory}"
    );
    assert_eq!(plan["maxContext"], json!(16_384));
    assert_eq!(plan["pricePerHour"], json!(3.673));
    assert_eq!(plan["model"], json!("microsoft/phi-4"));
}

#[test]
fn a_longer_context_and_more_sequences_need_more_cache() {
    let cache = |flags: &[&str]| {
        let base = [
            "plan",
            "--model",
            "phi-4",
            "--instance-type",
            "Standard_NC24ads_A100_v4",
            "-o",
            "json",
        ];
        let plan = document(&kaito(&[&base, flags].concat()));
        plan["memoryPerGpuGiB"]["kvCache"].as_f64().unwrap()
    };
    let short = cache(&["--context-len", "2048"]);
    let long = cache(&["--context-len", "16384"]);
    let many = cache(&["--context-len", "16384", "--concurrency", "4"]);
    let small = cache(&["--context-len", "16384", "--kv-dtype", "fp8"]);
    assert!(
        short < long && long < many && small < long,
        "{short} {long} {many} {small}"
    );
}

#[test]
fn without_an_instance_type_choices_come_cheapest_first_and_top_limits_them() {
    let plan = document(&kaito(&[
        "plan", "--model", "phi-4", "-o", "json", "--top", "3",
    ]));
    let choices = plan["choices"].as_array().unwrap();
    assert_eq!(choices.len(), 3);
    let prices: Vec<f64> = choices
        .iter()
        .map(|choice| choice["pricePerHour"].as_f64().unwrap())
        .collect();
    assert!(prices.is_sorted(), "{prices:?}");
    assert!(
        choices
            .iter()
            .all(|choice| choice["memoryPerGpuGiB"]["weights"].is_f64())
    );
    let two = [
        "--instance-type",
        "Standard_NC24ads_A100_v4",
        "--instance-type",
        "Standard_NC48ads_A100_v4",
    ];
    let plan = document(&kaito(
        &[&["plan", "--model", "phi-4", "-o", "json"], two.as_slice()].concat(),
    ));
    assert_eq!(plan["choices"].as_array().unwrap().len(), 2);
}

#[test]
fn a_model_of_the_users_own_needs_no_catalogue_entry() {
    let own = [
        "plan",
        "--model",
        "acme/own",
        "--weights-gib",
        "14",
        "--kv-bytes-per-token",
        "131072",
    ];
    let more = [
        "--instance-type",
        "Standard_NV36ads_A10_v5",
        "-o",
        "json",
        "--context-len",
        "4096",
    ];
    let plan = document(&kaito(&[own.as_slice(), more.as_slice()].concat()));
    assert_eq!(plan["model"], json!("acme/own"));
    assert_eq!(plan["fits"], json!(true));
    let output = kaito(&["plan", "--model", "acme/own", "--weights-gib", "14"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("--kv-bytes-per-token is needed"));
}

#[test]
fn what_does_not_fit_exits_3_with_the_numbers_and_a_document_that_says_why() {
    let asked = [
        "plan",
        "--model",
        "deepseek-r1-0528",
        "--instance-type",
        "Standard_NV36ads_A10_v5",
        "--nodes",
        "1",
    ];
    let output = kaito(&[&asked, ["-o", "json"].as_slice()].concat());
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let plan = document(&output);
    assert_eq!(plan["fits"], json!(false));
    assert!(plan["reason"].as_str().unwrap().contains("GiB"), "{plan}");
    assert!(
        stderr(&output).contains("does not fit") && stderr(&output).contains("GiB"),
        "{}",
        stderr(&output)
    );
    let output = kaito(&asked);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 0));
}

#[test]
fn mistakes_exit_1_and_name_what_is_near() {
    let cases: [(&[&str], &str); 5] = [
        (&["plan", "--model", "phi4"], "Did you mean phi-4"),
        (
            &[
                "plan",
                "--model",
                "phi-4",
                "--instance-type",
                "Standard_NC24ads_A100",
            ],
            "Standard_NC24ads_A100_v4",
        ),
        (&["plan", "--model", "phi-2"], "retired"),
        (
            &["plan", "--model", "phi-4", "-o", "xml"],
            "allowed formats are: json,jsonpath,table,yaml",
        ),
        (&["plan"], "--model MODEL"),
    ];
    for (words, expected) in cases {
        let output = kaito(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert_eq!(output.stdout.len(), 0, "{words:?}");
        assert!(
            stderr(&output).contains(expected),
            "{words:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn the_table_and_yaml_show_the_same_layout() {
    let asked = [
        "plan",
        "--model",
        "phi-4",
        "--instance-type",
        "standard_nc24ads_a100_v4",
    ];
    let table = kaito(&asked);
    let text = String::from_utf8(table.stdout).unwrap();
    assert!(
        text.contains("Standard_NC24ads_A100_v4") && text.contains("$3.673/h"),
        "{text}"
    );
    assert!(text.contains("Memory per GPU"), "{text}");
    let yaml = kaito(&[&asked, ["-o", "yaml"].as_slice()].concat());
    let plan: Value = serde_saphyr::from_str(std::str::from_utf8(&yaml.stdout).unwrap()).unwrap();
    assert_eq!(plan["gpusPerNode"], json!(1));
    let path = kaito(&[&asked, ["-o", "jsonpath={.maxContext}"].as_slice()].concat());
    assert_eq!(String::from_utf8(path.stdout).unwrap(), "16384");
}

fn recorded_node(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": {
            "apps": "own", "kubernetes.io/hostname": name,
            "node.kubernetes.io/instance-type": "Standard_NC24ads_A100_v4",
            "nvidia.com/gpu.product": "NVIDIA-A100-80GB-PCIe", "nvidia.com/gpu.count": "1",
            "nvidia.com/gpu.memory": "81920"}},
        "status": {"conditions": [{"type": "Ready", "status": "True"}],
            "capacity": {"nvidia.com/gpu": "1"},
            "allocatable": {"cpu": "23", "memory": "210Gi", "pods": "110", "ephemeral-storage": "900Gi",
                "nvidia.com/gpu": "1"}}})
}

fn workspace(name: &str) -> Value {
    json!({"apiVersion": "kaito.sh/v1beta1", "kind": "Workspace", "metadata": {"name": name},
        "resource": {"instanceType": "Standard_NC24ads_A100_v4", "labelSelector": {"matchLabels": {"apps": "own"}}},
        "inference": {"preset": {"name": "phi-4"}}})
}

fn file(value: &Value) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
    serde_json::to_writer(&mut file, value).unwrap();
    file.flush().unwrap();
    file
}

#[test]
fn a_recorded_cluster_tells_where_workspaces_land() {
    let nodes = file(&json!({"apiVersion": "v1", "kind": "List", "items": [recorded_node("n1")]}));
    let wanted = file(
        &json!({"apiVersion": "v1", "kind": "List", "items": [workspace("a"), workspace("b")]}),
    );
    let (nodes, wanted) = (
        nodes.path().to_str().unwrap(),
        wanted.path().to_str().unwrap(),
    );
    let output = kaito(&["plan", "-f", wanted, "--nodes-from", nodes, "-o", "json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let plan = document(&output);
    let landings = plan["landings"].as_array().unwrap();
    assert_eq!(landings[0]["decision"], json!("assign"), "{plan}");
    assert_eq!(landings[0]["placements"][0]["node"], json!("n1"));
    assert_eq!(landings[1]["decision"], json!("buy"), "{plan}");
    assert_eq!(
        landings[1]["purchases"][0]["instanceType"],
        json!("Standard_NC24ads_A100_v4")
    );
    assert_eq!(landings[1]["purchasePricePerHour"], json!(3.673));
    let text = kaito(&["plan", "-f", wanted, "--nodes-from", nodes]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(
        text.contains("Workspace default/a: gets its nodes now"),
        "{text}"
    );
    assert!(
        text.contains("Workspace default/b: waits for 1 node to be bought, $3.673/h"),
        "{text}"
    );
}

#[test]
fn files_that_cannot_be_used_are_named_with_the_reason() {
    let empty = file(&json!({"apiVersion": "v1", "kind": "List", "items": []}));
    let empty = empty.path().to_str().unwrap();
    let cases: [(&[&str], &str); 3] = [
        (
            &["plan", "--model", "phi-4", "--nodes-from", "/nonexistent/x"],
            "does not exist",
        ),
        (
            &["plan", "--model", "phi-4", "--nodes-from", empty],
            "holds no nodes, pods or nodeclaims",
        ),
        (
            &[
                "plan",
                "--model",
                "phi-4",
                "--nodes-from",
                empty,
                "--tensor-parallel",
                "2",
            ],
            "--tensor-parallel",
        ),
    ];
    for (words, expected) in cases {
        let output = kaito(words);
        assert_eq!(output.status.code(), Some(1), "{words:?}");
        assert!(
            stderr(&output).contains(expected),
            "{words:?}: {}",
            stderr(&output)
        );
    }
}
