//! What is bought, how many, and in whose name.

use crate::fixtures::{
    NOW, bought, buying, buying_cheapest, gang, launching, market, node, nodes_of, offer, plan,
    refused, sku_taint, waiting, with_priority,
};
use kaito_placement::plan::{Blocker, Plan, RefusedOffer};
use kaito_placement::snapshot::{Constraints, Demand, InstanceType, Snapshot};
use std::collections::BTreeMap;

fn types(plan: &Plan) -> Vec<&str> {
    plan.purchases
        .iter()
        .map(|one| one.instance_type.as_str())
        .collect()
}

#[test]
fn twenty_one_gpu_demands_on_a_four_gpu_type_buy_five_nodes() {
    let demands = (0..20)
        .map(|index| buying(gang(&format!("w{index:02}"), 1, 1), "four"))
        .collect();
    let plan = plan(&market(vec![], demands, vec![offer("Four", 4, 1400)]));
    assert_eq!(types(&plan), ["Four"; 5]);
    for purchase in &plan.purchases {
        assert_eq!(purchase.for_demands.len(), 4);
        assert_eq!(purchase.ordinal, 0, "each buyer's first");
    }
    assert_eq!(plan.waiting.len(), 20);
}

#[test]
fn the_third_of_three_one_gpu_workspaces_causes_a_second_two_gpu_node() {
    let demands: Vec<_> = ["a", "b", "c"]
        .map(|name| buying(gang(name, 1, 1), "Two"))
        .to_vec();
    let catalogue = vec![offer("Two", 2, 735)];
    let both = plan(&market(vec![], demands[..2].to_vec(), catalogue.clone()));
    assert_eq!(both.purchases.len(), 1);
    assert_eq!(both.purchases[0].for_demands, ["default/a", "default/b"]);
    let all = plan(&market(vec![], demands, catalogue));
    assert_eq!(all.purchases.len(), 2);
    assert_eq!(all.purchases[1].for_demands, ["default/c"]);
}

#[test]
fn a_node_on_its_way_is_used_before_another_is_bought() {
    let demands = ["a", "b"]
        .map(|name| buying(gang(name, 1, 1), "Two"))
        .to_vec();
    let coming = kaito_placement::snapshot::Node {
        instance_type: Some("Two".to_owned()),
        ..launching("claim", 2)
    };
    let plan = plan(&market(vec![coming], demands, vec![offer("Two", 2, 735)]));
    assert!(plan.purchases.is_empty());
    assert_eq!(waiting(&plan, "b").blocker, waiting(&plan, "a").blocker);
}

#[test]
fn the_cheapest_node_for_one_pod_is_the_small_one() {
    let catalogue = vec![offer("Four", 4, 1400), offer("One", 1, 367)];
    let demands = vec![buying_cheapest(gang("a", 1, 1))];
    let plan = plan(&market(vec![], demands, catalogue));
    assert_eq!(types(&plan), ["One"]);
    assert!(plan.purchases[0].reason.contains("$3.67/h"), "{plan:#?}");
}

#[test]
fn a_gang_that_fills_a_large_node_gets_it_when_that_costs_less() {
    let catalogue = vec![offer("Four", 4, 1200), offer("One", 1, 367)];
    let demands = vec![buying_cheapest(gang("a", 4, 1))];
    let plan = plan(&market(vec![], demands, catalogue));
    assert_eq!(types(&plan), ["Four"]);
}

#[test]
fn equal_cost_goes_to_the_cheaper_node_then_the_newer_gpu_then_the_name() {
    let newer = InstanceType {
        compute_capability: 90,
        ..offer("Z", 1, 300)
    };
    let catalogue = vec![
        offer("Double", 2, 600),
        offer("B", 1, 300),
        newer,
        offer("A", 1, 300),
    ];
    let demands = vec![buying_cheapest(gang("a", 2, 1))];
    let by_gpu = plan(&market(vec![], demands.clone(), catalogue.clone()));
    assert_eq!(types(&by_gpu), ["Z", "Z"]);
    let catalogue = catalogue
        .into_iter()
        .filter(|one| one.name != "Z")
        .collect();
    let by_name = plan(&market(vec![], demands, catalogue));
    assert_eq!(types(&by_name), ["A", "A"]);
}

#[test]
fn a_gang_uses_what_is_there_and_buys_only_the_rest() {
    let demands = vec![
        with_priority(buying_cheapest(gang("large", 4, 1)), 1),
        gang("small", 1, 1),
    ];
    let nodes = vec![node("here", 1), launching("coming", 1)];
    let plan = plan(&market(nodes, demands, vec![offer("One", 1, 367)]));
    assert_eq!(types(&plan), ["One", "One"]);
    assert_eq!(
        waiting(&plan, "large").blocker,
        Blocker::NodesLaunching {
            claims: vec!["coming".to_owned()],
            ordered: 2,
            leaving: vec![],
        }
    );
    // What the large gang holds is not the small one's.
    waiting(&plan, "small");
}

#[test]
fn a_spread_gang_buys_a_node_per_member() {
    let mut demand = buying(gang("a", 3, 1), "Four");
    demand.constraints.spread = true;
    let plan = plan(&market(vec![], vec![demand], vec![offer("Four", 4, 1400)]));
    assert_eq!(plan.purchases.len(), 3);
    let ordinals: Vec<_> = plan.purchases.iter().map(|one| one.ordinal).collect();
    assert_eq!(ordinals, [0, 1, 2]);
}

#[test]
fn ordinals_fill_the_gaps_between_those_taken() {
    let demands = vec![buying(gang("a", 3, 1), "One")];
    let snapshot = Snapshot {
        ordinals_taken: BTreeMap::from([("uid-a".to_owned(), vec![0, 2])]),
        ..market(vec![], demands, vec![offer("One", 1, 367)])
    };
    let plan = plan(&snapshot);
    let ordinals: Vec<_> = plan.purchases.iter().map(|one| one.ordinal).collect();
    assert_eq!(ordinals, [1, 3, 4]);
}

#[test]
fn an_unpriced_type_is_bought_by_name_but_never_by_price() {
    let unpriced = InstanceType {
        price_micro_dollars: None,
        ..offer("New", 1, 0)
    };
    let by_name = vec![buying(gang("a", 1, 1), "New")];
    let bought = plan(&market(vec![], by_name, vec![unpriced.clone()]));
    assert_eq!(types(&bought), ["New"]);
    let by_price = vec![buying_cheapest(gang("a", 1, 1))];
    let refused = plan(&market(vec![], by_price, vec![unpriced]));
    let Blocker::NoInstanceTypeFits { excluded } = &waiting(&refused, "a").blocker else {
        panic!("{refused:#?}");
    };
    assert_eq!(excluded[0].constraint, "no known price");
}

#[test]
fn a_refused_offer_is_left_alone_until_its_time() {
    let offer = |until| refused(offer("One", 1, 367), until, "quota of NCADS exceeded");
    let demands = vec![buying(gang("a", 1, 1), "One")];
    let early = plan(&market(vec![], demands.clone(), vec![offer(NOW + 60)]));
    assert_eq!(
        waiting(&early, "a").blocker,
        Blocker::OffersBlocked {
            offers: vec![RefusedOffer {
                instance_type: "One".to_owned(),
                reason: "quota of NCADS exceeded".to_owned()
            }],
            retry_seconds: NOW + 60
        }
    );
    assert_eq!(early.next_change_seconds, Some(NOW + 60));
    let due = plan(&market(vec![], demands, vec![offer(NOW)]));
    assert_eq!(types(&due), ["One"]);
}

#[test]
fn by_price_the_next_best_offer_replaces_a_refused_one() {
    let cheap = refused(offer("Cheap", 1, 300), NOW + 60, "no capacity");
    let demands = vec![buying_cheapest(gang("a", 1, 1))];
    let one_left = plan(&market(
        vec![],
        demands.clone(),
        vec![cheap.clone(), offer("Dear", 1, 900)],
    ));
    assert_eq!(types(&one_left), ["Dear"]);
    let dear = refused(offer("Dear", 1, 900), NOW + 30, "no capacity");
    let none_left = plan(&market(vec![], demands, vec![dear, cheap]));
    assert_eq!(none_left.next_change_seconds, Some(NOW + 30));
    assert!(none_left.purchases.is_empty());
}

#[test]
fn a_gang_whose_offers_are_refused_holds_nothing() {
    let blocked = refused(offer("One", 1, 367), NOW + 60, "quota");
    let demands = vec![
        with_priority(buying_cheapest(gang("large", 2, 1)), 1),
        gang("small", 1, 1),
    ];
    let plan = plan(&market(vec![node("here", 1)], demands, vec![blocked]));
    assert_eq!(nodes_of(&plan, "small"), ["here"]);
}

#[test]
fn a_type_that_is_not_in_the_catalogue_is_named() {
    let demands = vec![buying(gang("a", 1, 1), "Standard_Typo")];
    let plan = plan(&market(vec![], demands, vec![offer("One", 1, 367)]));
    assert_eq!(
        waiting(&plan, "a").blocker,
        Blocker::UnknownInstanceType {
            instance_type: "Standard_Typo".to_owned()
        }
    );
    assert!(waiting(&plan, "a").message.contains("One at $3.67/h"));
}

#[test]
fn a_type_on_which_no_member_ever_fits_is_not_bought() {
    let demands = vec![buying(gang("a", 1, 2), "One")];
    let plan = plan(&market(vec![], demands, vec![offer("One", 1, 367)]));
    let Blocker::NoInstanceTypeFits { excluded } = &waiting(&plan, "a").blocker else {
        panic!("{plan:#?}");
    };
    assert_eq!(excluded[0].constraint, "GPUs 1 < 2");
}

#[test]
fn bought_nodes_carry_taints_that_buyers_must_tolerate() {
    let snapshot = Snapshot {
        purchase_taints: vec![sku_taint()],
        ..market(
            vec![],
            vec![buying(gang("a", 1, 1), "One")],
            vec![offer("One", 1, 367)],
        )
    };
    let plan = plan(&snapshot);
    assert!(plan.purchases.is_empty());
    assert!(
        waiting(&plan, "a")
            .message
            .contains("taint sku=gpu:NoSchedule not tolerated")
    );
}

#[test]
fn a_demand_that_may_not_buy_shares_what_another_bought_in_the_same_plan() {
    let demands = vec![
        with_priority(buying(gang("buyer", 1, 1), "Two"), 1),
        gang("guest", 1, 1),
    ];
    let plan = plan(&market(vec![], demands, vec![offer("Two", 2, 735)]));
    assert_eq!(
        plan.purchases[0].for_demands,
        ["default/buyer", "default/guest"]
    );
}

#[test]
fn workspaces_with_different_selectors_share_a_bought_node() {
    let selecting = |name: &str| {
        let demand = gang(name, 1, 1);
        Demand {
            constraints: Constraints {
                own_node_labels: BTreeMap::from([("apps".to_owned(), name.to_owned())]),
                ..Constraints::default()
            },
            ..demand
        }
    };
    let plan = plan(&market(
        vec![bought("claim", 2)],
        vec![selecting("a"), selecting("b")],
        vec![],
    ));
    assert_eq!(nodes_of(&plan, "a"), nodes_of(&plan, "b"));
}
