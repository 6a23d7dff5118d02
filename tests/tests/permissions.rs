//! The scheduler's ServiceAccount: everything it asks for is granted, and everything granted is needed.
//!
//! One scenario drives every path of the scheduler; the API server's audit log tells what it asked for. A rule whose
//! removal would break nothing fails here, and so does a request that no rule covers.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::api::rbac::v1::{ClusterRole, PolicyRule, Role};
use kaito_api::{NodeClaim, Workspace, conditions};
use kaito_tests::Options;
use kaito_tests::cluster::{Cluster, Parts, SYSTEM_NAMESPACE};
use kaito_tests::control_plane::read_audit_log;
use kaito_tests::fixture::{Namespace, NodeShape, create_node};
use kaito_tests::wait::{wait_for, wait_for_all, wait_for_none};
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(90);
const USER: &str = "system:serviceaccount:kaito-system:kaito-scheduler";

type Right = (String, String, String);

fn rights(rules: &[PolicyRule]) -> BTreeSet<Right> {
    let mut rights = BTreeSet::new();
    for rule in rules {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                for verb in &rule.verbs {
                    rights.insert((group.clone(), resource.clone(), verb.clone()));
                }
            }
        }
    }
    rights
}

async fn granted(cluster: &Cluster) -> BTreeSet<Right> {
    let client = cluster.plane().client().await.unwrap();
    let roles: Api<ClusterRole> = Api::all(client.clone());
    let local: Api<Role> = Api::namespaced(client, SYSTEM_NAMESPACE);
    let mut all = rights(&roles.get("kaito-scheduler").await.unwrap().rules.unwrap());
    all.extend(rights(
        &local.get("kaito-scheduler").await.unwrap().rules.unwrap(),
    ));
    all
}

/// What the scheduler asked for, and what of it was refused.
fn asked(cluster: &Cluster) -> (BTreeSet<Right>, Vec<String>) {
    let requests = read_audit_log(cluster.plane().audit_log()).unwrap();
    let mut asked = BTreeSet::new();
    let mut refused = Vec::new();
    for request in requests.into_iter().filter(|request| request.user == USER) {
        if request.resource.is_empty() {
            continue;
        }
        if request.code == 403 {
            refused.push(format!("{} {}", request.verb, request.uri));
        }
        let resource = match request.subresource.as_str() {
            "" => request.resource.clone(),
            sub => format!("{}/{sub}", request.resource),
        };
        // A server-side apply that makes an object needs the right to create besides the right to patch.
        if request.verb == "patch" && request.code == 201 {
            asked.insert((request.group.clone(), resource.clone(), "create".to_owned()));
        }
        asked.insert((request.group, resource, request.verb));
    }
    (asked, refused)
}

fn workspace(name: &str, labels: &str, rest: &str) -> String {
    format!(
        "apiVersion: kaito.sh/v1beta1\nkind: Workspace\nmetadata: {{name: {name}}}\n\
         resource: {{labelSelector: {{matchLabels: {{{labels}}}}}, {rest}}}\n"
    )
}

/// The lease is renewed five seconds after it was taken, which may be later than everything else.
async fn lease_is_renewed(cluster: &Cluster) {
    let client = cluster.plane().client().await.unwrap();
    let leases: Api<Lease> = Api::namespaced(client, SYSTEM_NAMESPACE);
    wait_for(
        &leases,
        "kaito-scheduler",
        "the lease is renewed",
        LIMIT,
        |found| {
            let spec = found.and_then(|lease| lease.spec.as_ref());
            spec.is_some_and(|spec| {
                let taken = spec.acquire_time.as_ref().map(|time| time.0);
                spec.renew_time.as_ref().map(|time| time.0) > taken
            })
        },
    )
    .await
    .unwrap();
}

/// A pod of its own that asks for the only GPU of node `own`. Nobody plays that node: a pod ends at once or never.
fn pod(name: &str, class: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{kaito.sh/gang: {name}}}}}
spec:
  schedulingGates: [{{name: kaito.sh/placement}}]
  nodeSelector: {{kubernetes.io/os: linux}}
  terminationGracePeriodSeconds: 0
  {class}
  containers: [{{name: main, image: example.com/work:1, resources: {{limits: {{nvidia.com/gpu: 1}}}}}}]
"
    )
}

/// A pod makes place for one of higher priority.
async fn evict(namespace: &Namespace<'_>) {
    let shape = NodeShape {
        instance_type: "one-gpu",
        cpu: 8,
        memory_gib: 64,
        gpus: 1,
    };
    create_node(&namespace.client(), "own", shape)
        .await
        .unwrap();
    let class = "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: urgent}\nvalue: 10\n";
    namespace.apply(class).await.unwrap();
    let pods: Api<Pod> = namespace.api();
    let bound = |found: Option<&Pod>| {
        let spec = found.and_then(|found| found.spec.as_ref());
        spec.is_some_and(|spec| spec.node_name.is_some())
    };
    namespace.apply(&pod("calm", "")).await.unwrap();
    wait_for(&pods, "calm", "the calm pod is bound", LIMIT, bound)
        .await
        .unwrap();
    let urgent = pod("urgent", "priorityClassName: urgent");
    namespace.apply(&urgent).await.unwrap();
    wait_for(&pods, "urgent", "the urgent pod is bound", LIMIT, bound)
        .await
        .unwrap();
    assert!(pods.get_opt("calm").await.unwrap().is_none());
}

/// Drives every other path: sharing with another label, several nodes, a configuration, tuning, deletion, release.
async fn drive(namespace: &Namespace<'_>) {
    configured_and_shared(namespace).await;
    on_several_nodes(namespace).await;
    namespace
        .apply(include_str!("../../examples/tuning-url-qlora.yaml"))
        .await
        .unwrap();
    let jobs: Api<Job> = namespace.api();
    wait_for_all(&jobs, "", "a Job is made", LIMIT, |all| all.len() == 1)
        .await
        .unwrap();
    all_is_deleted_and_released(namespace).await;
}

const TWO_GPUS: &str = "instanceType: Standard_NC48ads_A100_v4";

/// One Workspace reads a configuration; a second one with another label shares its node.
async fn configured_and_shared(namespace: &Namespace<'_>) {
    let maps: Api<ConfigMap> = namespace.api();
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "engine"},
        "data": {"inference_config.yaml": "vllm: {max-model-len: 4096}"}});
    let force = PatchParams::apply("test").force();
    let applied = maps.patch("engine", &force, &Patch::Apply(body)).await;
    applied.unwrap();
    let serve = "inference: {config: engine, preset: {name: phi-4-mini-instruct}}\n";
    let first = workspace("first", "apps: first", TWO_GPUS) + serve;
    namespace.apply(&first).await.unwrap();
    namespace
        .until("first", conditions::WORKSPACE_READY, LIMIT)
        .await
        .unwrap();
    let shared = workspace("second", "team: blue", TWO_GPUS)
        + "inference: {preset: {name: phi-4-mini-instruct}}\n";
    namespace.apply(&shared).await.unwrap();
    namespace
        .until("second", conditions::WORKSPACE_READY, LIMIT)
        .await
        .unwrap();
}

async fn on_several_nodes(namespace: &Namespace<'_>) {
    let several = workspace("several", "apps: several", TWO_GPUS)
        + "inference: {preset: {name: llama-3.3-70b-instruct, presetOptions: {modelAccessSecret: token}}}\n";
    namespace.apply(&several).await.unwrap();
    let sets: Api<StatefulSet> = namespace.api();
    wait_for(&sets, "several", "a StatefulSet is made", LIMIT, |found| {
        found.is_some()
    })
    .await
    .unwrap();
    namespace
        .until("several", conditions::PLACED, LIMIT)
        .await
        .unwrap();
}

async fn all_is_deleted_and_released(namespace: &Namespace<'_>) {
    let api: Api<Workspace> = namespace.api();
    for found in api.list(&Default::default()).await.unwrap() {
        api.delete(&found.name_any(), &DeleteParams::default())
            .await
            .unwrap();
    }
    wait_for_none(&api, "all Workspaces are gone", LIMIT)
        .await
        .unwrap();
    let claims: Api<NodeClaim> = Api::all(namespace.client());
    wait_for_none(&claims, "all nodes are returned", LIMIT)
        .await
        .unwrap();
    let deployments: Api<Deployment> = namespace.api();
    wait_for_none(&deployments, "no workload is left", LIMIT)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_scheduler_is_refused_nothing_and_granted_nothing_that_it_does_not_use() {
    let parts = Parts {
        scheduler_arguments: vec!["--idle-node-grace=0".to_owned()],
        scenario: Some("pods: {}".to_owned()),
        ..Parts::default()
    };
    let cluster = Cluster::start(Options::full().audited(), parts)
        .await
        .unwrap();
    let namespace = Namespace::create(cluster.plane(), "rights").await.unwrap();
    evict(&namespace).await;
    drive(&namespace).await;
    lease_is_renewed(&cluster).await;
    let (asked, refused) = asked(&cluster);
    assert!(refused.is_empty(), "refused: {refused:#?}");
    let granted = granted(&cluster).await;
    let uncovered: Vec<_> = asked.difference(&granted).collect();
    assert!(
        uncovered.is_empty(),
        "asked for without a rule: {uncovered:#?}"
    );
    let unused: Vec<_> = granted.difference(&asked).collect();
    assert!(
        unused.is_empty(),
        "granted and never asked for: {unused:#?}"
    );
}
