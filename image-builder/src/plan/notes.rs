//! What a plan tells a person beforehand. May do no I/O.

use super::{Compression, Kind, LayerForm, Options, Plan, Shape};
use crate::content::Blob;
use crate::source::File;

/// Layers above this many bytes have trouble with GHCR and Docker Hub.
const LARGE_LAYER_BYTES: u64 = 9_000_000_000;

/// The notes, most important first.
pub(super) fn write(plan: &Plan, files: &[&File]) -> Vec<String> {
    let options = &plan.options;
    let mut notes = vec![shape_note(options.shape)];
    notes.extend(shared_layers(plan, files));
    notes.extend(duplicates(plan));
    notes.extend(large_layers(plan));
    if options.shape == Shape::ModelPack(LayerForm::Raw) && options.compression != Compression::None
    {
        notes.push("Raw layers are files as they are: nothing is compressed.".to_owned());
    }
    notes.extend(base_note(options));
    notes
}

fn shape_note(shape: Shape) -> String {
    match shape {
        Shape::Image => {
            "Image layers are tars: image volumes, KAITO's adapters and KServe read them; `oras pull` and range loaders need \
             --format modelpack, whose raw layers never share digests with tars."
        }
        Shape::ModelPack(LayerForm::Raw) => {
            "Raw layers have the digests of their files and never share any with the tar layers of images; containerd does \
             not mount them: --format image or dual makes what it mounts."
        }
        Shape::ModelPack(LayerForm::Tar) => {
            "ModelPack layers as tars: `oras pull` would write tars instead of files; they never share digests with raw layers."
        }
        Shape::Dual => {
            "Images and ModelPack manifest share every tar layer. Tars never share digests with raw layers: for `oras pull` \
             push --format modelpack to another tag, which stores the weights a second time."
        }
    }
    .to_owned()
}

fn shared_layers(plan: &Plan, files: &[&File]) -> Option<String> {
    if plan.options.kind == Kind::Program {
        return None;
    }
    let large = |path: &String| {
        files
            .iter()
            .any(|file| file.path == *path && file.size >= plan.options.small_file_bytes)
    };
    let shared = plan
        .layers
        .iter()
        .filter(|layer| layer.files.iter().filter(|path| large(path)).count() > 1);
    let most = shared.map(|layer| layer.files.len()).max()?;
    Some(format!(
        "Up to {most} large files share a layer, so that the image stays within {} layers.",
        plan.options.max_layers
    ))
}

fn duplicates(plan: &Plan) -> Option<String> {
    let saved = plan.layers.len() - plan.blobs.len();
    (saved > 0).then(|| {
        format!("{saved} layers have the content of another: each content is pushed once.")
    })
}

fn large_layers(plan: &Plan) -> Option<String> {
    let large = plan
        .blobs
        .iter()
        .filter(|blob| blob.content_size() > LARGE_LAYER_BYTES);
    let largest = large.map(Blob::content_size).max()?;
    Some(format!(
        "The largest layer has {} GB; GHCR and Docker Hub are known to refuse layers above 10 GB.",
        largest / 1_000_000_000
    ))
}

fn base_note(options: &Options) -> Option<String> {
    let base = options.base_image.as_ref()?;
    match options.shape {
        Shape::ModelPack(_) => Some(format!(
            "ModelPack artifacts are not built on images: {} is not used.",
            base.reference
        )),
        Shape::Image | Shape::Dual => None,
    }
}
