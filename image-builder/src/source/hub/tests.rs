//! Against an emulated hub.

use std::collections::BTreeMap;

use super::emulated::{COMMIT, Hub};
use super::{HubOptions, HubReference, HubSource};
use crate::digest::Digest;
use crate::source::Source;
use crate::source::remote::tests::{Fault, Served, content, pattern};
use crate::source::remote::{ClientOptions, client};

impl Hub {
    fn source(&self) -> HubSource {
        let options = HubOptions {
            endpoint: self.hub.url("").parse().unwrap(),
            token: Some("hf_secret".into()),
        };
        let reference: HubReference = "hf://org/name@refs/pr/1".parse().unwrap();
        HubSource::new(
            client(&ClientOptions::default()).unwrap(),
            reference,
            options,
        )
    }
}

#[tokio::test]
async fn a_model_is_listed_at_its_commit_with_the_digests_that_the_hub_knows() {
    let hub = Hub::start().await;
    let tree = hub.source().list().await.unwrap();
    assert_eq!(tree.revision.as_deref(), Some(COMMIT));
    assert_eq!(tree.url.unwrap(), hub.hub.url("/org/name"));
    let listed: Vec<_> = tree
        .files
        .iter()
        .map(|file| (file.path.as_str(), file.size, file.known_digest))
        .collect();
    let weights = pattern(9 << 20);
    assert_eq!(
        listed,
        [
            ("config.json", 2, None),
            (
                "sub/model one.safetensors",
                9 << 20,
                Some(Digest::of(&weights))
            ),
        ]
    );
    assert!(
        hub.network.seen().is_empty(),
        "listing must download nothing"
    );
}

#[tokio::test]
async fn the_token_goes_to_the_hub_and_nowhere_else() {
    let hub = Hub::start().await;
    let source = hub.source();
    source.list().await.unwrap();
    let weights = content(&source, "sub/model one.safetensors", 0..9 << 20)
        .await
        .unwrap();
    assert_eq!(weights, pattern(9 << 20));
    assert_eq!(content(&source, "config.json", 0..2).await.unwrap(), b"{}");
    assert!(
        hub.hub
            .seen()
            .iter()
            .all(|seen| seen.authorization.as_deref() == Some("Bearer hf_secret"))
    );
    assert!(hub.network.seen().len() >= 4);
    assert!(
        hub.network
            .seen()
            .iter()
            .all(|seen| seen.authorization.is_none())
    );
    // One redirect serves all parts.
    let resolved = hub
        .hub
        .seen()
        .iter()
        .filter(|seen| seen.path.contains("model%20one"))
        .count();
    assert_eq!(resolved, 1);
}

#[tokio::test]
async fn an_expired_signed_address_is_asked_for_again() {
    let hub = Hub::start().await;
    let source = hub.source();
    source.list().await.unwrap();
    content(&source, "sub/model one.safetensors", 0..10)
        .await
        .unwrap();
    hub.network.fail_next([Fault::Status(403)]);
    let again = content(&source, "sub/model one.safetensors", 10..20)
        .await
        .unwrap();
    assert_eq!(again, &pattern(20)[10..]);
}

#[tokio::test]
async fn a_gated_model_is_explained() {
    let hub = Hub::start().await;
    let source = hub.source();
    source.list().await.unwrap();
    hub.hub.serve(
        &format!("/org/name/resolve/{COMMIT}/config.json"),
        Served::Refusal(
            403,
            vec![("x-error-code", "GatedRepo"), ("x-error-message", "no")],
        ),
    );
    let error = content(&source, "config.json", 0..2)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("gated") && error.contains("accept its terms"),
        "{error}"
    );
    assert!(!error.contains("hf_secret"), "{error}");
}

#[tokio::test]
async fn names_that_lead_out_of_the_tree_are_refused() {
    let hub = Hub::start().await;
    let first = format!("/api/models/org/name/tree/{COMMIT}?recursive=true");
    for path in ["../x", "/etc/passwd", "a//b", "a\\b"] {
        let entries = serde_json::json!([{"type": "file", "path": path, "size": 1, "oid": "aa"}]);
        hub.hub
            .serve(&first, Served::Json(entries.to_string(), None));
        assert!(hub.source().list().await.is_err(), "{path}");
    }
}

#[test]
fn references_name_a_model_and_a_revision() {
    let parsed: HubReference = "hf://org/name".parse().unwrap();
    assert_eq!(
        (parsed.repository.as_str(), parsed.revision.as_str()),
        ("org/name", "main")
    );
    for bad in ["hf://", "hf://a/b/c", "hf://a/b@", "hf://../b", "hf://a b"] {
        assert!(bad.parse::<HubReference>().is_err(), "{bad}");
    }
}

#[test]
fn tokens_come_from_the_places_that_the_hubs_clients_use() {
    use secrecy::ExposeSecret as _;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "from-file\n").unwrap();
    let home = folder.path().display().to_string();
    let token = |set: &[(&str, &str)], path: Option<&std::path::Path>| {
        let set: BTreeMap<String, String> = set
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let options = HubOptions::from_environment(&|name| set.get(name).cloned(), path).unwrap();
        options.token.map(|token| token.expose_secret().to_owned())
    };
    assert_eq!(token(&[], None), None);
    assert_eq!(
        token(&[("HF_HOME", &home)], None).as_deref(),
        Some("from-file")
    );
    assert_eq!(
        token(&[("HF_HOME", &home), ("HF_TOKEN", "t")], None).as_deref(),
        Some("t")
    );
    assert_eq!(
        token(&[("HF_TOKEN", "t")], Some(&file)).as_deref(),
        Some("from-file")
    );
}
