//! Small nodes, demands and instance types, and a `plan` that the checker has looked at.

use kaito_placement::check::check;
use kaito_placement::plan::{Plan, Waiting};
use kaito_placement::planner;
use kaito_placement::snapshot::{
    BlockedOffer, Constraints, Demand, InstanceType, Node, Purchase, Resources, Snapshot, Taint,
    TaintEffect, Toleration,
};

pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const NOW: i64 = 1_000_000;

pub(crate) fn machine(gpus: u64) -> Resources {
    Resources {
        milli_cpu: 24_000 * gpus.max(1),
        memory_bytes: 220 * GIB * gpus.max(1),
        ephemeral_bytes: 900 * GIB,
        pods: 110,
        gpus,
    }
}

pub(crate) fn pod(gpus: u64) -> Resources {
    Resources {
        milli_cpu: 4_000 * gpus.max(1),
        memory_bytes: 16 * GIB * gpus.max(1),
        ephemeral_bytes: 20 * GIB,
        pods: 1,
        gpus,
    }
}

/// A ready node of the user's own.
pub(crate) fn node(name: &str, gpus: u64) -> Node {
    Node {
        name: name.to_owned(),
        instance_type: Some("Standard_NC48ads_A100_v4".to_owned()),
        gpu_memory_bytes: 80 * GIB,
        allocatable: machine(gpus),
        available: true,
        ..Node::default()
    }
}

/// A ready node that a claim of the same name bought.
pub(crate) fn bought(name: &str, gpus: u64) -> Node {
    Node {
        claim: Some(name.to_owned()),
        ..node(name, gpus)
    }
}

/// A node that a claim of the same name has ordered.
pub(crate) fn launching(name: &str, gpus: u64) -> Node {
    Node {
        available: false,
        unavailable_reason: "being launched".to_owned(),
        expected: true,
        ..bought(name, gpus)
    }
}

/// A node with this many GPUs in use.
pub(crate) fn busy(mut node: Node, gpus: u64) -> Node {
    node.used = Resources {
        gpus,
        pods: gpus,
        ..pod(gpus)
    };
    node
}

/// A gang that may only use nodes that are there.
pub(crate) fn gang(name: &str, members: usize, gpus: u64) -> Demand {
    Demand {
        name: format!("default/{name}"),
        uid: format!("uid-{name}"),
        members: (0..members)
            .map(|index| format!("{name}-{index}"))
            .collect(),
        per_member: pod(gpus),
        ..Demand::default()
    }
}

pub(crate) fn with_priority(demand: Demand, priority: i32) -> Demand {
    Demand { priority, ..demand }
}

/// The same, allowed to buy this type.
pub(crate) fn buying(demand: Demand, instance_type: &str) -> Demand {
    Demand {
        purchase: Purchase::Fixed,
        constraints: Constraints {
            instance_type: Some(instance_type.to_owned()),
            ..demand.constraints
        },
        ..demand
    }
}

/// The same, allowed to buy the cheapest.
pub(crate) fn buying_cheapest(demand: Demand) -> Demand {
    Demand {
        purchase: Purchase::Cheapest,
        ..demand
    }
}

/// An instance type at this many cents per hour.
pub(crate) fn offer(name: &str, gpus: u64, cents: u64) -> InstanceType {
    InstanceType {
        name: name.to_owned(),
        gpu_model: "NVIDIA A100".to_owned(),
        gpu_memory_bytes: 80 * GIB,
        compute_capability: 80,
        allocatable: machine(gpus),
        price_micro_dollars: Some(cents * 10_000),
        ..InstanceType::default()
    }
}

pub(crate) fn refused(offer: InstanceType, until_seconds: i64, reason: &str) -> InstanceType {
    InstanceType {
        blocked: Some(BlockedOffer {
            until_seconds,
            reason: reason.to_owned(),
        }),
        ..offer
    }
}

pub(crate) fn sku_taint() -> Taint {
    Taint {
        key: "sku".to_owned(),
        value: "gpu".to_owned(),
        effect: TaintEffect::NoSchedule,
    }
}

pub(crate) fn tolerating_sku() -> Toleration {
    Toleration {
        key: "sku".to_owned(),
        value: Some("gpu".to_owned()),
        effect: None,
    }
}

pub(crate) fn snapshot(nodes: Vec<Node>, demands: Vec<Demand>) -> Snapshot {
    Snapshot {
        now_seconds: NOW,
        nodes,
        demands,
        idle_grace_seconds: 300,
        ..Snapshot::default()
    }
}

pub(crate) fn market(
    nodes: Vec<Node>,
    demands: Vec<Demand>,
    catalogue: Vec<InstanceType>,
) -> Snapshot {
    Snapshot {
        catalogue,
        ..snapshot(nodes, demands)
    }
}

/// Plans, and lets the checker look at the result.
pub(crate) fn plan(snapshot: &Snapshot) -> Plan {
    let plan = planner::plan(snapshot);
    assert_eq!(check(snapshot, &plan), [], "{plan:#?}");
    plan
}

/// The nodes of a demand's members, in the order of the members.
pub(crate) fn nodes_of<'p>(plan: &'p Plan, demand: &str) -> Vec<&'p str> {
    let name = format!("default/{demand}");
    plan.assignments
        .iter()
        .filter(|one| one.demand == name)
        .flat_map(|one| &one.members)
        .map(|member| member.node.as_str())
        .collect()
}

/// Why a demand waits; fails if it does not.
#[expect(
    clippy::panic,
    reason = "a test that asks why a placed gang waits has failed"
)]
pub(crate) fn waiting<'p>(plan: &'p Plan, demand: &str) -> &'p Waiting {
    let name = format!("default/{demand}");
    let found = plan.waiting.iter().find(|one| one.demand == name);
    found.unwrap_or_else(|| panic!("{name} does not wait: {plan:#?}"))
}
