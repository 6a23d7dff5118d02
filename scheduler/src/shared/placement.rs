//! Sizes in use and what the placement loop last said: the two ways between the driver and the loop. Writes nothing.

use std::sync::{Arc, PoisonError};

use kaito_api::Workspace;
use kaito_placement::plan::Blocker;
use kaito_snapshot::pod;
use kaito_snapshot::sizing::Sizing;
use kube::ResourceExt;

use super::Shared;
use crate::store::{Key, key};

/// What the placement loop last said of a Workspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All pods have nodes.
    Placed {
        /// Why those.
        reason: String,
    },
    /// They wait.
    Waiting {
        /// What for.
        blocker: Blocker,
        /// In words.
        message: String,
    },
}

/// A size, with what it was made from.
#[derive(Clone, Debug)]
pub(super) struct Size {
    workspace: Arc<Workspace>,
    sizing: Arc<Sizing>,
    inputs: String,
}

impl Shared {
    /// Records the size of a Workspace and wakes the placement loop if it is new.
    pub fn sized(&self, key: &Key, workspace: &Workspace, sizing: Arc<Sizing>, inputs: String) {
        let mut sizes = self.sizes.write().unwrap_or_else(PoisonError::into_inner);
        let same = sizes.get(key).is_some_and(|known| {
            known.inputs == inputs
                && known.workspace.uid() == workspace.uid()
                && *known.sizing == *sizing
        });
        if !same {
            let workspace = Arc::new(workspace.clone());
            sizes.insert(
                key.clone(),
                Size {
                    workspace,
                    sizing,
                    inputs,
                },
            );
            drop(sizes);
            self.placement.notify_one();
        }
    }

    /// Takes a Workspace out of placement.
    pub fn unsize(&self, key: &Key) {
        let known = self
            .sizes
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
        self.verdicts
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(key);
        if known.is_some() {
            self.placement.notify_one();
        }
    }

    /// The size in use, if it was made from the same inputs and pods run with it.
    #[must_use]
    pub fn kept_size(&self, workspace: &Workspace, inputs: &str) -> Option<Arc<Sizing>> {
        let own = key(workspace);
        let known = self
            .sizes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&own)
            .cloned()?;
        let same = known.inputs == inputs && known.workspace.uid() == workspace.uid();
        let placed = || {
            self.pods_of(&own)
                .iter()
                .any(|pod| matches!(pod::stand(pod), pod::Stand::On(_)))
        };
        (same && placed()).then_some(known.sizing)
    }

    /// Workspaces with their sizes, for a snapshot.
    #[must_use]
    pub fn sized_workspaces(&self) -> Vec<(Arc<Workspace>, Arc<Sizing>)> {
        let sizes = self.sizes.read().unwrap_or_else(PoisonError::into_inner);
        sizes
            .iter()
            .map(|(key, size)| {
                let current = self.stores.workspaces.get(key);
                (
                    current.unwrap_or_else(|| Arc::clone(&size.workspace)),
                    Arc::clone(&size.sizing),
                )
            })
            .collect()
    }

    /// The last verdict on a Workspace.
    #[must_use]
    pub fn verdict(&self, key: &Key) -> Option<Verdict> {
        self.verdicts
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(key)
            .cloned()
    }

    /// Records a verdict; a new one brings the Workspace back into the queue.
    pub fn judge(&self, key: Key, verdict: Verdict) {
        let mut verdicts = self
            .verdicts
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if verdicts.get(&key) != Some(&verdict) {
            verdicts.insert(key.clone(), verdict);
            drop(verdicts);
            self.queue.add(key);
        }
    }
}
