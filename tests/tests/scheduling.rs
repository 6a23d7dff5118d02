//! The scheduler on a real control plane: Workspaces are sized, packed, given nodes, run and reported. Machines are
//! *emulated* (the simulated cloud, or Node objects without a machine); everything else is real.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Service};
use kaito_api::{NodeClaim, Workspace, conditions};
use kaito_tests::Options;
use kaito_tests::cluster::{Cluster, Parts, SYSTEM_NAMESPACE};
use kaito_tests::fixture::{Namespace, NodeShape, create_node};
use kaito_tests::wait::{wait_for, wait_for_all};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client, ResourceExt};
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

fn has(workspace: &Workspace, kind: &str) -> bool {
    let status = workspace.status.as_ref();
    let list = status
        .and_then(|status| status.conditions.as_deref())
        .unwrap_or_default();
    conditions::is_true(list, kind)
}

async fn ready(namespace: &Namespace<'_>, count: usize) -> Vec<Workspace> {
    let api: Api<Workspace> = namespace.api();
    wait_for_all(&api, "", "every Workspace is ready", LIMIT, |all| {
        all.len() == count && all.iter().all(|one| has(one, conditions::WORKSPACE_READY))
    })
    .await
    .unwrap()
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

#[tokio::test]
async fn two_workspaces_share_a_bought_node_a_third_buys_another_and_an_empty_node_goes_back() {
    let parts = Parts {
        scheduler_arguments: vec!["--idle-node-grace=1".to_owned()],
        scenario: Some(INSTANT.to_owned()),
        ..Parts::default()
    };
    let cluster = Cluster::start(Options::full(), parts).await.unwrap();
    let namespace = Namespace::create(cluster.plane(), "share").await.unwrap();
    let claims: Api<NodeClaim> = Api::all(namespace.client());
    for name in ["one", "two"] {
        namespace
            .apply(&preset(name, "Standard_NC48ads_A100_v4"))
            .await
            .unwrap();
    }
    ready(&namespace, 2).await;
    assert_eq!(
        claims.list(&Default::default()).await.unwrap().items.len(),
        1
    );
    namespace
        .apply(&preset("three", "Standard_NC48ads_A100_v4"))
        .await
        .unwrap();
    let all = ready(&namespace, 3).await;
    assert_eq!(
        claims.list(&Default::default()).await.unwrap().items.len(),
        2
    );
    let used: BTreeSet<_> = all
        .iter()
        .flat_map(|w| w.status.clone().unwrap().worker_nodes.unwrap())
        .collect();
    assert_eq!(used.len(), 2, "{used:?}");

    // What the walkthrough shows of a ready Workspace: its Service and its columns.
    let services: Api<Service> = namespace.api();
    let ports = services
        .get("one")
        .await
        .unwrap()
        .spec
        .unwrap()
        .ports
        .unwrap();
    assert_eq!(
        ports.iter().map(|port| port.port).collect::<Vec<_>>(),
        [80, 29_500]
    );

    let workspaces: Api<Workspace> = namespace.api();
    for name in ["one", "two"] {
        workspaces
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }
    wait_for_all(&claims, "", "one node has been returned", LIMIT, |all| {
        all.len() == 1
    })
    .await
    .unwrap();
    let nodes: Api<Node> = Api::all(namespace.client());
    wait_for_all(&nodes, "", "its machine is gone", LIMIT, |all| {
        all.len() == 1
    })
    .await
    .unwrap();
    wait_for_all(&workspaces, "", "both are gone", LIMIT, |all| {
        all.len() == 1
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_hundred_workspaces_fill_twenty_nodes_though_the_scheduler_is_killed_on_the_way() {
    let options = Options {
        controller_manager_arguments: vec![
            "--kube-api-qps=200".to_owned(),
            "--kube-api-burst=400".to_owned(),
        ],
        ..Options::full()
    };
    let mut cluster = Cluster::start(options, Parts::default()).await.unwrap();
    let client = cluster.plane().client().await.unwrap();
    let shape = NodeShape {
        instance_type: "Standard_ND96amsr_A100_v4",
        cpu: 96,
        memory_gib: 900,
        gpus: 8,
    };
    for ordinal in 0..20 {
        create_node(&client, &format!("gpu-{ordinal}"), shape)
            .await
            .unwrap();
    }
    let names: Vec<String> = (0..100).map(|ordinal| format!("model-{ordinal}")).collect();
    {
        let namespace = Namespace::create(cluster.plane(), "hundred").await.unwrap();
        let (first, rest) = names.split_at(60);
        for name in first {
            namespace.apply(&own_nodes(name)).await.unwrap();
        }
        let pods: Api<Pod> = namespace.api();
        wait_for_all(
            &pods,
            "kaito.sh/workspace",
            "the first pods are placed",
            LIMIT,
            |all| {
                all.iter().any(|pod| {
                    pod.spec
                        .as_ref()
                        .is_some_and(|spec| spec.node_name.is_some())
                })
            },
        )
        .await
        .unwrap();
        for name in rest {
            namespace.apply(&own_nodes(name)).await.unwrap();
        }
    }
    cluster.kill_scheduler().unwrap();
    cluster.start_scheduler().await.unwrap();
    let pods: Api<Pod> = Api::all(client.clone());
    wait_for_all(
        &pods,
        "kaito.sh/workspace",
        "all hundred pods are bound",
        LIMIT,
        |all| {
            let bound = |pod: &&Pod| {
                pod.spec
                    .as_ref()
                    .is_some_and(|spec| spec.node_name.is_some())
            };
            all.len() == 100 && all.iter().filter(bound).count() == 100
        },
    )
    .await
    .unwrap();
    let held = gpus_by_node(&client).await;
    assert_eq!(held.values().sum::<u64>(), 100);
    assert!(held.values().all(|gpus| *gpus <= 8), "{held:?}");
    // Tightest fit leaves whole nodes free for larger models.
    assert_eq!(held.len(), 13, "{held:?}");
    let claims: Api<NodeClaim> = Api::all(client);
    assert!(
        claims
            .list(&Default::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
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
    let workspaces: Api<Workspace> = namespace.api();
    let found = wait_for(
        &workspaces,
        "refused",
        "the refusal shows",
        LIMIT,
        |found| {
            let status = found.and_then(|found| found.status.as_ref());
            let list = status
                .and_then(|status| status.conditions.as_deref())
                .unwrap_or_default();
            list.iter()
                .any(|c| c.type_ == conditions::PLACED && c.reason == "OffersBlocked")
        },
    )
    .await
    .unwrap()
    .unwrap();
    let list = found.status.unwrap().conditions.unwrap();
    let message = &list
        .iter()
        .find(|c| c.type_ == conditions::PLACED)
        .unwrap()
        .message;
    assert!(message.contains("Standard_NC24ads_A100_v4"), "{message}");
    assert!(message.to_lowercase().contains("quota"), "{message}");
    let claims: Api<NodeClaim> = Api::all(namespace.client());
    wait_for_all(
        &claims,
        "",
        "the refused claim is gone",
        LIMIT,
        <[NodeClaim]>::is_empty,
    )
    .await
    .unwrap();
    workspaces
        .delete("refused", &DeleteParams::default())
        .await
        .unwrap();
    wait_for(
        &workspaces,
        "refused",
        "it can be deleted",
        LIMIT,
        |found| found.is_none(),
    )
    .await
    .unwrap();
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
        found.is_some_and(|found| has(found, conditions::WORKSPACE_SUCCEEDED))
    })
    .await
    .unwrap()
    .unwrap();
    assert!(has(&found, conditions::JOB_STARTED));
    assert_eq!(found.status.unwrap().state.as_deref(), Some("Succeeded"));
    let claims: Api<NodeClaim> = Api::all(namespace.client());
    wait_for_all(
        &claims,
        "",
        "the node is returned",
        LIMIT,
        <[NodeClaim]>::is_empty,
    )
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
        |all| all.len() == 1 && all[0].name_any() != old && is_ready(&all[0]),
    )
    .await
    .unwrap();
    let claims: Api<NodeClaim> = Api::all(namespace.client());
    assert_eq!(
        claims.list(&Default::default()).await.unwrap().items.len(),
        1
    );
}

fn is_ready(pod: &Pod) -> bool {
    let list = pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.as_ref());
    list.is_some_and(|list| {
        list.iter()
            .any(|c| c.type_ == "Ready" && c.status == "True")
    })
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
    let workspaces: Api<Workspace> = namespace.api();
    wait_for(
        &workspaces,
        "phi",
        "the missing node shows",
        LIMIT,
        |found| {
            let status = found.and_then(|found| found.status.as_ref());
            let list = status
                .and_then(|status| status.conditions.as_deref())
                .unwrap_or_default();
            list.iter()
                .any(|c| c.type_ == conditions::PLACED && c.reason == "NoNodeFits")
        },
    )
    .await
    .unwrap();
    let shape = NodeShape {
        instance_type: "Standard_NC24ads_A100_v4",
        cpu: 24,
        memory_gib: 220,
        gpus: 1,
    };
    create_node(&namespace.client(), "mine", shape)
        .await
        .unwrap();
    wait_for(
        &workspaces,
        "phi",
        "it is placed on the new node",
        LIMIT,
        |found| found.is_some_and(|found| has(found, conditions::PLACED)),
    )
    .await
    .unwrap();
    let claims: Api<NodeClaim> = Api::all(namespace.client());
    assert!(
        claims
            .list(&Default::default())
            .await
            .unwrap()
            .items
            .is_empty()
    );
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
            let claims: Api<NodeClaim> = Api::all(client.clone());
            let nodes: Api<Node> = Api::all(client.clone());
            let (claims, nodes) = (
                claims.list(&Default::default()).await.unwrap().items,
                nodes.list(&Default::default()).await.unwrap().items,
            );
            assert_eq!((claims.len(), nodes.len()), (number, number));
            number == 1
        };
        if killed {
            assert_eq!(provisioners_lease_holder(&client).await, first);
            cluster.kill_provisioner().unwrap();
        }
    }
    assert_ne!(provisioners_lease_holder(&client).await, first);
}
