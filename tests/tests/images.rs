//! Images as others see them: what `image-builder` makes is read by skopeo, umoci and oras, and comes back the same.
//!
//! Real: the registry (distribution), the clients, the model (SmolLM2-135M-Instruct, from a Python package), the blob
//! service (Azurite). Emulated: Microsoft's registry, by a second repository of the same registry.

mod images {
    pub mod support;
}

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use images::support::{Builder, Output, digests_of, mask, needed, succeed, trees_are_equal, write};
use kaito_api::crd;
use kaito_tests::binaries::{self, Binary};
use kaito_tests::fixture::apply_yaml;
use kaito_tests::registry::{Options, Registry};
use kaito_tests::{ControlPlane, model, programs};
use serde_json::{Value, json};

/// What most of these tests begin with: a registry, a small model in a folder, and the program.
struct Setting {
    registry: Registry,
    folder: tempfile::TempDir,
    tree: PathBuf,
    builder: Builder,
}

impl Setting {
    async fn open() -> Self {
        Self::with(Options::open()).await
    }

    async fn with(options: Options) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("model");
        small_model(&tree);
        Self {
            registry: Registry::start(options).await.unwrap(),
            folder,
            tree,
            builder: Builder::new(),
        }
    }

    /// A name in the registry.
    fn name(&self, rest: &str) -> String {
        format!("{}/{rest}", self.registry.host())
    }

    /// A place in the folder.
    fn place(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Pushes the model in a shape.
    fn push(&self, shape: &str, name: &str) -> Output {
        self.push_with(name, &["--artifact", shape])
    }

    /// Pushes the model as the flags want it.
    fn push_with(&self, name: &str, flags: &[&str]) -> Output {
        let tree = text(&self.tree);
        let words = ["build", &tree, "-t", name, "--push"];
        self.builder.succeed(&[&words[..], flags].concat())
    }
}

async fn registry() -> Registry {
    Registry::start(Options::open()).await.unwrap()
}

fn small_model(folder: &Path) {
    write(
        folder,
        "config.json",
        br#"{"model_type":"llama","architectures":["LlamaForCausalLM"],"torch_dtype":"bfloat16"}"#,
    );
    write(folder, "tokenizer/vocab file.json", b"{}");
    write(
        folder,
        "README.md",
        b"---\nlicense: apache-2.0\n---\n# A model\n",
    );
    write(folder, "model.safetensors", &safetensors(2 << 20));
}

/// A shard with one tensor of the type I8 and `length` bytes.
fn safetensors(length: usize) -> Vec<u8> {
    let header =
        format!(r#"{{"w":{{"dtype":"I8","shape":[{length}],"data_offsets":[0,{length}]}}}}"#);
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend((0..length).map(|n| (n * 31 % 251) as u8));
    bytes
}

#[tokio::test]
async fn smollm2_is_packaged_in_three_shapes_and_comes_back_the_same() {
    let registry = registry().await;
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("smollm2");
    model::provide(&tree).unwrap();
    let builder = Builder::new();
    for shape in ["image", "modelpack", "dual"] {
        let name = format!("{}/models/smollm2:{shape}", registry.host());
        let built = builder.succeed(&[
            "build",
            &text(&tree),
            "--artifact",
            shape,
            "-t",
            &name,
            "--push",
        ]);
        let last = built.stdout.lines().last().unwrap();
        assert!(last.starts_with(&format!("{name}@sha256:")), "{last}");
        let pulled = folder.path().join(format!("pulled-{shape}"));
        builder.succeed(&["pull", &name, &text(&pulled)]);
        trees_are_equal(&tree, &pulled);
        let verified = builder.succeed(&["verify", &name]);
        assert!(verified.stdout.contains("verified"), "{}", verified.stdout);
    }
    // What is there already is not sent again.
    let name = format!("{}/models/smollm2:modelpack", registry.host());
    let again = builder.succeed(&[
        "build",
        &text(&tree),
        "--artifact",
        "modelpack",
        "-t",
        &name,
        "--push",
    ]);
    assert!(
        mask(&again.stderr).contains("pushed 0 0 B"),
        "{}",
        again.stderr
    );
}

#[tokio::test]
async fn skopeo_and_umoci_take_images_and_oras_takes_artifacts() {
    let setting = Setting::open().await;
    let image = setting.name("models/small:image");
    setting.push("image", &image);
    if let Some(skopeo) = needed("skopeo") {
        skopeo_copies(&setting, &skopeo, &image);
    }
    if let Some(umoci) = needed("umoci") {
        umoci_unpacks(&setting, &umoci);
    }
    let artifact = setting.name("models/small:modelpack");
    setting.push("modelpack", &artifact);
    oras_pulls(&setting, &artifact);
}

/// The image is what skopeo takes it for, and its layers keep their digests.
fn skopeo_copies(setting: &Setting, skopeo: &Path, image: &str) {
    let source = format!("docker://{image}");
    let inspected = succeed(Command::new(skopeo).args(["inspect", "--tls-verify=false", &source]));
    let inspected: Value = serde_json::from_str(&inspected).unwrap();
    assert_eq!(inspected["Architecture"], "amd64");
    let copied = setting.place("copied");
    copy_with_skopeo(skopeo, "--preserve-digests", &source, &copied);
    for digest in layers_of_copy(&copied) {
        assert_eq!(digests_of(&copied.join(&digest)), digest);
    }
}

fn copy_with_skopeo(skopeo: &Path, flag: &str, source: &str, target: &Path) {
    let target = format!("dir:{}", target.display());
    succeed(Command::new(skopeo).args(["copy", "--src-tls-verify=false", flag, source, &target]));
}

/// The files of layers in what skopeo copied to a folder: hexadecimal digests.
fn layers_of_copy(copied: &Path) -> Vec<String> {
    let manifest = fs::read(copied.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let layers = manifest["layers"].as_array().unwrap().iter();
    let digests = layers.map(|layer| layer["digest"].as_str().unwrap());
    digests
        .map(|digest| digest.strip_prefix("sha256:").unwrap().to_owned())
        .collect()
}

/// A layout on disk gives umoci the same files.
fn umoci_unpacks(setting: &Setting, umoci: &Path) {
    let (layout, bundle) = (text(&setting.place("layout")), setting.place("bundle"));
    let tree = text(&setting.tree);
    let output = format!("type=oci,dest={layout}");
    setting
        .builder
        .succeed(&["build", &tree, "-t", "local/small:v1", "-o", &output]);
    let image = format!("{layout}:v1");
    succeed(
        Command::new(umoci)
            .args(["unpack", "--rootless", "--image", &image])
            .arg(&bundle),
    );
    trees_are_equal(&setting.tree, &bundle.join("rootfs/models"));
}

/// oras gives an artifact's files their names back.
fn oras_pulls(setting: &Setting, artifact: &str) {
    let target = setting.place("oras");
    fs::create_dir_all(&target).unwrap();
    let mut pull = setting.registry.oras(&["pull"]).unwrap();
    succeed(pull.current_dir(&target).arg(artifact));
    trees_are_equal(&setting.tree, &target);
}

#[tokio::test]
async fn an_adapter_goes_the_way_of_kaitos_puller() {
    let Some(skopeo) = needed("skopeo") else {
        return;
    };
    let registry = registry().await;
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("adapter");
    let config = json!({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"],
        "base_model_name_or_path": "microsoft/phi-4"});
    write(&tree, "adapter_config.json", config.to_string().as_bytes());
    write(&tree, "adapter_model.safetensors", &safetensors(1 << 20));
    let builder = Builder::new();
    let name = format!("{}/adapters/tuned:v1", registry.host());
    let built = builder.succeed(&["build", &text(&tree), "-t", &name, "--push"]);
    assert!(
        built.stderr.contains("name: microsoft/phi-4"),
        "{}",
        built.stderr
    );

    let copied = folder.path().join("copied");
    let source = format!("docker://{name}");
    copy_with_skopeo(&skopeo, "--dest-decompress", &source, &copied);
    let root = folder.path().join("root");
    fs::create_dir_all(&root).unwrap();
    for layer in layers_of_copy(&copied) {
        let mut unpack = Command::new("tar");
        unpack.arg("xf").arg(copied.join(layer));
        succeed(unpack.arg("-C").arg(&root));
    }
    trees_are_equal(&tree, &root.join("data"));
}

#[tokio::test]
async fn documents_and_signatures_are_found_by_others_and_bind_the_image() {
    let setting = Setting::open().await;
    let ours = key_pair(&setting.place("ours"));
    let stranger = key_pair(&setting.place("stranger"));
    let name = setting.name("models/signed:v1");
    let attest = ["--attest", "sbom,provenance", "--sign-key", &ours.private];
    setting.push_with(&name, &attest);
    oras_discovers(
        &setting.registry,
        &name,
        &[
            "application/vnd.cyclonedx+json",
            "application/vnd.dev.sigstore.bundle.v0.3+json",
        ],
    );
    let verified = setting
        .builder
        .succeed(&["verify", &name, "--key", &ours.public]);
    assert!(
        verified.stderr.contains("2 valid signatures"),
        "{}",
        verified.stderr
    );
    let unsigned = setting.name("models/unsigned:v1");
    setting.push_with(&unsigned, &["--model-name", "other"]);
    for (image, key) in [(&name, &stranger.public), (&unsigned, &ours.public)] {
        let refused = setting.builder.run(&["verify", image, "--key", key]);
        assert_eq!(refused.status, 3, "{image}: {}", refused.stderr);
    }
}

/// Files with the two halves of a key.
struct KeyPair {
    private: String,
    public: String,
}

/// Made by OpenSSL, so that we also read what others write.
fn key_pair(stem: &Path) -> KeyPair {
    let pair = KeyPair {
        private: text(&stem.with_extension("key")),
        public: text(&stem.with_extension("pub")),
    };
    let curve = ["ecparam", "-name", "prime256v1", "-genkey", "-noout"];
    succeed(
        Command::new("openssl")
            .args(curve)
            .args(["-out", &pair.private]),
    );
    let public = ["ec", "-pubout", "-in", &pair.private, "-out", &pair.public];
    succeed(Command::new("openssl").args(public));
    pair
}

/// What is attached to the image is found by its kind.
fn oras_discovers(registry: &Registry, name: &str, kinds: &[&str]) {
    let mut discover = registry.oras(&["discover"]).unwrap();
    let discovered = succeed(discover.args(["--format", "json"]).arg(name));
    for kind in kinds {
        assert!(discovered.contains(kind), "{discovered}");
    }
}

#[tokio::test]
async fn a_blob_that_is_altered_in_the_registry_is_refused() {
    let setting = Setting::open().await;
    let name = setting.name("models/altered:v1");
    setting.push("modelpack", &name);
    let digest = digests_of(&setting.tree.join("model.safetensors"));
    let blob = setting.registry.folder().join(format!(
        "data/docker/registry/v2/blobs/sha256/{}/{digest}/data",
        &digest[..2]
    ));
    let mut bytes = fs::read(&blob).unwrap();
    bytes[1_000_000] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let refused = setting.builder.run(&["verify", &name]);
    assert_eq!(refused.status, 3, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("model.safetensors"),
        "{}",
        refused.stderr
    );
    let target = setting.place("pulled");
    let pulled = setting.builder.run(&["pull", &name, &text(&target)]);
    assert_eq!(pulled.status, 3, "{}", pulled.stderr);
    assert!(!target.join("model.safetensors").exists());
}

#[tokio::test]
async fn passwords_come_from_stdin_and_stay_out_of_sight() {
    let setting = Setting::with(Options::secured()).await;
    let password = &setting.registry.credentials().unwrap().password;
    let authority = text(setting.registry.authority().unwrap());
    let name = setting.name("models/secret:v1");
    let build = ["build", &text(&setting.tree), "-t", &name, "--push"];
    let build = [&build[..], &["--ca-file", &authority]].concat();
    let refused = setting.builder.run(&build);
    assert_eq!(refused.status, 6, "{}", refused.stderr);
    assert_eq!(login(&setting, "wrong").status, 6);
    let stored = login(&setting, password);
    assert_eq!(stored.status, 0, "{}", stored.stderr);
    let pushed = setting.builder.succeed(&build);
    let pulled = pull_with_secrets_of_a_pod(&setting, &name, &authority);
    for output in [&stored, &pushed, &pulled] {
        for shown in [&output.stderr, &output.stdout] {
            assert!(!shown.contains(password), "{shown}");
        }
    }
}

/// Logs in with a password on stdin.
fn login(setting: &Setting, password: &str) -> Output {
    let user = &setting.registry.credentials().unwrap().user;
    let authority = text(setting.registry.authority().unwrap());
    let host = setting.registry.host();
    let words = ["login", host, "-u", user, "--password-stdin"];
    let words = [&words[..], &["--ca-file", &authority]].concat();
    setting.builder.run_with_stdin(&words, password)
}

/// Pulls as a container does: from a home without a login, with a file for each pull secret, the wanted one last.
fn pull_with_secrets_of_a_pod(setting: &Setting, name: &str, authority: &str) -> Output {
    let other = r#"{"auths":{"elsewhere.example.com":{"auth":"eDp5"}}}"#;
    write(setting.folder.path(), "other.json", other.as_bytes());
    let ours = setting.registry.docker_config();
    write(setting.folder.path(), "ours.json", ours.as_bytes());
    let other = text(&setting.place("other.json"));
    let ours = text(&setting.place("ours.json"));
    let target = text(&setting.place("pulled"));
    let pull = ["pull", name, &target, "--ca-file", authority];
    let files = ["--registry-config", &other, "--registry-config", &ours];
    let stranger = Builder::new();
    assert_eq!(stranger.run(&[&pull[..], &files[..2]].concat()).status, 6);
    stranger.succeed(&[&pull[..], &files[..]].concat())
}

#[tokio::test]
async fn differences_of_two_tags_are_listed_and_only_they_are_pushed() {
    let setting = Setting::open().await;
    let (first, second) = (
        setting.name("models/diff:v1"),
        setting.name("models/diff:v2"),
    );
    setting.push("modelpack", &first);
    write(&setting.tree, "config.json", br#"{"model_type":"qwen2"}"#);
    let pushed = setting.push("modelpack", &second);
    assert!(
        mask(&pushed.stderr).contains("pushed 1 22 B"),
        "{}",
        pushed.stderr
    );
    let diff = setting.builder.run(&["diff", &first, &second]);
    assert_eq!(diff.status, 3);
    assert!(diff.stdout.starts_with("~ config.json"), "{}", diff.stdout);
    assert_eq!(diff.stdout.lines().count(), 1);
    let same = setting.builder.run(&["diff", &first, &first]);
    assert_eq!(same.status, 0);
}

#[tokio::test]
async fn inspect_reads_headers_of_remote_weights() {
    let setting = Setting::open().await;
    for shape in ["image", "modelpack"] {
        let name = setting.name(&format!("models/inspect:{shape}"));
        setting.push(shape, &name);
        let inspect = ["inspect", &name, "--remote"];
        let shown = setting
            .builder
            .succeed(&[&inspect[..], &["-o", "json"]].concat());
        let document: Value = serde_json::from_str(&shown.stdout).unwrap();
        let layers = document["manifests"][0]["layers"].as_array().unwrap();
        let files: Vec<&Value> = layers
            .iter()
            .flat_map(|layer| layer["files"].as_array().unwrap())
            .collect();
        // In images the weights are below the folder that is mounted.
        let root = if shape == "image" { "models/" } else { "" };
        let find = |path: &str| {
            let path = format!("{root}{path}");
            let found = files.iter().find(|file| file["path"] == *path);
            *found.unwrap_or_else(|| panic!("{shape}: no {path} in {files:?}"))
        };
        let tensors = json!({"count": 1, "parameters": 2 << 20, "types": {"I8": 1}});
        assert_eq!(find("model.safetensors")["tensors"], tensors, "{shape}");
        assert_eq!(find("tokenizer/vocab file.json")["size"], 2, "{shape}");
        let text = setting.builder.succeed(&inspect).stdout;
        assert!(
            mask(&text).contains("1, 2097152 parameters (1 × I8)"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn microsofts_registry_takes_no_push_and_is_waited_for() {
    let setting = Setting::open().await;
    let tree = text(&setting.tree);
    let build = ["build", &tree, "-t", "mcr.microsoft.com/aks/x:1", "--push"];
    let refused = setting.builder.run(&build);
    assert_eq!(refused.status, 8);
    assert!(refused.stderr.contains("onboarded"), "{}", refused.stderr);
    // The registry emulates both: what is pushed below public/, and what everybody sees once it is synchronised.
    let (pushed, public) = (setting.name("public/aks/x:1"), setting.name("aks/x:1"));
    setting.push("image", &pushed);
    let times = ["--wait-seconds", "0", "--interval-seconds", "1"];
    let wait = ["wait-mcr", &pushed, "--mcr-host", setting.registry.host()];
    let wait = [&wait[..], &times[..]].concat();
    assert_eq!(setting.builder.run(&wait).status, 4);
    setting.builder.succeed(&["copy", &pushed, &public]);
    let served = setting.builder.succeed(&wait);
    assert!(
        served.stdout.starts_with(&format!("{public}@sha256:")),
        "{}",
        served.stdout
    );
}

#[tokio::test]
async fn the_printed_workspace_is_admitted_by_a_real_api_server() {
    let setting = Setting::open().await;
    let plane = plane_with_our_rules().await;
    let shell = Shell {
        plane: &plane,
        home: setting.folder.path(),
    };
    let adapter = setting.place("adapter");
    adapter_of_phi(&adapter);
    for (source, repository, preset) in [
        (&setting.tree, "models/smollm2", None),
        (&setting.tree, "models/phi", Some("phi-4-mini-instruct")),
        (&adapter, "adapters/tuned", None),
    ] {
        let name = setting.name(repository);
        let yaml = printed_workspace(&shell, source, &name, preset);
        let file = setting.place("workspace.yaml");
        fs::write(&file, yaml).unwrap();
        let apply = ["apply", "-f", &text(&file), "--dry-run=server"];
        let (applied, _) = shell.succeed(&apply);
        assert!(applied.contains("created (server dry run)"), "{applied}");
        let (applied, _) = shell.succeed(&[&["kaito"], &apply[..]].concat());
        assert!(
            applied.contains("serverside-applied (server dry run)"),
            "{applied}"
        );
    }
    let wrong = text(&wrong_workspace(setting.folder.path()));
    let refused = shell.run(&["apply", "--dry-run=server", "-f", &wrong]);
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success(), "the server takes what is wrong");
    assert!(text.contains("no-such-preset"), "{text}");
}

/// A control plane that knows Workspaces and refuses wrong ones.
async fn plane_with_our_rules() -> ControlPlane {
    let plane = ControlPlane::start(kaito_tests::Options::api_only())
        .await
        .unwrap();
    let client = plane.client().await.unwrap();
    for rules in [crd::crd_yaml(), crd::admission_policy_yaml()] {
        apply_yaml(&client, "default", &rules.unwrap())
            .await
            .unwrap();
    }
    plane
}

/// kubectl as a user has it, with the plugin, in a home of its own.
struct Shell<'a> {
    plane: &'a ControlPlane,
    home: &'a Path,
}

impl Shell<'_> {
    fn run(&self, words: &[&str]) -> std::process::Output {
        let mut command = self.plane.kubectl_command();
        command
            .env("HOME", self.home)
            .env("KAITO_CACHE_DIR", self.home.join("cache"));
        command.args(words).output().unwrap()
    }

    /// What a command that must succeed wrote to its two streams.
    fn succeed(&self, words: &[&str]) -> (String, String) {
        let output = self.run(words);
        let out = String::from_utf8(output.stdout).unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{words:?}\n{out}{err}");
        (out, err)
    }
}

fn adapter_of_phi(folder: &Path) {
    let config = json!({"peft_type": "LORA", "r": 8, "base_model_name_or_path": "microsoft/phi-4"});
    let config = config.to_string();
    write(folder, "adapter_config.json", config.as_bytes());
    write(folder, "adapter_model.safetensors", &safetensors(1 << 20));
}

/// Builds and pushes `name:v1` by the plugin, and gives the Workspace that it prints: one of the newest version that
/// names the image by its digest.
fn printed_workspace(shell: &Shell<'_>, source: &Path, name: &str, preset: Option<&str>) -> String {
    let (source, tagged) = (text(source), format!("{name}:v1"));
    let mut words = vec!["kaito", "build-image", &source, "-t", &tagged, "--push"];
    words.extend(preset.iter().flat_map(|preset| ["--preset", preset]));
    let (stdout, stderr) = shell.succeed(&words);
    let last = stdout.lines().last().unwrap();
    assert!(last.starts_with(&format!("{tagged}@sha256:")), "{stdout}");
    let digest = last.rsplit('@').next().unwrap();
    let yaml: Vec<&str> = stderr
        .lines()
        .skip_while(|line| !line.starts_with("apiVersion:"))
        .take_while(|line| !line.is_empty())
        .collect();
    let yaml = yaml.join("\n");
    // A mode of access would make the image a whole server; the older version would not know of images of weights.
    assert!(yaml.starts_with("apiVersion: kaito.sh/v1beta1"), "{yaml}");
    assert!(!yaml.contains("accessMode"), "{yaml}");
    assert!(yaml.contains(&format!("{name}@{digest}")), "{yaml}");
    yaml
}

/// A Workspace that no server that knows them admits: so much for the dry runs being real.
fn wrong_workspace(folder: &Path) -> PathBuf {
    let file = folder.join("wrong.yaml");
    let object = json!({
        "apiVersion": "kaito.sh/v1beta1", "kind": "Workspace", "metadata": {"name": "wrong"},
        "resource": {"labelSelector": {"matchLabels": {"apps": "wrong"}}},
        "inference": {"preset": {"name": "no-such-preset"}},
    });
    fs::write(&file, object.to_string()).unwrap();
    file
}

#[tokio::test]
async fn blobs_of_azurite_stream_into_a_registry() {
    let Some(azurite) = images::support::azurite() else {
        return;
    };
    let mut setting = Setting::open().await;
    azurite.upload("models", "phi/4", &setting.tree);
    let builder = &mut setting.builder;
    builder.set("AZURE_STORAGE_BLOB_ENDPOINT", &azurite.endpoint());
    builder.set("AZURE_STORAGE_SAS_TOKEN", &azurite.signature());
    let name = setting.name("models/azure:v1");
    let source = "azblob://devstoreaccount1/models/phi/4";
    let build = ["build", source, "--artifact", "modelpack"];
    let build = [&build[..], &["-t", &name, "--push"]].concat();
    let from_blobs = setting.builder.succeed(&build);
    let target = setting.place("pulled");
    setting.builder.succeed(&["pull", &name, &text(&target)]);
    trees_are_equal(&setting.tree, &target);
    for shown in [&from_blobs.stderr, &from_blobs.stdout] {
        assert!(!shown.contains("sig="), "{shown}");
    }
}

#[test]
fn the_walkthrough_of_the_examples_works() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/build-image/run");
    let mut command = Command::new(script);
    command.env(
        "KAITO_BIN_DIR",
        programs::find(programs::IMAGE_BUILDER)
            .unwrap()
            .parent()
            .unwrap(),
    );
    command.env(
        "KAITO_REGISTRY",
        binaries::find_or_build(Binary::Registry).unwrap(),
    );
    let told = succeed(&mut command);
    assert!(told.contains("verified"), "{told}");
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
