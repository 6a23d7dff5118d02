//! The program, killed at random points: the next run completes what was begun, and what was finished is not sent again.
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
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use engine::{bytes, model};
use image_builder::digest::Digest;
use registry_sink::Sink;

const LARGE: usize = 5 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

fn files() -> Vec<(String, Vec<u8>)> {
    let small = (0..12_u64).map(|number| (format!("part-{number:02}.bin"), bytes(number, 200_000)));
    let large = (0..3_u64).map(|number| {
        (
            format!("large-{number}.safetensors"),
            bytes(100 + number, LARGE),
        )
    });
    small.chain(large).collect()
}

fn directory() -> tempfile::TempDir {
    let files = files();
    let borrowed: Vec<(&str, Vec<u8>)> = files
        .iter()
        .map(|(name, content)| (name.as_str(), content.clone()))
        .collect();
    model(&borrowed)
}

fn program(arguments: &[&str], cache: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_image-builder"));
    command
        .args(arguments)
        .env("KAITO_CACHE_DIR", cache)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Waits until `reached` or the program has ended; then kills it.
async fn kill_when(mut child: Child, reached: impl Fn() -> bool) {
    let start = Instant::now();
    while !reached() && child.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < PATIENCE, "the point was never reached");
        tokio::task::yield_now().await;
    }
    let _ = child.kill();
    child.wait().unwrap();
}

async fn run(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

fn assert_success(output: &Output, what: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {errors}");
}

fn assert_complete(sink: &Sink, repository: &str) {
    for (name, content) in files() {
        let digest = Digest::of(&content).to_string();
        assert!(sink.has(repository, &digest), "{name} is missing");
        assert!(sink.blob(&digest).unwrap() == content, "{name} differs");
    }
    assert!(sink.manifest(repository, "v1").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_is_killed_anywhere_is_completed_by_the_next_run() {
    let directory = directory();
    let path = directory.path().to_str().unwrap();
    let total: u64 = files()
        .iter()
        .map(|(_, content)| content.len() as u64)
        .sum();
    for point in 0..20_u64 {
        let (sink, cache) = (engine::sink().await, tempfile::tempdir().unwrap());
        let name = format!("{}/m:v1", sink.host());
        let arguments = [
            "build",
            path,
            "-t",
            &name,
            "--push",
            "--artifact",
            "modelpack",
            "-q",
        ];
        let random = u64::from_le_bytes(bytes(point + 1, 8).try_into().unwrap());
        let limit = random % total;
        let child = program(&arguments, cache.path()).spawn().unwrap();
        kill_when(child, || sink.arrived() > limit).await;
        let tagged_before = sink.manifest("m", "v1").is_some();

        let finished: u64 = files()
            .iter()
            .filter(|(_, content)| sink.has("m", &Digest::of(content).to_string()))
            .map(|(_, content)| content.len() as u64)
            .sum();
        sink.forget_records();
        let output = run(program(&arguments, cache.path())).await;
        assert_success(&output, &format!("killed at {limit} of {total}"));
        assert_complete(&sink, "m");
        // Blobs that were accepted in the very moment of the end may not have reached the journal: one per stream.
        let repeated = 4 * LARGE as u64;
        let sent = sink.received();
        assert!(
            sent <= total - finished + repeated + 100_000,
            "{sent} sent, {finished} were there"
        );
        assert!(
            !tagged_before || finished == total,
            "nothing is tagged before all of it is there"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_killed_anywhere_is_completed_by_the_next_run() {
    let directory = directory();
    let (sink, cache) = (engine::sink().await, tempfile::tempdir().unwrap());
    let name = format!("{}/m:v1", sink.host());
    let path = directory.path().to_str().unwrap();
    let arguments = [
        "build",
        path,
        "-t",
        &name,
        "--push",
        "--artifact",
        "modelpack",
        "-q",
    ];
    assert_success(&run(program(&arguments, cache.path())).await, "push");
    let total: u64 = files()
        .iter()
        .map(|(_, content)| content.len() as u64)
        .sum();
    for point in 0..10_u64 {
        let (target, cache) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let arguments = ["pull", &name, target.path().to_str().unwrap(), "-q"];
        let random = u64::from_le_bytes(bytes(point + 50, 8).try_into().unwrap());
        let limit = random % total;
        let child = program(&arguments, cache.path()).spawn().unwrap();
        kill_when(child, || size_of(target.path()) > limit).await;
        for (file, content) in files() {
            if let Ok(found) = std::fs::read(target.path().join(&file)) {
                assert!(found == content, "{file} has its name before it is whole");
            }
        }
        assert_success(
            &run(program(&arguments, cache.path())).await,
            &format!("at {limit}"),
        );
        for (file, content) in files() {
            assert!(
                std::fs::read(target.path().join(&file)).unwrap() == content,
                "{file} differs"
            );
        }
        assert!(
            !target.path().join(".image-builder").exists(),
            "nothing is left to go on with"
        );
    }
}

/// Bytes of all files below a directory, as far as they can be seen while they are written.
fn size_of(directory: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => size_of(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}
