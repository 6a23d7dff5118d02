//! The scheduler while its writes are refused, lost or cut, its watches break and it is killed: nothing is promised
//! twice, lost or left behind. Machines are *emulated* (the simulated cloud); the API server is real, and a proxy of
//! ours in front of it fails on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use kaito_api::{NodeClaim, Workspace, conditions};
use kaito_tests::Options;
use kaito_tests::cluster::{Cluster, Parts};
use kaito_tests::fault_proxy::{Fault, Faults, Write};
use kaito_tests::fixture::{apply_yaml, dump};
use kaito_tests::reported::is_true;
use kaito_tests::wait::wait_for_all;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client, ResourceExt};

/// Retries wait longer each time, so a Workspace whose every write fails once takes about half a minute.
const LIMIT: Duration = Duration::from_secs(180);

/// GPUs of the instance type that the Workspaces ask for.
const GPUS: usize = 2;

fn workspace(name: &str) -> String {
    format!(
        "apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {{name: {name}}}
resource: {{instanceType: Standard_NC48ads_A100_v4, labelSelector: {{matchLabels: {{apps: {name}}}}}}}
inference: {{preset: {{name: phi-4-mini-instruct}}}}
"
    )
}

async fn namespace(client: &Client, name: &str) {
    let yaml = format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n");
    apply_yaml(client, "default", &yaml).await.unwrap();
}

async fn all_ready(client: &Client, count: usize) {
    let api: Api<Workspace> = Api::all(client.clone());
    wait_for_all(&api, "", "every Workspace is ready", LIMIT, |all| {
        let ready = |one: &Workspace| is_true(Some(one), conditions::WORKSPACE_READY);
        all.len() == count && all.iter().all(ready)
    })
    .await
    .unwrap();
}

/// No GPU twice, one child of each kind per Workspace, and every bought node serves somebody.
async fn assert_sound(client: &Client, count: usize) {
    let pods: Api<Pod> = Api::all(client.clone());
    let ours = ListParams::default().labels("kaito.sh/workspace");
    let mut held = BTreeMap::<String, usize>::new();
    for pod in pods.list(&ours).await.unwrap() {
        *held
            .entry(pod.spec.unwrap().node_name.unwrap())
            .or_default() += 1;
    }
    assert!(held.values().all(|gpus| *gpus <= GPUS), "{held:?}");
    assert_eq!(held.values().sum::<usize>(), count, "{held:?}");
    let deployments: Api<Deployment> = Api::all(client.clone());
    assert_eq!(deployments.list(&ours).await.unwrap().items.len(), count);
    let services: Api<Service> = Api::all(client.clone());
    assert_eq!(services.list(&ours).await.unwrap().items.len(), count);
    let nodes: Api<Node> = Api::all(client.clone());
    let bought = nodes.list(&ListParams::default()).await.unwrap();
    let idle: BTreeSet<String> = bought
        .iter()
        .map(ResourceExt::name_any)
        .filter(|node| !held.contains_key(node))
        .collect();
    assert!(idle.is_empty(), "bought for nobody: {idle:?}");
}

async fn delete_all(client: &Client) {
    let every: Api<Workspace> = Api::all(client.clone());
    for one in every.list(&ListParams::default()).await.unwrap() {
        let api: Api<Workspace> = Api::namespaced(client.clone(), &one.namespace().unwrap());
        api.delete(&one.name_any(), &DeleteParams::default())
            .await
            .unwrap();
    }
}

async fn nothing_is_left(client: &Client) {
    let workspaces: Api<Workspace> = Api::all(client.clone());
    wait_for_all(
        &workspaces,
        "",
        "the Workspaces are gone",
        LIMIT,
        <[_]>::is_empty,
    )
    .await
    .unwrap();
    let claims: Api<NodeClaim> = Api::all(client.clone());
    wait_for_all(
        &claims,
        "",
        "every claim has been returned",
        LIMIT,
        <[_]>::is_empty,
    )
    .await
    .unwrap();
    let nodes: Api<Node> = Api::all(client.clone());
    wait_for_all(&nodes, "", "every machine is gone", LIMIT, <[_]>::is_empty)
        .await
        .unwrap();
    let pods: Api<Pod> = Api::all(client.clone());
    wait_for_all(
        &pods,
        "kaito.sh/workspace",
        "the pods are gone",
        LIMIT,
        <[_]>::is_empty,
    )
    .await
    .unwrap();
}

/// The fault that the first sending of a write in this namespace meets; writes to objects outside of namespaces
/// meet one after the other.
fn first_write_fails(write: &Write) -> Option<Fault> {
    const KINDS: [(&str, Fault); 6] = [
        ("conflict", Fault::Refused(409)),
        ("busy", Fault::Refused(429)),
        ("broken", Fault::Refused(500)),
        ("starting", Fault::Refused(503)),
        ("unsent", Fault::Unsent),
        ("unanswered", Fault::Unanswered),
    ];
    // Leadership is renewed in time whatever happens to one request; of reports to people none is worth a wait.
    if write.path.contains("/events") {
        return None;
    }
    match write.namespace() {
        Some(namespace) if write.before == 0 => {
            let found = KINDS.iter().find(|(name, _)| namespace.starts_with(name));
            found.map(|(_, fault)| *fault).or(Some(Fault::Unanswered))
        }
        Some(_) => None,
        None => KINDS
            .get(write.before)
            .map(|(_, fault)| *fault)
            .filter(|_| write.before < 2),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_may_fail_once_in_every_way_while_watches_break() {
    let parts = Parts {
        scheduler_arguments: vec!["--idle-node-grace=1".to_owned()],
        scenario: Some("pods: {}".to_owned()),
        faults: Some(Faults {
            rule: Arc::new(first_write_fails),
            watch_life: Some(Duration::from_secs(3)),
        }),
    };
    let mut cluster = Cluster::start(Options::full(), parts).await.unwrap();
    let client = cluster.plane().client().await.unwrap();
    let namespaces = [
        "conflict",
        "busy",
        "broken",
        "starting",
        "unsent",
        "unanswered",
    ];
    for name in namespaces {
        namespace(&client, name).await;
        for ordinal in ["one", "two"] {
            apply_yaml(&client, name, &workspace(ordinal))
                .await
                .unwrap();
        }
    }
    let count = 2 * namespaces.len();
    all_ready(&client, count).await;
    assert_sound(&client, count).await;
    delete_all(&client).await;
    nothing_is_left(&client).await;
    // The faults did happen: each kind, and to each kind of object.
    let hits = cluster.proxy().unwrap().hits();
    let kinds: BTreeSet<String> = hits.iter().map(|(_, fault)| format!("{fault:?}")).collect();
    assert_eq!(kinds.len(), 6, "{kinds:?}");
    for part in [
        "/workspaces/",
        "/deployments/",
        "/services/",
        "/pods/",
        "/nodeclaims",
        "/leases",
        "/status",
    ] {
        assert!(
            hits.iter().any(|(write, _)| write.path.contains(part)),
            "no fault met {part}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_after_each_write_the_scheduler_carries_on_where_it_was() {
    let parts = Parts {
        // A new process need not wait for the lease of the killed one.
        scheduler_arguments: ["--idle-node-grace=0", "--leader-elect=false"]
            .map(str::to_owned)
            .to_vec(),
        scenario: Some("pods: {}".to_owned()),
        faults: Some(Faults {
            rule: Arc::new(|write| (!write.is_aside()).then_some(Fault::Crash)),
            watch_life: None,
        }),
    };
    let mut cluster = Cluster::start(Options::full(), parts).await.unwrap();
    let client = cluster.plane().client().await.unwrap();
    namespace(&client, "crash").await;
    for name in ["one", "two", "three"] {
        apply_yaml(&client, "crash", &workspace(name))
            .await
            .unwrap();
    }
    let watched = client.clone();
    let mut story = tokio::spawn(async move {
        all_ready(&watched, 3).await;
        assert_sound(&watched, 3).await;
        delete_all(&watched).await;
        nothing_is_left(&watched).await;
    });
    let mut written = Vec::new();
    let told = loop {
        let write = tokio::select! {
            told = &mut story => break told,
            write = cluster.proxy().unwrap().crash() => write,
        };
        written.push(format!("{} {}", write.method, write.path));
        cluster.kill_scheduler().unwrap();
        cluster.proxy().unwrap().recover();
        cluster.start_scheduler().await.unwrap();
    };
    if let Err(error) = told {
        dump(cluster.plane(), "crash");
        panic!("{error}; writes so far:\n{}", written.join("\n"));
    }
    // One claim, two nodes' worth, gates, children, states and finalizers: each was the last act of a process.
    assert!(written.len() >= 20, "{written:#?}");
}
