//! Which files go into one tar layer. May do no I/O.

use std::collections::BTreeMap;

use super::files::{Extras, FileKind};
use super::{Kind, Options, PlanError, Shape, base, documents};
use crate::source::File;

/// Files of one tar layer.
pub(super) struct Group<'a> {
    pub(super) kind: FileKind,
    pub(super) files: Vec<&'a File>,
    pub(super) extras: Extras<'a>,
}

impl<'a> Group<'a> {
    fn of(kind: FileKind, files: Vec<&'a File>) -> Self {
        Self {
            kind,
            files,
            extras: Extras::default(),
        }
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        match self.files.as_slice() {
            [file] => file.path.clone(),
            files => {
                let kind = match self.kind {
                    FileKind::Config => "configuration",
                    FileKind::Doc => "documentation",
                    FileKind::Code => "program",
                    FileKind::Dataset => "data",
                    FileKind::Weight => "weight",
                };
                format!("{} {kind} files", files.len())
            }
        }
    }
}

/// Small files by kind, then large ones by kind.
pub(super) fn groups<'a>(
    files: &[&'a File],
    extras: Extras<'a>,
    options: &Options,
) -> Result<Vec<Group<'a>>, PlanError> {
    if options.kind == Kind::Program {
        let all = Group::of(FileKind::Code, files.to_vec());
        return Ok(vec![Group { extras, ..all }]);
    }
    let (small, large): (Vec<&File>, Vec<&File>) = files
        .iter()
        .partition(|file| file.size < options.small_file_bytes);
    let mut by_kind: BTreeMap<FileKind, Vec<&File>> = BTreeMap::new();
    for file in small {
        by_kind
            .entry(FileKind::of(&file.path).0)
            .or_default()
            .push(file);
    }
    let mut groups: Vec<Group<'a>> = by_kind
        .into_iter()
        .map(|(kind, files)| Group::of(kind, files))
        .collect();
    let share = files_per_layer(large.len(), groups.len(), options)?;
    let mut large_by_kind: BTreeMap<FileKind, Vec<&File>> = BTreeMap::new();
    for file in large {
        large_by_kind
            .entry(FileKind::of(&file.path).0)
            .or_default()
            .push(file);
    }
    for (kind, files) in large_by_kind {
        let shares = files.chunks(share);
        groups.extend(shares.map(|files| Group::of(kind, files.to_vec())));
    }
    documents::check_layers(groups.len(), options)?;
    Ok(groups)
}

/// How many large files go into a layer, so that an image can be mounted. Artifacts have no such limit.
fn files_per_layer(
    large: usize,
    small_layers: usize,
    options: &Options,
) -> Result<usize, PlanError> {
    if matches!(options.shape, Shape::ModelPack(_)) {
        return Ok(1);
    }
    let taken = base::base_layers(options)? + small_layers;
    let left = options.max_layers.saturating_sub(taken);
    if large <= left {
        return Ok(1);
    }
    // Each of the five kinds may end with a layer that is not full.
    Ok(large.div_ceil(left.saturating_sub(4).max(1)))
}
