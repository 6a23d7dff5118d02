//! What is given back, and when the planner wants to look again.

use crate::fixtures::{NOW, bought, busy, gang, launching, node, plan, snapshot};
use kaito_placement::snapshot::{Demand, Node, Snapshot};
use std::collections::BTreeMap;

fn idle(nodes: Vec<Node>, demands: Vec<Demand>, since: &[(&str, i64)]) -> Snapshot {
    Snapshot {
        idle_since: since
            .iter()
            .map(|(claim, since)| ((*claim).to_owned(), *since))
            .collect::<BTreeMap<_, _>>(),
        ..snapshot(nodes, demands)
    }
}

#[test]
fn an_idle_claim_is_given_back_when_its_grace_is_over() {
    let since = [("old", NOW - 300), ("young", NOW - 299)];
    let plan = plan(&idle(
        vec![bought("old", 2), bought("young", 2)],
        vec![],
        &since,
    ));
    assert_eq!(plan.releases.len(), 1);
    assert_eq!(plan.releases[0].claim, "old");
    assert_eq!(plan.next_change_seconds, Some(NOW + 1));
}

#[test]
fn a_claim_that_became_idle_just_now_has_its_whole_grace_before_it() {
    let plan = plan(&idle(vec![bought("a", 2)], vec![], &[("a", NOW)]));
    assert!(plan.releases.is_empty());
    assert_eq!(plan.next_change_seconds, Some(NOW + 300));
}

#[test]
fn a_claim_that_is_not_named_idle_is_kept_though_no_gpu_of_it_is_used() {
    let plan = plan(&idle(vec![bought("a", 2)], vec![], &[]));
    assert!(plan.releases.is_empty());
    assert_eq!(plan.next_change_seconds, None);
}

#[test]
fn a_claim_that_serves_somebody_is_kept() {
    let since = [("used", NOW - 900), ("wanted", NOW - 900)];
    let nodes = vec![busy(bought("used", 2), 2), bought("wanted", 2)];
    let plan = plan(&idle(nodes, vec![gang("a", 1, 1)], &since));
    assert!(plan.releases.is_empty());
    assert_eq!(plan.next_change_seconds, None);
}

#[test]
fn a_launching_node_is_kept_for_who_waits_for_it_and_given_back_otherwise() {
    let since = [("claim", NOW - 900)];
    let nodes = vec![launching("claim", 2)];
    let wanted = plan(&idle(nodes.clone(), vec![gang("a", 1, 1)], &since));
    assert!(wanted.releases.is_empty());
    let unwanted = plan(&idle(nodes, vec![], &since));
    assert_eq!(unwanted.releases.len(), 1);
}

#[test]
fn nodes_that_nobody_bought_are_never_given_back() {
    let plan = plan(&idle(vec![node("a", 8)], vec![], &[("a", 0)]));
    assert!(plan.releases.is_empty());
}
