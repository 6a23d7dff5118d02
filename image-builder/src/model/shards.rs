//! Lists of shards (`model.safetensors.index.json`): which files a model's tensors are in.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::plan::Contents;
use crate::source::File;

#[derive(Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// The files that an index names, sorted; `None` where it is no index.
pub(crate) fn parse(bytes: &[u8]) -> Option<BTreeSet<String>> {
    let index: ShardIndex = serde_json::from_slice(bytes).ok()?;
    Some(index.weight_map.into_values().collect())
}

/// Index and shard, for every shard that is not there.
pub(crate) fn missing(files: &[&File], contents: &Contents) -> Vec<(String, String)> {
    let present: BTreeSet<&str> = files.iter().map(|file| file.path.as_str()).collect();
    let indexes = files
        .iter()
        .filter(|file| file.path.to_lowercase().ends_with(".index.json"));
    let mut missing = Vec::new();
    for index in indexes {
        let shards = contents.whole(index).and_then(|bytes| parse(&bytes));
        let folder = index.path.rsplit_once('/').map(|(folder, _)| folder);
        for shard in shards.into_iter().flatten() {
            let path = folder.map_or_else(|| shard.clone(), |folder| format!("{folder}/{shard}"));
            if !present.contains(path.as_str()) {
                missing.push((index.path.clone(), path));
            }
        }
    }
    missing
}
