//! What a Workspace becomes, as golden files: every kind of workload once, from YAML as users write it.
//!
//! `UPDATE_GOLDEN=1 cargo test -p kaito-scheduler --test children` writes them anew; review the difference like code.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::PathBuf;

use kaito_api::Workspace;
use kaito_scheduler::workspace::build::weights::Delivery;
use kaito_scheduler::workspace::build::{self, Children, Context, DataReach, Workload};
use kaito_snapshot::sizing::{Surroundings, size};

fn workspace(yaml: &str) -> Workspace {
    let mut workspace: Workspace = serde_saphyr::from_str(yaml).unwrap();
    workspace.metadata.namespace = Some("team-a".to_owned());
    workspace.metadata.uid = Some("6f1c2a34-0000-4000-8000-000000000001".to_owned());
    workspace
}

fn children(workspace: &Workspace) -> Children {
    let sizing = size(workspace, &Surroundings::default()).unwrap();
    build::children(workspace, &sizing, &Context::default())
}

/// As [`children`], with images pulled by init containers as on older clusters.
fn pulling_children(workspace: &Workspace) -> Children {
    let sizing = size(workspace, &Surroundings::default()).unwrap();
    let context = Context {
        weights: Delivery::Pull,
        ..Context::default()
    };
    build::children(workspace, &sizing, &context)
}

fn arguments_of_the_fetch(context: &Context) -> Vec<String> {
    let tuning = workspace(include_str!("../../examples/tuning-url-qlora.yaml"));
    let sizing = size(&tuning, &Surroundings::default()).unwrap();
    let workload = build::children(&tuning, &sizing, context).workload;
    let job = match workload {
        Workload::Job(job) => Some(job),
        _ => None,
    };
    let pod = job.unwrap().spec.unwrap().template.spec.unwrap();
    let fetch = pod.init_containers.unwrap().swap_remove(0);
    fetch.args.unwrap()
}

#[test]
fn data_sets_come_from_the_public_internet_unless_the_operator_says_otherwise() {
    let public_only = "--public-only".to_owned();
    assert!(arguments_of_the_fetch(&Context::default()).contains(&public_only));
    let context = Context {
        data_reach: DataReach::Anywhere,
        ..Context::default()
    };
    assert!(!arguments_of_the_fetch(&context).contains(&public_only));
}

fn rendered(children: &Children) -> String {
    let Children { services, workload } = children;
    let mut parts: Vec<serde_json::Value> = services
        .iter()
        .map(|service| serde_json::to_value(service).unwrap())
        .collect();
    parts.push(match workload {
        Workload::Deployment(object) => serde_json::to_value(object).unwrap(),
        Workload::StatefulSet(object) => serde_json::to_value(object).unwrap(),
        Workload::Job(object) => serde_json::to_value(object).unwrap(),
    });
    serde_json::to_string_pretty(&parts).unwrap() + "\n"
}

fn matches_golden(name: &str, yaml: &str) {
    is_golden(name, &children(&workspace(yaml)));
}

fn is_golden(name: &str, children: &Children) {
    let text = rendered(children);
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.json"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    let wanted = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, wanted, "differs from {}", path.display());
}

#[test]
fn a_preset_on_one_node_becomes_a_gated_deployment_with_a_service() {
    matches_golden(
        "preset",
        "apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {name: phi}
resource: {instanceType: Standard_NC24ads_A100_v4, labelSelector: {matchLabels: {apps: phi}}}
inference:
  preset: {name: phi-4-mini-instruct}
  config: engine
  adapters:
    - source: {name: style, image: registry.example.com/style:1, imagePullSecrets: [pull]}
",
    );
}

#[test]
fn a_model_that_needs_two_nodes_becomes_a_stateful_set_with_a_headless_service() {
    matches_golden(
        "two-nodes",
        "apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {name: llama}
resource: {instanceType: Standard_NC48ads_A100_v4, labelSelector: {matchLabels: {apps: llama}}}
inference:
  preset: {name: llama-3.3-70b-instruct, presetOptions: {modelAccessSecret: hub}}
",
    );
}

#[test]
fn a_template_keeps_what_the_user_wrote_and_gains_gate_label_and_tolerations() {
    matches_golden(
        "template",
        "apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {name: mine}
resource: {instanceType: Standard_NC24ads_A100_v4, labelSelector: {matchLabels: {apps: mine}}}
inference:
  template:
    metadata: {labels: {mine: 'yes'}}
    spec:
      containers:
        - name: server
          image: registry.example.com/server:1
          resources: {limits: {nvidia.com/gpu: 1}}
",
    );
}

#[test]
fn tuning_becomes_a_job_whose_steps_are_ordered_init_containers() {
    matches_golden(
        "tuning",
        include_str!("../../examples/tuning-url-qlora.yaml"),
    );
}

#[test]
fn every_pod_is_admitted_by_the_restricted_standard() {
    for name in ["preset", "two-nodes", "tuning"] {
        let path =
            PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{name}.json"));
        let list: Vec<serde_json::Value> =
            serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let spec = &list.last().unwrap()["spec"]["template"]["spec"];
        assert_eq!(spec["securityContext"]["runAsNonRoot"], true, "{name}");
        assert_eq!(spec["automountServiceAccountToken"], false, "{name}");
        let empty = Vec::new();
        let all = ["containers", "initContainers"]
            .iter()
            .flat_map(|kind| spec[*kind].as_array().unwrap_or(&empty));
        for container in all {
            let security = &container["securityContext"];
            assert_eq!(
                security["allowPrivilegeEscalation"], false,
                "{name}: {container}"
            );
            assert_eq!(security["capabilities"]["drop"][0], "ALL", "{name}");
        }
    }
}

#[test]
fn the_same_workspace_gives_the_same_children() {
    let yaml = "apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {name: phi}
resource: {instanceType: Standard_NC24ads_A100_v4, labelSelector: {matchLabels: {apps: phi}}}
inference: {preset: {name: phi-4-mini-instruct}}
";
    assert_eq!(
        rendered(&children(&workspace(yaml))),
        rendered(&children(&workspace(yaml)))
    );
}

const NATIVE: &str = "apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {name: small, annotations: {kaito.sh/runtime: native}}
resource: {labelSelector: {matchLabels: {apps: small}}}
inference:
  preset:
    name: smollm2-135m-instruct
    presetOptions: {image: 'registry.example.com/smollm2:1', imagePullSecrets: [pull]}
  adapters:
    - source: {name: pirate, image: 'registry.example.com/pirate:1', imagePullSecrets: [other]}
";

#[test]
fn a_small_model_is_served_on_cpus_from_image_volumes() {
    matches_golden("native", NATIVE);
}

#[test]
fn where_images_cannot_be_mounted_init_containers_pull_them_with_the_pull_secrets() {
    is_golden("native-pulled", &pulling_children(&workspace(NATIVE)));
}
