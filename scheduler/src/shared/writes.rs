//! Memory of writes that the stores do not show yet, so that nothing is sent twice. It is lost with the process, which
//! costs a repeated write and nothing else.

use std::sync::PoisonError;
use std::time::Duration;

use kaito_api::workspace::WorkspaceStatus;
use kaito_api::{Workspace, names};
use kube::{Resource, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use super::Shared;
use crate::store::{Key, key};
use crate::workspace::build::content_hash;
use crate::writer::Error;

/// How long a write is trusted over a store that does not show it.
const TRUST_WRITES: Duration = Duration::from_secs(30);

/// The status that was written last.
#[derive(Clone, Debug)]
pub(super) struct WrittenStatus {
    pub(super) uid: Option<String>,
    pub(super) status: WorkspaceStatus,
}

impl Shared {
    /// Whether exactly this content was applied a moment ago, though the store does not show it.
    #[must_use]
    pub fn was_applied<K: Resource<DynamicType = ()>>(&self, key: &Key, wanted: &K) -> bool {
        let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        applied
            .get(&(K::kind(&()).into_owned(), key.clone()))
            .is_some_and(|(hash, at)| {
                at.elapsed() < TRUST_WRITES && content_hash(wanted) == Some(hash.as_str())
            })
    }

    /// Remembers what was applied.
    pub fn applied<K: Resource<DynamicType = ()>>(&self, key: &Key, wanted: &K) {
        let hash = content_hash(wanted).unwrap_or_default().to_owned();
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        applied.insert(
            (K::kind(&()).into_owned(), key.clone()),
            (hash, Instant::now()),
        );
    }

    /// Forgets what was applied to an object that the store now shows, or shows no more.
    pub fn shown<K: Resource<DynamicType = ()>>(&self, key: &Key) {
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        applied.remove(&(K::kind(&()).into_owned(), key.clone()));
    }

    /// Writes the status unless the server or our last write has the same.
    ///
    /// # Errors
    /// The write's.
    pub async fn write_status(
        &self,
        workspace: &Workspace,
        wanted: WorkspaceStatus,
    ) -> Result<(), Error> {
        let own = key(workspace);
        let uid = workspace.uid();
        let last = {
            let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
            written
                .get(&own)
                .filter(|last| last.uid == uid)
                .map(|last| last.status.clone())
        };
        let current = last
            .or_else(|| workspace.status.clone())
            .unwrap_or_default();
        if current == wanted {
            return Ok(());
        }
        let object = json!({
            "apiVersion": Workspace::api_version(&()),
            "kind": Workspace::kind(&()),
            "metadata": {"name": own.1, "namespace": own.0, "uid": uid},
            "status": wanted,
        });
        let api = self.writer.namespaced::<Workspace>(&own);
        self.writer
            .apply_status(&api, names::STATUS_MANAGER, &own.1, &object)
            .await?;
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.insert(
            own,
            WrittenStatus {
                uid,
                status: wanted,
            },
        );
        Ok(())
    }

    /// The status that the server has or will show: our last write, else what the store shows.
    #[must_use]
    pub fn current_status(&self, workspace: &Workspace) -> WorkspaceStatus {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let last = written
            .get(&key(workspace))
            .filter(|last| last.uid == workspace.uid());
        last.map(|last| last.status.clone())
            .or_else(|| workspace.status.clone())
            .unwrap_or_default()
    }
}
