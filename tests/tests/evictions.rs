//! Preemption and consolidation on a real control plane: who leaves for whom, who does not, and what a killed scheduler
//! leaves behind. Machines are *emulated* (the simulated cloud, with a quota); everything else is real.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kaito_api::{NodeClaim, Workspace, conditions};
use kaito_tests::Options;
use kaito_tests::cluster::{Cluster, Parts, start_scheduler};
use kaito_tests::fault_proxy::{Fault, Faults};
use kaito_tests::fixture::Namespace;
use kaito_tests::reported::{condition, is_bound, is_true};
use kaito_tests::wait::{wait_for, wait_for_all};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client, ResourceExt};

const LIMIT: Duration = Duration::from_secs(120);

/// One machine with one GPU, and one with two.
const ONE_OF_EACH: &str = "quota: [{match: Standard_NC24ads_A100_v4, nodes: 1}, \
                           {match: Standard_NC48ads_A100_v4, nodes: 1}]";
const ONE_GPU: &str = "Standard_NC24ads_A100_v4";
const TWO_GPUS: &str = "Standard_NC48ads_A100_v4";

fn workspace(name: &str, instance_type: &str, gpus: u32, priority: i32) -> String {
    format!(
        "apiVersion: kaito.sh/v1beta1
kind: Workspace
metadata: {{name: {name}}}
resource: {{instanceType: {instance_type}, gpus: {gpus}, labelSelector: {{matchLabels: {{apps: {name}}}}}}}
inference: {{preset: {{name: phi-4-mini-instruct}}}}
scheduling: {{priority: {priority}}}
"
    )
}

async fn is_ready(namespace: &Namespace<'_>, name: &str) {
    let ready = namespace.until(name, conditions::WORKSPACE_READY, LIMIT);
    ready.await.unwrap();
}

/// Applies a Workspace of one pod, and waits until it serves.
async fn serve(namespace: &Namespace<'_>, name: &str, instance_type: &str, priority: i32) {
    let one = workspace(name, instance_type, 1, priority);
    namespace.apply(&one).await.unwrap();
    is_ready(namespace, name).await;
}

/// Waits until the Workspace says `words` about its place, and has none.
async fn waits(namespace: &Namespace<'_>, name: &str, words: &str) {
    let api: Api<Workspace> = namespace.api();
    let what = format!("{name} waits and says: {words}");
    wait_for(&api, name, &what, LIMIT, |found| {
        let placed = condition(found, conditions::PLACED);
        placed.is_some_and(|one| one.status == "False" && one.message.contains(words))
    })
    .await
    .unwrap();
}

/// UIDs of the pods of a Workspace that have a node.
async fn placed_pods(namespace: &Namespace<'_>, name: &str) -> BTreeSet<String> {
    let api: Api<Pod> = namespace.api();
    let own = ListParams::default().labels(&format!("kaito.sh/workspace={name}"));
    let pods = api.list(&own).await.unwrap();
    let placed = pods.into_iter().filter(is_bound);
    placed.map(|pod| pod.uid().unwrap()).collect()
}

/// Who was told by an event of this reason, with what was said.
async fn told(namespace: &Namespace<'_>, reason: &str) -> Vec<(String, String)> {
    let api: Api<Event> = namespace.api();
    let events = api.list(&ListParams::default()).await.unwrap();
    let of_reason = events
        .into_iter()
        .filter(|event| event.reason.as_deref() == Some(reason));
    of_reason
        .map(|event| {
            let about = event.regarding.unwrap().name.unwrap();
            (about, event.note.unwrap_or_default())
        })
        .collect()
}

async fn delete(namespace: &Namespace<'_>, name: &str) {
    let api: Api<Workspace> = namespace.api();
    api.delete(name, &DeleteParams::default()).await.unwrap();
    let what = format!("{name} is gone");
    wait_for(&api, name, &what, LIMIT, |found| found.is_none())
        .await
        .unwrap();
}

fn parts(scenario: &str) -> Parts {
    Parts {
        scheduler_arguments: vec![
            "--idle-node-grace=1".to_owned(),
            "--leader-elect=false".to_owned(),
        ],
        scenario: Some(scenario.to_owned()),
        ..Parts::default()
    }
}

#[tokio::test]
async fn the_more_important_takes_the_place_of_the_less_important_and_equals_leave_each_other_alone()
 {
    let cluster = Cluster::start(Options::full(), parts(ONE_OF_EACH))
        .await
        .unwrap();
    let namespace = Namespace::create(cluster.plane(), "ranks").await.unwrap();
    serve(&namespace, "low", ONE_GPU, 0).await;
    serve(&namespace, "high", ONE_GPU, 10).await;
    waits(&namespace, "low", "needs 1 pod").await;
    let high = placed_pods(&namespace, "high").await;
    let events: Api<Event> = namespace.api();
    wait_for_all(&events, "", "low is told for whom it left", LIMIT, |all| {
        let words = format!("for {}/high: priority 0 < 10", namespace.name());
        all.iter().any(|event| {
            event.reason.as_deref() == Some("Preempted")
                && event
                    .note
                    .as_ref()
                    .is_some_and(|note| note.contains(&words))
        })
    })
    .await
    .unwrap();

    // An equal waits, for the quota or for anybody to go, and evicts nobody.
    namespace
        .apply(&workspace("peer", ONE_GPU, 1, 10))
        .await
        .unwrap();
    waits(&namespace, "peer", "refused by the cloud").await;
    delete(&namespace, "peer").await;
    assert_eq!(placed_pods(&namespace, "high").await, high);

    delete(&namespace, "high").await;
    is_ready(&namespace, "low").await;
    let told = told(&namespace, "Preempted").await;
    assert!(told.iter().all(|(about, _)| about == "low"), "{told:?}");
    assert_eq!(told.len(), 1, "{told:?}");
}

fn budget(workspace: &str, at_least: u32) -> String {
    format!(
        "apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{name: keep}}
spec: {{minAvailable: {at_least}, selector: {{matchLabels: {{kaito.sh/workspace: {workspace}}}}}}}
"
    )
}

#[tokio::test]
async fn a_disruption_budget_keeps_the_less_important_until_it_lets_go_and_the_waiting_one_says_so()
{
    let cluster = Cluster::start(Options::full(), parts(ONE_OF_EACH))
        .await
        .unwrap();
    let namespace = Namespace::create(cluster.plane(), "budget").await.unwrap();
    serve(&namespace, "low", ONE_GPU, 0).await;
    let low = placed_pods(&namespace, "low").await;
    namespace.apply(&budget("low", 1)).await.unwrap();
    let budgets: Api<PodDisruptionBudget> = namespace.api();
    wait_for(
        &budgets,
        "keep",
        "the budget counts its pod",
        LIMIT,
        |found| {
            let status = found.and_then(|found| found.status.as_ref());
            status.is_some_and(|status| status.current_healthy == Some(1))
        },
    )
    .await
    .unwrap();
    namespace
        .apply(&workspace("high", ONE_GPU, 1, 10))
        .await
        .unwrap();
    waits(&namespace, "high", "1 workload held by a disruption budget").await;
    assert_eq!(placed_pods(&namespace, "low").await, low);
    assert_eq!(told(&namespace, "Preempted").await, []);
    namespace.apply(&budget("low", 0)).await.unwrap();
    is_ready(&namespace, "high").await;
}

#[tokio::test]
async fn who_says_that_it_is_not_preemptible_stays() {
    let cluster = Cluster::start(Options::full(), parts(ONE_OF_EACH))
        .await
        .unwrap();
    let namespace = Namespace::create(cluster.plane(), "stays").await.unwrap();
    let protected = workspace("low", ONE_GPU, 1, 0).replace(
        "{name: low}",
        "{name: low, annotations: {kaito.sh/preemptible: 'false'}}",
    );
    namespace.apply(&protected).await.unwrap();
    is_ready(&namespace, "low").await;
    let low = placed_pods(&namespace, "low").await;
    namespace
        .apply(&workspace("high", ONE_GPU, 1, 10))
        .await
        .unwrap();
    waits(&namespace, "high", "1 workload not preemptible").await;
    assert_eq!(placed_pods(&namespace, "low").await, low);
}

async fn node_of(namespace: &Namespace<'_>, name: &str) -> String {
    let api: Api<Workspace> = namespace.api();
    let found = api.get(name).await.unwrap();
    found.status.unwrap().worker_nodes.unwrap().concat()
}

/// Three servers on two bought nodes of two GPUs each, one of which goes; nobody is moved meanwhile.
async fn two_nodes_half_empty(namespace: &Namespace<'_>) {
    for name in ["one", "two", "three"] {
        serve(namespace, name, TWO_GPUS, 0).await;
    }
    let shared = node_of(namespace, "one").await;
    assert_eq!(node_of(namespace, "two").await, shared);
    assert_ne!(node_of(namespace, "three").await, shared);
    delete(namespace, "two").await;
    // A node comes and goes: the scheduler has had every occasion to move somebody.
    serve(namespace, "other", ONE_GPU, 0).await;
    delete(namespace, "other").await;
    let claims: Api<NodeClaim> = Api::all(namespace.client());
    let half_empty = "only the half-empty nodes are left";
    wait_for_all(&claims, "", half_empty, LIMIT, |all| all.len() == 2)
        .await
        .unwrap();
    assert_eq!(told(namespace, "Moved").await, []);
}

/// Waits until one node is left and both servers serve; the nodes that they are on.
async fn moved_together(client: &Client, name: &str) -> BTreeSet<Vec<String>> {
    let claims: Api<NodeClaim> = Api::all(client.clone());
    wait_for_all(&claims, "", "one node is left", LIMIT, |all| all.len() == 1)
        .await
        .unwrap();
    let workspaces: Api<Workspace> = Api::namespaced(client.clone(), name);
    let both = wait_for_all(&workspaces, "", "both serve", LIMIT, |all| {
        let serves = |one: &Workspace| is_true(Some(one), conditions::WORKSPACE_READY);
        all.len() == 2 && all.iter().all(serves)
    })
    .await
    .unwrap();
    both.into_iter()
        .map(|one| one.status.unwrap().worker_nodes.unwrap())
        .collect()
}

#[tokio::test]
async fn two_half_empty_nodes_become_one_where_that_is_asked_for_and_only_there() {
    let mut cluster = Cluster::start(Options::full(), parts("pods: {}"))
        .await
        .unwrap();
    let name = {
        let namespace = Namespace::create(cluster.plane(), "tidy").await.unwrap();
        two_nodes_half_empty(&namespace).await;
        namespace.name().to_owned()
    };
    cluster.kill_scheduler().unwrap();
    let plane = cluster.plane();
    let client = plane.client().await.unwrap();
    let pods: Api<Pod> = Api::namespaced(client.clone(), &name);
    let uids = async || -> BTreeSet<String> {
        let found = pods.list(&ListParams::default()).await.unwrap();
        found.into_iter().map(|pod| pod.uid().unwrap()).collect()
    };
    let before = uids().await;
    let arguments = [
        "--idle-node-grace=1",
        "--leader-elect=false",
        "--consolidation=on",
        "--consolidation-pause=1",
        "--consolidation-min-runtime=0",
    ]
    .map(str::to_owned);
    let _scheduler = start_scheduler(plane, plane.endpoint(), &arguments)
        .await
        .unwrap();
    let nodes = moved_together(&client, &name).await;
    assert_eq!(nodes.len(), 1, "{nodes:?}");
    let stayed = before.intersection(&uids().await).count();
    assert_eq!(stayed, 1, "one was moved, once");
}

/// Ends the scheduler at its first evictions, so many of them.
fn crashing_at_evictions(crashes: usize) -> Faults {
    let crashes_left = AtomicUsize::new(crashes);
    Faults {
        rule: Arc::new(move |write| {
            let evicts = write.path.ends_with("/eviction");
            let left = |left: usize| left.checked_sub(1);
            let crashes = evicts && crashes_left.fetch_update(SeqCst, SeqCst, left).is_ok();
            crashes.then_some(Fault::Crash)
        }),
        watch_life: None,
    }
}

/// Starts the scheduler anew each time it ends, until `name` serves; the writes that were its last acts.
async fn restarted_until_served(cluster: &mut Cluster, client: &Client, name: &str) -> Vec<String> {
    let workspaces: Api<Workspace> = Api::namespaced(client.clone(), name);
    let mut crashes = Vec::new();
    loop {
        let ready = wait_for(&workspaces, "high", "high serves", LIMIT, |found| {
            is_true(found, conditions::WORKSPACE_READY)
        });
        let write = tokio::select! {
            ready = ready => {
                ready.unwrap();
                return crashes;
            }
            write = cluster.proxy().unwrap().crash() => write,
        };
        crashes.push(write.path);
        cluster.kill_scheduler().unwrap();
        cluster.proxy().unwrap().recover();
        cluster.start_scheduler().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_two_evictions_the_scheduler_carries_on_where_it_was() {
    let parts = Parts {
        faults: Some(crashing_at_evictions(2)),
        ..parts(ONE_OF_EACH)
    };
    let mut cluster = Cluster::start(Options::full(), parts).await.unwrap();
    let client = cluster.plane().client().await.unwrap();
    let name = {
        let namespace = Namespace::create(cluster.plane(), "killed").await.unwrap();
        for name in ["low-a", "low-b"] {
            serve(&namespace, name, TWO_GPUS, 0).await;
        }
        let high = workspace("high", TWO_GPUS, 2, 10);
        namespace.apply(&high).await.unwrap();
        namespace.name().to_owned()
    };
    let crashes = restarted_until_served(&mut cluster, &client, &name).await;
    assert_eq!(crashes.len(), 2, "{crashes:?}");
    let pods: Api<Pod> = Api::namespaced(client.clone(), &name);
    wait_for_all(&pods, "", "each has one pod", LIMIT, |all| all.len() == 3)
        .await
        .unwrap();
    let placed: Vec<String> = pods
        .list(&ListParams::default())
        .await
        .unwrap()
        .into_iter()
        .filter(is_bound)
        .map(|pod| pod.labels()["kaito.sh/workspace"].clone())
        .collect();
    assert_eq!(placed, ["high"], "after {crashes:?}");
    let claims: Api<NodeClaim> = Api::all(client);
    let not_in_vain = "no node was bought in vain";
    wait_for_all(&claims, "", not_in_vain, LIMIT, |all| all.len() == 1)
        .await
        .unwrap();
}
