//! Brings children to what they should be. It decides nothing about their content.
//!
//! Order and reason: Services first, so that a multi-node workload finds its peers' names when it starts; the
//! workload last. A child whose content hash is as wanted is not sent.

use std::fmt::Debug;

use futures::future::try_join_all;
use k8s_openapi::NamespaceResourceScope;
use kaito_api::{Workspace, names};
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::build::{Children, Workload, content_hash};
use crate::shared::Shared;
use crate::store::{Key, Store, key};
use crate::writer::Error;

/// Applies `children` and removes workloads of another kind. Returns whether it has to wait for an old workload to
/// go before the new one can come.
///
/// # Errors
/// The first write that failed; everything can be repeated.
pub async fn apply(
    shared: &Shared,
    workspace: &Workspace,
    children: Children,
) -> Result<bool, Error> {
    let Children { services, workload } = children;
    let services = services
        .iter()
        .map(|service| apply_one(shared, &shared.stores.services, service));
    try_join_all(services).await?;
    let own = key(workspace);
    match workload {
        Workload::Deployment(wanted) => {
            remove(shared, &shared.stores.stateful_sets, &own).await?;
            apply_one(shared, &shared.stores.deployments, wanted.as_ref()).await?;
            Ok(false)
        }
        Workload::StatefulSet(wanted) => {
            remove(shared, &shared.stores.deployments, &own).await?;
            apply_one(shared, &shared.stores.stateful_sets, wanted.as_ref()).await?;
            Ok(false)
        }
        Workload::Job(wanted) => apply_job(shared, &own, wanted.as_ref()).await,
    }
}

async fn apply_one<K>(shared: &Shared, store: &Store<K>, wanted: &K) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Serialize
        + DeserializeOwned
        + Clone
        + Debug,
{
    let key = key(wanted);
    let seen = store.get(&key);
    let as_wanted = seen.is_some_and(|seen| content_hash(seen.as_ref()) == content_hash(wanted));
    if as_wanted || shared.was_applied(&key, wanted) {
        return Ok(());
    }
    let api = shared.writer.namespaced::<K>(&key);
    shared.writer.apply(&api, names::MANAGER, wanted).await?;
    shared.applied(&key, wanted);
    Ok(())
}

/// A Job's pods cannot be changed: a new version replaces the old Job once that is gone. A finished Job stays.
async fn apply_job(
    shared: &Shared,
    own: &Key,
    wanted: &k8s_openapi::api::batch::v1::Job,
) -> Result<bool, Error> {
    let Some(seen) = shared.stores.jobs.get(own) else {
        apply_one(shared, &shared.stores.jobs, wanted).await?;
        return Ok(false);
    };
    if content_hash(seen.as_ref()) == content_hash(wanted) {
        return Ok(false);
    }
    remove(shared, &shared.stores.jobs, own).await?;
    Ok(true)
}

/// Deletes the workload of this kind if there is one and it is not going already.
///
/// # Errors
/// The write's.
pub async fn remove<K>(shared: &Shared, store: &Store<K>, key: &Key) -> Result<(), Error>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + DeserializeOwned
        + Clone
        + Debug,
{
    let Some(seen) = store.get(key) else {
        return Ok(());
    };
    if seen.meta().deletion_timestamp.is_some() {
        return Ok(());
    }
    let api = shared.writer.namespaced::<K>(key);
    shared
        .writer
        .delete(&api, &key.1, seen.uid().as_deref())
        .await
}
