//! The pull engine against a registry in memory that behaves, and misbehaves, as real ones do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests fail by panicking"
)]

mod engine;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use engine::{
    Ear, bytes, count, faulty, first, model, planned, push_directory, repository, shown, sink,
};
use image_builder::cache::Cache;
use image_builder::digest::Digest;
use image_builder::plan::{Compression, Options, Shape};
use image_builder::pull::{Origin, PullError, PullOptions, Pulled, pull};
use image_builder::push::{Destination, PushOptions, push};
use image_builder::registry::Repository;
use image_builder::source::Source;
use image_builder::source::local::LocalSource;
use registry_sink::{Fault, Seen, Sink};

const LARGE: usize = 9 << 20;

fn files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("config.json", b"{\"model_type\":\"llama\"}".to_vec()),
        ("empty.txt", Vec::new()),
        ("model.safetensors", bytes(1, LARGE)),
        ("sub dir/ü.txt", b"hello".to_vec()),
    ]
}

fn is_blob_get(seen: &Seen) -> bool {
    seen.method == "GET" && seen.path.contains("/blobs/sha256")
}

async fn pushed(sink: &Sink) -> Repository {
    let to = repository(sink, "m");
    push_directory(model(&files()).path(), &to, &PushOptions::default())
        .await
        .unwrap();
    sink.forget_records();
    to
}

async fn pull_to(
    from: &Repository,
    directory: &Path,
    options: &PullOptions,
) -> Result<Pulled, PullError> {
    let origin = Origin::Repository(from.clone());
    pull(&origin, "v1", directory, options, Arc::new(Ear::default())).await
}

fn assert_files(directory: &Path, expected: &[(&str, Vec<u8>)]) {
    let mut found = Vec::new();
    walk(directory, directory, &mut found);
    found.sort();
    let names: Vec<String> = expected
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    assert_eq!(found, names);
    for (name, content) in expected {
        assert!(
            std::fs::read(directory.join(name)).unwrap() == *content,
            "{name} differs"
        );
    }
}

fn walk(root: &Path, directory: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            walk(root, &path, found);
        } else {
            found.push(
                path.strip_prefix(root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned(),
            );
        }
    }
}

/// Ranges of 1 MiB over four connections.
fn ranges() -> PullOptions {
    PullOptions {
        range: 1 << 20,
        streams: 8,
        include: vec!["*.safetensors".to_owned()],
        ..PullOptions::default()
    }
}

fn only_model() -> Vec<(&'static str, Vec<u8>)> {
    vec![("model.safetensors", bytes(1, LARGE))]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pushed_is_pulled_and_pulling_again_fetches_nothing() {
    let (sink, target) = (sink().await, tempfile::tempdir().unwrap());
    let from = pushed(&sink).await;
    let pulled = pull_to(&from, target.path(), &PullOptions::default())
        .await
        .unwrap();
    assert_files(target.path(), &files());
    assert_eq!(pulled.files.len(), 4);
    assert!(pulled.received >= LARGE as u64);
    assert_eq!(pulled.files[2].digest, Some(Digest::of(&bytes(1, LARGE))));
    sink.forget_records();
    let again = pull_to(&from, target.path(), &PullOptions::default())
        .await
        .unwrap();
    assert!(again.files.iter().all(|file| file.present));
    assert_eq!((again.received, count(&sink, "GET blob")), (0, 0));
    std::fs::write(
        target.path().join("config.json"),
        b"{\"model_type\":\"other\"}",
    )
    .unwrap();
    let repaired = pull_to(&from, target.path(), &PullOptions::default())
        .await
        .unwrap();
    assert_eq!(
        repaired.files.iter().filter(|file| !file.present).count(),
        1
    );
    assert_files(target.path(), &files());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_blob_comes_in_ranges_over_several_connections() {
    let (sink, target) = (sink().await, tempfile::tempdir().unwrap());
    let from = pushed(&sink).await;
    pull_to(&from, target.path(), &ranges()).await.unwrap();
    assert_files(target.path(), &only_model());
    let asked: Vec<String> = sink
        .records()
        .into_iter()
        .filter_map(|record| record.range)
        .collect();
    assert_eq!(asked.len(), 9, "{asked:?}");
    assert!(asked.contains(&"bytes=8388608-9437183".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_ranges_or_with_another_version_is_read_in_one_stream() {
    for fault in [Fault::IgnoreRange, Fault::OtherVersion] {
        let target = tempfile::tempdir().unwrap();
        let wrong = fault.clone();
        let sink = faulty(move |seen| {
            // The first range is of the right version.
            (seen.has_range && is_blob_get(seen) && seen.number % 2 == 0).then(|| wrong.clone())
        })
        .await;
        let from = pushed(&sink).await;
        pull_to(&from, target.path(), &ranges())
            .await
            .unwrap_or_else(|error| panic!("{fault:?}: {}", shown(&error)));
        assert_files(target.path(), &only_model());
        assert!(sink.records().iter().any(|record| record.method == "GET"
            && record.path.contains("/blobs/sha256")
            && record.range.is_none()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_go_on_where_they_were_cut() {
    for options in [
        ranges(),
        PullOptions {
            include: ranges().include,
            ..PullOptions::default()
        },
    ] {
        let target = tempfile::tempdir().unwrap();
        let sink = faulty(first(3, is_blob_get, Fault::CutAnswer(600_000))).await;
        let from = pushed(&sink).await;
        let pulled = pull_to(&from, target.path(), &options).await.unwrap();
        assert_files(target.path(), &only_model());
        assert_eq!(pulled.received, LARGE as u64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_was_stopped_goes_on_and_fetches_only_the_rest() {
    for streams in [1, 2] {
        let target = tempfile::tempdir().unwrap();
        let stopped = Arc::new(AtomicBool::new(true));
        let (still, asked) = (Arc::clone(&stopped), AtomicU64::new(0));
        let sink = faulty(move |seen| {
            if !is_blob_get(seen) || !still.load(Ordering::Relaxed) {
                return None;
            }
            match (asked.fetch_add(1, Ordering::Relaxed), streams) {
                // In one stream: some MiB, then nothing more.
                (0, 1) => Some(Fault::CutAnswer(5 << 20)),
                (0..=2, 2) => None,
                _ => Some(Fault::Answer(403, vec![])),
            }
        })
        .await;
        let from = pushed(&sink).await;
        let options = PullOptions {
            streams,
            ..ranges()
        };
        pull_to(&from, target.path(), &options).await.unwrap_err();
        assert!(!target.path().join("model.safetensors").exists());
        stopped.store(false, Ordering::Relaxed);
        let again = pull_to(&from, target.path(), &options).await.unwrap();
        assert_files(target.path(), &only_model());
        assert!(
            again.received < LARGE as u64,
            "{} with {streams} streams",
            again.received
        );
    }
}

fn large_digest() -> String {
    Digest::of(&bytes(1, LARGE)).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_file_is_gone_on_with_and_a_damaged_one_is_dropped() {
    let (sink, target) = (sink().await, tempfile::tempdir().unwrap());
    let from = pushed(&sink).await;
    let options = PullOptions {
        include: ranges().include,
        ..PullOptions::default()
    };
    let work = target.path().join(".image-builder");
    let partial = work.join(format!("{}.partial", Digest::of(&bytes(1, LARGE)).hex()));
    std::fs::create_dir(&work).unwrap();
    std::fs::write(&partial, &bytes(1, LARGE)[..5 << 20]).unwrap();
    let pulled = pull_to(&from, target.path(), &options).await.unwrap();
    assert_eq!(pulled.received, 4 << 20);
    assert_files(target.path(), &only_model());

    std::fs::remove_file(target.path().join("model.safetensors")).unwrap();
    std::fs::create_dir(&work).unwrap();
    std::fs::write(&partial, bytes(9, 5 << 20)).unwrap();
    let pulled = pull_to(&from, target.path(), &options).await.unwrap();
    assert_eq!(pulled.received, (4 << 20) + LARGE as u64);
    assert_files(target.path(), &only_model());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tampered_blob_is_refused_and_leaves_nothing_under_its_name() {
    for options in [ranges(), PullOptions::default()] {
        let target = tempfile::tempdir().unwrap();
        let sink = faulty(|seen| {
            (is_blob_get(seen) && seen.path.contains(&large_digest())).then_some(Fault::Tamper)
        })
        .await;
        let from = pushed(&sink).await;
        let error = pull_to(&from, target.path(), &options).await.unwrap_err();
        assert!(
            matches!(error, PullError::Mismatch { .. }),
            "{}",
            shown(&error)
        );
        assert!(!target.path().join("model.safetensors").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tampered_manifest_is_refused() {
    let target = tempfile::tempdir().unwrap();
    let sink = faulty(|seen| {
        (seen.method == "GET" && seen.path.contains("/manifests/")).then_some(Fault::Tamper)
    })
    .await;
    let from = pushed(&sink).await;
    let error = pull_to(&from, target.path(), &PullOptions::default())
        .await
        .unwrap_err();
    assert!(shown(&error).contains("its digest is"), "{}", shown(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_extracted_in_every_compression_and_skipped_when_they_are_there() {
    for compression in [Compression::None, Compression::Zstd, Compression::Gzip] {
        let sink = sink().await;
        let to = repository(&sink, "m");
        let directory = model(&files());
        let options = Options {
            shape: Shape::Image,
            compression,
            ..Options::default()
        };
        let source: Arc<dyn Source> = Arc::new(LocalSource::new(directory.path()));
        let plan = planned(source.as_ref(), directory.path(), &options).await;
        let push_options = PushOptions {
            tags: vec!["v1".to_owned()],
            ..PushOptions::default()
        };
        let destination = Destination::Repository(to.clone());
        push(
            &plan,
            source,
            &destination,
            &push_options,
            Arc::new(Ear::default()),
        )
        .await
        .unwrap();

        let (target, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let options = PullOptions {
            strip: Some("models".to_owned()),
            cache: Some(Arc::new(Cache::open(cache.path()).unwrap())),
            ..PullOptions::default()
        };
        pull_to(&to, target.path(), &options).await.unwrap();
        assert_files(target.path(), &files());
        let again = pull_to(&to, target.path(), &options).await.unwrap();
        assert_eq!(again.received, 0, "{compression:?}");
        std::fs::remove_file(target.path().join("config.json")).unwrap();
        pull_to(&to, target.path(), &options).await.unwrap();
        assert_files(target.path(), &files());

        let part = tempfile::tempdir().unwrap();
        let include = vec!["**/*.txt".to_owned()];
        pull_to(&to, part.path(), &PullOptions { include, ..options })
            .await
            .unwrap();
        let texts: Vec<_> = files()
            .into_iter()
            .filter(|(name, _)| name.ends_with(".txt"))
            .collect();
        assert_files(part.path(), &texts);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_are_on_disk_already_are_not_followed() {
    let (sink, target) = (sink().await, tempfile::tempdir().unwrap());
    let outside = tempfile::tempdir().unwrap();
    let from = pushed(&sink).await;
    std::os::unix::fs::symlink(outside.path(), target.path().join("sub dir")).unwrap();
    let error = pull_to(&from, target.path(), &PullOptions::default())
        .await
        .unwrap_err();
    assert!(
        matches!(error, PullError::InTheWay { .. }),
        "{}",
        shown(&error)
    );
    assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);

    std::fs::remove_file(target.path().join("sub dir")).unwrap();
    let victim = outside.path().join("victim");
    std::fs::write(&victim, b"keep").unwrap();
    std::fs::remove_file(target.path().join("config.json")).unwrap();
    std::os::unix::fs::symlink(&victim, target.path().join("config.json")).unwrap();
    pull_to(&from, target.path(), &PullOptions::default())
        .await
        .unwrap();
    assert_eq!(std::fs::read(&victim).unwrap(), b"keep");
    assert_files(target.path(), &files());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_glob_that_nothing_matches_is_an_error() {
    let (sink, target) = (sink().await, tempfile::tempdir().unwrap());
    let from = pushed(&sink).await;
    let include = vec!["*.gguf".to_owned()];
    let error = pull_to(
        &from,
        target.path(),
        &PullOptions {
            include,
            ..PullOptions::default()
        },
    )
    .await
    .unwrap_err();
    assert!(shown(&error).contains("*.gguf"), "{}", shown(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_pulled_is_pushed_elsewhere_without_being_read() {
    let (sink, target) = (sink().await, tempfile::tempdir().unwrap());
    let cache = tempfile::tempdir().unwrap();
    let from = pushed(&sink).await;
    let cache = Arc::new(Cache::open(cache.path()).unwrap());
    let options = PullOptions {
        cache: Some(Arc::clone(&cache)),
        ..PullOptions::default()
    };
    pull_to(&from, target.path(), &options).await.unwrap();
    let source = engine::Counting::new(target.path());
    let push_options = PushOptions {
        cache: Some(cache),
        ..PushOptions::default()
    };
    let to = repository(&sink, "m");
    engine::push_source(source.clone(), target.path(), &to, &push_options)
        .await
        .unwrap();
    assert_eq!(source.read(), 0);
}
