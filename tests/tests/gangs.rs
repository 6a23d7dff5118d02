//! Pods without a Workspace that ask for a place by gate and label, on a real control plane; nodes are *emulated*.

use std::process::Command;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kaito_tests::Options;
use kaito_tests::cluster::{Cluster, Parts};
use kaito_tests::fixture::{Namespace, NodeShape, create_node};
use kaito_tests::wait::wait_for_all;
use kube::Api;
use kube::api::{ListParams, ResourceExt};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(90);

fn small_run(gang_gpus: u32) -> Value {
    let output = Command::new(env!("CARGO_BIN_EXE_bench-scheduling"))
        .args(["--nodes=50", "--pods=250", "--gangs=15", "--quiet=10", "-o"])
        .args(["json", &format!("--gang-gpus={gang_gpus}")])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn everything_fits_and_is_packed_on_the_fewest_nodes() {
    let report = small_run(1);
    let ours = &report["sides"][0];
    assert_eq!(ours["podsBound"], 250 + 15 * 8, "{report}");
    assert_eq!(ours["gangsWhole"], 15, "{report}");
    // 370 GPUs on nodes of 8.
    assert_eq!(ours["nodesUsed"], 47, "{report}");
    assert_eq!(report["sides"][1]["podsBound"], 370, "{report}");
}

#[test]
fn no_gang_is_placed_by_half_where_more_is_asked_for_than_there_is() {
    let report = small_run(2);
    let ours = &report["sides"][0];
    assert_eq!(ours["gangsHalfPlaced"], 0, "{report}");
    // 490 GPUs asked for, 400 there: the last gangs wait, whole.
    assert!(ours["gangsWhole"].as_u64().unwrap() >= 9, "{report}");
    assert!(ours["gangsWhole"].as_u64().unwrap() < 15, "{report}");
}

fn member(name: &str, gang: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{kaito.sh/gang: {gang}, kaito.sh/gang-size: '2'}}}}
spec:
  schedulingGates: [{{name: kaito.sh/placement}}]
  containers: [{{name: main, image: example.com/work:1, resources: {{limits: {{nvidia.com/gpu: 1}}}}}}]
"
    )
}

#[tokio::test]
async fn a_gang_waits_for_its_last_pod_and_one_that_does_not_fit_is_told_why() {
    let parts = Parts {
        scheduler_arguments: vec!["--node-provisioner=byo".to_owned()],
        ..Parts::default()
    };
    let cluster = Cluster::start(Options::full(), parts).await.unwrap();
    let namespace = Namespace::create(cluster.plane(), "gangs").await.unwrap();
    let shape = NodeShape {
        instance_type: "three-gpus",
        cpu: 16,
        memory_gib: 64,
        gpus: 3,
    };
    create_node(&namespace.client(), "gangs-1", shape)
        .await
        .unwrap();
    namespace.apply(&member("one-a", "one")).await.unwrap();
    namespace.apply(&member("two-a", "two")).await.unwrap();
    namespace.apply(&member("one-b", "one")).await.unwrap();
    let pods: Api<Pod> = namespace.api();
    let on_node = |pod: &Pod| pod.spec.as_ref().unwrap().node_name.is_some();
    wait_for_all(&pods, "kaito.sh/gang=one", "one is bound", LIMIT, |all| {
        all.len() == 2 && all.iter().all(on_node)
    })
    .await
    .unwrap();
    namespace.apply(&member("two-b", "two")).await.unwrap();
    let events: Api<Event> = namespace.api();
    wait_for_all(&events, "", "two is told why it waits", LIMIT, |all| {
        all.iter().any(|event| {
            let about = event.regarding.as_ref().and_then(|one| one.name.as_deref());
            let note = event.note.as_deref().unwrap_or_default();
            about == Some("two-a")
                && event.reason.as_deref() == Some("WaitingForNodes")
                && note.contains("GPU")
        })
    })
    .await
    .unwrap();
    let second = ListParams::default().labels("kaito.sh/gang=two");
    for pod in pods.list(&second).await.unwrap() {
        assert!(!on_node(&pod), "{} is bound", pod.name_any());
    }
}
