//! Images as others see them: what `image-builder` makes is read by skopeo, umoci and oras, and comes back the same.
//!
//! Real: the registry (distribution), the clients, the model (SmolLM2-135M-Instruct, from a Python package), the blob
//! service (Azurite). Emulated: Microsoft's registry, by a second repository of the same registry.

mod images {
    pub mod support;
}

use std::fs;
use std::path::Path;

use images::support::{Builder, digests_of, mask, needed, succeed, trees_are_equal, write};
use kaito_api::crd;
use kaito_tests::binaries::{self, Binary};
use kaito_tests::fixture::apply_yaml;
use kaito_tests::registry::{Options, Registry};
use kaito_tests::{ControlPlane, model, programs};
use serde_json::{Value, json};

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
    let registry = registry().await;
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("model");
    small_model(&tree);
    let builder = Builder::new();
    let image = format!("{}/models/small:image", registry.host());
    builder.succeed(&["build", &text(&tree), "-t", &image, "--push"]);

    if let Some(skopeo) = needed("skopeo") {
        let inspected = succeed(std::process::Command::new(&skopeo).args([
            "inspect",
            "--tls-verify=false",
            &format!("docker://{image}"),
        ]));
        let inspected: Value = serde_json::from_str(&inspected).unwrap();
        assert_eq!(inspected["Architecture"], "amd64");
        let copied = folder.path().join("copied");
        succeed(std::process::Command::new(&skopeo).args([
            "copy",
            "--src-tls-verify=false",
            "--preserve-digests",
            &format!("docker://{image}"),
            &format!("dir:{}", copied.display()),
        ]));
        let manifest: Value =
            serde_json::from_slice(&fs::read(copied.join("manifest.json")).unwrap()).unwrap();
        for layer in manifest["layers"].as_array().unwrap() {
            let digest = layer["digest"]
                .as_str()
                .unwrap()
                .strip_prefix("sha256:")
                .unwrap();
            assert_eq!(digests_of(&copied.join(digest)), digest);
        }
    }
    if let Some(umoci) = needed("umoci") {
        let layout = folder.path().join("layout");
        builder.succeed(&[
            "build",
            &text(&tree),
            "-t",
            "local/small:v1",
            "-o",
            &format!("type=oci,dest={}", layout.display()),
        ]);
        let bundle = folder.path().join("bundle");
        succeed(std::process::Command::new(umoci).args([
            "unpack",
            "--rootless",
            "--image",
            &format!("{}:v1", layout.display()),
            &text(&bundle),
        ]));
        trees_are_equal(&tree, &bundle.join("rootfs/models"));
    }
    let artifact = format!("{}/models/small:modelpack", registry.host());
    builder.succeed(&[
        "build",
        &text(&tree),
        "--artifact",
        "modelpack",
        "-t",
        &artifact,
        "--push",
    ]);
    let target = folder.path().join("oras");
    fs::create_dir_all(&target).unwrap();
    let mut pull = registry.oras(&["pull"]).unwrap();
    succeed(pull.current_dir(&target).arg(&artifact));
    trees_are_equal(&tree, &target);
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
    succeed(std::process::Command::new(skopeo).args([
        "copy",
        "--src-tls-verify=false",
        "--dest-decompress",
        &format!("docker://{name}"),
        &format!("dir:{}", copied.display()),
    ]));
    let manifest: Value =
        serde_json::from_slice(&fs::read(copied.join("manifest.json")).unwrap()).unwrap();
    let root = folder.path().join("root");
    fs::create_dir_all(&root).unwrap();
    for layer in manifest["layers"].as_array().unwrap() {
        let digest = layer["digest"]
            .as_str()
            .unwrap()
            .strip_prefix("sha256:")
            .unwrap();
        succeed(
            std::process::Command::new("tar")
                .arg("xf")
                .arg(copied.join(digest))
                .arg("-C")
                .arg(&root),
        );
    }
    trees_are_equal(&tree, &root.join("data"));
}

#[tokio::test]
async fn documents_and_signatures_are_found_by_others_and_bind_the_image() {
    let registry = registry().await;
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("model");
    small_model(&tree);
    let key = |name: &str| {
        let (private, public) = (
            folder.path().join(format!("{name}.key")),
            folder.path().join(format!("{name}.pub")),
        );
        succeed(
            std::process::Command::new("openssl")
                .args([
                    "ecparam",
                    "-name",
                    "prime256v1",
                    "-genkey",
                    "-noout",
                    "-out",
                ])
                .arg(&private),
        );
        succeed(
            std::process::Command::new("openssl")
                .args(["ec", "-pubout", "-in"])
                .arg(&private)
                .arg("-out")
                .arg(&public),
        );
        (text(&private), text(&public))
    };
    let ((private, public), (_, stranger)) = (key("ours"), key("stranger"));
    let builder = Builder::new();
    let name = format!("{}/models/signed:v1", registry.host());
    builder.succeed(&[
        "build",
        &text(&tree),
        "-t",
        &name,
        "--push",
        "--attest",
        "sbom,provenance",
        "--sign-key",
        &private,
    ]);
    let discovered = succeed(
        registry
            .oras(&["discover"])
            .unwrap()
            .args(["--format", "json"])
            .arg(&name),
    );
    for kind in [
        "application/vnd.cyclonedx+json",
        "application/vnd.dev.sigstore.bundle.v0.3+json",
    ] {
        assert!(discovered.contains(kind), "{discovered}");
    }
    let verified = builder.succeed(&["verify", &name, "--key", &public]);
    assert!(
        verified.stderr.contains("2 valid signatures"),
        "{}",
        verified.stderr
    );
    let refused = builder.run(&["verify", &name, "--key", &stranger]);
    assert_eq!(refused.status, 3, "{}", refused.stderr);
    let unsigned = format!("{}/models/unsigned:v1", registry.host());
    builder.succeed(&[
        "build",
        &text(&tree),
        "--model-name",
        "other",
        "-t",
        &unsigned,
        "--push",
    ]);
    assert_eq!(
        builder.run(&["verify", &unsigned, "--key", &public]).status,
        3
    );
}

#[tokio::test]
async fn a_blob_that_is_altered_in_the_registry_is_refused() {
    let registry = registry().await;
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("model");
    small_model(&tree);
    let builder = Builder::new();
    let name = format!("{}/models/altered:v1", registry.host());
    builder.succeed(&[
        "build",
        &text(&tree),
        "--artifact",
        "modelpack",
        "-t",
        &name,
        "--push",
    ]);
    let digest = digests_of(&tree.join("model.safetensors"));
    let blob = registry.folder().join(format!(
        "data/docker/registry/v2/blobs/sha256/{}/{digest}/data",
        &digest[..2]
    ));
    let mut bytes = fs::read(&blob).unwrap();
    bytes[1_000_000] ^= 1;
    fs::write(&blob, bytes).unwrap();
    let refused = builder.run(&["verify", &name]);
    assert_eq!(refused.status, 3, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("model.safetensors"),
        "{}",
        refused.stderr
    );
    let target = folder.path().join("pulled");
    let pulled = builder.run(&["pull", &name, &text(&target)]);
    assert_eq!(pulled.status, 3, "{}", pulled.stderr);
    assert!(!target.join("model.safetensors").exists());
}

#[tokio::test]
async fn passwords_come_from_stdin_and_stay_out_of_sight() {
    let registry = Registry::start(Options::secured()).await.unwrap();
    let credentials = registry.credentials().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("model");
    small_model(&tree);
    let builder = Builder::new();
    let authority = text(registry.authority().unwrap());
    let name = format!("{}/models/secret:v1", registry.host());
    let refused = builder.run(&[
        "build",
        &text(&tree),
        "-t",
        &name,
        "--push",
        "--ca-file",
        &authority,
    ]);
    assert_eq!(refused.status, 6, "{}", refused.stderr);
    let login = |password: &str| {
        let words = [
            "login",
            registry.host(),
            "-u",
            &credentials.user,
            "--password-stdin",
            "--ca-file",
            &authority,
        ];
        builder.run_with_stdin(&words, password)
    };
    assert_eq!(login("wrong").status, 6);
    let stored = login(&credentials.password);
    assert_eq!(stored.status, 0, "{}", stored.stderr);
    let pushed = builder.succeed(&[
        "build",
        &text(&tree),
        "-t",
        &name,
        "--push",
        "--ca-file",
        &authority,
    ]);
    // As containers that pull have them: a file for each pull secret, here the wanted one last.
    let other = folder.path().join("other.json");
    fs::write(
        &other,
        r#"{"auths":{"elsewhere.example.com":{"auth":"eDp5"}}}"#,
    )
    .unwrap();
    let ours = folder.path().join("ours.json");
    fs::write(&ours, registry.docker_config()).unwrap();
    let (other, ours) = (text(&other), text(&ours));
    let target = text(&folder.path().join("pulled"));
    let stranger = Builder::new();
    let pull = ["pull", &name, &target, "--ca-file", &authority];
    let files = ["--registry-config", &other, "--registry-config", &ours];
    assert_eq!(stranger.run(&[&pull[..], &files[..2]].concat()).status, 6);
    let pulled = stranger.succeed(&[&pull[..], &files[..]].concat());
    for shown in [
        &stored.stderr,
        &pushed.stderr,
        &pushed.stdout,
        &pulled.stderr,
    ] {
        assert!(!shown.contains(&credentials.password), "{shown}");
    }
}

#[tokio::test]
async fn differences_of_two_tags_are_listed_and_only_they_are_pushed() {
    let registry = registry().await;
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("model");
    small_model(&tree);
    let builder = Builder::new();
    let name = |tag: &str| format!("{}/models/diff:{tag}", registry.host());
    let push = |tag: &str| {
        builder.succeed(&[
            "build",
            &text(&tree),
            "--artifact",
            "modelpack",
            "-t",
            &name(tag),
            "--push",
        ])
    };
    push("v1");
    write(&tree, "config.json", br#"{"model_type":"qwen2"}"#);
    let second = push("v2");
    assert!(
        mask(&second.stderr).contains("pushed 1 22 B"),
        "{}",
        second.stderr
    );
    let diff = builder.run(&["diff", &name("v1"), &name("v2")]);
    assert_eq!(diff.status, 3);
    assert!(diff.stdout.starts_with("~ config.json"), "{}", diff.stdout);
    assert_eq!(diff.stdout.lines().count(), 1);
    assert_eq!(builder.run(&["diff", &name("v1"), &name("v1")]).status, 0);
}

#[tokio::test]
async fn inspect_reads_headers_of_remote_weights() {
    let registry = registry().await;
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("model");
    small_model(&tree);
    let builder = Builder::new();
    for shape in ["image", "modelpack"] {
        let name = format!("{}/models/inspect:{shape}", registry.host());
        builder.succeed(&[
            "build",
            &text(&tree),
            "--artifact",
            shape,
            "-t",
            &name,
            "--push",
        ]);
        let shown = builder.succeed(&["inspect", &name, "--remote", "-o", "json"]);
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
        let text = builder.succeed(&["inspect", &name, "--remote"]).stdout;
        assert!(
            mask(&text).contains("1, 2097152 parameters (1 × I8)"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn microsofts_registry_takes_no_push_and_is_waited_for() {
    let registry = registry().await;
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("model");
    small_model(&tree);
    let builder = Builder::new();
    let refused = builder.run(&[
        "build",
        &text(&tree),
        "-t",
        "mcr.microsoft.com/aks/x:1",
        "--push",
    ]);
    assert_eq!(refused.status, 8);
    assert!(refused.stderr.contains("onboarded"), "{}", refused.stderr);
    // The registry emulates both: what is pushed below public/, and what everybody sees once it is synchronised.
    let host = registry.host();
    let pushed = format!("{host}/public/aks/x:1");
    builder.succeed(&["build", &text(&tree), "-t", &pushed, "--push"]);
    let wait = [
        "wait-mcr",
        &pushed,
        "--mcr-host",
        host,
        "--wait-seconds",
        "0",
        "--interval-seconds",
        "1",
    ];
    assert_eq!(builder.run(&wait).status, 4);
    builder.succeed(&["copy", &pushed, &format!("{host}/aks/x:1")]);
    let served = builder.succeed(&wait);
    assert!(
        served
            .stdout
            .starts_with(&format!("{host}/aks/x:1@sha256:")),
        "{}",
        served.stdout
    );
}

#[tokio::test]
async fn the_printed_workspace_is_admitted_by_a_real_api_server() {
    let plane = ControlPlane::start(kaito_tests::Options::api_only())
        .await
        .unwrap();
    let client = plane.client().await.unwrap();
    apply_yaml(&client, "default", &crd::crd_yaml().unwrap())
        .await
        .unwrap();
    apply_yaml(&client, "default", &crd::admission_policy_yaml().unwrap())
        .await
        .unwrap();
    let registry = registry().await;
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("model");
    small_model(&tree);
    let plugin = programs::find(programs::PLUGIN).unwrap();
    let kubectl = binaries::find_or_build(Binary::Kubectl).unwrap();
    // kubectl finds its plugins on the path.
    let path = format!(
        "{}:{}",
        plugin.parent().unwrap().display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let run = |words: &[&str]| {
        let mut command = std::process::Command::new(&kubectl);
        command
            .env("PATH", &path)
            .env("HOME", folder.path())
            .env("KUBECONFIG", plane.kubeconfig_path())
            .env("KAITO_CACHE_DIR", folder.path().join("cache"));
        let output = command.args(words).output().unwrap();
        let (out, err) = (
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        );
        assert!(output.status.success(), "{words:?}\n{out}{err}");
        (out, err)
    };
    let adapter = folder.path().join("adapter");
    let config = json!({"peft_type": "LORA", "r": 8, "base_model_name_or_path": "microsoft/phi-4"});
    write(
        &adapter,
        "adapter_config.json",
        config.to_string().as_bytes(),
    );
    write(&adapter, "adapter_model.safetensors", &safetensors(1 << 20));
    for (source, repository, preset) in [
        (&tree, "models/smollm2", None),
        (&tree, "models/phi", Some("phi-4-mini-instruct")),
        (&adapter, "adapters/tuned", None),
    ] {
        let name = format!("{}/{repository}:v1", registry.host());
        let source = text(source);
        let mut words = vec!["kaito", "build-image", &source, "-t", &name, "--push"];
        words.extend(preset.iter().flat_map(|preset| ["--preset", preset]));
        let (stdout, stderr) = run(&words);
        let last = stdout.lines().last().unwrap();
        assert!(last.starts_with(&format!("{name}@sha256:")), "{stdout}");
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
        let by_digest = format!("{}/{repository}@{digest}", registry.host());
        assert!(yaml.contains(&by_digest), "{yaml}");
        let file = folder.path().join("workspace.yaml");
        fs::write(&file, yaml).unwrap();
        let file = text(&file);
        let (applied, _) = run(&["apply", "-f", &file, "--dry-run=server"]);
        assert!(applied.contains("created (server dry run)"), "{applied}");
        let (applied, _) = run(&["kaito", "apply", "-f", &file, "--dry-run=server"]);
        assert!(
            applied.contains("serverside-applied (server dry run)"),
            "{applied}"
        );
    }
    let refused = std::process::Command::new(&kubectl)
        .env("KUBECONFIG", plane.kubeconfig_path())
        .args(["apply", "--dry-run=server", "-f", "-"])
        .stdin(fs::File::open(wrong_workspace(folder.path())).unwrap())
        .output()
        .unwrap();
    assert!(
        !refused.status.success(),
        "the server refuses what is wrong"
    );
}

/// A Workspace that no server that knows them admits: so much for the dry runs being real.
fn wrong_workspace(folder: &Path) -> std::path::PathBuf {
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
    let registry = registry().await;
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("model");
    small_model(&tree);
    azurite.upload("models", "phi/4", &tree);
    let mut builder = Builder::new();
    builder.set("AZURE_STORAGE_BLOB_ENDPOINT", &azurite.endpoint());
    builder.set("AZURE_STORAGE_SAS_TOKEN", &azurite.signature());
    let name = format!("{}/models/azure:v1", registry.host());
    let source = "azblob://devstoreaccount1/models/phi/4";
    let from_blobs = builder.succeed(&[
        "build",
        source,
        "--artifact",
        "modelpack",
        "-t",
        &name,
        "--push",
    ]);
    let target = folder.path().join("pulled");
    builder.succeed(&["pull", &name, &text(&target)]);
    trees_are_equal(&tree, &target);
    for shown in [&from_blobs.stderr, &from_blobs.stdout] {
        assert!(!shown.contains("sig="), "{shown}");
    }
}

#[test]
fn the_walkthrough_of_the_examples_works() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/build-image/run");
    let mut command = std::process::Command::new(script);
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
