//! The only way to the API server for changes: every write checks the leadership claim first and has a time limit.
//!
//! It decides nothing about what is written.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kaito_api::eviction;
use kube::api::{
    Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions, PropagationPolicy,
};
use kube::core::Status;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use tokio::sync::watch;

use crate::lease::Claim;
use crate::store::Key;

/// Longest that one write may take. After it the outcome is unknown, and everything written can be repeated.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a write did not happen, or may not have.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody else leads now.
    #[error("{action} {kind} {name}: this process does not lead; nothing was sent")]
    NotLeading {
        /// What was being done.
        action: &'static str,
        /// To what kind.
        kind: String,
        /// To which object.
        name: String,
    },
    /// No answer in time.
    #[error("{action} {kind} {name}: no answer within {}s; it is tried again", TIMEOUT.as_secs())]
    Timeout {
        /// What was being done.
        action: &'static str,
        /// To what kind.
        kind: String,
        /// To which object.
        name: String,
    },
    /// The API server refused.
    #[error("{action} {kind} {name}")]
    Api {
        /// What was being done.
        action: &'static str,
        /// To what kind.
        kind: String,
        /// To which object.
        name: String,
        /// Its answer.
        #[source]
        source: Box<kube::Error>,
    },
}

impl Error {
    /// The API server's status, if it answered.
    #[must_use]
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            _ => None,
        }
    }

    /// The object is gone, or a guard in the write did not hold: what it was decided on is old.
    #[must_use]
    pub fn is_stale(&self) -> bool {
        self.status()
            .is_some_and(|s| s.is_not_found() || s.is_conflict() || s.is_invalid())
    }
}

/// What became of a request to evict a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evicted {
    /// It leaves.
    Leaves,
    /// It had gone already.
    Gone,
    /// A disruption budget does not let it go now, in the API server's words.
    NotNow(String),
}

/// Ways to the API server.
#[derive(Clone)]
pub struct Clients {
    /// For everything but evictions.
    pub usual: Client,
    /// For evictions: one that repeats nothing by itself. A budget that does not let a pod go answers as a busy server
    /// does, and the usual client would ask again and again instead of telling us.
    pub evicting: Client,
}

/// Sends changes while the claim is current.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    evicting: Client,
    claim: watch::Receiver<Claim>,
}

impl Writer {
    /// A writer that acts on `claim`.
    #[must_use]
    pub fn new(clients: Clients, claim: watch::Receiver<Claim>) -> Self {
        Self {
            client: clients.usual,
            evicting: clients.evicting,
            claim,
        }
    }

    /// Whether writes would be sent now.
    #[must_use]
    pub fn is_leading(&self) -> bool {
        self.claim.borrow().is_current()
    }

    /// Waits until this process leads.
    pub async fn wait_leading(&self) {
        let mut claim = self.claim.clone();
        drop(claim.wait_for(Claim::is_current).await);
    }

    /// Server-side apply of `object` by field manager `manager`, taking fields from other managers.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn apply<K>(&self, api: &Api<K>, manager: &str, object: &K) -> Result<K, Error>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
    {
        let name = object.meta().name.clone().unwrap_or_default();
        let parameters = PatchParams::apply(manager).force();
        let patch = Patch::Apply(object);
        self.send::<K, _>("applying", &name, api.patch(&name, &parameters, &patch))
            .await
    }

    /// Server-side apply of the status in `object`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn apply_status<K>(
        &self,
        api: &Api<K>,
        manager: &str,
        name: &str,
        object: &serde_json::Value,
    ) -> Result<K, Error>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
    {
        let parameters = PatchParams::apply(manager).force();
        let patch = Patch::Apply(object);
        let request = api.patch_status(name, &parameters, &patch);
        self.send::<K, _>("writing the status of", name, request)
            .await
    }

    /// A JSON patch, which carries its own guards as `test` operations.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn json_patch<K>(
        &self,
        api: &Api<K>,
        action: &'static str,
        name: &str,
        operations: serde_json::Value,
    ) -> Result<K, Error>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
    {
        let parameters = PatchParams::default();
        let patch = match serde_json::from_value(operations) {
            Ok(patch) => Patch::<()>::Json(patch),
            Err(source) => {
                return Err(Error::Api {
                    action,
                    kind: K::kind(&()).into_owned(),
                    name: name.to_owned(),
                    source: Box::new(kube::Error::SerdeError(source)),
                });
            }
        };
        self.send::<K, _>(action, name, api.patch(name, &parameters, &patch))
            .await
    }

    /// Creates `object`; one of the same name that exists already is success, since names are deterministic.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn create<K>(&self, api: &Api<K>, object: &K) -> Result<Option<K>, Error>
    where
        K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
    {
        let name = object.meta().name.clone().unwrap_or_default();
        let parameters = PostParams::default();
        match self
            .send::<K, _>("creating", &name, api.create(&parameters, object))
            .await
        {
            Ok(created) => Ok(Some(created)),
            Err(error) if error.status().is_some_and(Status::is_already_exists) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes the object with this name and UID in the background; one that is gone already is success. A conflict is
    /// not: whether the UID or only the moment was wrong, the object may still be there.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn delete<K>(&self, api: &Api<K>, name: &str, uid: Option<&str>) -> Result<(), Error>
    where
        K: Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug,
    {
        let parameters = DeleteParams {
            propagation_policy: Some(PropagationPolicy::Background),
            preconditions: uid.map(|uid| Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        match self
            .send::<K, _>("deleting", name, api.delete(name, &parameters))
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if error.status().is_some_and(Status::is_not_found) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Asks the API server to evict the pod with this name and UID. May be repeated.
    ///
    /// # Errors
    /// See [`Error`]. That a budget does not allow it is an answer, and no error.
    pub async fn evict(&self, pod: &Key, uid: &str) -> Result<Evicted, Error> {
        let api: Api<Pod> = Api::namespaced(self.evicting.clone(), &pod.0);
        let body = eviction::eviction(&pod.0, &pod.1, uid);
        let parameters = PostParams::default();
        let request =
            api.create_subresource::<_, Status>(eviction::SUBRESOURCE, &pod.1, &parameters, &body);
        match self.send::<Pod, _>("evicting", &pod.1, request).await {
            Ok(answer) if answer.is_failure() => Ok(Evicted::NotNow(answer.message)),
            Ok(_) => Ok(Evicted::Leaves),
            Err(error) => match error.status() {
                Some(status) if status.is_not_found() => Ok(Evicted::Gone),
                Some(status) => not_now(status).map(Evicted::NotNow).ok_or(error),
                None => Err(error),
            },
        }
    }

    /// The namespaced API of a kind.
    #[must_use]
    pub fn namespaced<K>(&self, key: &Key) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), &key.0)
    }

    /// The API of a cluster-scoped kind.
    #[must_use]
    pub fn cluster<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = k8s_openapi::ClusterResourceScope>,
    {
        Api::all(self.client.clone())
    }

    async fn send<K, T>(
        &self,
        action: &'static str,
        name: &str,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Error>
    where
        K: Resource<DynamicType = ()>,
    {
        let kind = || K::kind(&()).into_owned();
        if !self.is_leading() {
            return Err(Error::NotLeading {
                action,
                kind: kind(),
                name: name.to_owned(),
            });
        }
        match tokio::time::timeout(TIMEOUT, request).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(source)) => Err(Error::Api {
                action,
                kind: kind(),
                name: name.to_owned(),
                source: Box::new(source),
            }),
            Err(_) => Err(Error::Timeout {
                action,
                kind: kind(),
                name: name.to_owned(),
            }),
        }
    }
}

/// What a disruption budget says against an eviction; a server that is merely busy answers with the same code.
fn not_now(status: &Status) -> Option<String> {
    let causes = status.details.as_ref()?.causes.iter();
    let mut budgets = causes.filter(|cause| cause.reason == "DisruptionBudget");
    let found = budgets.next().filter(|_| status.code == 429)?;
    Some(format!("{}: {}", status.message, found.message))
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use serde_json::json;

    use super::not_now;

    #[test]
    fn a_budgets_no_is_told_from_a_busy_server() {
        let answer = |causes| -> Status {
            serde_json::from_value(json!({
                "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "message": "Cannot evict pod", "reason": "TooManyRequests", "code": 429,
                "details": {"causes": causes},
            }))
            .unwrap()
        };
        let budget = json!([{"reason": "DisruptionBudget", "message": "needs 1 healthy pods"}]);
        let words = not_now(&answer(budget)).unwrap();
        assert_eq!(words, "Cannot evict pod: needs 1 healthy pods");
        assert_eq!(not_now(&answer(json!([]))), None);
    }
}
