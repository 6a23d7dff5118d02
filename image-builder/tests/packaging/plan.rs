//! Plans and documents of every shape, checked against the official schemas and by taking everything out again.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::{Files, files, planned, push, safetensors};
use bytes::Bytes;
use image_builder::content::Encoding;
use image_builder::digest::Digest;
use image_builder::oci::{Descriptor, Index, Manifest, media_type};
use image_builder::plan::{
    BaseImage, BaseModel, BasePlatform, Compression, Contents, Kind, LayerForm, Options, PlanError,
    Run, Sample, Shape, key, linux, plan,
};
use image_builder::source::Tree;
use serde_json::{Value, json};

const RAW: Shape = Shape::ModelPack(LayerForm::Raw);
const TAR: Shape = Shape::ModelPack(LayerForm::Tar);

fn shaped(shape: Shape) -> Options {
    Options {
        shape,
        // Small enough for a test: tensors of some kilobytes are large.
        small_file_bytes: 4096,
        ..Options::default()
    }
}

/// Sub-directories, spaces, Unicode, an empty file, a long name, equal contents, a program.
fn model() -> Files {
    let weights = safetensors(&[("model.embed.weight", "BF16", &[64, 64])]);
    let more = safetensors(&[("model.layer.weight", "BF16", &[64, 65])]);
    let long = format!("deep/{}/{}.json", "d".repeat(90), "n".repeat(120));
    files(&[
        (
            "config.json",
            br#"{"architectures":["LlamaForCausalLM"],"model_type":"llama","num_hidden_layers":2}"#,
        ),
        (
            "README.md",
            b"---\nlicense: mit\nlanguage: en\n---\n# Tiny\n",
        ),
        ("model-00001-of-00002.safetensors", &weights),
        ("model-00002-of-00002.safetensors", &more),
        ("copy of weights.safetensors", &weights),
        ("empty.txt", b""),
        ("sub/gr\u{f6}\u{df}e \u{6a21}\u{578b}.txt", b"text"),
        ("sub/start.sh", b"#!/bin/sh\n"),
        (&long, b"{}"),
    ])
}

#[test]
fn every_shape_keeps_the_schemas_and_gives_all_files_back() {
    for shape in [Shape::Image, RAW, TAR, Shape::Dual] {
        let pushed = push(&model(), &shaped(shape));
        pushed.check();
        for manifest in pushed.manifests() {
            let taken = match shape {
                Shape::ModelPack(LayerForm::Raw) => raw_files(&pushed, &manifest),
                Shape::ModelPack(LayerForm::Tar) => pushed.extracted(&manifest, ""),
                Shape::Image | Shape::Dual => pushed.extracted(&manifest, "models"),
            };
            assert_eq!(taken, model(), "{shape:?}");
        }
    }
}

fn raw_files(pushed: &crate::support::Pushed, manifest: &Manifest) -> Files {
    let layers = manifest.layers.iter();
    layers
        .map(|layer| {
            let annotations = layer.annotations.as_ref().unwrap();
            assert_eq!(annotations[key::TITLE], annotations[key::FILE_PATH]);
            (
                annotations[key::TITLE].clone(),
                pushed.bytes(layer.digest).to_vec(),
            )
        })
        .collect()
}

#[test]
fn every_compression_gives_all_files_back_and_says_so_in_the_media_type() {
    for (compression, end) in [
        (Compression::None, ".tar"),
        (Compression::Zstd, ".tar+zstd"),
        (Compression::Gzip, ".tar+gzip"),
    ] {
        let options = Options {
            compression,
            ..shaped(Shape::Dual)
        };
        let pushed = push(&model(), &options);
        pushed.check();
        for manifest in pushed.manifests() {
            assert!(
                manifest
                    .layers
                    .iter()
                    .all(|layer| layer.media_type.ends_with(end))
            );
            assert_eq!(pushed.extracted(&manifest, "models"), model());
        }
    }
}

#[test]
fn the_order_in_which_files_are_listed_changes_nothing() {
    let files = model();
    for shape in [Shape::Image, RAW, TAR, Shape::Dual] {
        let options = shaped(shape);
        let sorted = crate::support::tree(&files);
        let contents = crate::support::contents(&sorted, &files, &options);
        let mut reversed = sorted.clone();
        reversed.files.reverse();
        let mut rotated = sorted.clone();
        rotated.files.rotate_left(3);
        let first = plan(&sorted, &contents, &options).unwrap();
        for tree in [reversed, rotated] {
            let other = plan(&tree, &contents, &options).unwrap();
            assert_eq!(first.blobs, other.blobs);
            assert_eq!(first.summary(), other.summary());
        }
    }
}

#[test]
fn layers_do_not_change_when_what_was_read_beforehand_does() {
    let files = model();
    let options = shaped(Shape::Image);
    let tree = crate::support::tree(&files);
    let unread = plan(&tree, &Contents::default(), &options).unwrap();
    let read = push(&files, &options);
    let digests = |blobs: &[image_builder::content::Blob]| -> BTreeSet<Digest> {
        blobs
            .iter()
            .map(|blob| crate::support::stream(blob, &files).1)
            .collect()
    };
    assert_eq!(digests(&unread.blobs), digests(&read.plan.blobs));
}

#[test]
fn raw_layers_have_the_digests_of_their_files_and_equal_files_are_one_blob() {
    let mut tree = crate::support::tree(&model());
    let files = model();
    for file in &mut tree.files {
        file.known_digest = Some(Digest::of(&files[&file.path]));
    }
    let made = plan(&tree, &Contents::default(), &shaped(RAW)).unwrap();
    let distinct: BTreeSet<Digest> = files.values().map(|bytes| Digest::of(bytes)).collect();
    let expected: Vec<Digest> = made.blobs.iter().filter_map(|blob| blob.expected).collect();
    assert_eq!(expected.iter().copied().collect::<BTreeSet<_>>(), distinct);
    assert_eq!(expected.len(), distinct.len());
    assert!(
        made.notes
            .iter()
            .any(|note| note.contains("each content is pushed once"))
    );
    assert!(made.notes.iter().any(|note| note.contains("never share")));
}

#[test]
fn titles_are_on_raw_layers_only() {
    for shape in [Shape::Image, TAR, Shape::Dual] {
        for manifest in push(&model(), &shaped(shape)).manifests() {
            for layer in &manifest.layers {
                let annotations = layer.annotations.clone().unwrap_or_default();
                assert!(!annotations.contains_key(key::TITLE), "{shape:?}");
            }
        }
    }
}

#[test]
fn dual_shares_every_layer_and_adds_less_than_16_kib_to_an_image() {
    let image = push(&model(), &shaped(Shape::Image));
    let dual = push(&model(), &shaped(Shape::Dual));
    assert_eq!(image.blobs, dual.blobs);
    let size = |pushed: &crate::support::Pushed| -> usize {
        pushed
            .documents
            .iter()
            .map(|document| document.bytes.len())
            .sum()
    };
    assert!(size(&dual) - size(&image) < 16 * 1024);
    let index: Index = serde_json::from_slice(&dual.top().bytes).unwrap();
    let platforms: Vec<String> = index
        .manifests
        .iter()
        .map(|manifest| manifest.platform.clone().unwrap())
        .map(|platform| format!("{}/{}", platform.os, platform.architecture))
        .collect();
    assert_eq!(platforms, ["linux/amd64", "linux/arm64", "unknown/unknown"]);
    let model = index.manifests.last().unwrap();
    assert_eq!(
        model.artifact_type.as_deref(),
        Some(media_type::MODEL_MANIFEST)
    );
    let digests = |manifest: &Manifest| -> Vec<Digest> {
        manifest.layers.iter().map(|layer| layer.digest).collect()
    };
    let manifests = dual.manifests();
    assert!(
        manifests
            .iter()
            .all(|manifest| digests(manifest) == digests(&manifests[0]))
    );
}

#[test]
fn the_top_document_comes_last_after_all_that_it_names() {
    let pushed = push(&model(), &shaped(Shape::Dual));
    let kinds: Vec<&str> = pushed
        .documents
        .iter()
        .map(|document| document.media_type.as_str())
        .collect();
    assert_eq!(
        kinds,
        [
            media_type::IMAGE_CONFIG,
            media_type::MANIFEST,
            media_type::IMAGE_CONFIG,
            media_type::MANIFEST,
            media_type::MODEL_CONFIG,
            media_type::MANIFEST,
            media_type::INDEX,
        ]
    );
}

#[test]
fn documents_carry_no_time_unless_the_source_date_is_given() {
    for shape in [Shape::Image, RAW, Shape::Dual] {
        let without = push(&model(), &shaped(shape));
        let all = |pushed: &crate::support::Pushed| -> String {
            let documents = pushed.documents.iter();
            documents
                .map(|document| String::from_utf8_lossy(&document.bytes).into_owned())
                .collect()
        };
        assert!(!all(&without).contains("created\""));
        let dated = push(
            &model(),
            &Options {
                source_date: Some(1_700_000_000),
                ..shaped(shape)
            },
        );
        dated.check();
        assert!(all(&dated).contains("2023-11-14T22:13:20Z"));
        assert_eq!(dated.blobs, without.blobs, "layers keep their digests");
    }
}

fn lora() -> Files {
    let config = br#"{"peft_type":"LORA","r":8,"lora_alpha":16,"target_modules":["v_proj","q_proj"],"base_model_name_or_path":"org/base"}"#;
    let weights = safetensors(&[("l.lora_A.weight", "BF16", &[8, 512])]);
    files(&[
        ("adapter_config.json", config),
        ("adapter_model.safetensors", &weights),
    ])
}

/// The manifest of the base model's image.
fn base_manifest() -> Descriptor {
    Descriptor {
        media_type: media_type::MANIFEST.to_owned(),
        digest: Digest::of(b"base"),
        size: 4,
        artifact_type: None,
        platform: None,
        annotations: None,
    }
}

#[test]
fn adapters_have_their_files_under_data_and_tell_what_they_are_for() {
    let adapter = lora();
    let options = Options {
        kind: Kind::of(&crate::support::tree(&adapter)),
        preset: Some("phi-4".to_owned()),
        base_model: Some(BaseModel::default()),
        subject: Some(base_manifest()),
        ..shaped(Shape::Image)
    };
    assert_eq!(options.kind, Kind::Adapter);
    let pushed = push(&adapter, &options);
    pushed.check();
    let manifest = &pushed.manifests()[0];
    assert_eq!(manifest.subject, Some(base_manifest()));
    assert_eq!(manifest.config.media_type, media_type::IMAGE_CONFIG);
    assert_eq!(pushed.extracted(manifest, "data"), adapter);
    let annotations = manifest.annotations.as_ref().unwrap();
    for (key, value) in [
        ("sh.kaito.model.name", "phi-4"),
        (key::BASE_MODEL, "org/base"),
        (key::BASE_MODEL_DIGEST, &Digest::of(b"base").to_string()),
        (key::ADAPTER_RANK, "8"),
        (key::ADAPTER_ALPHA, "16"),
        (key::ADAPTER_TYPE, "LORA"),
        (key::ADAPTER_TARGETS, "q_proj,v_proj"),
        (key::ROOT, "data"),
    ] {
        let found = annotations.get(key).map(String::as_str);
        assert_eq!(found, Some(value), "{key}");
    }
    plain_layers_are_their_own_diff_ids(&pushed.json(manifest.config.digest), manifest);
}

fn plain_layers_are_their_own_diff_ids(config: &Value, manifest: &Manifest) {
    assert_eq!(config["os"], "linux");
    assert_eq!(config["rootfs"]["type"], "layers");
    let layers = manifest.layers.iter();
    let digests: Vec<String> = layers.map(|layer| layer.digest.to_string()).collect();
    assert_eq!(config["rootfs"]["diff_ids"], json!(digests));
}

fn base_image() -> BaseImage {
    let layer = Descriptor {
        media_type: "application/vnd.docker.image.rootfs.diff.tar.gzip".to_owned(),
        digest: Digest::of(b"layer"),
        size: 5,
        artifact_type: None,
        platform: None,
        annotations: None,
    };
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin", "MODE=old"], "Cmd": ["old"], "Labels": {"kept": "yes"}},
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"content").to_string()]},
        "history": [{"created_by": "base"}],
    });
    BaseImage {
        reference: "registry.example/server:1".to_owned(),
        images: vec![BasePlatform {
            platform: linux("amd64"),
            manifest: Manifest {
                schema_version: 2,
                media_type: None,
                artifact_type: None,
                config: layer.clone(),
                layers: vec![layer],
                subject: None,
                annotations: None,
            },
            config: serde_json::to_vec(&config).unwrap().into(),
        }],
    }
}

#[test]
fn a_base_image_gives_its_layers_and_settings_and_what_is_said_wins() {
    let options = Options {
        base_image: Some(base_image()),
        run: Run {
            entrypoint: vec!["/server".to_owned()],
            arguments: vec!["--model=/models".to_owned()],
            environment: BTreeMap::from([("MODE".to_owned(), "new".to_owned())]),
            user: Some("1000:1000".to_owned()),
            working_directory: Some("/models".to_owned()),
            exposed_ports: BTreeSet::from(["8080/tcp".to_owned()]),
        },
        labels: BTreeMap::from([("added".to_owned(), "too".to_owned())]),
        ..shaped(Shape::Image)
    };
    let pushed = push(&model(), &options);
    pushed.check();
    let manifest = &pushed.manifests()[0];
    assert_eq!(pushed.plan.mounts.len(), 1);
    assert_eq!(manifest.layers[0].digest, Digest::of(b"layer"));
    assert_eq!(manifest.layers[0].media_type, media_type::LAYER_TAR_GZIP);
    let config = pushed.json(manifest.config.digest);
    let run = &config["config"];
    assert_eq!(run["Env"], json!(["PATH=/bin", "MODE=new"]));
    assert_eq!(run["Entrypoint"], json!(["/server"]));
    assert_eq!(run["Cmd"], json!(["--model=/models"]));
    assert_eq!(run["User"], "1000:1000");
    assert_eq!(run["WorkingDir"], "/models");
    assert_eq!(run["ExposedPorts"], json!({"8080/tcp": {}}));
    assert_eq!(run["Labels"], json!({"kept": "yes", "added": "too"}));
    let digests = config["rootfs"]["diff_ids"].as_array().unwrap();
    assert_eq!(digests[0], json!(Digest::of(b"content")));
    assert_eq!(digests.len(), manifest.layers.len());
    assert_eq!(
        config["history"].as_array().unwrap().len(),
        manifest.layers.len()
    );
}

#[test]
fn a_platform_that_the_base_image_lacks_is_named_with_those_that_it_has() {
    let options = Options {
        base_image: Some(base_image()),
        platforms: vec![linux("arm64")],
        ..shaped(Shape::Image)
    };
    let error = planned(&model(), &options).unwrap_err().to_string();
    assert!(
        error.contains("linux/arm64") && error.contains("linux/amd64"),
        "{error}"
    );
}

#[test]
fn a_static_binary_becomes_an_image_that_starts_it() {
    let program = files(&[("server.sh", b"program")]);
    let options = Options {
        kind: Kind::Program,
        root: Some("/usr/local/bin/".to_owned()),
        platforms: vec![linux("amd64"), linux("arm64")],
        ..shaped(Shape::Image)
    };
    let pushed = push(&program, &options);
    pushed.check();
    for manifest in pushed.manifests() {
        let config = pushed.json(manifest.config.digest);
        assert_eq!(
            config["config"]["Entrypoint"],
            json!(["/usr/local/bin/server.sh"])
        );
        assert_eq!(pushed.extracted(&manifest, "usr/local/bin"), program);
    }
}

#[test]
fn many_large_files_share_layers_so_that_the_image_can_be_mounted() {
    let names: Vec<String> = (0..163)
        .map(|shard| format!("model-{shard:05}.safetensors"))
        .collect();
    let weights = vec![7; 5000];
    let pairs: Vec<(&str, &[u8])> = names
        .iter()
        .map(|name| (name.as_str(), &weights[..]))
        .collect();
    let many = files(&pairs);
    let pushed = push(&many, &shaped(Shape::Image));
    pushed.check();
    let manifest = &pushed.manifests()[0];
    assert!(manifest.layers.len() <= 120, "{}", manifest.layers.len());
    assert_eq!(pushed.extracted(manifest, "models"), many);
    assert!(
        pushed
            .plan
            .notes
            .iter()
            .any(|note| note.contains("share a layer"))
    );
    assert_eq!(push(&many, &shaped(TAR)).manifests()[0].layers.len(), 163);
}

#[test]
fn a_base_image_with_too_many_layers_is_refused_before_anything_is_read() {
    let mut base = base_image();
    let image = &mut base.images[0];
    image.manifest.layers = vec![image.manifest.layers[0].clone(); 120];
    let options = Options {
        base_image: Some(base),
        ..shaped(Shape::Image)
    };
    assert!(matches!(
        planned(&model(), &options),
        Err(PlanError::Layers {
            base: 120,
            limit: 120,
            ..
        })
    ));
}

#[test]
fn a_manifest_that_registries_refuse_is_refused_before_anything_is_read() {
    let names: Vec<String> = (0..10_000)
        .map(|number| format!("part-{number:05}.safetensors"))
        .collect();
    let tree = Tree {
        files: names
            .into_iter()
            .map(|path| image_builder::source::File {
                path,
                size: 1 << 20,
                executable: false,
                known_digest: None,
            })
            .collect(),
        ..Tree::default()
    };
    let refused = plan(&tree, &Contents::default(), &shaped(RAW));
    assert!(matches!(
        refused,
        Err(PlanError::Manifest { layers: 10_000, .. })
    ));
}

#[test]
fn names_that_cannot_be_packaged_are_refused_with_the_name() {
    for (shape, bad) in [
        (Shape::Image, ".wh.config.json"),
        (Shape::Image, "sub/.wh..wh..opq"),
        (RAW, "../config.json"),
        (RAW, "/etc/passwd"),
        (Shape::Image, "CONFIG.json"),
    ] {
        let mut files = model();
        files.insert(bad.to_owned(), b"{}".to_vec());
        let refused = plan(
            &crate::support::tree(&files),
            &Contents::default(),
            &shaped(shape),
        );
        assert!(matches!(refused, Err(PlanError::Path(_))), "{bad}");
    }
    let mut files = model();
    files.insert(".wh.notes".to_owned(), b"{}".to_vec());
    assert!(
        planned(&files, &shaped(RAW)).is_ok(),
        "no deletion in an artifact"
    );
}

#[test]
fn globs_take_files_in_and_leave_them_out() {
    let options = Options {
        include: vec!["*.safetensors".to_owned(), "sub/**".to_owned()],
        exclude: vec!["copy*".to_owned()],
        ..shaped(RAW)
    };
    let summary = planned(&model(), &options).unwrap().summary();
    let mut taken: Vec<String> = summary
        .blobs
        .into_iter()
        .flat_map(|blob| blob.files)
        .collect();
    taken.sort();
    assert_eq!(
        taken,
        [
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "sub/gr\u{f6}\u{df}e \u{6a21}\u{578b}.txt",
            "sub/start.sh",
        ]
    );
    let nothing = Options {
        exclude: vec!["**".to_owned()],
        ..shaped(RAW)
    };
    assert!(matches!(
        planned(&model(), &nothing),
        Err(PlanError::Empty { .. })
    ));
    let wrong = Options {
        include: vec!["[".to_owned()],
        ..shaped(RAW)
    };
    assert!(matches!(
        planned(&model(), &wrong),
        Err(PlanError::Glob { .. })
    ));
}

#[test]
fn automatic_compression_leaves_weights_alone_unless_a_sample_on_a_slow_link_pays() {
    let encodings = |sample: Option<Sample>| -> (Encoding, Encoding) {
        let options = Options {
            compression: Compression::Auto(sample),
            ..shaped(Shape::Image)
        };
        let plan = planned(&model(), &options).unwrap();
        let of = |name: &str| {
            let place = plan
                .names
                .iter()
                .position(|known| known.contains(name))
                .unwrap();
            plan.blobs[place].encoding
        };
        (of("model-00001"), of("configuration"))
    };
    let sample = |ratio, link_bytes_per_second| {
        Some(Sample {
            ratio,
            link_bytes_per_second,
        })
    };
    assert_eq!(encodings(None), (Encoding::Plain, Encoding::Zstd));
    assert_eq!(
        encodings(sample(0.78, 20e6)),
        (Encoding::Zstd, Encoding::Zstd)
    );
    assert_eq!(
        encodings(sample(0.78, 200e6)),
        (Encoding::Plain, Encoding::Zstd)
    );
    assert_eq!(
        encodings(sample(0.9, 20e6)),
        (Encoding::Plain, Encoding::Zstd)
    );
}

#[test]
fn data_offsets_lead_to_the_bytes_of_the_file() {
    let files = model();
    let pushed = push(&files, &shaped(TAR));
    let manifest = &pushed.manifests()[0];
    let mut found = 0;
    for layer in &manifest.layers {
        let annotations = layer.annotations.as_ref().unwrap();
        if let Some(offset) = annotations.get(key::DATA_OFFSET) {
            let offset: usize = offset.parse().unwrap();
            let file = &files[&annotations[key::FILE_PATH]];
            assert_eq!(
                &pushed.bytes(layer.digest)[offset..offset + file.len()],
                &file[..]
            );
            found += 1;
        }
    }
    assert_eq!(found, 5, "each layer of one file");
}

#[test]
fn a_plan_can_be_printed_as_json() {
    let plan = planned(&model(), &shaped(Shape::Dual)).unwrap();
    let json = serde_json::to_value(plan.summary()).unwrap();
    assert_eq!(json["shape"], "dual");
    assert_eq!(json["platforms"], json!(["linux/amd64", "linux/arm64"]));
    assert_eq!(json["model"]["architecture"], "transformer");
    assert!(
        json["blobs"]
            .as_array()
            .unwrap()
            .iter()
            .all(|blob| blob["contentBytes"].as_u64().unwrap() > 0)
    );
}

#[test]
fn blobs_that_are_not_those_of_the_plan_are_refused() {
    let plan = planned(&model(), &shaped(Shape::Image)).unwrap();
    assert!(matches!(
        plan.finish(&[]),
        Err(PlanError::Blobs { made: 0, .. })
    ));
}

#[test]
fn a_base_config_that_does_not_fit_its_manifest_is_refused() {
    for config in [
        Bytes::from_static(b"[]"),
        Bytes::from_static(b"{}"),
        Bytes::from_static(b"{"),
    ] {
        let mut base = base_image();
        base.images[0].config = config;
        let options = Options {
            base_image: Some(base),
            ..shaped(Shape::Image)
        };
        assert!(matches!(
            planned(&model(), &options),
            Err(PlanError::BaseConfig { .. })
        ));
    }
}
