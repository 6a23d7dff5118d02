//! Cards and configurations: whatever they hold, a plan can be made.
#![no_main]

use bytes::Bytes;
use image_builder::plan::{Contents, LayerForm, Options, Shape, plan, wanted};
use image_builder::source::{File, Tree};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 5] = [
    "README.md",
    "adapter_config.json",
    "config.json",
    "model.safetensors.index.json",
    "notes.txt",
];

fuzz_target!(|bytes: &[u8]| {
    let files = NAMES.map(|name| File {
        path: name.to_owned(),
        size: bytes.len() as u64,
        executable: false,
        known_digest: None,
    });
    let tree = Tree {
        files: files.to_vec(),
        ..Tree::default()
    };
    let options = Options {
        shape: Shape::ModelPack(LayerForm::Raw),
        ..Options::default()
    };
    let mut contents = Contents::default();
    for (path, range) in wanted(&tree, &contents, &options) {
        assert_eq!(range, 0..bytes.len() as u64);
        contents.add(&path, &Bytes::copy_from_slice(bytes));
    }
    assert!(wanted(&tree, &contents, &options).is_empty());
    let made = plan(&tree, &contents, &options);
    // Equal contents are one blob.
    let blobs = made.map(|made| made.blobs.len());
    assert_eq!(blobs.map_err(|error| error.to_string()), Ok(1));
});
