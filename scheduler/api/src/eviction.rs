//! The request to evict a pod, guarded by the pod's UID.
//!
//! Written out because kube's own `evict` (5.0) sends its delete options as `delete_options`, which the API server does
//! not know and passes over, and with them the guard.

use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{DeleteOptions, ObjectMeta, Preconditions};

/// Name of the subresource of pods that it is sent to.
pub const SUBRESOURCE: &str = "eviction";

/// The request for the pod with this UID: a namesake that came meanwhile stays.
#[must_use]
pub fn eviction(namespace: &str, name: &str, uid: &str) -> Eviction {
    Eviction {
        metadata: ObjectMeta {
            namespace: Some(namespace.to_owned()),
            name: Some(name.to_owned()),
            ..ObjectMeta::default()
        },
        delete_options: Some(DeleteOptions {
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                ..Preconditions::default()
            }),
            ..DeleteOptions::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::eviction;

    #[test]
    fn the_uid_is_where_the_api_server_looks_for_it() {
        let sent = serde_json::to_value(eviction("ns", "p", "u1")).unwrap();
        assert_eq!(sent["deleteOptions"]["preconditions"]["uid"], "u1");
        assert_eq!(sent["apiVersion"], "policy/v1");
        assert_eq!(sent["kind"], "Eviction");
    }
}
