//! Layouts on a real file system: written atomically, resolved, verified, and as one reproducible tar.

use std::path::Path;

use crate::support::{assert_valid, files, image_schema, push};
use bytes::Bytes;
use futures::TryStreamExt as _;
use image_builder::digest::Digest;
use image_builder::layout::{Layout, LayoutError};
use image_builder::oci::{Document, media_type};
use image_builder::plan::{Options, Shape};
use serde_json::Value;

/// Writes what was pushed into a layout, in this order of blobs.
async fn fill(layout: &Layout, pushed: &crate::support::Pushed, reversed: bool) {
    let mut blobs: Vec<(&Digest, &Bytes)> = pushed.blobs.iter().collect();
    if reversed {
        blobs.reverse();
    }
    for (digest, bytes) in blobs {
        let mut writer = layout.begin().await.unwrap();
        for piece in bytes.chunks(1000) {
            writer.write(Bytes::copy_from_slice(piece)).await.unwrap();
        }
        assert_eq!(writer.length(), bytes.len() as u64);
        writer.commit(*digest).await.unwrap();
    }
    for document in &pushed.documents {
        layout.put_document(document).await.unwrap();
    }
    layout.tag("v1", &pushed.top().descriptor()).await.unwrap();
}

fn model() -> crate::support::Pushed {
    let files = files(&[("config.json", b"{}"), ("model.safetensors", &[1; 5000])]);
    let options = Options {
        shape: Shape::Dual,
        ..Options::default()
    };
    push(&files, &options)
}

async fn filled(root: &Path) -> (Layout, crate::support::Pushed) {
    let layout = Layout::create(root).await.unwrap();
    let pushed = model();
    fill(&layout, &pushed, false).await;
    (layout, pushed)
}

async fn bytes(layout: &Layout) -> Vec<u8> {
    let stream = layout.tar().await.unwrap();
    let pieces: Vec<Bytes> = stream.try_collect().await.unwrap();
    pieces.concat()
}

#[tokio::test]
async fn what_was_written_is_resolved_read_and_verified() {
    let directory = tempfile::tempdir().unwrap();
    let (_, pushed) = filled(directory.path()).await;
    let layout = Layout::open(directory.path()).await.unwrap();
    let top = layout.resolve(Some("v1")).await.unwrap();
    assert_eq!(top.digest, pushed.top().digest);
    assert_eq!(layout.resolve(None).await.unwrap(), top);
    assert_eq!(
        layout.resolve(Some(&top.digest.to_string())).await.unwrap(),
        top
    );
    assert_eq!(layout.document(&top).await.unwrap(), *pushed.top());
    for (digest, expected) in &pushed.blobs {
        assert_eq!(
            layout.has(*digest).await.unwrap(),
            Some(expected.len() as u64)
        );
        let range = 3..expected.len() as u64 - 1;
        let read: Vec<Bytes> = layout
            .read(*digest, range)
            .await
            .unwrap()
            .try_collect()
            .await
            .unwrap();
        assert_eq!(read.concat(), expected[3..expected.len() - 1]);
    }
    let verified = layout.verify().await.unwrap();
    assert_eq!(verified.blobs, pushed.blobs.len() + pushed.documents.len());
    assert_eq!(verified.unused, 0);
}

#[tokio::test]
async fn index_and_marker_keep_their_schemas() {
    let directory = tempfile::tempdir().unwrap();
    filled(directory.path()).await;
    for (file, schema) in [
        ("index.json", "image-index-schema.json"),
        ("oci-layout", "image-layout-schema.json"),
    ] {
        let value: Value =
            serde_json::from_slice(&std::fs::read(directory.path().join(file)).unwrap()).unwrap();
        assert_valid(&image_schema(schema), &value);
    }
}

#[tokio::test]
async fn layouts_and_their_tars_do_not_depend_on_the_order_of_writing() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, pushed) = filled(one.path()).await;
    let second = Layout::create(two.path()).await.unwrap();
    fill(&second, &pushed, true).await;
    fill(&second, &pushed, false).await;
    let tar = bytes(&first).await;
    assert_eq!(tar, bytes(&second).await);
    let names = crate::support::extract(&tar, 900);
    assert_eq!(names.len(), pushed.blobs.len() + pushed.documents.len() + 2);
    for (name, content) in names {
        if let Some(hex) = name.strip_prefix("blobs/sha256/") {
            assert_eq!(Digest::of(&content).hex(), hex);
        }
    }
}

#[tokio::test]
async fn a_changed_or_missing_blob_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let (layout, pushed) = filled(directory.path()).await;
    let digest = *pushed.blobs.keys().next().unwrap();
    let path = layout.blob_path(digest);
    let mut changed = std::fs::read(&path).unwrap();
    changed[0] ^= 1;
    std::fs::write(&path, &changed).unwrap();
    let error = layout.verify().await.unwrap_err();
    assert!(matches!(error, LayoutError::Damaged { .. }), "{error}");
    std::fs::remove_file(&path).unwrap();
    let error = layout.verify().await.unwrap_err().to_string();
    assert!(error.contains("missing"), "{error}");
    let manifest = layout.blob_path(pushed.top().digest);
    std::fs::write(&manifest, b"{}").unwrap();
    let read = layout.document(&pushed.top().descriptor()).await;
    assert!(matches!(read, Err(LayoutError::Damaged { .. })));
}

#[tokio::test]
async fn an_unfinished_blob_leaves_nothing_and_a_killed_one_is_pruned() {
    let directory = tempfile::tempdir().unwrap();
    let (layout, pushed) = filled(directory.path()).await;
    let mut writer = layout.begin().await.unwrap();
    writer.write(Bytes::from_static(b"half")).await.unwrap();
    drop(writer);
    let incoming = directory.path().join(".incoming");
    assert_eq!(std::fs::read_dir(&incoming).unwrap().count(), 0);
    // What a program leaves that was killed while it wrote.
    std::fs::write(incoming.join("999-0"), b"half").unwrap();
    assert_eq!(
        layout.verify().await.unwrap().blobs,
        pushed.blobs.len() + pushed.documents.len()
    );
    assert_eq!(layout.prune().await.unwrap(), 4);
    assert_eq!(layout.prune().await.unwrap(), 0);
}

#[tokio::test]
async fn a_tag_moves_and_other_tags_stay() {
    let directory = tempfile::tempdir().unwrap();
    let (layout, pushed) = filled(directory.path()).await;
    layout.tag("v2", &pushed.top().descriptor()).await.unwrap();
    let other = Document::new(
        media_type::INDEX,
        Bytes::from_static(b"{\"schemaVersion\":2,\"manifests\":[]}"),
    );
    layout.put_document(&other).await.unwrap();
    layout.tag("v1", &other.descriptor()).await.unwrap();
    assert_eq!(
        layout.resolve(Some("v1")).await.unwrap().digest,
        other.digest
    );
    assert_eq!(
        layout.resolve(Some("v2")).await.unwrap().digest,
        pushed.top().digest
    );
    assert_eq!(layout.index().await.unwrap().manifests.len(), 2);
    let error = layout.resolve(Some("v3")).await.unwrap_err().to_string();
    assert!(error.contains("v1") && error.contains("v2"), "{error}");
    assert!(
        layout.resolve(None).await.is_err(),
        "two are there, none was named"
    );
}

#[tokio::test]
async fn tags_that_are_set_at_once_are_all_kept() {
    let directory = tempfile::tempdir().unwrap();
    let (layout, pushed) = filled(directory.path()).await;
    let tags = (0..20).map(|number| {
        let (layout, top) = (layout.clone(), pushed.top().descriptor());
        tokio::spawn(async move { layout.tag(&format!("t{number}"), &top).await })
    });
    for tag in tags.collect::<Vec<_>>() {
        tag.await.unwrap().unwrap();
    }
    assert_eq!(layout.index().await.unwrap().manifests.len(), 21);
}

#[tokio::test]
async fn a_document_that_is_not_what_its_digest_says_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let layout = Layout::create(directory.path()).await.unwrap();
    let mut document = Document::new(media_type::MANIFEST, Bytes::from_static(b"{}"));
    document.bytes = Bytes::from_static(b"[]!");
    assert!(matches!(
        layout.put_document(&document).await,
        Err(LayoutError::Damaged { .. })
    ));
    assert_eq!(layout.has(document.digest).await.unwrap(), None);
}

#[tokio::test]
async fn a_directory_of_other_things_is_neither_opened_nor_overwritten() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("notes.txt"), b"mine").unwrap();
    assert!(matches!(
        Layout::create(directory.path()).await,
        Err(LayoutError::NotALayout { .. })
    ));
    assert!(matches!(
        Layout::open(directory.path()).await,
        Err(LayoutError::NotALayout { .. })
    ));
    let version = directory.path().join("v2");
    std::fs::create_dir(&version).unwrap();
    std::fs::write(
        version.join("oci-layout"),
        br#"{"imageLayoutVersion":"2.0.0"}"#,
    )
    .unwrap();
    assert!(matches!(
        Layout::open(&version).await,
        Err(LayoutError::NotALayout { .. })
    ));
}
