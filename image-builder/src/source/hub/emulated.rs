//! An emulated hub: a server with the hub's paths, headers and redirects, and one model.

use crate::digest::Digest;
use crate::source::remote::tests::{Served, Server, pattern};

/// The commit of the model.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A hub with one model, whose weights lie on another server.
pub(crate) struct Hub {
    /// The hub.
    pub(crate) hub: Server,
    /// Where the weights are.
    pub(crate) network: Server,
}

impl Hub {
    /// The content of the weights.
    pub(crate) fn weights() -> bytes::Bytes {
        pattern(9 << 20)
    }

    pub(crate) async fn start() -> Self {
        let (hub, network) = (Server::start().await, Server::start().await);
        let weights = Self::weights();
        let page = |entries: serde_json::Value, next| Served::Json(entries.to_string(), next);
        hub.serve(
            "/api/models/org/name/revision/refs%2Fpr%2F1",
            page(serde_json::json!({"sha": COMMIT}), None),
        );
        let first = format!("/api/models/org/name/tree/{COMMIT}?recursive=true");
        let second = format!("/api/models/org/name/tree/{COMMIT}?recursive=true&cursor=2");
        hub.serve(
            &first,
            page(
                serde_json::json!([
                    {"type": "directory", "path": "sub", "size": 0, "oid": "aa"},
                    {"type": "file", "path": "sub/model one.safetensors", "size": 134, "oid": "bb",
                     "lfs": {"oid": Digest::of(&weights).hex(), "size": weights.len(), "pointerSize": 134}},
                ]),
                Some(hub.url(&second)),
            ),
        );
        hub.serve(
            &second,
            page(
                serde_json::json!([{"type": "file", "path": "config.json", "size": 2, "oid": "cc"}]),
                None,
            ),
        );
        let file = |bytes: bytes::Bytes| Served::File {
            bytes,
            tag: "\"t\"".to_owned(),
            ranges: true,
        };
        hub.serve(
            &format!("/org/name/resolve/{COMMIT}/config.json"),
            file("{}".into()),
        );
        hub.serve(
            &format!("/org/name/resolve/{COMMIT}/sub/model%20one.safetensors"),
            Served::Redirect(network.url("/signed?until=1")),
        );
        network.serve("/signed?until=1", file(weights));
        Self { hub, network }
    }
}
