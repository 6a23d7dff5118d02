//! Which bytes a plan needs to see: headers and small texts, never weights. May do no I/O.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use super::{Options, files};
use crate::model::{gguf, safetensors};
use crate::source::{File, Tree};

/// Bytes of a weight file that are asked for at first: they hold most headers.
const FIRST_BYTES: u64 = 64 * 1024;

/// Bytes of a header that are asked for at most; a longer one is not described.
const MAX_HEADER_BYTES: u64 = 32 * 1024 * 1024;

/// Bytes of one text that are asked for at most; longer ones are not looked at.
const MAX_TEXT_BYTES: u64 = 1024 * 1024;

/// Bytes of a shard index that are asked for at most.
const MAX_INDEX_BYTES: u64 = 32 * 1024 * 1024;

/// Bytes of all texts that are asked for at most, besides those that describe the model.
const MAX_TEXTS_BYTES: u64 = 16 * 1024 * 1024;

/// Texts that describe the model: read whatever else there is.
const DESCRIPTIONS: [&str; 3] = ["README.md", "adapter_config.json", "config.json"];

/// Beginnings of files, as far as they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contents {
    beginnings: BTreeMap<String, Bytes>,
}

impl Contents {
    /// Adds the next bytes of a file: those of the range that [`wanted`] named.
    pub fn add(&mut self, path: &str, bytes: &Bytes) {
        match self.beginnings.get_mut(path) {
            None => {
                self.beginnings.insert(path.to_owned(), bytes.clone());
            }
            Some(present) => {
                let mut all = BytesMut::with_capacity(present.len() + bytes.len());
                all.extend_from_slice(present);
                all.extend_from_slice(bytes);
                *present = all.freeze();
            }
        }
    }

    /// The beginning of a file, as far as it was read.
    #[must_use]
    pub fn beginning(&self, path: &str) -> Option<&Bytes> {
        self.beginnings.get(path)
    }

    /// The whole content of a file, where it was read to the end.
    #[must_use]
    pub fn whole(&self, file: &File) -> Option<Bytes> {
        if file.size == 0 {
            return Some(Bytes::new());
        }
        let bytes = self.beginnings.get(&file.path)?;
        (bytes.len() as u64 == file.size).then(|| bytes.clone())
    }

    fn length(&self, path: &str) -> u64 {
        self.beginnings
            .get(path)
            .map_or(0, |bytes| bytes.len() as u64)
    }
}

/// What is to be read next, as path and range: call again with what was read until nothing is named. Each range begins
/// where [`Contents`] ends, and lies within the file.
#[must_use]
pub fn wanted(tree: &Tree, contents: &Contents, options: &Options) -> Vec<(String, Range<u64>)> {
    // A glob that cannot be read is reported by the plan.
    let Ok((files, _)) = files::select(tree, options) else {
        return Vec::new();
    };
    let mut texts = 0;
    files
        .into_iter()
        .filter_map(|file| {
            let have = contents.length(&file.path);
            let end = wanted_end(file, contents, &mut texts)?.min(file.size);
            (end > have).then(|| (file.path.clone(), have..end))
        })
        .collect()
}

/// Up to where a file is wanted.
fn wanted_end(file: &File, contents: &Contents, texts: &mut u64) -> Option<u64> {
    let beginning = contents
        .beginning(&file.path)
        .map_or(&[][..], |bytes| bytes);
    match files::reading(&file.path) {
        files::Reading::Safetensors => Some(match safetensors::header_end(beginning) {
            Some(end) if end <= MAX_HEADER_BYTES => end.max(FIRST_BYTES),
            _ => FIRST_BYTES,
        }),
        files::Reading::Gguf => Some(next_gguf_end(file, beginning)),
        files::Reading::Magic => Some(16),
        files::Reading::Index => (file.size <= MAX_INDEX_BYTES).then_some(file.size),
        files::Reading::Text => {
            let taken = *texts + file.size;
            let describes = DESCRIPTIONS.contains(&file.path.as_str());
            if file.size > MAX_TEXT_BYTES || (taken > MAX_TEXTS_BYTES && !describes) {
                return None;
            }
            *texts = taken;
            Some(file.size)
        }
        files::Reading::Nothing => None,
    }
}

/// GGUF does not say how long its header is: eight times as much each time, until it can be read.
fn next_gguf_end(file: &File, beginning: &[u8]) -> u64 {
    let have = beginning.len() as u64;
    if have == 0 {
        return FIRST_BYTES;
    }
    if have >= file.size.min(MAX_HEADER_BYTES) || !gguf::is_incomplete(beginning) {
        return have;
    }
    (have * 8).min(MAX_HEADER_BYTES)
}
