//! The push engine against a registry in memory that behaves, and misbehaves, as real ones do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs,
    reason = "tests fail by panicking"
)]

mod engine;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use engine::{
    Counting, Ear, bytes, client_with, count, faulty, first, large_patches, model, planned,
    push_directory, push_source, quick, raw, remembering, repository, repository_of, shown, sink,
};
use image_builder::digest::Digest;
use image_builder::layout::Layout;
use image_builder::plan::{Compression, Options, Shape};
use image_builder::progress::{Event, Outcome};
use image_builder::push::{
    Destination, Forecast, Origin, PushError, PushOptions, copy, forecast, push,
};
use image_builder::registry::{Client, ClientOptions, UploadForm};
use image_builder::source::Source;
use image_builder::source::local::LocalSource;
use registry_sink::{Fault, Keep, Options as SinkOptions, Seen, Sink};

const LARGE: usize = 9 << 20;

fn is_patch(seen: &Seen) -> bool {
    engine::is_large_patch(&seen.method, seen.length)
}

fn is_blob_put(seen: &Seen) -> bool {
    seen.method == "PUT" && seen.path.contains("/blobs/uploads/")
}

fn large() -> tempfile::TempDir {
    model(&[
        ("model.safetensors", bytes(1, LARGE)),
        ("notes.txt", engine::NOTES.to_vec()),
    ])
}

/// The blob of the large file is in the registry, byte for byte, and the tag is set.
fn assert_complete(sink: &Sink, name: &str) {
    let digest = Digest::of(&bytes(1, LARGE)).to_string();
    assert_eq!(sink.blob(&digest).unwrap(), bytes(1, LARGE));
    assert!(sink.has(name, &digest));
    assert!(sink.manifest(name, "v1").is_some());
}

// The five bytes of the small file come with the plan, so the push does not read them.

#[tokio::test(flavor = "multi_thread")]
async fn a_large_file_is_read_once_and_sent_in_one_request_of_unknown_digest() {
    let directory = large();
    let sink = sink().await;
    let source = Counting::new(directory.path());
    let pushed = push_source(
        source.clone(),
        directory.path(),
        &repository(&sink, "m"),
        &PushOptions::default(),
    )
    .await
    .unwrap();
    assert_complete(&sink, "m");
    assert_eq!(large_patches(&sink).len(), 1);
    assert_eq!(source.read(), LARGE as u64);
    assert_eq!(pushed.bytes(Outcome::Moved), (LARGE + 5) as u64);
    let (kind, manifest) = sink.manifest("m", &pushed.top.digest.to_string()).unwrap();
    assert_eq!(kind, pushed.top.media_type);
    assert_eq!(Digest::of(&manifest), pushed.top.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_tree_is_pushed_again_without_reading_or_sending_a_byte() {
    let (directory, cache) = (large(), tempfile::tempdir().unwrap());
    let sink = sink().await;
    let source = Counting::new(directory.path());
    let to = repository(&sink, "m");
    push_source(
        source.clone(),
        directory.path(),
        &to,
        &remembering(cache.path()),
    )
    .await
    .unwrap();
    assert!(source.read() > 0);
    sink.forget_records();

    let again = push_source(
        source.clone(),
        directory.path(),
        &to,
        &remembering(cache.path()),
    )
    .await
    .unwrap();
    assert_eq!((source.read(), sink.received()), (0, 0));
    assert_eq!(again.bytes(Outcome::Present), (LARGE + 5) as u64);
    assert!(
        engine::requests(&sink)
            .iter()
            .all(|request| request.starts_with("HEAD"))
    );

    std::fs::write(directory.path().join("notes.txt"), b"HELLO").unwrap();
    let changed = push_source(
        source.clone(),
        directory.path(),
        &to,
        &remembering(cache.path()),
    )
    .await
    .unwrap();
    assert_eq!((source.read(), changed.bytes(Outcome::Moved)), (0, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_is_not_believed_when_it_is_told_not_to_be() {
    let (directory, cache) = (large(), tempfile::tempdir().unwrap());
    let sink = sink().await;
    let source = Counting::new(directory.path());
    let to = repository(&sink, "m");
    let options = remembering(cache.path());
    push_source(source.clone(), directory.path(), &to, &options)
        .await
        .unwrap();
    source.read();
    let options = PushOptions {
        digests: image_builder::push::CacheUse::Ignore,
        ..options
    };
    push_source(source.clone(), directory.path(), &to, &options)
        .await
        .unwrap();
    assert_eq!(source.read(), LARGE as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_there_is_not_read_when_its_digest_is_known() {
    let directory = large();
    let sink = sink().await;
    let digest = Digest::of(&bytes(1, LARGE));
    sink.add_blob("m", &digest.to_string(), bytes(1, LARGE));
    let source = Counting::knowing(directory.path(), &[("model.safetensors", digest)]);
    push_source(
        source.clone(),
        directory.path(),
        &repository(&sink, "m"),
        &PushOptions::default(),
    )
    .await
    .unwrap();
    assert_eq!(source.read(), 0);
    assert_complete(&sink, "m");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_digest_is_sent_in_one_put_and_verified_on_the_way() {
    let directory = large();
    let sink = sink().await;
    let digest = Digest::of(&bytes(1, LARGE));
    let source = Counting::knowing(directory.path(), &[("model.safetensors", digest)]);
    push_source(
        source,
        directory.path(),
        &repository(&sink, "m"),
        &PushOptions::default(),
    )
    .await
    .unwrap();
    assert_complete(&sink, "m");
    assert_eq!(large_patches(&sink).len(), 0);

    let lie = Digest::of(b"something else");
    let source = Counting::knowing(directory.path(), &[("model.safetensors", lie)]);
    let error = push_source(
        source,
        directory.path(),
        &repository(&sink, "lie"),
        &PushOptions::default(),
    )
    .await
    .unwrap_err();
    assert!(
        matches!(error, PushError::Mismatch { actual, .. } if actual == digest),
        "{error}"
    );
    assert!(!sink.has("lie", &lie.to_string()) && !sink.has("lie", &digest.to_string()));
    assert!(sink.manifest("lie", "v1").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_repository_gets_its_blobs_by_mounting_only() {
    let (directory, cache) = (large(), tempfile::tempdir().unwrap());
    let sink = sink().await;
    let options = remembering(cache.path());
    push_directory(directory.path(), &repository(&sink, "one"), &options)
        .await
        .unwrap();
    sink.forget_records();
    let pushed = push_directory(directory.path(), &repository(&sink, "two"), &options)
        .await
        .unwrap();
    assert_eq!(pushed.bytes(Outcome::Mounted), (LARGE + 5) as u64);
    assert_complete(&sink, "two");
    assert_eq!(large_patches(&sink).len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mount_that_is_answered_with_an_upload_goes_on_with_that_upload() {
    let (directory, cache) = (large(), tempfile::tempdir().unwrap());
    let sink = faulty(|seen| seen.path.contains("mount=").then_some(Fault::RefuseMount)).await;
    let options = remembering(cache.path());
    push_directory(directory.path(), &repository(&sink, "one"), &options)
        .await
        .unwrap();
    sink.forget_records();
    push_directory(directory.path(), &repository(&sink, "two"), &options)
        .await
        .unwrap();
    assert_complete(&sink, "two");
    let large_posts = engine::requests(&sink)
        .iter()
        .filter(|request| *request == "POST mount")
        .count();
    assert_eq!(large_posts, 2);
    // The config, and the small blob, which is sent from memory.
    assert!(
        count(&sink, "POST upload") <= 2,
        "{:?}",
        engine::requests(&sink)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_wants_the_digest_first_gets_it_and_the_file_is_read_twice() {
    let directory = large();
    let sink = sink().await;
    let source = Counting::new(directory.path());
    let options = PushOptions {
        form: Some(UploadForm::Monolithic),
        ..PushOptions::default()
    };
    push_source(
        source.clone(),
        directory.path(),
        &repository(&sink, "m"),
        &options,
    )
    .await
    .unwrap();
    assert_complete(&sink, "m");
    assert_eq!(large_patches(&sink).len(), 0);
    assert_eq!(source.read(), (2 * LARGE) as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_without_patch_is_found_out_once_and_remembered() {
    let directory = model(&[
        ("a.safetensors", bytes(1, LARGE)),
        ("b.safetensors", bytes(2, LARGE)),
    ]);
    let sink = faulty(|seen| is_patch(seen).then(|| Fault::Answer(405, vec![]))).await;
    let options = PushOptions {
        streams: 1,
        ..PushOptions::default()
    };
    push_directory(directory.path(), &repository(&sink, "m"), &options)
        .await
        .unwrap();
    assert_complete(&sink, "m");
    assert_eq!(large_patches(&sink).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_on_bodies_leads_to_segments_that_fit() {
    let directory = large();
    let options = SinkOptions {
        most_body: Some(4 << 20),
        ..SinkOptions::default()
    };
    let sink = Sink::start(options).await.unwrap();
    push_directory(
        directory.path(),
        &repository(&sink, "m"),
        &PushOptions::default(),
    )
    .await
    .unwrap();
    assert_complete(&sink, "m");
    let parts: Vec<u64> = large_patches(&sink)
        .iter()
        .filter(|record| record.status == 202)
        .map(|record| record.received)
        .collect();
    assert_eq!(parts, [4 << 20, 4 << 20, 1 << 20]);
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_are_as_large_as_the_registry_wants_them_at_least() {
    let directory = large();
    let options = SinkOptions {
        chunk_minimum: Some(5 << 20),
        ..SinkOptions::default()
    };
    let sink = Sink::start(options).await.unwrap();
    let push = PushOptions {
        form: Some(UploadForm::Segmented(1 << 20)),
        ..PushOptions::default()
    };
    push_directory(directory.path(), &repository(&sink, "m"), &push)
        .await
        .unwrap();
    assert_complete(&sink, "m");
    assert_eq!(large_patches(&sink).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_segment_is_sent_again_without_those_before_it() {
    let directory = large();
    // A registry that keeps what was acknowledged: an answer that is refused before the body was read.
    let sink = faulty(first(
        1,
        |seen| is_patch(seen) && seen.number > 6,
        Fault::Answer(503, vec![]),
    ))
    .await;
    let options = PushOptions {
        form: Some(UploadForm::Segmented(2 << 20)),
        ..PushOptions::default()
    };
    push_directory(directory.path(), &repository(&sink, "m"), &options)
        .await
        .unwrap();
    assert_complete(&sink, "m");
    assert!(
        sink.received() <= (LARGE + (1 << 20)) as u64,
        "{}",
        sink.received()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_lies_about_what_arrived_is_given_the_blob_in_another_form() {
    let directory = large();
    let sink = faulty(|seen| is_patch(seen).then_some(Fault::WrongRange)).await;
    push_directory(
        directory.path(),
        &repository(&sink, "m"),
        &PushOptions::default(),
    )
    .await
    .unwrap();
    assert_complete(&sink, "m");
    assert_eq!(large_patches(&sink).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_that_is_answered_as_complete_is_complete_when_the_blob_is_there() {
    let directory = large();
    let sink = faulty(|seen| is_patch(seen).then_some(Fault::EarlyCreated)).await;
    push_directory(
        directory.path(),
        &repository(&sink, "m"),
        &PushOptions::default(),
    )
    .await
    .unwrap();
    assert_complete(&sink, "m");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_stores_under_another_digest_is_not_believed() {
    let directory = large();
    let sink = faulty(|seen| is_blob_put(seen).then_some(Fault::WrongDigest)).await;
    let error = push_directory(
        directory.path(),
        &repository(&sink, "m"),
        &PushOptions::default(),
    )
    .await
    .unwrap_err();
    assert!(shown(&error).contains("its digest is"), "{}", shown(&error));
    assert!(sink.manifest("m", "v1").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_and_failing_registries_are_tried_again_and_refusals_are_not() {
    for (status, headers) in [
        (429, vec![("retry-after".to_owned(), "0".to_owned())]),
        (503, vec![]),
        (500, vec![]),
        (408, vec![]),
    ] {
        let directory = large();
        let sink = faulty(first(3, is_patch, Fault::Answer(status, headers))).await;
        push_directory(
            directory.path(),
            &repository(&sink, "m"),
            &PushOptions::default(),
        )
        .await
        .unwrap_or_else(|error| panic!("{status}: {}", shown(&error)));
        assert_complete(&sink, "m");
        assert_eq!(large_patches(&sink).len(), 4, "{status}");
    }
    for status in [400, 403] {
        let directory = large();
        let sink = faulty(move |seen| is_patch(seen).then(|| Fault::Answer(status, vec![]))).await;
        let error = push_directory(
            directory.path(),
            &repository(&sink, "m"),
            &PushOptions::default(),
        )
        .await
        .unwrap_err();
        assert!(
            shown(&error).contains(&status.to_string()),
            "{}",
            shown(&error)
        );
        assert_eq!(large_patches(&sink).len(), 1, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_cut_while_or_after_a_blob_is_sent_are_made_again() {
    for fault in [Fault::CutRequest(3 << 20), Fault::LoseAnswer] {
        let directory = large();
        let sink = faulty(first(2, is_patch, fault.clone())).await;
        push_directory(
            directory.path(),
            &repository(&sink, "m"),
            &PushOptions::default(),
        )
        .await
        .unwrap_or_else(|error| panic!("{fault:?}: {}", shown(&error)));
        assert_complete(&sink, "m");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_never_answers_is_given_up_after_the_stall_time() {
    let directory = model(&[("a.bin", b"small".to_vec())]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap();
    let _silent = tokio::spawn(async move {
        let mut open = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            open.push(stream);
        }
    });
    let mut options = ClientOptions {
        retry: quick(),
        ..ClientOptions::default()
    };
    options.transport.stall = Duration::from_millis(50);
    options.retry.attempts = 2;
    let client = Client::new(options).unwrap();
    let to = client
        .repository(&format!("{host}/m").parse().unwrap())
        .unwrap();
    let error = push_directory(directory.path(), &to, &PushOptions::default())
        .await
        .unwrap_err();
    assert!(shown(&error).contains("no byte moved"), "{}", shown(&error));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_while_it_is_pushed_fails_the_push() {
    let directory = large();
    let sink = sink().await;
    let source: Arc<dyn Source> = Arc::new(LocalSource::new(directory.path()));
    let plan = planned(source.as_ref(), directory.path(), &raw()).await;
    std::fs::write(directory.path().join("model.safetensors"), bytes(7, LARGE)).unwrap();
    let destination = Destination::Repository(repository(&sink, "m"));
    let options = PushOptions {
        tags: vec!["v1".to_owned()],
        ..PushOptions::default()
    };
    let error = push(
        &plan,
        source,
        &destination,
        &options,
        Arc::new(Ear::default()),
    )
    .await
    .unwrap_err();
    assert!(
        shown(&error).contains("model.safetensors changed"),
        "{}",
        shown(&error)
    );
    assert!(sink.manifest("m", "v1").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_files_and_files_with_equal_content_arrive_too() {
    let same = bytes(3, 5 << 20);
    let directory = model(&[
        ("a.safetensors", same.clone()),
        ("b.safetensors", same.clone()),
        ("empty.txt", Vec::new()),
        ("sub dir/ü.txt", b"x".to_vec()),
    ]);
    let sink = sink().await;
    push_directory(
        directory.path(),
        &repository(&sink, "m"),
        &PushOptions::default(),
    )
    .await
    .unwrap();
    assert!(sink.has("m", &Digest::of(&same).to_string()));
    assert_eq!(large_patches(&sink).len(), 1, "equal content is sent once");
    assert!(sink.has("m", &Digest::of(b"").to_string()));
    assert!(sink.manifest("m", "v1").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn images_and_compressed_layers_are_pushed_and_equal_what_a_layout_gets() {
    let directory = model(&[
        ("model.safetensors", bytes(1, LARGE)),
        ("config.json", b"{\"model_type\":\"llama\"}".to_vec()),
    ]);
    for compression in [Compression::None, Compression::Zstd, Compression::Gzip] {
        let options = Options {
            shape: Shape::Image,
            compression,
            ..Options::default()
        };
        let source: Arc<dyn Source> = Arc::new(LocalSource::new(directory.path()));
        let plan = planned(source.as_ref(), directory.path(), &options).await;
        let sink = sink().await;
        let push_options = PushOptions {
            tags: vec!["v1".to_owned()],
            ..PushOptions::default()
        };
        let to = Destination::Repository(repository(&sink, "m"));
        let ear = Arc::new(Ear::default());
        let pushed = push(&plan, Arc::clone(&source), &to, &push_options, ear.clone())
            .await
            .unwrap();

        let place = tempfile::tempdir().unwrap();
        let layout = Layout::create(&place.path().join("layout")).await.unwrap();
        let to = Destination::Layout(layout.clone());
        let written = push(&plan, source, &to, &push_options, Arc::new(Ear::default()))
            .await
            .unwrap();
        assert_eq!(pushed.top, written.top, "{compression:?}");
        layout.verify().await.unwrap();
        for blob in &pushed.blobs {
            assert!(sink.has("m", &blob.made.descriptor.digest.to_string()));
        }
        let events = ear.events();
        assert!(matches!(&events[0], Event::Planned { blobs } if blobs.len() == plan.blobs.len()));
        let finished = events
            .iter()
            .filter(|event| matches!(event, Event::Finished { .. }));
        assert_eq!(finished.count(), plan.blobs.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forecast_sends_and_reads_nothing() {
    let (directory, cache) = (large(), tempfile::tempdir().unwrap());
    let sink = sink().await;
    let to = repository(&sink, "m");
    let options = remembering(cache.path());
    let source = Counting::new(directory.path());
    let plan = planned(source.as_ref(), directory.path(), &raw()).await;
    let destination = Destination::Repository(to.clone());
    let before = forecast(&plan, source.as_ref(), &destination, &options)
        .await
        .unwrap();
    assert_eq!(before, [Forecast::Unknown, Forecast::Absent]);
    push_directory(directory.path(), &to, &options)
        .await
        .unwrap();
    sink.forget_records();
    let after = forecast(&plan, source.as_ref(), &destination, &options)
        .await
        .unwrap();
    assert_eq!(after, [Forecast::Present, Forecast::Present]);
    assert!(
        engine::requests(&sink)
            .iter()
            .all(|request| request == "HEAD blob")
    );
    assert_eq!(source.read.load(Ordering::Relaxed), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_mount_within_a_registry_and_stream_between_two() {
    let directory = large();
    let (here, there) = (sink().await, sink().await);
    let client = client_with(image_builder::registry::CredentialOptions::default());
    let from = repository_of(&client, &here, "m");
    let pushed = push_directory(directory.path(), &from, &PushOptions::default())
        .await
        .unwrap();
    here.forget_records();
    let options = PushOptions {
        tags: vec!["v1".to_owned()],
        ..PushOptions::default()
    };
    let origin = Origin::Repository(from);
    let to = Destination::Repository(repository_of(&client, &here, "copy"));
    let copied = copy(&origin, "v1", &to, &options, Arc::new(Ear::default()))
        .await
        .unwrap();
    assert_eq!(copied.top.digest, pushed.top.digest);
    assert_complete(&here, "copy");
    assert_eq!(here.received(), 0);

    let to = Destination::Repository(repository_of(&client, &there, "copy"));
    copy(&origin, "v1", &to, &options, Arc::new(Ear::default()))
        .await
        .unwrap();
    assert_complete(&there, "copy");

    let place = tempfile::tempdir().unwrap();
    let layout = Layout::create(&place.path().join("layout")).await.unwrap();
    let to = Destination::Layout(layout.clone());
    copy(&origin, "v1", &to, &options, Arc::new(Ear::default()))
        .await
        .unwrap();
    layout.verify().await.unwrap();
    let third = sink().await;
    let to = Destination::Repository(repository_of(&client, &third, "again"));
    copy(
        &Origin::Layout(layout),
        "v1",
        &to,
        &options,
        Arc::new(Ear::default()),
    )
    .await
    .unwrap();
    assert_complete(&third, "again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_a_tampered_blob_is_refused() {
    let directory = large();
    let is_get = |seen: &Seen| {
        (seen.method == "GET" && seen.path.contains("/blobs/sha256") && !seen.has_range)
            .then_some(Fault::Tamper)
    };
    let (here, there) = (faulty(is_get).await, sink().await);
    let from = repository(&here, "m");
    push_directory(directory.path(), &from, &PushOptions::default())
        .await
        .unwrap();
    let to = Destination::Repository(repository(&there, "copy"));
    let options = PushOptions {
        tags: vec!["v1".to_owned()],
        ..PushOptions::default()
    };
    let error = copy(
        &Origin::Repository(from),
        "v1",
        &to,
        &options,
        Arc::new(Ear::default()),
    )
    .await
    .unwrap_err();
    assert!(
        matches!(error, PushError::Mismatch { .. }),
        "{}",
        shown(&error)
    );
    assert!(there.manifest("copy", "v1").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn blobs_need_not_be_kept_by_the_sink_to_be_known() {
    let directory = large();
    let sink = Sink::start(SinkOptions {
        keep: Keep::Digests,
        ..SinkOptions::default()
    })
    .await
    .unwrap();
    push_directory(
        directory.path(),
        &repository(&sink, "m"),
        &PushOptions::default(),
    )
    .await
    .unwrap();
    assert!(sink.has("m", &Digest::of(&bytes(1, LARGE)).to_string()));
}
