//! Who may be evicted, and what protects them.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kaito_api::Workspace;
use kaito_placement::eviction::{Occupants, Running};
use kaito_placement::snapshot::Snapshot;
use kaito_snapshot::cluster::{Memory, Objects, snapshot};
use kaito_snapshot::leaving::Leaving;
use kaito_snapshot::occupants::{Preemption, Rules, lowest_priority, occupants};
use kaito_snapshot::sizing::{Surroundings, size};
use serde::de::DeserializeOwned;

/// 2026-01-01T00:10:00Z, ten minutes after the pods started.
const NOW: i64 = 1_767_226_200;

const RULES: Rules = Rules {
    preemption: Preemption::On,
    most_moves: 4,
    settled_after_seconds: 0,
};

fn object<K: DeserializeOwned>(yaml: &str) -> Arc<K> {
    Arc::new(serde_saphyr::from_str(yaml).unwrap())
}

fn serving(name: &str, metadata: &str, rest: &str) -> Arc<Workspace> {
    object(&format!(
        "{{apiVersion: kaito.sh/v1beta1, kind: Workspace, \
         metadata: {{name: {name}, namespace: n, uid: uid-{name}{metadata}}}, \
         resource: {{instanceType: Standard_NC24ads_A100_v4, labelSelector: {{matchLabels: {{apps: x}}}}}}, \
         inference: {{preset: {{name: phi-4-mini-instruct}}}}{rest}}}"
    ))
}

fn training(name: &str, metadata: &str) -> Arc<Workspace> {
    object(&format!(
        "{{apiVersion: kaito.sh/v1beta1, kind: Workspace, \
         metadata: {{name: {name}, namespace: n, uid: uid-{name}{metadata}}}, \
         resource: {{instanceType: Standard_NC24ads_A100_v4, labelSelector: {{matchLabels: {{apps: x}}}}}}, \
         tuning: {{method: lora, preset: {{name: phi-4-mini-instruct}}}}}}"
    ))
}

/// A pod with these labels that we sent to node `g`, where it has run for ten minutes.
fn pod(name: &str, labels: &str, metadata: &str, spec: &str) -> Arc<Pod> {
    object(&format!(
        "{{metadata: {{name: {name}, namespace: n, uid: uid-{name}, labels: {{{labels}}}{metadata}}}, \
         spec: {{nodeName: g, nodeSelector: {{kubernetes.io/hostname: g}}, containers: [\
         {{name: c, resources: {{limits: {{nvidia.com/gpu: 1}}}}}}]{spec}}}, \
         status: {{phase: Running, startTime: '2026-01-01T00:00:00Z'}}}}"
    ))
}

fn of(workspace: &str, name: &str) -> Arc<Pod> {
    pod(name, &format!("kaito.sh/workspace: {workspace}"), "", "")
}

fn budget(name: &str, selector: &str, rest: &str) -> Arc<PodDisruptionBudget> {
    object(&format!(
        "{{metadata: {{name: {name}, namespace: n, generation: 2}}, spec: {{minAvailable: 1{selector}}}, \
         status: {{observedGeneration: 2, disruptionsAllowed: 1, currentHealthy: 2, desiredHealthy: 1, \
         expectedPods: 2{rest}}}}}"
    ))
}

fn objects(workspaces: &[Arc<Workspace>], pods: Vec<Arc<Pod>>) -> Objects {
    let node: Arc<Node> = object(
        "{metadata: {name: g, labels: {kubernetes.io/hostname: g}}, \
         status: {allocatable: {cpu: 24, memory: 200Gi, pods: 110, nvidia.com/gpu: 4}, \
         conditions: [{type: Ready, status: 'True'}]}}",
    );
    let sized = workspaces.iter().map(|workspace| {
        let sizing = size(workspace, &Surroundings::default()).unwrap();
        (Arc::clone(workspace), Arc::new(sizing))
    });
    Objects {
        workspaces: sized.collect(),
        nodes: vec![node],
        pods,
        ..Objects::default()
    }
}

fn seen(workspaces: &[Arc<Workspace>], pods: Vec<Arc<Pod>>) -> Occupants {
    let objects = objects(workspaces, pods);
    occupants(&objects, &[], &Memory::default(), &RULES, NOW)
}

fn under(budgets: &[Arc<PodDisruptionBudget>]) -> (Running, BTreeMap<String, u64>) {
    let labels = "kaito.sh/workspace: phi, tier: web";
    let all = objects(
        &[serving("phi", "", "")],
        vec![pod("phi-a", labels, "", "")],
    );
    let found = occupants(&all, budgets, &Memory::default(), &RULES, NOW);
    (found.running[0].clone(), found.budgets)
}

#[test]
fn pods_that_we_placed_are_named_and_nobody_else() {
    let unpinned: Arc<Pod> = object(
        "{metadata: {name: bound-by-others, namespace: n, labels: {kaito.sh/gang: x}}, \
         spec: {nodeName: g, containers: []}}",
    );
    let pods = vec![
        of("phi", "phi-a"),
        pod(
            "gang-b",
            "kaito.sh/gang: gang, kaito.sh/gang-size: '2'",
            "",
            ", priority: 7",
        ),
        pod(
            "gang-a",
            "kaito.sh/gang: gang, kaito.sh/gang-size: '2'",
            "",
            ", priority: 5",
        ),
        pod("alone", "kaito.sh/gang: alone", "", ""),
        pod("stranger", "app: db", "", ""),
        of("unknown", "orphan"),
        unpinned,
    ];
    let important = serving("phi", "", ", scheduling: {priority: 3}");
    let found = seen(&[important], pods).running;
    let named: Vec<(&str, i32, usize)> = found
        .iter()
        .map(|one| (one.name.as_str(), one.priority, one.members.len()))
        .collect();
    // A gang leaves whole, and is as important as its most important member.
    let expected = [
        ("n/gang:gang", 7, 2),
        ("n/phi", 3, 1),
        ("n/pod:alone", 0, 1),
    ];
    assert_eq!(named, expected);
    assert!(found.iter().all(|one| one.preemptible));
    assert!(found.iter().all(|one| one.started_seconds == NOW - 600));
    assert_eq!(found[1].per_member.gpus, 1);
}

#[test]
fn a_workspace_without_a_priority_has_that_of_its_pods_class() {
    let classed = pod("phi-a", "kaito.sh/workspace: phi", "", ", priority: 40");
    let found = seen(&[serving("phi", "", "")], vec![classed]).running;
    assert_eq!(found[0].priority, 40);
}

#[test]
fn the_quick_look_never_overlooks_somebody_of_low_priority() {
    let pods = || {
        let classed = pod("phi-a", "kaito.sh/workspace: phi", "", ", priority: 40");
        vec![classed, pod("a", "kaito.sh/gang: a", "", ", priority: 30")]
    };
    for (scheduling, lowest) in [("", 30), (", scheduling: {priority: -5}", -5)] {
        let all = objects(&[serving("phi", "", scheduling)], pods());
        let found = occupants(&all, &[], &Memory::default(), &RULES, NOW);
        let named = found.running.iter().map(|one| one.priority).min();
        assert_eq!((lowest_priority(&all), named), (Some(lowest), Some(lowest)));
    }
}

#[test]
fn without_preemption_nobody_is_a_victim() {
    let all = objects(&[serving("phi", "", "")], vec![of("phi", "phi-a")]);
    let rules = Rules {
        preemption: Preemption::Off,
        ..RULES
    };
    let found = occupants(&all, &[], &Memory::default(), &rules, NOW).running;
    assert!(!found[0].preemptible && found[0].movable);
}

#[test]
fn tuning_is_evicted_only_if_its_workspace_says_so() {
    let yes = ", annotations: {kaito.sh/preemptible: 'true'}";
    for (metadata, may) in [("", false), (yes, true)] {
        let found = seen(&[training("tune", metadata)], vec![of("tune", "tune-a")]).running;
        assert_eq!((found[0].preemptible, found[0].movable), (may, false));
    }
}

#[test]
fn who_says_that_it_is_not_preemptible_is_neither_evicted_nor_moved() {
    let no = ", annotations: {kaito.sh/preemptible: 'false'}";
    let by_workspace = seen(&[serving("phi", no, "")], vec![of("phi", "phi-a")]);
    let by_pod = seen(
        &[serving("phi", "", "")],
        vec![pod("phi-a", "kaito.sh/workspace: phi", no, "")],
    );
    let of_gang = seen(&[], vec![pod("a", "kaito.sh/gang: a", no, "")]);
    for found in [by_workspace, by_pod, of_gang] {
        assert!(!found.running[0].preemptible && !found.running[0].movable);
    }
}

#[test]
fn pods_that_leave_are_not_evicted_twice() {
    let leaving = ", deletionTimestamp: '2026-01-01T00:10:30Z'";
    let deleted = pod("phi-a", "kaito.sh/workspace: phi", leaving, "");
    let phi = [serving("phi", "", "")];
    assert_eq!(seen(&phi, vec![deleted]).running, []);
    // One that was evicted a moment ago, which its object does not show yet.
    let mut memory = Memory::default();
    let key = ("n".to_owned(), "phi-a".to_owned());
    memory.evicted.insert(key, "uid-phi-a".to_owned());
    let all = objects(&phi, vec![of("phi", "phi-a")]);
    assert_eq!(occupants(&all, &[], &memory, &RULES, NOW).running, []);
}

#[test]
fn a_crew_of_which_one_was_just_sent_to_its_node_is_left_alone() {
    let mut arriving = pod(
        "gang-b",
        "kaito.sh/gang: gang, kaito.sh/gang-size: '2'",
        "",
        "",
    );
    let spec = Arc::make_mut(&mut arriving).spec.as_mut().unwrap();
    spec.node_name = None;
    spec.scheduling_gates = serde_saphyr::from_str("[{name: kaito.sh/placement}]").unwrap();
    let here = pod(
        "gang-a",
        "kaito.sh/gang: gang, kaito.sh/gang-size: '2'",
        "",
        "",
    );
    let all = objects(&[], vec![here, arriving]);
    let mut memory = Memory::default();
    assert_eq!(occupants(&all, &[], &memory, &RULES, NOW).running.len(), 1);
    let key = ("n".to_owned(), "gang-b".to_owned());
    memory.assumed.insert(key, "g".to_owned());
    assert_eq!(occupants(&all, &[], &memory, &RULES, NOW).running, []);
}

#[test]
fn a_budget_protects_those_that_it_selects_by_what_it_allows_now() {
    let web = ", selector: {matchExpressions: [{key: tier, operator: In, values: [web]}]}";
    let (running, allowed) = under(&[budget("web", web, "")]);
    assert_eq!(running.budgets, ["n/web"]);
    assert_eq!(allowed["n/web"], 1);
    let nobody = ["", ", selector: {matchLabels: {tier: db}}"];
    for selector in nobody {
        let (running, _) = under(&[budget("other", selector, "")]);
        assert_eq!(running.budgets, [""; 0], "{selector}");
    }
    let (running, _) = under(&[budget("all", ", selector: {}", "")]);
    assert_eq!(running.budgets, ["n/all"]);
}

#[test]
fn a_budget_whose_status_is_behind_allows_nobody_to_go() {
    let mut stale = budget("web", ", selector: {}", "");
    let status = Arc::make_mut(&mut stale).status.as_mut().unwrap();
    status.observed_generation = Some(1);
    assert_eq!(under(&[stale]).1["n/web"], 0);
}

#[test]
fn a_pod_under_two_budgets_cannot_be_evicted_at_all() {
    let both = [
        budget("one", ", selector: {}", ""),
        budget("two", ", selector: {}", ""),
    ];
    let (running, _) = under(&both);
    assert!(!running.preemptible && !running.movable);
}

#[test]
fn an_eviction_under_way_is_taken_off_its_budget() {
    let all = objects(&[serving("phi", "", "")], vec![of("phi", "phi-a")]);
    let mut memory = Memory::default();
    let key = ("n".to_owned(), "phi-a".to_owned());
    memory.evicted.insert(key, "uid-phi-a".to_owned());
    let budgets = [budget("all", ", selector: {}", "")];
    let found = occupants(&all, &budgets, &memory, &RULES, NOW);
    assert_eq!(found.budgets["n/all"], 0);
}

#[test]
fn a_demand_whose_pods_never_preempt_is_marked() {
    let mut polite = pod("a", "kaito.sh/gang: a", "", ", preemptionPolicy: Never");
    let spec = Arc::make_mut(&mut polite).spec.as_mut().unwrap();
    spec.node_name = None;
    spec.scheduling_gates = serde_saphyr::from_str("[{name: kaito.sh/placement}]").unwrap();
    let found = seen(&[], vec![polite]);
    assert!(found.yielding.contains("n/pod:a"));
}

#[test]
fn only_servers_that_are_whole_and_would_come_back_elsewhere_are_moved() {
    let phi = || serving("phi", "", "");
    let moved = |workspace: Arc<Workspace>, pods| seen(&[workspace], pods).running[0].movable;
    assert!(moved(phi(), vec![of("phi", "phi-a")]));
    let mut waiting = of("phi", "phi-b");
    let spec = Arc::make_mut(&mut waiting).spec.as_mut().unwrap();
    spec.node_name = None;
    spec.scheduling_gates = serde_saphyr::from_str("[{name: kaito.sh/placement}]").unwrap();
    let rolling = vec![of("phi", "phi-a"), waiting];
    assert!(!moved(phi(), rolling), "a rollout is under way");
    let gang = seen(&[], vec![pod("a", "kaito.sh/gang: a", "", "")]);
    assert!(!gang.running[0].movable, "nobody may make it anew");
    let template = |spec: &str| -> Arc<Workspace> {
        object(&format!(
            "{{apiVersion: kaito.sh/v1beta1, kind: Workspace, metadata: {{name: phi, namespace: n, uid: u}}, \
             resource: {{instanceType: Standard_NC24ads_A100_v4, labelSelector: {{matchLabels: {{apps: x}}}}}}, \
             inference: {{template: {{spec: {{containers: [{{name: c, resources: {{limits: \
             {{nvidia.com/gpu: 1}}}}}}]{spec}}}}}}}}}"
        ))
    };
    assert!(moved(template(""), vec![of("phi", "phi-a")]));
    let fixed = ", nodeSelector: {kubernetes.io/hostname: g}";
    let tied = ", volumes: [{name: d, persistentVolumeClaim: {claimName: d}}]";
    for spec in [fixed, tied] {
        assert!(!moved(template(spec), vec![of("phi", "phi-a")]), "{spec}");
    }
}

fn pictured(pod: Arc<Pod>, memory: &Memory, now_seconds: i64) -> Snapshot {
    let all = objects(&[serving("phi", "", "")], vec![pod]);
    snapshot(&all, memory, now_seconds)
}

fn deleted(status: &str) -> Arc<Pod> {
    let mut pod = pod(
        "phi-a",
        "kaito.sh/workspace: phi",
        ", deletionTimestamp: '2026-01-01T00:10:30Z'",
        "",
    );
    Arc::make_mut(&mut pod).status = serde_saphyr::from_str(status).unwrap();
    pod
}

const EVICTED: &str = "{phase: Running, conditions: [{type: DisruptionTarget, status: 'True', \
                       reason: EvictionByEvictionAPI}]}";

#[test]
fn a_node_that_the_evicted_are_leaving_is_one_on_its_way_until_they_have_left_or_are_stuck() {
    let memory = Memory::default();
    let leaving = &pictured(deleted(EVICTED), &memory, NOW).nodes[0];
    assert!(!leaving.available && leaving.expected);
    assert_eq!((leaving.leaving_pods, leaving.used.gpus), (1, 0));
    // A minute and a half after its deadline nobody believes that it still goes.
    let stuck = &pictured(deleted(EVICTED), &memory, NOW + 120).nodes[0];
    assert!(stuck.available);
    assert_eq!((stuck.leaving_pods, stuck.used.gpus), (0, 1));
}

#[test]
fn a_pod_that_is_merely_deleted_keeps_nobody_from_its_node_unless_that_is_asked_for() {
    let memory = Memory::default();
    let node = &pictured(deleted("{phase: Running}"), &memory, NOW).nodes[0];
    assert!(node.available);
    assert_eq!((node.leaving_pods, node.used.gpus), (0, 1));
    let all = Memory {
        leaving: Leaving::All,
        ..memory
    };
    let node = &pictured(deleted("{phase: Running}"), &all, NOW).nodes[0];
    assert_eq!((node.leaving_pods, node.used.gpus), (1, 0));
}

#[test]
fn nobody_is_sent_to_a_node_that_is_being_emptied() {
    let mut memory = Memory::default();
    memory.emptying.insert("g".to_owned());
    let node = &pictured(of("phi", "phi-a"), &memory, NOW).nodes[0];
    assert!(!node.available && !node.expected);
    assert_eq!(node.unavailable_reason, "being emptied");
}
