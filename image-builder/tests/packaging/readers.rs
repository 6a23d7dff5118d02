//! Every reader on its corpus, and on changed copies of it: a reader may refuse anything, but neither panic nor contradict
//! itself. The same checks run for longer, guided by coverage, from `fuzz`.

use std::path::Path;

use crate::support::{Files, planned};
use bytes::Bytes;
use image_builder::archive::{ArchiveError, EntryKind, Event, Reader, Whiteouts, check_path};
use image_builder::model::{gguf, safetensors};
use image_builder::oci::{Document, Index, Manifest, media_type};
use image_builder::plan::{LayerForm, Options, Shape};
use proptest::prelude::*;

/// The files of one corpus, sorted by name.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpora")
        .join(name);
    let entries = std::fs::read_dir(folder).unwrap();
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

fn check_safetensors(bytes: &[u8]) {
    let _ = safetensors::size_mismatch(bytes, bytes.len() as u64);
    if let Ok(header) = safetensors::parse(bytes) {
        assert!(header.data_begin <= bytes.len() as u64);
    }
}

fn check_gguf(bytes: &[u8]) {
    if let Some((_, shorter)) = bytes.split_last()
        && let Ok(read) = gguf::parse(shorter)
    {
        assert_eq!(
            gguf::parse(bytes),
            Ok(read),
            "what follows a header changes nothing"
        );
    }
}

fn check_manifest(bytes: &[u8]) {
    if let Ok(manifest) = serde_json::from_slice::<Manifest>(bytes) {
        let document = Document::from_value(media_type::MANIFEST, &manifest).unwrap();
        assert_eq!(
            serde_json::from_slice::<Manifest>(&document.bytes).unwrap(),
            manifest
        );
    }
    if let Ok(index) = serde_json::from_slice::<Index>(bytes) {
        let document = Document::from_value(media_type::INDEX, &index).unwrap();
        assert_eq!(
            serde_json::from_slice::<Index>(&document.bytes).unwrap(),
            index
        );
    }
}

fn check_card(bytes: &[u8]) {
    let names = [
        "README.md",
        "adapter_config.json",
        "config.json",
        "model.safetensors.index.json",
        "notes.txt",
    ];
    let files: Files = names
        .iter()
        .map(|name| ((*name).to_owned(), bytes.to_vec()))
        .collect();
    let options = Options {
        shape: Shape::ModelPack(LayerForm::Raw),
        ..Options::default()
    };
    let plan = planned(&files, &options).unwrap();
    assert_eq!(plan.blobs.len(), 1, "equal contents are one blob");
}

/// What an archive gives in pieces of `step` bytes, and how it ends.
fn read_tar(bytes: &[u8], step: usize) -> (Vec<(String, Vec<u8>)>, Result<(), ArchiveError>) {
    let mut reader = Reader::new(Whiteouts::Refuse);
    let mut files = Vec::new();
    let mut open: Option<(String, u64, Vec<u8>)> = None;
    for piece in bytes.chunks(step) {
        let events = match reader.feed(Bytes::copy_from_slice(piece)) {
            Ok(events) => events,
            Err(error) => return (files, Err(error)),
        };
        for event in events {
            match event {
                Event::Start(entry) => {
                    assert!(open.is_none());
                    check_path(&entry.path).unwrap();
                    if let EntryKind::Link { target } = &entry.kind {
                        assert!(!target.starts_with('/'));
                    }
                    open = Some((entry.path, entry.size, Vec::new()));
                }
                Event::Data(data) => open.as_mut().unwrap().2.extend_from_slice(&data),
                Event::End => {
                    let (path, size, data) = open.take().unwrap();
                    assert_eq!(data.len() as u64, size);
                    files.push((path, data));
                }
            }
        }
    }
    (files, reader.finish())
}

fn check_tar(bytes: &[u8]) {
    // The first byte of a seed says how the fuzzer cuts it.
    let Some((step, bytes)) = bytes.split_first() else {
        return;
    };
    let (whole, end) = read_tar(bytes, usize::MAX);
    let (cut, cut_end) = read_tar(bytes, usize::from(*step) * 3 + 1);
    assert_eq!(end, cut_end);
    if end.is_ok() {
        assert_eq!(whole, cut);
    }
}

const READERS: [(&str, fn(&[u8])); 5] = [
    ("card", check_card),
    ("gguf", check_gguf),
    ("manifest", check_manifest),
    ("safetensors", check_safetensors),
    ("tar", check_tar),
];

#[test]
fn every_seed_of_every_corpus_is_read_or_refused() {
    for (name, check) in READERS {
        corpus(name).iter().for_each(|seed| check(seed));
    }
}

#[test]
fn seeds_are_what_their_readers_are_for() {
    let accepted = |name: &str, accepts: fn(&[u8]) -> bool| {
        corpus(name).iter().filter(|seed| accepts(seed)).count()
    };
    assert_eq!(accepted("gguf", |seed| gguf::parse(seed).is_ok()), 3);
    assert_eq!(
        accepted("safetensors", |seed| safetensors::parse(seed).is_ok()),
        4
    );
    assert_eq!(
        accepted("tar", |seed| read_tar(&seed[1..], 512).1.is_ok()),
        4
    );
    assert_eq!(
        accepted("manifest", |seed| serde_json::from_slice::<Manifest>(seed)
            .is_ok()),
        1
    );
}

/// One change to a seed.
#[derive(Clone, Debug)]
enum Change {
    Set(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Insert(prop::sample::Index, Vec<u8>),
    Repeat(prop::sample::Index, prop::sample::Index),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let index = any::<prop::sample::Index>;
    let interesting = prop_oneof![
        any::<u8>(),
        Just(0),
        Just(0xff),
        Just(0x7f),
        Just(0x80),
        Just(b'"'),
        Just(b'/')
    ];
    let change = prop_oneof![
        4 => (index(), interesting).prop_map(|(at, byte)| Change::Set(at, byte)),
        1 => index().prop_map(Change::Cut),
        1 => (index(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        1 => (index(), index()).prop_map(|(from, to)| Change::Repeat(from, to)),
    ];
    prop::collection::vec(change, 1..6)
}

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        if bytes.is_empty() {
            break;
        }
        let length = bytes.len();
        match change {
            Change::Set(at, byte) => bytes[at.index(length)] = *byte,
            Change::Cut(at) => bytes.truncate(at.index(length)),
            Change::Insert(at, more) => {
                let at = at.index(length);
                bytes.splice(at..at, more.iter().copied());
            }
            Change::Repeat(from, to) => {
                let (from, to) = (from.index(length), to.index(length));
                let piece = bytes[from.min(to)..from.max(to)].to_vec();
                bytes.extend(piece);
            }
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn changed_seeds_are_read_or_refused(
        reader in 0..READERS.len(),
        seed in any::<prop::sample::Index>(),
        changes in changes(),
    ) {
        let (name, check) = READERS[reader];
        let seeds = corpus(name);
        check(&changed(seed.get(&seeds).clone(), &changes));
    }
}
