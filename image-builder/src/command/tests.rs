//! The commands from outside, against a registry in memory. The hub is emulated.

use std::sync::{Arc, Mutex};

use registry_sink::{Options, Sink};

use super::shape::{Artifact, ShapeFlags};
use super::{BuildArgs, Context, Exit, Failure, Output, build};
use crate::command::flags::{CacheFlags, ProgressFlags, SourceFlags};
use crate::digest::Digest;
use crate::source::hub::emulated::{COMMIT, Hub};

/// Keeps what is printed.
#[derive(Default)]
struct Kept {
    data: Mutex<Vec<String>>,
    notes: Mutex<Vec<String>>,
}

impl Output for Kept {
    fn data(&self, line: &str) -> Result<(), Failure> {
        self.data.lock().unwrap().push(line.to_owned());
        Ok(())
    }

    fn note(&self, line: &str) {
        self.notes.lock().unwrap().push(line.to_owned());
    }

    fn draws_bars(&self) -> bool {
        false
    }
}

struct Scene {
    sink: Sink,
    folder: tempfile::TempDir,
    output: Arc<Kept>,
    context: Context,
}

impl Scene {
    async fn new(variables: &[(&str, String)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let output = Arc::new(Kept::default());
        let mut all: std::collections::BTreeMap<String, String> = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        all.insert("HOME".to_owned(), folder.path().display().to_string());
        let context = Context {
            variables: all,
            output: output.clone(),
            credentials: Vec::new(),
            program: "test".to_owned(),
        };
        let sink = Sink::start(Options::default()).await.unwrap();
        Self {
            sink,
            folder,
            output,
            context,
        }
    }

    fn arguments(&self, source: &str, tag: &str) -> BuildArgs {
        BuildArgs {
            source: Some(source.to_owned()),
            tags: vec![format!("{}/{tag}", self.sink.host())],
            push: true,
            concurrency: 4,
            shape: ShapeFlags {
                artifact: Artifact::Modelpack,
                ..ShapeFlags::default()
            },
            progress: ProgressFlags {
                quiet: true,
                ..ProgressFlags::default()
            },
            ..BuildArgs::default()
        }
    }

    fn directory(&self) -> String {
        let root = self.folder.path().join("model");
        std::fs::create_dir_all(&root).unwrap();
        std::fs::write(root.join("config.json"), b"{}").unwrap();
        std::fs::write(root.join("weights.bin"), b"\x80\x02}q\x00.").unwrap();
        root.display().to_string()
    }

    fn last(&self) -> String {
        self.output
            .data
            .lock()
            .unwrap()
            .last()
            .cloned()
            .unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_of_the_hub_streams_into_the_registry_and_is_not_downloaded_again() {
    let hub = Hub::start().await;
    let scene = Scene::new(&[
        ("HF_ENDPOINT", hub.hub.url("")),
        ("HF_TOKEN", "hf_secret".to_owned()),
    ])
    .await;
    let mut arguments = scene.arguments("hf://org/name@refs/pr/1", "models/name:v1");
    build(&arguments, &scene.context).await.unwrap();
    let weights = Digest::of(&Hub::weights());
    assert!(scene.sink.has("models/name", &weights.to_string()));
    assert_eq!(
        scene.sink.blob(&weights.to_string()).unwrap(),
        Hub::weights()
    );
    let (_, manifest) = scene.sink.manifest("models/name", "v1").unwrap();
    assert!(String::from_utf8_lossy(&manifest).contains(COMMIT));
    let before = hub.network.seen().len();
    // Another tag, and nothing remembered: what the hub says and what the registry has is enough.
    arguments.tags = vec![format!("{}/models/name:v2", scene.sink.host())];
    arguments.cache = CacheFlags {
        build_cache: Some(scene.folder.path().join("other")),
        no_digest_cache: true,
    };
    build(&arguments, &scene.context).await.unwrap();
    let asked: Vec<u64> = hub
        .network
        .seen()
        .iter()
        .skip(before)
        .filter_map(|seen| seen.range.map(|(start, end)| end - start))
        .collect();
    assert!(
        asked.iter().all(|length| *length <= 64 << 10),
        "only headers are read: {asked:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_writes_nothing_anywhere() {
    let scene = Scene::new(&[]).await;
    let mut arguments = scene.arguments(&scene.directory(), "models/dry:v1");
    arguments.dry_run = true;
    build(&arguments, &scene.context).await.unwrap();
    let writes: Vec<_> = scene
        .sink
        .records()
        .into_iter()
        .filter(|record| !matches!(record.method.as_str(), "GET" | "HEAD"))
        .collect();
    assert_eq!(writes, []);
    let shown = scene.output.data.lock().unwrap().join("\n");
    assert!(
        shown.contains("config.json") && shown.contains("weights.bin"),
        "{shown}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_denied_is_named_and_nothing_is_sent() {
    let scene = Scene::new(&[]).await;
    let mut arguments = scene.arguments(&scene.directory(), "models/denied:v1");
    arguments.shape.deny = "pickle".to_owned();
    let failure = build(&arguments, &scene.context).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Negative);
    assert!(failure.to_string().contains("weights.bin"), "{failure}");
    assert!(scene.sink.records().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_is_the_last_line_and_is_written_to_files() {
    let scene = Scene::new(&[]).await;
    let file = |name: &str| scene.folder.path().join(name);
    let mut arguments = scene.arguments(&scene.directory(), "models/files:v1");
    arguments.digest_file = Some(file("digest"));
    arguments.workspace_file = Some(file("workspace.yaml"));
    arguments.shape.preset = Some("phi-4".to_owned());
    let built = build(&arguments, &scene.context).await.unwrap();
    let digest = std::fs::read_to_string(file("digest")).unwrap();
    assert_eq!(scene.last(), digest, "-q prints the digest only");
    assert_eq!(built.image.unwrap().digest().unwrap().to_string(), digest);
    let workspace = std::fs::read_to_string(file("workspace.yaml")).unwrap();
    assert!(
        workspace.contains(&digest) && workspace.contains("name: phi-4"),
        "{workspace}"
    );
    arguments.progress.quiet = false;
    build(&arguments, &scene.context).await.unwrap();
    assert_eq!(
        scene.last(),
        format!("{}/models/files:v1@{digest}", scene.sink.host())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_files_give_the_same_digest_in_a_registry_a_layout_and_a_tar() {
    use super::target::OutputTarget;
    let scene = Scene::new(&[]).await;
    let source = scene.directory();
    let mut arguments = scene.arguments(&source, "models/same:v1");
    build(&arguments, &scene.context).await.unwrap();
    let digest = scene.last();
    arguments.push = false;
    for target in [
        OutputTarget::Oci(Some(scene.folder.path().join("layout"))),
        OutputTarget::Tar(scene.folder.path().join("image.tar")),
    ] {
        arguments.output = Some(target);
        build(&arguments, &scene.context).await.unwrap();
        assert_eq!(scene.last(), digest);
    }
    assert!(scene.folder.path().join("image.tar").is_file());
    assert!(!scene.folder.path().join("image.tar.partial").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_tell_what_to_do_next() {
    let scene = Scene::new(&[]).await;
    let missing = build(&scene.arguments("/nonexistent", "a/b:v1"), &scene.context)
        .await
        .unwrap_err();
    assert_eq!(missing.exit, Exit::Source);
    let mut nameless = scene.arguments(&scene.directory(), "a/b:v1");
    nameless.tags.clear();
    assert_eq!(
        build(&nameless, &scene.context).await.unwrap_err().exit,
        Exit::Failure
    );
    let mut empty = scene.arguments(&scene.directory(), "a/b:v1");
    empty.files = SourceFlags {
        include: vec!["*.none".to_owned()],
        ..SourceFlags::default()
    };
    assert_eq!(
        build(&empty, &scene.context).await.unwrap_err().exit,
        Exit::Source
    );
}

#[cfg(unix)]
mod root_file_systems {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;
    use crate::command::flags::RegistryFlags;
    use crate::command::pull;
    use crate::command::shape::KindFlag;

    /// What is at each path: a file's content, a link's target, or a directory.
    fn everything(root: &Path) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        let mut directories = vec![root.to_owned()];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(&directory).unwrap() {
                let place = entry.unwrap().path();
                let kind = fs::symlink_metadata(&place).unwrap().file_type();
                let what = if kind.is_symlink() {
                    format!("-> {}", fs::read_link(&place).unwrap().display())
                } else if kind.is_dir() {
                    directories.push(place.clone());
                    "directory".to_owned()
                } else {
                    fs::read_to_string(&place).unwrap()
                };
                let path = place.strip_prefix(root).unwrap().display().to_string();
                found.insert(path, what);
            }
        }
        found
    }

    /// A small root file system; `again` makes the same one in another order.
    fn root_file_system(root: &Path, again: bool) {
        let mut links = [
            ("usr/bin", "bin"),
            ("tool-1.2", "usr/bin/tool"),
            ("../../usr/bin/tool", "etc/alternatives/tool"),
            ("not-yet-there", "etc/dangling"),
            ("/usr/bin/tool", "etc/absolute"),
        ];
        let mut directories = ["usr/bin", "etc/alternatives", "tmp", "var/empty"];
        if again {
            links.reverse();
            directories.reverse();
        }
        for directory in directories {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        fs::write(root.join("usr/bin/tool-1.2"), "elf").unwrap();
        for (target, link) in links {
            symlink(target, root.join(link)).unwrap();
        }
    }

    fn program(scene: &Scene, root: &Path, tag: &str) -> BuildArgs {
        let mut arguments = scene.arguments(&root.display().to_string(), tag);
        arguments.shape = ShapeFlags {
            kind: KindFlag::Program,
            ..ShapeFlags::default()
        };
        arguments
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn links_and_empty_directories_come_back_and_make_no_difference_to_the_digest() {
        let scene = Scene::new(&[]).await;
        let (first, second) = (scene.folder.path().join("1"), scene.folder.path().join("2"));
        root_file_system(&first, false);
        root_file_system(&second, true);
        build(&program(&scene, &first, "tools/x:v1"), &scene.context)
            .await
            .unwrap();
        let digest = scene.last();
        build(&program(&scene, &second, "tools/x:v2"), &scene.context)
            .await
            .unwrap();
        assert_eq!(scene.last(), digest);

        let target = scene.folder.path().join("pulled");
        let arguments = pull::Args {
            reference: format!("{}/tools/x:v1", scene.sink.host()),
            directory: target.clone(),
            include: Vec::new(),
            platform: None,
            strip: None,
            concurrency: 2,
            registry: RegistryFlags::default(),
            cache: CacheFlags::default(),
            progress: ProgressFlags::default(),
        };
        pull::run(&arguments, &scene.context).await.unwrap();
        let mut expected = everything(&first);
        // An absolute link means the image's root, and is written so that it means the same in every directory.
        let absolute = "-> ../usr/bin/tool".to_owned();
        expected.insert("etc/absolute".to_owned(), absolute);
        assert_eq!(everything(&target), expected);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_link_that_leads_out_is_refused_and_nothing_is_sent() {
        let scene = Scene::new(&[]).await;
        for (number, target) in ["../secret", "usr/../../secret"].into_iter().enumerate() {
            let root = scene.folder.path().join(number.to_string());
            root_file_system(&root, false);
            symlink(target, root.join("link")).unwrap();
            let failure = build(&program(&scene, &root, "tools/x:v1"), &scene.context)
                .await
                .unwrap_err();
            assert_eq!(failure.exit, Exit::Source, "{target}: {failure}");
            assert!(failure.to_string().contains("`link`"), "{failure}");
        }
        assert_eq!(scene.sink.records(), []);
    }
}
