//! Models on disk, a registry in memory, and an ear for events: what the tests of push, pull and registry share.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test program uses a part of it"
)]

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use image_builder::cache::Cache;
use image_builder::digest::Digest;
use image_builder::plan::{Contents, LayerForm, Options, Plan, Shape, plan, wanted};
use image_builder::progress::{Event, Progress};
use image_builder::push::{Destination, PushError, PushOptions, Pushed, push};
use image_builder::registry::{
    Client, ClientOptions, CredentialOptions, Reference, Repository, RetryPolicy,
};
use image_builder::source::local::LocalSource;
use image_builder::source::{ByteStream, FileIdentity, Source, SourceError, Tree};
use registry_sink::{Fault, Faults, Options as SinkOptions, Record, Seen, Sink};

/// Bytes that differ from each other for each seed and do not repeat.
pub fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A directory with these files.
pub fn model(files: &[(&str, Vec<u8>)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = directory.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    directory
}

/// Options for an artifact with one raw layer per file.
pub fn raw() -> Options {
    Options {
        shape: Shape::ModelPack(LayerForm::Raw),
        ..Options::default()
    }
}

/// A source that counts what is read of it, and may know digests or lie about them.
pub struct Counting {
    inner: LocalSource,
    pub read: AtomicU64,
    /// Whether files can be told apart and remembered.
    pub identities: bool,
    /// Digests that it claims to know.
    pub known: Mutex<Vec<(String, Digest)>>,
}

impl Counting {
    pub fn new(root: &Path) -> Arc<Self> {
        Arc::new(Self {
            inner: LocalSource::new(root),
            read: AtomicU64::new(0),
            identities: true,
            known: Mutex::default(),
        })
    }

    pub fn knowing(root: &Path, known: &[(&str, Digest)]) -> Arc<Self> {
        Arc::new(Self {
            inner: LocalSource::new(root),
            read: AtomicU64::new(0),
            identities: false,
            known: Mutex::new(
                known
                    .iter()
                    .map(|(path, digest)| ((*path).to_owned(), *digest))
                    .collect(),
            ),
        })
    }

    pub fn read(&self) -> u64 {
        self.read.swap(0, Ordering::Relaxed)
    }
}

impl Source for Counting {
    fn list(&self) -> BoxFuture<'_, Result<Tree, SourceError>> {
        async {
            let mut tree = self.inner.list().await?;
            for file in &mut tree.files {
                let known = self.known.lock().unwrap();
                file.known_digest = known
                    .iter()
                    .find(|(path, _)| *path == file.path)
                    .map(|(_, digest)| *digest);
            }
            Ok(tree)
        }
        .boxed()
    }

    fn read(
        &self,
        path: &str,
        range: Range<u64>,
    ) -> BoxFuture<'_, Result<ByteStream, SourceError>> {
        self.read
            .fetch_add(range.end - range.start, Ordering::Relaxed);
        Source::read(&self.inner, path, range)
    }

    fn identity(&self, path: &str) -> Option<FileIdentity> {
        self.identities.then(|| self.inner.identity(path)).flatten()
    }
}

/// Lists the source and plans.
pub async fn planned(source: &dyn Source, root: &Path, options: &Options) -> Plan {
    let tree = source.list().await.unwrap();
    let mut contents = Contents::default();
    loop {
        let ranges = wanted(&tree, &contents, options);
        if ranges.is_empty() {
            return plan(&tree, &contents, options).unwrap();
        }
        for (path, range) in ranges {
            let all = std::fs::read(root.join(&path)).unwrap();
            let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            contents.add(&path, &bytes::Bytes::copy_from_slice(&all[range]));
        }
    }
}

/// Retries that do not keep tests waiting.
pub fn quick() -> RetryPolicy {
    RetryPolicy {
        attempts: 6,
        first: Duration::from_millis(2),
        most: Duration::from_millis(20),
    }
}

pub fn client_with(credentials: CredentialOptions) -> Client {
    Client::new(ClientOptions {
        retry: quick(),
        credentials,
        ..ClientOptions::default()
    })
    .unwrap()
}

/// A repository of a registry, by a client of its own.
pub fn repository(sink: &Sink, name: &str) -> Repository {
    repository_of(&client_with(CredentialOptions::default()), sink, name)
}

pub fn repository_of(client: &Client, sink: &Sink, name: &str) -> Repository {
    let reference: Reference = format!("{}/{name}", sink.host()).parse().unwrap();
    client.repository(&reference).unwrap()
}

/// A registry without faults.
pub async fn sink() -> Sink {
    Sink::start(SinkOptions::default()).await.unwrap()
}

/// A registry in which something goes wrong.
pub async fn faulty(faults: impl Fn(&Seen) -> Option<Fault> + Send + Sync + 'static) -> Sink {
    let faults: Faults = Arc::new(faults);
    Sink::start(SinkOptions {
        faults: Some(faults),
        ..SinkOptions::default()
    })
    .await
    .unwrap()
}

/// The fault, for the first `count` requests that match.
pub fn first(
    count: u64,
    matches: impl Fn(&Seen) -> bool + Send + Sync + 'static,
    fault: Fault,
) -> impl Fn(&Seen) -> Option<Fault> + Send + Sync + 'static {
    let seen = AtomicU64::new(0);
    move |request| {
        (matches(request) && seen.fetch_add(1, Ordering::Relaxed) < count).then(|| fault.clone())
    }
}

/// What the engines tell.
#[derive(Default)]
pub struct Ear(Mutex<Vec<Event>>);

impl Ear {
    pub fn events(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }
}

impl Progress for Ear {
    fn event(&self, event: Event) {
        self.0.lock().unwrap().push(event);
    }
}

/// Pushes a directory to a repository, tagged `v1`.
pub async fn push_directory(
    root: &Path,
    to: &Repository,
    options: &PushOptions,
) -> Result<Pushed, PushError> {
    push_source(Arc::new(LocalSource::new(root)), root, to, options).await
}

pub async fn push_source(
    source: Arc<dyn Source>,
    root: &Path,
    to: &Repository,
    options: &PushOptions,
) -> Result<Pushed, PushError> {
    let plan = planned(source.as_ref(), root, &raw()).await;
    let destination = Destination::Repository(to.clone());
    let options = PushOptions {
        tags: vec!["v1".to_owned()],
        ..options.clone()
    };
    push(
        &plan,
        source,
        &destination,
        &options,
        Arc::new(Ear::default()),
    )
    .await
}

/// Options with a cache in this directory.
pub fn remembering(directory: &Path) -> PushOptions {
    PushOptions {
        cache: Some(Arc::new(Cache::open(directory).unwrap())),
        ..PushOptions::default()
    }
}

/// The chain of an error, as it is printed.
pub fn shown(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// `METHOD kind` of the requests about blobs and manifests, without digests.
pub fn requests(sink: &Sink) -> Vec<String> {
    sink.records()
        .iter()
        .filter(|record| record.path != "/v2/")
        .map(|record| {
            let kind = if record.path.contains("/blobs/uploads/") {
                if record.path.contains("mount=") {
                    "mount"
                } else {
                    "upload"
                }
            } else if record.path.contains("/blobs/") {
                "blob"
            } else if record.path.contains("/manifests/") {
                "manifest"
            } else {
                "other"
            };
            format!("{} {kind}", record.method)
        })
        .collect()
}

/// Bytes of the file that tests push beside a large one.
pub const NOTES: &[u8] = b"hello";

/// Whether a request is a `PATCH` with bytes of a large blob. Once another form of upload is learned or asked for, small
/// blobs come by `PATCH`, too, before or after the large one.
pub fn is_large_patch(method: &str, length: Option<u64>) -> bool {
    method == "PATCH" && length != Some(NOTES.len() as u64)
}

/// The `PATCH`es with bytes of large blobs that were answered.
pub fn large_patches(sink: &Sink) -> Vec<Record> {
    let mut records = sink.records();
    records.retain(|record| is_large_patch(&record.method, record.length));
    records
}

/// How many requests were of this kind.
pub fn count(sink: &Sink, request: &str) -> usize {
    requests(sink).iter().filter(|one| *one == request).count()
}
