//! Archives: whatever the bytes and however they are cut, entries are safe to extract, whole, and the same.
#![no_main]

use bytes::Bytes;
use image_builder::archive::{ArchiveError, EntryKind, Event, Reader, Whiteouts, check_path};
use libfuzzer_sys::fuzz_target;

fn read(bytes: &Bytes, step: usize) -> (Vec<Event>, Result<(), ArchiveError>) {
    let mut reader = Reader::new(Whiteouts::Refuse);
    let mut events: Vec<Event> = Vec::new();
    let mut rest = bytes.clone();
    while !rest.is_empty() {
        let chunk = rest.split_to(step.min(rest.len()));
        match reader.feed(chunk) {
            Ok(more) => events.extend(more),
            Err(error) => return (events, Err(error)),
        }
    }
    (events, reader.finish())
}

/// Entries with their whole data, without those that were not finished.
fn entries(events: &[Event]) -> Vec<(String, Vec<u8>)> {
    let mut whole = Vec::new();
    let mut open: Option<(String, u64, Vec<u8>)> = None;
    for event in events {
        match event {
            Event::Start(entry) => {
                assert!(open.is_none());
                check_path(&entry.path).unwrap();
                if let EntryKind::Link { target } = &entry.kind {
                    assert!(!target.starts_with('/'));
                }
                open = Some((entry.path.clone(), entry.size, Vec::new()));
            }
            Event::Data(data) => {
                assert!(!data.is_empty());
                open.as_mut().unwrap().2.extend_from_slice(data);
            }
            Event::End => {
                let (path, size, data) = open.take().unwrap();
                assert_eq!(data.len() as u64, size);
                whole.push((path, data));
            }
        }
    }
    whole
}

fuzz_target!(|bytes: &[u8]| {
    let Some((step, bytes)) = bytes.split_first() else {
        return;
    };
    let bytes = Bytes::copy_from_slice(bytes);
    let (all, end) = read(&bytes, usize::MAX);
    let (cut, cut_end) = read(&bytes, usize::from(*step) * 3 + 1);
    assert_eq!(end, cut_end);
    // A refused archive gives out less when it comes in one piece: whole chunks are refused.
    if end.is_ok() {
        assert_eq!(entries(&all), entries(&cut));
    } else {
        entries(&cut);
    }
});
