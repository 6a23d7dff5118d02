//! Credentials, tokens, redirects, referrers and tags, against a registry in memory. Token services and Azure's exchange
//! are *emulated*.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests fail by panicking"
)]

mod engine;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use engine::{
    Ear, bytes, client_with, faulty, model, push_directory, remembering, repository, repository_of,
    shown, sink,
};
use futures::future::join_all;
use image_builder::digest::Digest;
use image_builder::oci::{Annotations, Descriptor, Document, Manifest, media_type};
use image_builder::pull::{Origin, PullOptions, pull};
use image_builder::push::PushOptions;
use image_builder::registry::{
    Attached, AzureOptions, Class, CommandLine, Credential, CredentialOptions, DockerFiles,
    Repository,
};
use registry_sink::{Access, Azure, Fault, Options as SinkOptions, Referrers, Seen, Sink};

const LARGE: usize = 5 << 20;

fn large() -> tempfile::TempDir {
    model(&[("a.safetensors", bytes(1, LARGE)), ("b.txt", b"b".to_vec())])
}

async fn guarded(access: Access) -> Sink {
    Sink::start(SinkOptions {
        access: Some(access),
        ..SinkOptions::default()
    })
    .await
    .unwrap()
}

fn with_password(life: Duration) -> Access {
    Access {
        user: Some(("me".to_owned(), "hunter2".to_owned())),
        life,
        uses: None,
        azure: None,
    }
}

fn password(password: &str) -> CredentialOptions {
    let credential = Credential::Password {
        username: "me".to_owned(),
        password: password.to_owned().into(),
    };
    CredentialOptions {
        given: vec![(None, credential)],
        ..CredentialOptions::default()
    }
}

fn config(text: &str) -> (tempfile::TempDir, CredentialOptions) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.json");
    std::fs::write(&path, text).unwrap();
    let files = DockerFiles {
        paths: vec![path],
        directories: Vec::new(),
    };
    (
        directory,
        CredentialOptions {
            files,
            ..CredentialOptions::default()
        },
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_exchanged_for_tokens_and_a_wrong_one_is_not_shown() {
    let directory = large();
    let sink = guarded(with_password(Duration::from_secs(60))).await;
    let to = repository_of(&client_with(password("hunter2")), &sink, "m");
    push_directory(directory.path(), &to, &PushOptions::default())
        .await
        .unwrap();

    let to = repository_of(&client_with(password("hunter3")), &sink, "m");
    let error = push_directory(directory.path(), &to, &PushOptions::default())
        .await
        .unwrap_err();
    let text = format!("{} {error:?}", shown(&error));
    assert!(
        text.contains("401") && text.contains("docker login"),
        "{text}"
    );
    assert!(!text.contains("hunter3"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_end_during_a_push_are_renewed() {
    let directory = model(&[
        ("a.safetensors", bytes(1, LARGE)),
        ("b.safetensors", bytes(2, LARGE)),
        ("c.safetensors", bytes(3, LARGE)),
    ]);
    // The service says a minute, but a token is refused when it was used four times: also in the middle of a blob.
    let access = Access {
        uses: Some(4),
        ..with_password(Duration::from_secs(60))
    };
    let sink = guarded(access).await;
    let to = repository_of(&client_with(password("hunter2")), &sink, "m");
    let options = PushOptions {
        streams: 1,
        ..PushOptions::default()
    };
    push_directory(directory.path(), &to, &options)
        .await
        .unwrap();
    assert!(sink.manifest("m", "v1").is_some());
    let refused = sink
        .records()
        .iter()
        .filter(|record| record.status == 401)
        .count();
    assert!(
        refused > 1,
        "the first request is refused, and those with tokens that ended"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_configs_credential_helpers_and_kubernetes_secrets_are_used() {
    let directory = large();
    let sink = guarded(with_password(Duration::from_secs(60))).await;
    // me:hunter2
    let auth = format!(
        r#"{{"auths":{{"{}":{{"auth":"bWU6aHVudGVyMg=="}}}}}}"#,
        sink.host()
    );
    let (_guard, credentials) = config(&auth);
    let to = repository_of(&client_with(credentials), &sink, "m");
    push_directory(directory.path(), &to, &PushOptions::default())
        .await
        .unwrap();

    let secret = tempfile::tempdir().unwrap();
    std::fs::create_dir(secret.path().join("pull")).unwrap();
    std::fs::write(secret.path().join("pull/.dockerconfigjson"), &auth).unwrap();
    let files = DockerFiles {
        paths: Vec::new(),
        directories: vec![secret.path().to_owned()],
    };
    let credentials = CredentialOptions {
        files,
        ..CredentialOptions::default()
    };
    let to = repository_of(&client_with(credentials), &sink, "m");
    assert_eq!(to.tags().await.unwrap(), ["v1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_helper_that_is_missing_is_named() {
    let sink = guarded(with_password(Duration::from_secs(60))).await;
    let (_guard, credentials) = config(r#"{"credsStore":"no-such-store"}"#);
    let to = repository_of(&client_with(credentials), &sink, "m");
    let error = to.tags().await.unwrap_err();
    assert!(
        shown(&error).contains("docker-credential-no-such-store"),
        "{}",
        shown(&error)
    );
    assert_eq!(error.class(), Class::Unauthorized);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entra_token_is_exchanged_at_an_emulated_azure_registry() {
    let directory = large();
    let access = Access {
        user: None,
        life: Duration::from_secs(60),
        uses: None,
        azure: Some(Azure {
            entra_token: "entra".to_owned(),
        }),
    };
    let sink = guarded(access).await;
    // The metadata service of the machine, emulated: any GET is answered with the token.
    let metadata = faulty(|_| None).await;
    metadata.add_blob("unused", "unused", Bytes::new());
    let entra = entra().await;
    let azure = AzureOptions {
        federated_token_file: None,
        client_id: None,
        tenant_id: None,
        authority: "http://127.0.0.1:9".to_owned(),
        metadata: entra,
        command_line: CommandLine::Leave,
        hosts: vec![sink.host()],
    };
    let credentials = CredentialOptions {
        azure: Some(azure),
        ..CredentialOptions::default()
    };
    let to = repository_of(&client_with(credentials), &sink, "m");
    push_directory(directory.path(), &to, &PushOptions::default())
        .await
        .unwrap();
    let paths: Vec<String> = sink
        .records()
        .iter()
        .map(|record| record.path.clone())
        .collect();
    assert_eq!(
        paths
            .iter()
            .filter(|path| *path == "/oauth2/exchange")
            .count(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_identity_sends_its_federated_token_and_its_absence_is_explained() {
    let access = Access {
        user: None,
        life: Duration::from_secs(60),
        uses: None,
        azure: Some(Azure {
            entra_token: "entra".to_owned(),
        }),
    };
    let sink = guarded(access).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "federated\n").unwrap();
    let azure = AzureOptions {
        federated_token_file: Some(file.path().to_owned()),
        client_id: Some("client".to_owned()),
        tenant_id: Some("tenant".to_owned()),
        authority: entra().await,
        metadata: "http://127.0.0.1:9".to_owned(),
        command_line: CommandLine::Leave,
        hosts: vec![sink.host()],
    };
    let credentials = CredentialOptions {
        azure: Some(azure.clone()),
        ..CredentialOptions::default()
    };
    let to = repository_of(&client_with(credentials), &sink, "m");
    assert!(to.tags().await.unwrap().is_empty());

    let azure = AzureOptions {
        federated_token_file: Some(PathBuf::from("/no/such/file")),
        ..azure
    };
    let credentials = CredentialOptions {
        azure: Some(azure),
        ..CredentialOptions::default()
    };
    let to = repository_of(&client_with(credentials), &sink, "m");
    let error = shown(&to.tags().await.unwrap_err());
    assert!(
        error.contains("/no/such/file") && error.contains("az login"),
        "{error}"
    );
}

/// Entra and the metadata service, emulated: every request is answered with the token.
async fn entra() -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 8192];
            let read = stream.read(&mut request).await.unwrap_or_default();
            let text = String::from_utf8_lossy(&request[..read]).into_owned();
            let good =
                text.contains("metadata: true") || text.contains("/tenant/oauth2/v2.0/token");
            let body = if good {
                r#"{"access_token":"entra"}"#
            } else {
                "{}"
            };
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn mounting_asks_for_a_token_that_covers_both_repositories() {
    let (directory, cache) = (large(), tempfile::tempdir().unwrap());
    let sink = guarded(with_password(Duration::from_secs(60))).await;
    let client = client_with(password("hunter2"));
    let options = remembering(cache.path());
    push_directory(
        directory.path(),
        &repository_of(&client, &sink, "one"),
        &options,
    )
    .await
    .unwrap();
    push_directory(
        directory.path(),
        &repository_of(&client, &sink, "two"),
        &options,
    )
    .await
    .unwrap();
    let asked = sink.records().iter().any(|record| {
        record.path.starts_with("/token")
            && record.path.contains("scope=repository%3Atwo%3Apull%2Cpush")
            && record.path.contains("scope=repository%3Aone%3Apull")
    });
    assert!(asked, "{:?}", sink.records());
}

#[tokio::test(flavor = "multi_thread")]
async fn authorization_does_not_follow_a_redirect_to_another_host_and_ranges_do() {
    let directory = large();
    let storage = sink().await;
    let digest = Digest::of(&bytes(1, LARGE));
    storage.add_blob("any", &digest.to_string(), bytes(1, LARGE));
    let to_storage = format!("http://{}/storage/", storage.host());
    let wanted = digest.to_string();
    let options = SinkOptions {
        access: Some(with_password(Duration::from_secs(60))),
        faults: Some(Arc::new(move |seen: &Seen| {
            (seen.method == "GET" && seen.path.ends_with(&wanted))
                .then(|| Fault::Redirect(to_storage.clone()))
        })),
        ..SinkOptions::default()
    };
    let sink = Sink::start(options).await.unwrap();
    let from = repository_of(&client_with(password("hunter2")), &sink, "m");
    push_directory(directory.path(), &from, &PushOptions::default())
        .await
        .unwrap();
    let target = tempfile::tempdir().unwrap();
    let options = PullOptions {
        range: 1 << 20,
        streams: 8,
        include: vec!["*.safetensors".to_owned()],
        ..PullOptions::default()
    };
    let origin = Origin::Repository(from);
    pull(
        &origin,
        "v1",
        target.path(),
        &options,
        Arc::new(Ear::default()),
    )
    .await
    .unwrap();
    assert_eq!(
        std::fs::read(target.path().join("a.safetensors")).unwrap(),
        bytes(1, LARGE)
    );
    let records = storage.records();
    assert_eq!(records.len(), 5);
    assert!(
        records
            .iter()
            .all(|record| !record.authorized && record.range.is_some()),
        "{records:?}"
    );
    let asked = sink.records();
    assert!(
        asked
            .iter()
            .any(|record| record.status == 307 && record.authorized)
    );
}

fn artifact(to: &Sink, repository: &str, subject: &Descriptor, number: usize) -> Document {
    let empty = Bytes::from_static(b"{}");
    let config = Document::new(media_type::EMPTY, empty.clone());
    to.add_blob(repository, &config.digest.to_string(), empty);
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.to_owned()),
        artifact_type: Some("application/vnd.example.note".to_owned()),
        layers: vec![config.descriptor()],
        config: config.descriptor(),
        subject: Some(subject.clone()),
        annotations: Some(Annotations::from([(
            "number".to_owned(),
            number.to_string(),
        )])),
    };
    Document::from_value(media_type::MANIFEST, &manifest).unwrap()
}

async fn attach_many(sink: &Sink, how: Attached) {
    let directory = large();
    let to = repository(sink, "m");
    let subject = push_directory(directory.path(), &to, &PushOptions::default())
        .await
        .unwrap()
        .top;
    let documents: Vec<Document> = (0..8)
        .map(|number| artifact(sink, "m", &subject, number))
        .collect();
    // Each with a client of its own: other processes, as far as the registry can tell.
    let repositories: Vec<Repository> = documents.iter().map(|_| repository(sink, "m")).collect();
    let attached = join_all(
        repositories
            .iter()
            .zip(&documents)
            .map(|(to, document)| to.attach(document)),
    )
    .await;
    for one in attached {
        assert_eq!(one.unwrap(), how);
    }
    let mut found: Vec<Digest> = to
        .referrers(subject.digest, None)
        .await
        .unwrap()
        .iter()
        .map(|one| one.digest)
        .collect();
    let mut expected: Vec<Digest> = documents.iter().map(|document| document.digest).collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
    let typed = to
        .referrers(subject.digest, Some("application/vnd.example.note"))
        .await
        .unwrap();
    assert_eq!(typed.len(), 8);
    assert!(
        typed
            .iter()
            .all(|one| one.annotations.as_ref().unwrap().contains_key("number"))
    );
    assert!(
        to.referrers(subject.digest, Some("application/vnd.other"))
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_attachments_are_all_listed_by_a_registry_that_lists_them() {
    attach_many(&sink().await, Attached::Listed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_attachments_lose_nothing_under_the_fallback_tag() {
    let options = SinkOptions {
        referrers: Referrers::Unknown,
        ..SinkOptions::default()
    };
    attach_many(&Sink::start(options).await.unwrap(), Attached::Tagged).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_are_listed_and_manifests_deleted() {
    let directory = large();
    let sink = sink().await;
    let to = repository(&sink, "m");
    assert!(to.tags().await.unwrap().is_empty());
    let top = push_directory(directory.path(), &to, &PushOptions::default())
        .await
        .unwrap()
        .top;
    assert_eq!(to.tags().await.unwrap(), ["v1"]);
    assert_eq!(
        to.find_manifest("v1").await.unwrap().unwrap().digest,
        top.digest
    );
    to.delete_manifest(top.digest).await.unwrap();
    to.delete_manifest(top.digest).await.unwrap();
    assert!(to.tags().await.unwrap().is_empty());
    assert_eq!(to.find_manifest("v1").await.unwrap(), None);
}
