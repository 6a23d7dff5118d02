//! Claims: what happened to them between two rounds of the placement loop, and whom they serve. Writes nothing.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError};

use kaito_api::{NodeClaim, names};
use kaito_snapshot::cluster::ClaimIndex;
use kaito_snapshot::pod;
use kube::ResourceExt;

use super::Shared;
use crate::store::Key;

/// What happened to claims since the placement loop last looked. A refused claim can come and go between two rounds,
/// so the stores alone do not tell.
#[derive(Debug, Default)]
pub struct ClaimJournal {
    /// Claims that the cloud has newly refused.
    pub refused: Vec<Arc<NodeClaim>>,
    /// Names of all claims that changed.
    pub changed: HashSet<String>,
}

impl Shared {
    /// Notes a change of a claim for the placement loop.
    pub fn note_claim(&self, old: Option<&NodeClaim>, new: Option<&Arc<NodeClaim>>) {
        let refused = |claim: &NodeClaim| kaito_snapshot::node::refusal(claim).is_some();
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let name = new
            .map(|claim| claim.name_any())
            .or_else(|| old.map(ResourceExt::name_any));
        journal.changed.extend(name);
        if let Some(new) = new.filter(|new| refused(new) && !old.is_some_and(refused)) {
            journal.refused.push(Arc::clone(new));
        }
    }

    /// What happened to claims since the last call.
    #[must_use]
    pub fn take_journal(&self) -> ClaimJournal {
        std::mem::take(&mut *self.journal.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Names of claims bought for the Workspace with `uid` whose nodes nobody else that we placed uses.
    #[must_use]
    pub fn claims_only_for(&self, own: &Key, uid: &str) -> Vec<String> {
        let claims = self.stores.claims.all();
        let index = ClaimIndex::new(&claims);
        let mut shared_claims: Vec<String> = Vec::new();
        let nodes = self.stores.nodes.all();
        for found in self.stores.pods.all() {
            if !pod::is_ours(&found) {
                continue;
            }
            let foreign = (
                found.metadata.namespace.as_deref(),
                pod::workspace_of(&found),
            ) != (Some(own.0.as_str()), Some(own.1.as_str()));
            if let (true, pod::Stand::On(name)) = (foreign, pod::stand(&found)) {
                let node = nodes.iter().find(|node| node.name_any() == name);
                shared_claims.extend(
                    node.and_then(|node| index.of(node))
                        .and_then(|claim| claim.metadata.name.clone()),
                );
            }
        }
        let mut names: Vec<String> = claims
            .iter()
            .filter(|claim| {
                claim
                    .annotations()
                    .get(names::ANNOTATION_BUYER_UID)
                    .is_some_and(|buyer| buyer == uid)
            })
            .map(|claim| claim.name_any())
            .filter(|name| !shared_claims.contains(name))
            .collect();
        names.sort();
        names
    }
}
