//! Claims that we made: whose nodes they became, and what their buyers hold of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kaito_api::{NodeClaim, names};
use kaito_placement::snapshot::Demand;

use crate::cluster::{Memory, Objects};

/// Whether a claim was made by us: it names our pool, or a Workspace.
#[must_use]
pub fn is_ours(claim: &NodeClaim) -> bool {
    claim.metadata.labels.as_ref().is_some_and(|labels| {
        labels
            .get(names::LABEL_NODEPOOL)
            .is_some_and(|pool| pool == names::NODEPOOL)
            || labels.contains_key(names::LABEL_WORKSPACE)
    })
}

/// Our claims, found from the nodes that they became.
#[derive(Debug)]
pub struct ClaimIndex<'a> {
    by_key: HashMap<&'a str, &'a NodeClaim>,
}

impl<'a> ClaimIndex<'a> {
    /// Indexes our claims by name, node name and provider id.
    #[must_use]
    pub fn new(claims: &'a [Arc<NodeClaim>]) -> Self {
        let mut by_key: HashMap<&str, &NodeClaim> = HashMap::new();
        for claim in claims.iter().filter(|claim| is_ours(claim)) {
            let status = claim.status.as_ref();
            let keys = [
                claim.metadata.name.as_deref(),
                status.and_then(|status| status.node_name.as_deref()),
                status.and_then(|status| status.provider_id.as_deref()),
            ];
            by_key.extend(keys.into_iter().flatten().map(|key| (key, claim.as_ref())));
        }
        Self { by_key }
    }

    /// The claim that bought `node`: the node says so by owner or by label, or the claim by name or provider id.
    /// A node shows up before its claim names it, and must not count as somebody else's in between.
    #[must_use]
    pub fn of(&self, node: &Node) -> Option<&'a NodeClaim> {
        let owner = node
            .metadata
            .owner_references
            .iter()
            .flatten()
            .find(|owner| owner.kind == "NodeClaim")
            .map(|owner| owner.name.as_str());
        let labelled = node
            .metadata
            .labels
            .as_ref()
            .and_then(|l| l.get(names::LABEL_NODECLAIM));
        let provider = node
            .spec
            .as_ref()
            .and_then(|spec| spec.provider_id.as_deref());
        [
            owner,
            labelled.map(String::as_str),
            node.metadata.name.as_deref(),
            provider,
        ]
        .into_iter()
        .flatten()
        .find_map(|key| self.by_key.get(key).copied())
    }
}

/// Whether the demand already has as many fresh, idle nodes of its own as it has members. If it still waits, they do
/// not fit it for a reason that the price list does not know, and more of them would not either.
pub(crate) fn bought_in_vain(demand: &Demand, objects: &Objects, memory: &Memory) -> bool {
    let fresh = objects.claims.iter().filter(|claim| {
        let annotations = claim.metadata.annotations.as_ref();
        let buyer = annotations.and_then(|map| map.get(names::ANNOTATION_BUYER_UID));
        let name = claim.metadata.name.as_deref().unwrap_or_default();
        buyer == Some(&demand.uid)
            && memory.idle_since.contains_key(name)
            && kaito_api::conditions::is_true(claim.conditions(), kaito_api::nodeclaim::INITIALIZED)
    });
    fresh.count() >= demand.members.len()
}

/// Ordinals that existing claims hold, by buyer.
pub(crate) fn ordinals(claims: &[Arc<NodeClaim>]) -> BTreeMap<String, Vec<u32>> {
    let mut taken: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    for claim in claims {
        let Some(annotations) = claim.metadata.annotations.as_ref() else {
            continue;
        };
        let uid = annotations.get(names::ANNOTATION_BUYER_UID);
        let ordinal = annotations.get(names::ANNOTATION_BUYER_ORDINAL);
        if let (Some(uid), Some(Ok(ordinal))) = (uid, ordinal.map(|text| text.parse())) {
            taken.entry(uid.clone()).or_default().push(ordinal);
        }
    }
    for list in taken.values_mut() {
        list.sort_unstable();
    }
    taken
}
