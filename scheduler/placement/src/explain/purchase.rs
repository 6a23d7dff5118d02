//! Why nodes are bought, and why these.

use super::{counted, needs, price};
use crate::planner::ledger::Ledger;
use crate::planner::purchase::Order;
use crate::snapshot::{CapacityType, Demand, InstanceType};

/// Why this type and this many.
pub(crate) fn bought(
    ledger: &Ledger<'_>,
    demand: &Demand,
    order: &Order<'_>,
    members: u64,
) -> String {
    let nodes = order.nodes;
    let name = &order.instance_type.name;
    let each = price(order.instance_type.price_micro_dollars);
    let total = match (nodes, order.instance_type.price_micro_dollars) {
        (2.., Some(one)) => format!(" ({} in all)", price(Some(one.saturating_mul(nodes)))),
        _ => String::new(),
    };
    let choice = match demand.purchase {
        crate::snapshot::Purchase::Cheapest => {
            format!(
                "cheapest of {}",
                counted(order.choices as u64, "suitable type")
            )
        }
        _ => "the type asked for".to_owned(),
    };
    let elsewhere = if ledger.slots().is_empty() {
        "there are no nodes"
    } else {
        "no node there or on its way has room"
    };
    format!(
        "{nodes} × {name} at {each}{total}: {choice} for {} of {}; {elsewhere}",
        counted(members, "pod"),
        needs(demand),
    )
}

/// What buying together saves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Saving {
    /// Pods that are bought for.
    pub(crate) pods: u64,
    /// Workspaces that they belong to.
    pub(crate) workspaces: u64,
    /// Micro-dollars per hour of all nodes, bought together.
    pub(crate) together: u64,
    /// The same if every Workspace bought by itself.
    pub(crate) alone: u64,
}

impl Saving {
    /// Why a node of this type is among them; it holds `pods` pods of `sharing` Workspaces.
    pub(crate) fn reason(&self, instance_type: &InstanceType, pods: u64, sharing: u64) -> String {
        let place = match instance_type.zone.as_str() {
            "" => String::new(),
            zone => format!(" in {zone}"),
        };
        let terms = match instance_type.capacity_type {
            CapacityType::OnDemand => "",
            CapacityType::Spot => " (spot)",
        };
        format!(
            "1 × {}{place}{terms} at {} for {} of {}; of the nodes found for all {} of {}: {} together, {} if each \
             bought for itself; no node there or on its way has room",
            instance_type.name,
            price(instance_type.price_micro_dollars),
            counted(pods, "pod"),
            counted(sharing, "Workspace"),
            counted(self.pods, "pod"),
            counted(self.workspaces, "Workspace"),
            price(Some(self.together)),
            price(Some(self.alone)),
        )
    }
}
