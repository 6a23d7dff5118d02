use std::fs;
use std::path::Path;

use futures::TryStreamExt as _;

use super::{Links, LocalSource};
use crate::digest::Digest;
use crate::source::select::Selection;
use crate::source::{Source, SourceError};

fn write(root: &Path, path: &str, content: &[u8]) {
    let place = root.join(path);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(place, content).unwrap();
}

async fn paths(source: &LocalSource) -> Vec<String> {
    let tree = source.list().await.unwrap();
    tree.files.into_iter().map(|file| file.path).collect()
}

async fn content(
    source: &LocalSource,
    path: &str,
    range: std::ops::Range<u64>,
) -> Result<Vec<u8>, SourceError> {
    let stream = source.read(path, range).await?;
    stream
        .try_fold(Vec::new(), |mut all, bytes| async move {
            all.extend_from_slice(&bytes);
            Ok(all)
        })
        .await
}

#[tokio::test]
async fn files_are_listed_by_their_bytes_and_tools_leave_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    for path in [
        "b",
        "a/z",
        "a.b",
        "ü",
        ".git/config",
        ".cache/huggingface/x",
        ".gitattributes",
    ] {
        write(folder.path(), path, b"x");
    }
    let listed = paths(&LocalSource::new(folder.path())).await;
    assert_eq!(listed, [".gitattributes", "a.b", "a/z", "b", "ü"]);
}

#[tokio::test]
async fn any_range_of_a_file_comes_whole_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..3_500_001_u32).map(|n| (n % 251) as u8).collect();
    write(folder.path(), "w", &bytes);
    write(folder.path(), "empty", b"");
    let source = LocalSource::new(folder.path());
    source.list().await.unwrap();
    let size = bytes.len() as u64;
    for range in [0..size, 1..2, 1_048_575..1_048_577, size - 1..size, 5..5] {
        let expected = &bytes[range.start as usize..range.end as usize];
        assert_eq!(content(&source, "w", range).await.unwrap(), expected);
    }
    assert_eq!(content(&source, "empty", 0..0).await.unwrap(), b"");
}

#[tokio::test]
async fn many_streams_at_a_time_do_not_mix_their_buffers() {
    let folder = tempfile::tempdir().unwrap();
    for n in 0..8_u8 {
        write(folder.path(), &n.to_string(), &vec![n; 4 << 20]);
    }
    let source = LocalSource::new(folder.path());
    source.list().await.unwrap();
    let reads = (0..8_u8).map(|n| {
        let source = &source;
        async move {
            (
                n,
                content(source, &n.to_string(), 0..4 << 20).await.unwrap(),
            )
        }
    });
    for (n, bytes) in futures::future::join_all(reads).await {
        assert!(bytes.len() == 4 << 20 && bytes.iter().all(|byte| *byte == n));
    }
}

#[tokio::test]
async fn a_file_that_changes_is_noticed_before_and_while_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "w", &[1; 3 << 20]);
    let source = LocalSource::new(folder.path());
    source.list().await.unwrap();
    let mut stream = source.read("w", 0..3 << 20).await.unwrap();
    assert!(stream.try_next().await.unwrap().is_some());
    write(folder.path(), "w", &[2; 3 << 20]);
    let error = loop {
        match stream.try_next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the change was not noticed"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, SourceError::Changed { .. }), "{error}");
    assert!(content(&source, "w", 0..1).await.is_err());
    source.list().await.unwrap();
    assert_eq!(content(&source, "w", 0..1).await.unwrap(), [2]);
}

#[tokio::test]
async fn a_file_that_shrinks_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "w", &[1; 100]);
    let source = LocalSource::new(folder.path());
    source.list().await.unwrap();
    fs::write(folder.path().join("w"), b"x").unwrap();
    let error = content(&source, "w", 0..100).await.unwrap_err().to_string();
    assert!(
        error.contains("w changed") && error.contains("100 bytes"),
        "{error}"
    );
}

#[cfg(unix)]
mod links {
    use std::os::unix::fs::symlink;

    use super::*;

    #[tokio::test]
    async fn links_within_the_directory_are_followed() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "real/w", b"weights");
        symlink("real/w", folder.path().join("w")).unwrap();
        symlink("real", folder.path().join("again")).unwrap();
        let source = LocalSource::new(folder.path());
        assert_eq!(paths(&source).await, ["again/w", "real/w", "w"]);
        assert_eq!(content(&source, "w", 0..7).await.unwrap(), b"weights");
    }

    #[tokio::test]
    async fn links_out_of_the_directory_and_in_circles_are_refused_unless_left_out() {
        let outside = tempfile::tempdir().unwrap();
        write(outside.path(), "secret", b"s");
        for target in [outside.path().join("secret"), ".".into(), "missing".into()] {
            let folder = tempfile::tempdir().unwrap();
            write(folder.path(), "w", b"w");
            symlink(&target, folder.path().join("link")).unwrap();
            let error = LocalSource::new(folder.path()).list().await.unwrap_err();
            assert!(
                matches!(error, SourceError::Refused { .. }),
                "{target:?}: {error}"
            );
            if target != Path::new(".") {
                let selection = Selection::new(&[], &["link".to_owned()]).unwrap();
                let source = LocalSource::new(folder.path()).selecting(selection);
                assert_eq!(paths(&source).await, ["w"]);
            }
        }
    }

    #[tokio::test]
    async fn of_a_root_file_system_links_stay_links_and_empty_directories_are_listed() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "usr/bin/tool", b"elf");
        for directory in ["tmp", "var/lib"] {
            fs::create_dir_all(folder.path().join(directory)).unwrap();
        }
        for (target, link) in [
            ("usr/bin", "bin"),
            ("/usr/bin/tool", "usr/bin/absolute"),
            ("missing", "var/nowhere"),
            ("..", "usr/up"),
        ] {
            symlink(target, folder.path().join(link)).unwrap();
        }
        let source = LocalSource::new(folder.path()).with_links(Links::Keep);
        let tree = source.list().await.unwrap();
        let files: Vec<_> = tree.files.iter().map(|file| file.path.as_str()).collect();
        assert_eq!(files, ["usr/bin/tool"]);
        let links = tree.links.iter();
        let links: Vec<_> = links
            .map(|link| (link.path.as_str(), link.target.as_str()))
            .collect();
        assert_eq!(
            links,
            [
                ("bin", "usr/bin"),
                ("usr/bin/absolute", "/usr/bin/tool"),
                ("usr/up", ".."),
                ("var/nowhere", "missing"),
            ]
        );
        assert_eq!(tree.empty_directories, ["tmp", "var/lib"]);
    }

    #[tokio::test]
    async fn a_snapshot_of_the_hubs_cache_brings_its_commit_and_its_digests() {
        let cache = tempfile::tempdir().unwrap();
        let repository = cache.path().join("models--org--name");
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let digest = Digest::of(b"weights");
        write(&repository, &format!("blobs/{}", digest.hex()), b"weights");
        write(&repository, "blobs/0a1b", b"{}");
        let snapshot = repository.join("snapshots").join(commit);
        fs::create_dir_all(&snapshot).unwrap();
        symlink(
            format!("../../blobs/{}", digest.hex()),
            snapshot.join("m.safetensors"),
        )
        .unwrap();
        symlink("../../blobs/0a1b", snapshot.join("config.json")).unwrap();
        let tree = LocalSource::new(&snapshot).list().await.unwrap();
        assert_eq!(tree.revision.as_deref(), Some(commit));
        assert_eq!(tree.url.as_deref(), Some("https://huggingface.co/org/name"));
        let known: Vec<_> = tree.files.iter().map(|file| file.known_digest).collect();
        assert_eq!(known, [None, Some(digest)]);
    }

    #[tokio::test]
    async fn pipes_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let made = std::process::Command::new("mkfifo")
            .arg(folder.path().join("pipe"))
            .status()
            .unwrap();
        assert!(made.success());
        let error = LocalSource::new(folder.path()).list().await.unwrap_err();
        assert!(error.to_string().contains("pipe"), "{error}");
    }
}

#[tokio::test]
async fn one_file_is_a_tree_of_one() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "server", b"elf");
    let source = LocalSource::new(folder.path().join("server"));
    assert_eq!(paths(&source).await, ["server"]);
    assert_eq!(content(&source, "server", 0..3).await.unwrap(), b"elf");
    assert_eq!(source.identity("server").unwrap().size, 3);
}

#[tokio::test]
async fn a_missing_directory_is_named() {
    let error = LocalSource::new("/nonexistent/model")
        .list()
        .await
        .unwrap_err();
    assert!(error.to_string().contains("/nonexistent/model"), "{error}");
}
