//! A source in memory, a destination in memory, and the schemas: what the tests of plan and formats share.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use image_builder::archive::{EntryKind, Event, Reader, Whiteouts};
use image_builder::content::encoding::{Decoder, Encoder};
use image_builder::content::{Blob, Encoding, MadeBlob, Part};
use image_builder::digest::{Digest, Hasher};
use image_builder::oci::{Descriptor, Document, Index, Manifest, media_type};
use image_builder::plan::{Contents, Options, Plan, PlanError, plan, wanted};
use image_builder::source::{File, Tree};
use serde_json::{Value, json};

/// Files by path.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Files of a test.
pub(crate) fn files(pairs: &[(&str, &[u8])]) -> Files {
    pairs
        .iter()
        .map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec()))
        .collect()
}

/// The list that a source would give of them.
pub(crate) fn tree(files: &Files) -> Tree {
    Tree {
        files: files
            .iter()
            .map(|(path, bytes)| File {
                path: path.clone(),
                size: bytes.len() as u64,
                executable: path.ends_with(".sh"),
                known_digest: None,
            })
            .collect(),
        revision: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
        url: Some("https://hub.example/org/tiny".to_owned()),
        ..Tree::default()
    }
}

/// Reads what the plan wants to see, as a caller does.
pub(crate) fn contents(tree: &Tree, files: &Files, options: &Options) -> Contents {
    let mut contents = Contents::default();
    for _ in 0..16 {
        let ranges = wanted(tree, &contents, options);
        if ranges.is_empty() {
            return contents;
        }
        for (path, range) in ranges {
            let range = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
            contents.add(&path, &Bytes::copy_from_slice(&files[&path][range]));
        }
    }
    panic!("the plan never has enough");
}

/// Plans files.
pub(crate) fn planned(files: &Files, options: &Options) -> Result<Plan, PlanError> {
    let tree = tree(files);
    plan(&tree, &contents(&tree, files, options), options)
}

/// Everything that was pushed.
pub(crate) struct Pushed {
    pub(crate) blobs: BTreeMap<Digest, Bytes>,
    pub(crate) documents: Vec<Document>,
    pub(crate) plan: Plan,
}

/// Plans files and moves all their blobs.
pub(crate) fn push(files: &Files, options: &Options) -> Pushed {
    let plan = planned(files, options).unwrap();
    let mut blobs = BTreeMap::new();
    let mut made = Vec::new();
    for blob in &plan.blobs {
        let (bytes, content_digest) = stream(blob, files);
        let digest = Digest::of(&bytes);
        if let Some(expected) = blob.expected {
            assert_eq!(expected, digest, "an expected digest is the true one");
        }
        assert!(
            blobs.insert(digest, bytes.clone()).is_none(),
            "each content is made once"
        );
        made.push(MadeBlob {
            descriptor: Descriptor {
                media_type: blob.media_type.clone(),
                digest,
                size: bytes.len() as u64,
                artifact_type: None,
                platform: None,
                annotations: None,
            },
            content_digest,
        });
    }
    let documents = plan.finish(&made).unwrap();
    for document in &documents {
        assert_eq!(document.digest, Digest::of(&document.bytes));
    }
    Pushed {
        blobs,
        documents,
        plan,
    }
}

/// The bytes of a blob, and the digest of its content.
pub(crate) fn stream(blob: &Blob, files: &Files) -> (Bytes, Digest) {
    let mut encoder = Encoder::new(blob.encoding).unwrap();
    let mut hasher = Hasher::default();
    let mut encoded = Vec::new();
    for part in &blob.parts {
        let bytes = match part {
            Part::Bytes(bytes) => bytes.clone(),
            Part::File { path, size } => {
                assert_eq!(files[path].len() as u64, *size);
                Bytes::copy_from_slice(&files[path])
            }
        };
        hasher.update(&bytes);
        encoded.extend_from_slice(&encoder.push(bytes).unwrap());
    }
    encoded.extend_from_slice(&encoder.finish().unwrap());
    (encoded.into(), hasher.finish())
}

/// Content of an encoded blob.
pub(crate) fn decode(bytes: &Bytes, encoding: Encoding, step: usize) -> Vec<u8> {
    let mut decoder = Decoder::new(encoding).unwrap();
    let mut content = Vec::new();
    for piece in bytes.chunks(step) {
        decoder.feed(Bytes::copy_from_slice(piece));
        while let Some(more) = decoder.take().unwrap() {
            content.extend_from_slice(&more);
        }
    }
    content.extend_from_slice(&decoder.finish().unwrap());
    content
}

/// Files of a tar, read in pieces of `step` bytes.
pub(crate) fn extract(tar: &[u8], step: usize) -> Files {
    let mut reader = Reader::new(Whiteouts::Refuse);
    let mut files = Files::new();
    let mut open = None;
    for piece in tar.chunks(step) {
        for event in reader.feed(Bytes::copy_from_slice(piece)).unwrap() {
            match event {
                Event::Start(entry) if entry.kind == EntryKind::File => {
                    files.insert(entry.path.clone(), Vec::new());
                    open = Some(entry.path);
                }
                Event::Start(_) => open = None,
                Event::Data(data) => files
                    .get_mut(open.as_ref().unwrap())
                    .unwrap()
                    .extend_from_slice(&data),
                Event::End => {}
            }
        }
    }
    reader.finish().unwrap();
    files
}

impl Pushed {
    /// The document that a reference would name.
    pub(crate) fn top(&self) -> &Document {
        self.documents.last().unwrap()
    }

    /// The manifests, of an index or alone.
    pub(crate) fn manifests(&self) -> Vec<Manifest> {
        let top = self.top();
        if top.media_type == media_type::MANIFEST {
            return vec![serde_json::from_slice(&top.bytes).unwrap()];
        }
        let index: Index = serde_json::from_slice(&top.bytes).unwrap();
        let manifests = index.manifests.iter();
        manifests
            .map(|mention| serde_json::from_slice(&self.bytes(mention.digest)).unwrap())
            .collect()
    }

    /// A blob or document.
    pub(crate) fn bytes(&self, digest: Digest) -> Bytes {
        let document = self
            .documents
            .iter()
            .find(|document| document.digest == digest);
        document.map_or_else(
            || self.blobs[&digest].clone(),
            |document| document.bytes.clone(),
        )
    }

    /// The JSON of a blob or document.
    pub(crate) fn json(&self, digest: Digest) -> Value {
        serde_json::from_slice(&self.bytes(digest)).unwrap()
    }

    /// All files of a manifest's tar layers, without the root that they are under.
    pub(crate) fn extracted(&self, manifest: &Manifest, root: &str) -> Files {
        let mut all = Files::new();
        for layer in &manifest.layers {
            let encoding = if layer.media_type.ends_with("+zstd") {
                Encoding::Zstd
            } else if layer.media_type.ends_with("+gzip") {
                Encoding::Gzip
            } else {
                Encoding::Plain
            };
            let tar = decode(&self.bytes(layer.digest), encoding, 1000);
            for (path, bytes) in extract(&tar, 700) {
                let path = path.strip_prefix(root).unwrap().trim_start_matches('/');
                assert!(all.insert(path.to_owned(), bytes).is_none());
            }
        }
        all
    }

    /// Whether all documents keep the rules of their schemas, and mention only what there is.
    pub(crate) fn check(&self) {
        for document in &self.documents {
            let value: Value = serde_json::from_slice(&document.bytes).unwrap();
            let schema = match document.media_type.as_str() {
                media_type::MANIFEST => image_schema("image-manifest-schema.json"),
                media_type::INDEX => image_schema("image-index-schema.json"),
                media_type::IMAGE_CONFIG => image_schema("config-schema.json"),
                media_type::MODEL_CONFIG => model_schema(),
                other => panic!("{other} has no schema"),
            };
            assert_valid(&schema, &value);
        }
        for manifest in self.manifests() {
            self.check_mention(&manifest.config);
            manifest
                .layers
                .iter()
                .for_each(|layer| self.check_mention(layer));
        }
    }

    fn check_mention(&self, mention: &Descriptor) {
        if self
            .plan
            .mounts
            .iter()
            .any(|mount| mount.digest == mention.digest)
        {
            return;
        }
        assert_eq!(self.bytes(mention.digest).len() as u64, mention.size);
    }
}

/// A schema of image-spec with all that it refers to.
pub(crate) fn image_schema(name: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemas/image-spec");
    let mut definitions = serde_json::Map::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let file = path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut schema: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        localise(&mut schema, &file);
        definitions.insert(file, schema);
    }
    json!({
        "$schema": "http://json-schema.org/draft-04/schema#",
        "definitions": definitions,
        "allOf": [{"$ref": format!("#/definitions/{name}")}],
    })
}

/// Lets references between files be references within one.
fn localise(value: &mut Value, file: &str) {
    match value {
        Value::Object(object) => {
            object.remove("id");
            object.remove("$schema");
            for (name, value) in object.iter_mut() {
                match (name.as_str(), value.as_str()) {
                    ("$ref", Some(reference)) => {
                        let (other, pointer) = reference.split_once('#').unwrap_or((reference, ""));
                        let other = if other.is_empty() { file } else { other };
                        *value = json!(format!("#/definitions/{other}{pointer}"));
                    }
                    _ => localise(value, file),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| localise(item, file)),
        _ => {}
    }
}

/// The schema of a ModelPack config, with the object that it forgets to close.
pub(crate) fn model_schema() -> Value {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemas/model-spec/config-schema.json");
    let mut schema: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    let capabilities = &mut schema["$defs"]["ModelCapabilities"];
    capabilities["additionalProperties"] = json!(false);
    capabilities["properties"]["languages"] = json!({
        "type": "array",
        "items": {"type": "string", "pattern": "^[a-z]{2}$"},
    });
    capabilities["properties"]["reward"] = json!({"type": "boolean"});
    schema
}

/// Whether a value keeps the rules of a schema.
pub(crate) fn assert_valid(schema: &Value, value: &Value) {
    let validator = jsonschema::options()
        .should_validate_formats(true)
        .build(schema)
        .unwrap();
    let errors: Vec<String> = validator
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{errors:#?}\n{value:#}");
}

/// A safetensors file: tensors by name, type and shape, all zeros.
pub(crate) fn safetensors(tensors: &[(&str, &str, &[u64])]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut end = 0;
    for (name, dtype, shape) in tensors {
        let width = match *dtype {
            "F32" | "I32" => 4,
            "BF16" | "F16" => 2,
            "U8" | "I8" | "F8_E4M3" => 1,
            other => panic!("{other} has no width here"),
        };
        let begin = end;
        end += shape.iter().product::<u64>() * width;
        header.insert(
            (*name).to_owned(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}),
        );
    }
    let header = serde_json::to_vec(&header).unwrap();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(&header);
    bytes.resize(bytes.len() + usize::try_from(end).unwrap(), 0);
    bytes
}

/// A value of GGUF metadata.
pub(crate) enum Gguf<'a> {
    Number(u32),
    Text(&'a str),
    Texts(&'a [&'a str]),
}

/// A GGUF file without its data: metadata, and tensors by name, shape and type.
pub(crate) fn gguf(metadata: &[(&str, Gguf<'_>)], tensors: &[(&str, &[u64], u32)]) -> Vec<u8> {
    fn text(bytes: &mut Vec<u8>, text: &str) {
        bytes.extend_from_slice(&(text.len() as u64).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    bytes.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut bytes, key);
        match value {
            Gguf::Number(number) => {
                bytes.extend_from_slice(&4_u32.to_le_bytes());
                bytes.extend_from_slice(&number.to_le_bytes());
            }
            Gguf::Text(value) => {
                bytes.extend_from_slice(&8_u32.to_le_bytes());
                text(&mut bytes, value);
            }
            Gguf::Texts(values) => {
                bytes.extend_from_slice(&9_u32.to_le_bytes());
                bytes.extend_from_slice(&8_u32.to_le_bytes());
                bytes.extend_from_slice(&(values.len() as u64).to_le_bytes());
                values.iter().for_each(|value| text(&mut bytes, value));
            }
        }
    }
    for (name, shape, kind) in tensors {
        text(&mut bytes, name);
        bytes.extend_from_slice(&u32::try_from(shape.len()).unwrap().to_le_bytes());
        shape
            .iter()
            .for_each(|size| bytes.extend_from_slice(&size.to_le_bytes()));
        bytes.extend_from_slice(&kind.to_le_bytes());
        bytes.extend_from_slice(&0_u64.to_le_bytes());
    }
    bytes
}
