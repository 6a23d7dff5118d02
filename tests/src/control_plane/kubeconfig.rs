//! Kubeconfig files, written as JSON, which is YAML too.

use std::path::Path;

use serde_json::{Value, json};

use super::certificates::Pair;

/// How a client proves who it is.
#[derive(Debug)]
pub(super) enum Identity<'a> {
    /// A client certificate, by path.
    Certificate(&'a Pair),
    /// A ServiceAccount's token.
    Token(&'a str),
    /// It does not.
    Nobody,
}

/// A kubeconfig with one cluster, one user and one context in namespace `namespace`.
pub(super) fn render(
    server: &str,
    authority: &Path,
    identity: &Identity<'_>,
    namespace: &str,
) -> String {
    let user = match identity {
        Identity::Certificate(pair) => json!({
            "client-certificate": pair.certificate,
            "client-key": pair.key,
        }),
        Identity::Token(token) => json!({ "token": token }),
        Identity::Nobody => json!({}),
    };
    let document: Value = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": "test",
            "cluster": { "server": server, "certificate-authority": authority },
        }],
        "users": [{ "name": "user", "user": user }],
        "contexts": [{
            "name": "test",
            "context": { "cluster": "test", "user": "user", "namespace": namespace },
        }],
        "current-context": "test",
    });
    document.to_string()
}
