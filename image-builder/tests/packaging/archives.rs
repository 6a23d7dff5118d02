//! Archives against an independent reader and writer, and by properties.

use std::io::{self, Read as _};

use crate::support::Files;
use bytes::Bytes;
use image_builder::archive::{
    ArchiveError, Content, Entry, EntryKind, Event, MTIME, Reader, Whiteouts, data_offset, write,
};
use image_builder::content::Part;
use proptest::prelude::*;

fn entry(path: &str, bytes: &[u8]) -> Entry {
    Entry {
        path: path.to_owned(),
        size: bytes.len() as u64,
        executable: path.ends_with(".sh"),
        content: Content::Bytes(Bytes::copy_from_slice(bytes)),
    }
}

fn joined(parts: &[Part]) -> Vec<u8> {
    let bytes = parts.iter().map(|part| match part {
        Part::Bytes(bytes) => bytes.to_vec(),
        Part::File { path, .. } => panic!("{path} is not in memory"),
    });
    bytes.collect::<Vec<_>>().concat()
}

fn archive(pairs: &[(&str, &[u8])]) -> Vec<u8> {
    let entries: Vec<Entry> = pairs
        .iter()
        .map(|(path, bytes)| entry(path, bytes))
        .collect();
    joined(&write(&entries).unwrap())
}

/// Everything that one read of an archive gives, or why it is refused.
fn read(bytes: &[u8], whiteouts: Whiteouts) -> Result<Vec<Event>, ArchiveError> {
    let mut reader = Reader::new(whiteouts);
    let events = reader.feed(Bytes::copy_from_slice(bytes))?;
    reader.finish()?;
    Ok(events)
}

fn other(path: &str, content: Content) -> Entry {
    Entry {
        path: path.to_owned(),
        size: 0,
        executable: false,
        content,
    }
}

#[test]
fn links_and_empty_directories_come_back_from_both_readers_in_whatever_order_they_were() {
    let (long, far) = ("n".repeat(120), "t".repeat(150));
    let link = |path: &str, target: &str| other(path, Content::Link(target.to_owned()));
    let mut entries = vec![
        entry("usr/bin/python3.13", b"elf"),
        link("bin", "usr/bin"),
        link("usr/bin/python3", "python3.13"),
        link("etc/alternatives/py", "../../usr/bin/python3"),
        link(&long, &far),
        other("var/empty", Content::Directory),
        other("usr", Content::Directory),
    ];
    let bytes = joined(&write(&entries).unwrap());
    entries.reverse();
    assert!(
        bytes == joined(&write(&entries).unwrap()),
        "the order counts"
    );

    let folder = tempfile::tempdir().unwrap();
    tar::Archive::new(&bytes[..]).unpack(folder.path()).unwrap();
    let at = |path: &str| folder.path().join(path);
    for (path, target) in [
        ("bin", "usr/bin"),
        ("usr/bin/python3", "python3.13"),
        ("etc/alternatives/py", "../../usr/bin/python3"),
        (&long, &far),
    ] {
        let found = std::fs::read_link(at(path)).unwrap();
        assert_eq!(found, std::path::Path::new(target), "{path}");
    }
    assert_eq!(std::fs::read(at("bin/python3")).unwrap(), b"elf");
    assert_eq!(std::fs::read_dir(at("var/empty")).unwrap().count(), 0);

    let events = read(&bytes, Whiteouts::Refuse).unwrap();
    let links = events.iter().filter(
        |event| matches!(event, Event::Start(entry) if matches!(entry.kind, EntryKind::Link { .. })),
    );
    assert_eq!(links.count(), 4);
}

#[test]
fn links_that_lead_out_and_names_below_links_are_not_written() {
    for (path, target) in [
        ("a", "/etc/passwd"),
        ("a", "../x"),
        ("a/b", "../../x"),
        ("a/b", "../c/../../x"),
        ("a", ""),
        ("a", "b\\c"),
    ] {
        let link = other(path, Content::Link(target.to_owned()));
        let refused = write(&[link]);
        assert!(
            matches!(refused, Err(ArchiveError::Link { .. })),
            "{path} {target}"
        );
    }
    let below = [other("a", Content::Link("b".to_owned())), entry("a/c", b"")];
    assert!(matches!(write(&below), Err(ArchiveError::Link { .. })));
}

#[test]
fn an_independent_reader_finds_files_directories_modes_and_times() {
    let long = format!("d/{}/{}", "x".repeat(99), "y".repeat(200));
    let bytes = archive(&[
        ("models/a b/gr\u{f6}\u{df}e.txt", b"hello"),
        ("models/run.sh", b"#!"),
        ("models/empty", b""),
        (&long, b"long"),
    ]);
    let mut found = Vec::new();
    for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let header = entry.header().clone();
        assert_eq!(header.mtime().unwrap(), MTIME);
        assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
        assert_eq!(header.username().unwrap().unwrap_or_default(), "");
        let path = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut content = String::new();
        entry.read_to_string(&mut content).unwrap();
        found.push((path, header.mode().unwrap(), content));
    }
    let expect = |path: &str, mode, content: &str| (path.to_owned(), mode, content.to_owned());
    assert_eq!(
        found,
        [
            expect("d/", 0o755, ""),
            expect(&format!("d/{}/", "x".repeat(99)), 0o755, ""),
            expect(&long, 0o644, "long"),
            expect("models/", 0o755, ""),
            expect("models/a b/", 0o755, ""),
            expect("models/a b/gr\u{f6}\u{df}e.txt", 0o644, "hello"),
            expect("models/empty", 0o644, ""),
            expect("models/run.sh", 0o755, "#!"),
        ]
    );
}

#[test]
fn files_above_8_gib_have_a_size_that_an_independent_reader_and_ours_agree_on() {
    let size = 9 << 30;
    for name in ["weights".to_owned(), format!("deep/{}", "n".repeat(150))] {
        let large = Entry {
            path: name.clone(),
            size,
            executable: false,
            content: Content::File("weights".to_owned()),
        };
        let parts = write(&[large]).unwrap();
        let total: u64 = parts.iter().map(Part::size).sum();
        assert_eq!(total % 512, 0);
        let head = match &parts[0] {
            Part::Bytes(bytes) => bytes.clone(),
            Part::File { .. } => panic!("a header comes first"),
        };
        assert_eq!(data_offset(&parts, size), head.len() as u64);
        let endless = io::Cursor::new(head.clone()).chain(io::repeat(0));
        let mut independent = tar::Archive::new(endless);
        let found = independent
            .entries()
            .unwrap()
            .map(Result::unwrap)
            .find(|entry| entry.header().entry_type().is_file())
            .unwrap();
        assert_eq!(found.size(), size);
        assert_eq!(found.path().unwrap().to_str(), Some(name.as_str()));
        let mut reader = Reader::new(Whiteouts::Refuse);
        let events = reader.feed(head).unwrap();
        let Some(Event::Start(ours)) = events.last() else {
            panic!("{events:?}");
        };
        assert_eq!((ours.size, &ours.path), (size, &name));
    }
}

#[test]
fn archives_of_other_writers_are_read() {
    for format in ["gnu", "ustar", "pax"] {
        let long = format!("{}/{}", "d".repeat(120), "n".repeat(130));
        let mut builder = tar::Builder::new(Vec::new());
        for (path, bytes) in [("a", &b"one"[..]), (&long, b"two")] {
            let mut header = if format == "ustar" {
                tar::Header::new_ustar()
            } else {
                tar::Header::new_gnu()
            };
            header.set_size(bytes.len() as u64);
            header.set_mode(0o640);
            header.set_mtime(1);
            if format == "pax" {
                builder
                    .append_pax_extensions([("path", path.as_bytes()), ("mtime", b"1.5")])
                    .unwrap();
                header.set_path("ignored").unwrap();
                header.set_cksum();
                builder.append(&header, bytes).unwrap();
            } else {
                builder.append_data(&mut header, path, bytes).unwrap();
            }
        }
        let bytes = builder.into_inner().unwrap();
        let expected = crate::support::files(&[("a", b"one"), (&long, b"two")]);
        for step in [1, 7, 512, 100_000] {
            assert_eq!(
                crate::support::extract(&bytes, step),
                expected,
                "{format} in steps of {step}"
            );
        }
    }
}

/// An archive with one entry of this type, name and link.
fn forged(kind: tar::EntryType, path: &str, link: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    append(&mut builder, kind, path, link);
    builder.into_inner().unwrap()
}

fn append(builder: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, path: &str, link: &str) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(0o644);
    // The library refuses such names, so they are written past it.
    let raw = header.as_gnu_mut().unwrap();
    raw.name[..path.len()].copy_from_slice(path.as_bytes());
    raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    builder.append(&header, io::empty()).unwrap();
}

#[test]
fn paths_that_leave_the_directory_are_refused() {
    for path in [
        "../x",
        "/etc/passwd",
        "a/../../x",
        "a\\..\\x",
        "C:/x",
        "a//b",
        "./../x",
        "..",
    ] {
        let refused = read(
            &forged(tar::EntryType::Regular, path, ""),
            Whiteouts::Refuse,
        );
        assert!(
            matches!(refused, Err(ArchiveError::Path { .. })),
            "{path}: {refused:?}"
        );
    }
}

#[test]
fn links_that_leave_the_directory_are_refused_and_others_are_not() {
    use tar::EntryType::{Link, Symlink};
    for (kind, path, target) in [
        (Symlink, "l", "/etc/passwd"),
        (Symlink, "l", "../x"),
        (Symlink, "a/l", "../../x"),
        (Symlink, "a/l", "b/../../../x"),
        (Symlink, "l", ""),
        (Link, "l", "/etc/passwd"),
        (Link, "l", "not there"),
    ] {
        let refused = read(&forged(kind, path, target), Whiteouts::Refuse);
        assert!(
            matches!(refused, Err(ArchiveError::Link { .. })),
            "{path} {target}: {refused:?}"
        );
    }
    let inside = read(&forged(Symlink, "a/b/l", "../../c"), Whiteouts::Refuse).unwrap();
    let Event::Start(entry) = &inside[0] else {
        panic!("{inside:?}");
    };
    assert_eq!(
        entry.kind,
        EntryKind::Link {
            target: "../../c".to_owned()
        }
    );
}

#[test]
fn nothing_is_written_through_a_link() {
    let mut builder = tar::Builder::new(Vec::new());
    append(&mut builder, tar::EntryType::Symlink, "dir", "other");
    append(&mut builder, tar::EntryType::Regular, "dir/file", "");
    let refused = read(&builder.into_inner().unwrap(), Whiteouts::Refuse);
    assert!(
        matches!(refused, Err(ArchiveError::Link { .. })),
        "{refused:?}"
    );
}

#[test]
fn devices_pipes_and_sparse_files_are_refused() {
    for kind in [
        tar::EntryType::Block,
        tar::EntryType::Char,
        tar::EntryType::Fifo,
        tar::EntryType::GNUSparse,
        tar::EntryType::new(b'V'),
    ] {
        let refused = read(&forged(kind, "x", ""), Whiteouts::Refuse);
        assert!(
            matches!(refused, Err(ArchiveError::Type { .. })),
            "{kind:?}: {refused:?}"
        );
    }
}

#[test]
fn names_that_differ_in_case_only_are_refused() {
    let mut builder = tar::Builder::new(Vec::new());
    append(&mut builder, tar::EntryType::Regular, "Model.bin", "");
    append(&mut builder, tar::EntryType::Regular, "model.BIN", "");
    let refused = read(&builder.into_inner().unwrap(), Whiteouts::Refuse);
    assert!(
        matches!(refused, Err(ArchiveError::CaseClash { .. })),
        "{refused:?}"
    );
    assert!(matches!(
        write(&[entry("A/x", b""), entry("a/y", b"")]),
        Err(ArchiveError::CaseClash { .. })
    ));
}

#[test]
fn whiteouts_are_refused_in_images_and_kept_in_artifacts() {
    let bytes = forged(tar::EntryType::Regular, "a/.wh.b", "");
    assert!(matches!(
        read(&bytes, Whiteouts::Refuse),
        Err(ArchiveError::Whiteout { .. })
    ));
    assert!(read(&bytes, Whiteouts::Keep).is_ok());
}

#[test]
fn archives_that_were_cut_off_or_changed_are_refused() {
    let bytes = archive(&[("a/b", &[1; 1000]), ("c", b"2")]);
    assert!(read(&bytes, Whiteouts::Refuse).is_ok());
    let whole = [0, 512, 2048, 3072, bytes.len() - 512, bytes.len()];
    for end in 0..bytes.len() {
        let cut = read(&bytes[..end], Whiteouts::Refuse);
        assert_eq!(cut.is_ok(), whole.contains(&end), "cut at {end}");
    }
    for at in [0, 110, 130, 156, 300, 512 + 3] {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        assert!(
            read(&changed, Whiteouts::Refuse).is_err(),
            "changed at {at}"
        );
    }
}

#[test]
fn an_archive_with_something_after_one_zero_block_is_refused() {
    let mut bytes = archive(&[("a", b"1")]);
    let end = bytes.len();
    bytes.truncate(end - 512);
    bytes.extend(archive(&[("b", b"2")]));
    assert!(matches!(
        read(&bytes, Whiteouts::Refuse),
        Err(ArchiveError::Damaged { .. })
    ));
}

fn trees() -> impl Strategy<Value = Files> {
    let name = "[a-z0-9 \u{e4}\u{6a21}_-]{1,12}|[a-z]{90,110}";
    let path = prop::collection::vec(name, 1..4).prop_map(|names| {
        // Directories and files by different beginnings, so that no name is both.
        let last = names.len() - 1;
        let marked = names.iter().enumerate().map(|(at, name)| {
            let mark = if at == last { 'f' } else { 'd' };
            format!("{mark}{name}")
        });
        marked.collect::<Vec<_>>().join("/")
    });
    prop::collection::btree_map(path, prop::collection::vec(any::<u8>(), 0..1500), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn every_tree_comes_back_from_its_archive_however_it_is_cut(files in trees(), step in 1..2000_usize) {
        let entries: Vec<Entry> = files.iter().map(|(path, bytes)| entry(path, bytes)).collect();
        let bytes = joined(&write(&entries).unwrap());
        prop_assert_eq!(bytes.len() % 512, 0);
        prop_assert_eq!(crate::support::extract(&bytes, step), files);
    }

    #[test]
    fn the_order_of_entries_changes_no_byte(files in trees(), turn in any::<prop::sample::Index>()) {
        let mut entries: Vec<Entry> = files.iter().map(|(path, bytes)| entry(path, bytes)).collect();
        let sorted = joined(&write(&entries).unwrap());
        let turn = turn.index(entries.len());
        entries.rotate_left(turn);
        prop_assert_eq!(&joined(&write(&entries).unwrap()), &sorted);
        entries.reverse();
        prop_assert_eq!(joined(&write(&entries).unwrap()), sorted);
    }
}
