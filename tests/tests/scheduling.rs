//! The scheduler on a real control plane: Workspaces are sized, packed, given nodes, run and reported. Machines are
//! *emulated* (the simulated cloud, or Node objects without a machine); everything else is real.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use kaito_api::{NodeClaim, Workspace, conditions};
use kaito_tests::Options;
use kaito_tests::cluster::{Cluster, Parts, SYSTEM_NAMESPACE};
use kaito_tests::fixture::{Namespace, NodeShape, create_node};
use kaito_tests::reported::{condition, is_bound, is_ready, is_true, waits_for};
use kaito_tests::wait::{wait_for, wait_for_all, wait_for_none};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(90);

/// Everything at once, nothing scarce.
const INSTANT: &str = "pods: {}";

fn preset(name: &str, instance_type: &str) -> String {
    format!(
        "apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {{name: {name}}}
resource: {{instanceType: {instance_type}, labelSelector: {{matchLabels: {{apps: {name}}}}}}}
inference: {{preset: {{name: phi-4-mini-instruct}}}}
"
    )
}

fn own_nodes(name: &str) -> String {
    format!(
        "apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {{name: {name}}}
resource: {{labelSelector: {{matchLabels: {{kubernetes.io/os: linux}}}}}}
inference: {{preset: {{name: phi-4-mini-instruct}}}}
"
    )
}

async fn ready(namespace: &Namespace<'_>, count: usize) -> Vec<Workspace> {
    let api: Api<Workspace> = namespace.api();
    let ready = |one: &Workspace| is_true(Some(one), conditions::WORKSPACE_READY);
    wait_for_all(&api, "", "every Workspace is ready", LIMIT, |all| {
        all.len() == count && all.iter().all(ready)
    })
    .await
    .unwrap()
}

async fn bought(client: &Client) -> usize {
    let claims: Api<NodeClaim> = Api::all(client.clone());
    claims.list(&Default::default()).await.unwrap().items.len()
}

/// GPUs that pods hold per node, to compare with what the node has.
async fn gpus_by_node(client: &Client) -> BTreeMap<String, u64> {
    let pods: Api<Pod> = Api::all(client.clone());
    let mut held = BTreeMap::new();
    for pod in pods.list(&Default::default()).await.unwrap() {
        let spec = pod.spec.as_ref().unwrap();
        let ended = pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Succeeded");
        if let (Some(node), false) = (spec.node_name.as_ref(), ended) {
            *held.entry(node.clone()).or_default() += requested_gpus(&pod);
        }
    }
    held
}

fn requested_gpus(pod: &Pod) -> u64 {
    let spec = pod.spec.as_ref().unwrap();
    let each = |container: &k8s_openapi::api::core::v1::Container| {
        let limits = container.resources.as_ref()?.limits.as_ref()?;
        limits.get("nvidia.com/gpu")?.0.parse::<u64>().ok()
    };
    spec.containers.iter().filter_map(each).sum()
}

/// A Workspace that wants one GPU of nodes with two.
fn half_a_node(name: &str) -> String {
    preset(name, "Standard_NC48ads_A100_v4")
}

#[tokio::test]
async fn two_workspaces_share_a_bought_node_a_third_buys_another_and_an_empty_node_goes_back() {
    let parts = Parts {
        scheduler_arguments: vec!["--idle-node-grace=1".to_owned()],
        scenario: Some(INSTANT.to_owned()),
        ..Parts::default()
    };
    let cluster = Cluster::start(Options::full(), parts).await.unwrap();
    let namespace = Namespace::create(cluster.plane(), "share").await.unwrap();
    for name in ["one", "two"] {
        namespace.apply(&half_a_node(name)).await.unwrap();
    }
    ready(&namespace, 2).await;
    assert_eq!(bought(&namespace.client()).await, 1);
    namespace.apply(&half_a_node("three")).await.unwrap();
    let all = ready(&namespace, 3).await;
    assert_eq!(bought(&namespace.client()).await, 2);
    let nodes = |workspace: &Workspace| workspace.status.clone().unwrap().worker_nodes.unwrap();
    let used: BTreeSet<_> = all.iter().flat_map(nodes).collect();
    assert_eq!(used.len(), 2, "{used:?}");
    serves_on_the_ports_of_the_walkthrough(&namespace, "one").await;
    deleted_ones_give_their_node_back(&namespace, &["one", "two"]).await;
}

async fn serves_on_the_ports_of_the_walkthrough(namespace: &Namespace<'_>, name: &str) {
    let services: Api<Service> = namespace.api();
    let service = services.get(name).await.unwrap();
    let ports = service.spec.unwrap().ports.unwrap();
    let ports: Vec<i32> = ports.iter().map(|port| port.port).collect();
    assert_eq!(ports, [80, 29_500]);
}

/// Of two nodes, one goes back with its machine once the Workspaces on it are deleted.
async fn deleted_ones_give_their_node_back(namespace: &Namespace<'_>, names: &[&str]) {
    let workspaces: Api<Workspace> = namespace.api();
    for name in names {
        let deleted = workspaces.delete(name, &DeleteParams::default()).await;
        deleted.unwrap();
    }
    let claims: Api<NodeClaim> = Api::all(namespace.client());
    one_is_left(&claims, "one node has been returned").await;
    let nodes: Api<Node> = Api::all(namespace.client());
    one_is_left(&nodes, "its machine is gone").await;
    one_is_left(&workspaces, "both are gone").await;
}

async fn one_is_left<K>(api: &Api<K>, what: &str)
where
    K: Resource + Clone + DeserializeOwned + Serialize + Debug + Send + 'static,
{
    wait_for_all(api, "", what, LIMIT, |all| all.len() == 1)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_hundred_workspaces_fill_twenty_nodes_though_the_scheduler_is_killed_on_the_way() {
    let mut cluster = Cluster::start(quick_controllers(), Parts::default())
        .await
        .unwrap();
    let client = cluster.plane().client().await.unwrap();
    for ordinal in 0..20 {
        create_node(&client, &format!("gpu-{ordinal}"), EIGHT_GPUS)
            .await
            .unwrap();
    }
    apply_a_hundred(&cluster).await;
    cluster.kill_scheduler().unwrap();
    cluster.start_scheduler().await.unwrap();
    let pods: Api<Pod> = Api::all(client.clone());
    let (ours, what) = ("kaito.sh/workspace", "all hundred pods are bound");
    wait_for_all(&pods, ours, what, LIMIT, |all| {
        all.len() == 100 && all.iter().all(is_bound)
    })
    .await
    .unwrap();
    let held = gpus_by_node(&client).await;
    assert_eq!(held.values().sum::<u64>(), 100);
    assert!(held.values().all(|gpus| *gpus <= 8), "{held:?}");
    // Tightest fit leaves whole nodes free for larger models.
    assert_eq!(held.len(), 13, "{held:?}");
    assert_eq!(bought(&client).await, 0);
}

const EIGHT_GPUS: NodeShape = NodeShape {
    instance_type: "Standard_ND96amsr_A100_v4",
    cpu: 96,
    memory_gib: 900,
    gpus: 8,
};

/// A control plane whose controller manager is no bottleneck.
fn quick_controllers() -> Options {
    let arguments = ["--kube-api-qps=200", "--kube-api-burst=400"];
    Options {
        controller_manager_arguments: arguments.map(str::to_owned).to_vec(),
        ..Options::full()
    }
}

/// Applies sixty Workspaces, and forty more as soon as the scheduler is at work.
async fn apply_a_hundred(cluster: &Cluster) {
    let names: Vec<String> = (0..100).map(|ordinal| format!("model-{ordinal}")).collect();
    let (first, rest) = names.split_at(60);
    let namespace = Namespace::create(cluster.plane(), "hundred").await.unwrap();
    for name in first {
        namespace.apply(&own_nodes(name)).await.unwrap();
    }
    let pods: Api<Pod> = namespace.api();
    let (ours, what) = ("kaito.sh/workspace", "the first pods are placed");
    wait_for_all(&pods, ours, what, LIMIT, |all| all.iter().any(is_bound))
        .await
        .unwrap();
    for name in rest {
        namespace.apply(&own_nodes(name)).await.unwrap();
    }
}

#[tokio::test]
async fn a_refused_purchase_is_explained_on_the_workspace_and_nothing_leaks() {
    let parts = Parts {
        scheduler_arguments: Vec::new(),
        scenario: Some("quota: [{match: Standard_NC*, nodes: 0}]".to_owned()),
        ..Parts::default()
    };
    let cluster = Cluster::start(Options::full(), parts).await.unwrap();
    let namespace = Namespace::create(cluster.plane(), "quota").await.unwrap();
    namespace
        .apply(&preset("refused", "Standard_NC24ads_A100_v4"))
        .await
        .unwrap();
    let found = waits(&namespace, "refused", "OffersBlocked").await;
    let placed = condition(Some(&found), conditions::PLACED).unwrap();
    let message = &placed.message;
    assert!(message.contains("Standard_NC24ads_A100_v4"), "{message}");
    assert!(message.to_lowercase().contains("quota"), "{message}");
    let claims: Api<NodeClaim> = Api::all(namespace.client());
    wait_for_none(&claims, "the refused claim is gone", LIMIT)
        .await
        .unwrap();
    let workspaces: Api<Workspace> = namespace.api();
    workspaces
        .delete("refused", &DeleteParams::default())
        .await
        .unwrap();
    wait_for_none(&workspaces, "it can be deleted", LIMIT)
        .await
        .unwrap();
}

/// The Workspace once it says that it waits for this reason.
async fn waits(namespace: &Namespace<'_>, name: &str, reason: &str) -> Workspace {
    let workspaces: Api<Workspace> = namespace.api();
    let what = format!("it waits for {reason}");
    let blocked = |found: Option<&Workspace>| waits_for(found, reason);
    let found = wait_for(&workspaces, name, &what, LIMIT, blocked).await;
    found.unwrap().unwrap()
}

#[tokio::test]
async fn a_tuning_run_ends_succeeded_and_its_node_goes_back() {
    let parts = Parts {
        scheduler_arguments: vec!["--idle-node-grace=0".to_owned()],
        scenario: Some(INSTANT.to_owned()),
        ..Parts::default()
    };
    let cluster = Cluster::start(Options::full(), parts).await.unwrap();
    let namespace = Namespace::create(cluster.plane(), "tune").await.unwrap();
    let example = include_str!("../../examples/tuning-url-qlora.yaml");
    namespace.apply(example).await.unwrap();
    let workspaces: Api<Workspace> = namespace.api();
    let name = "workspace-tuning-phi-3";
    let found = wait_for(&workspaces, name, "tuning has succeeded", LIMIT, |found| {
        is_true(found, conditions::WORKSPACE_SUCCEEDED)
    })
    .await
    .unwrap()
    .unwrap();
    assert!(is_true(Some(&found), conditions::JOB_STARTED));
    assert_eq!(found.status.unwrap().state.as_deref(), Some("Succeeded"));
    let claims: Api<NodeClaim> = Api::all(namespace.client());
    wait_for_none(&claims, "the node is returned", LIMIT)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_changed_configuration_rolls_the_pods_without_buying_a_second_node() {
    let parts = Parts {
        scheduler_arguments: Vec::new(),
        scenario: Some(INSTANT.to_owned()),
        ..Parts::default()
    };
    let cluster = Cluster::start(Options::full(), parts).await.unwrap();
    let namespace = Namespace::create(cluster.plane(), "roll").await.unwrap();
    let config = |length: u32| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "engine"},
            "data": {"inference_config.yaml": format!("vllm:\n  max-model-len: {length}\n")}})
    };
    let maps: Api<ConfigMap> = namespace.api();
    let apply = PatchParams::apply("test").force();
    maps.patch("engine", &apply, &Patch::Apply(config(4096)))
        .await
        .unwrap();
    let mut object = preset("phi", "Standard_NC24ads_A100_v4");
    object = object.replace("{preset:", "{config: engine, preset:");
    namespace.apply(&object).await.unwrap();
    ready(&namespace, 1).await;
    let deployments: Api<Deployment> = namespace.api();
    let before = deployments.get("phi").await.unwrap();
    let pods: Api<Pod> = namespace.api();
    let old = pods.list(&Default::default()).await.unwrap().items[0].name_any();

    maps.patch("engine", &apply, &Patch::Apply(config(8192)))
        .await
        .unwrap();
    wait_for(
        &deployments,
        "phi",
        "a new version is applied",
        LIMIT,
        |found| found.is_some_and(|found| found.metadata.generation > before.metadata.generation),
    )
    .await
    .unwrap();
    wait_for_all(
        &pods,
        "kaito.sh/workspace=phi",
        "a new pod is ready",
        LIMIT,
        |all| all.len() == 1 && all[0].name_any() != old && is_ready(all.first()),
    )
    .await
    .unwrap();
    assert_eq!(bought(&namespace.client()).await, 1);
}

#[tokio::test]
async fn own_nodes_mode_never_buys_and_says_what_is_missing() {
    let parts = Parts {
        scheduler_arguments: vec!["--node-provisioner=byo".to_owned()],
        scenario: Some(INSTANT.to_owned()),
        ..Parts::default()
    };
    let cluster = Cluster::start(Options::full(), parts).await.unwrap();
    let namespace = Namespace::create(cluster.plane(), "byo").await.unwrap();
    namespace.apply(&own_nodes("phi")).await.unwrap();
    waits(&namespace, "phi", "NoNodeFits").await;
    let shape = NodeShape {
        instance_type: "Standard_NC24ads_A100_v4",
        cpu: 24,
        memory_gib: 220,
        gpus: 1,
    };
    create_node(&namespace.client(), "mine", shape)
        .await
        .unwrap();
    let workspaces: Api<Workspace> = namespace.api();
    let what = "it is placed on the new node";
    let placed = |found: Option<&Workspace>| is_true(found, conditions::PLACED);
    wait_for(&workspaces, "phi", what, LIMIT, placed)
        .await
        .unwrap();
    assert_eq!(bought(&namespace.client()).await, 0);
}

async fn provisioners_lease_holder(client: &Client) -> String {
    let leases: Api<Lease> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let lease = leases.get("kaito-provisioner").await.unwrap();
    lease.spec.unwrap().holder_identity.unwrap()
}

#[tokio::test]
async fn a_second_provisioner_waits_and_takes_over_from_a_killed_one_without_a_second_purchase() {
    let parts = Parts {
        scenario: Some(INSTANT.to_owned()),
        ..Parts::default()
    };
    let mut cluster = Cluster::start(Options::full(), parts).await.unwrap();
    // The first one has the lease before the second one asks.
    let client = cluster.plane().client().await.unwrap();
    let leases: Api<Lease> = Api::namespaced(client.clone(), SYSTEM_NAMESPACE);
    let held = |lease: Option<&Lease>| {
        let spec = lease.and_then(|lease| lease.spec.as_ref());
        spec.is_some_and(|spec| spec.holder_identity.is_some())
    };
    wait_for(
        &leases,
        "kaito-provisioner",
        "the lease is held",
        LIMIT,
        held,
    )
    .await
    .unwrap();
    let first = provisioners_lease_holder(&client).await;
    let _standby = cluster.another_provisioner("standby").await.unwrap();

    for (number, name) in [(1, "one"), (2, "two")] {
        let killed = {
            let namespace = Namespace::create(cluster.plane(), name).await.unwrap();
            namespace
                .apply(&preset(name, "Standard_NC24ads_A100_v4"))
                .await
                .unwrap();
            ready(&namespace, 1).await;
            let nodes: Api<Node> = Api::all(client.clone());
            let nodes = nodes.list(&Default::default()).await.unwrap().items;
            assert_eq!((bought(&client).await, nodes.len()), (number, number));
            number == 1
        };
        if killed {
            assert_eq!(provisioners_lease_holder(&client).await, first);
            cluster.kill_provisioner().unwrap();
        }
    }
    assert_ne!(provisioners_lease_holder(&client).await, first);
}
