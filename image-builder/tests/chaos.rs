//! Connections that are cut at random: everything arrives, and little is sent twice.
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
use std::sync::atomic::{AtomicU64, Ordering};

use engine::{Ear, bytes, faulty, model, push_directory, repository, shown};
use image_builder::digest::Digest;
use image_builder::pull::{Origin, PullOptions, pull};
use image_builder::push::PushOptions;
use image_builder::registry::Repository;
use registry_sink::{Fault, Seen};

const BLOBS: u64 = 100;
const LENGTH: usize = 300_000;
const LARGE: usize = 5 << 20;

/// One request of a hundred is cut, at a place of its own. The same for each seed.
fn cuts(seed: u64, cut: Arc<AtomicU64>) -> impl Fn(&Seen) -> Option<Fault> + Send + Sync + 'static {
    move |seen| {
        let random = bytes(seed * 1_000_003 + seen.number, 8);
        let random = u64::from_le_bytes(random.try_into().unwrap());
        if random % 100 != 0 || seen.path == "/v2/" {
            return None;
        }
        cut.fetch_add(1, Ordering::Relaxed);
        let place = random / 100;
        Some(match seen.method.as_str() {
            "PATCH" | "PUT" => match place % 3 {
                0 => Fault::LoseAnswer,
                _ => Fault::CutRequest(place % (LENGTH as u64)),
            },
            "GET" => Fault::CutAnswer(place % (LENGTH as u64)),
            _ => Fault::LoseAnswer,
        })
    }
}

/// A hundred small files and two larger ones, each with its content.
fn contents() -> Vec<(String, Vec<u8>)> {
    let small = (0..BLOBS).map(|seed| (format!("part-{seed:03}.bin"), bytes(seed, LENGTH)));
    let large = [("a.safetensors", 500), ("b.safetensors", 501)];
    let large = large.map(|(name, seed)| (name.to_owned(), bytes(seed, LARGE)));
    small.chain(large).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_cut_connection_in_a_hundred_costs_little_and_nothing_is_lost() {
    let files = contents();
    let named: Vec<(&str, Vec<u8>)> = files
        .iter()
        .map(|(name, content)| (name.as_str(), content.clone()))
        .collect();
    let directory = model(&named);
    let mut all_cuts = 0;
    for seed in 1..=4 {
        let cut = Arc::new(AtomicU64::new(0));
        let sink = faulty(cuts(seed, Arc::clone(&cut))).await;
        let to = repository(&sink, "m");
        push_directory(directory.path(), &to, &PushOptions::default())
            .await
            .unwrap_or_else(|error| panic!("seed {seed}: {}", shown(&error)));
        cost_little(seed, sink.received(), &files);
        for (_, content) in &files {
            assert!(sink.blob(&Digest::of(content).to_string()).unwrap() == *content);
        }
        arrives_whole(seed, to, &files).await;
        all_cuts += cut.load(Ordering::Relaxed);
    }
    assert!(all_cuts > 8, "only {all_cuts} connections were cut");
}

/// What was sent again is at most fifteen in a hundred.
fn cost_little(seed: u64, sent: u64, files: &[(String, Vec<u8>)]) {
    let total: u64 = files.iter().map(|(_, content)| content.len() as u64).sum();
    assert!(
        sent * 100 <= total * 115,
        "seed {seed}: {sent} bytes for {total}"
    );
}

async fn arrives_whole(seed: u64, from: Repository, files: &[(String, Vec<u8>)]) {
    let target = tempfile::tempdir().unwrap();
    let options = PullOptions {
        range: 1 << 20,
        ..PullOptions::default()
    };
    let (origin, ear) = (Origin::Repository(from), Arc::new(Ear::default()));
    let pulled = pull(&origin, "v1", target.path(), &options, ear)
        .await
        .unwrap_or_else(|error| panic!("seed {seed}: {}", shown(&error)));
    cost_little(seed, pulled.received, files);
    for (name, content) in files {
        let arrived = std::fs::read(target.path().join(name)).unwrap();
        assert!(arrived == *content, "{name}");
    }
}
