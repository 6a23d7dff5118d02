//! Files to move: weights that do not compress, and that are the same in every run.

use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// How many files of which size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Files.
    pub(crate) files: u64,
    /// Size of each, in MiB.
    pub(crate) mebibytes: u64,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = text.split_once('x').and_then(|(files, size)| {
            Some(Self {
                files: files.parse().ok()?,
                mebibytes: size.parse().ok()?,
            })
        });
        parsed.ok_or_else(|| "must be FILESxMIB, for example 8x512".to_owned())
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} × {} MiB", self.files, self.mebibytes)
    }
}

/// A folder with weights.
#[derive(Clone, Debug)]
pub(crate) struct Tree {
    /// Where.
    pub(crate) folder: PathBuf,
    /// Its files.
    pub(crate) names: Vec<String>,
    /// Their size together.
    pub(crate) bytes: u64,
}

/// Writes a tree of safetensors files.
pub(crate) fn tree(parent: &Path, shape: Shape) -> anyhow::Result<Tree> {
    let folder = parent.join("tree");
    std::fs::create_dir_all(&folder)?;
    let names: Vec<String> = (1..=shape.files)
        .map(|number| format!("model-{number:05}-of-{:05}.safetensors", shape.files))
        .collect();
    for (seed, name) in (1..).zip(&names) {
        weights(&folder.join(name), shape.mebibytes << 20, seed)?;
    }
    Ok(Tree {
        folder,
        names,
        bytes: shape.files * (shape.mebibytes << 20),
    })
}

/// Writes an adapter.
pub(crate) fn adapter(parent: &Path, mebibytes: u64) -> anyhow::Result<Tree> {
    let folder = parent.join("adapter");
    std::fs::create_dir_all(&folder)?;
    let config = r#"{"peft_type":"LORA","r":16,"lora_alpha":32,"target_modules":["q_proj","v_proj"],"base_model_name_or_path":"microsoft/phi-4"}"#;
    std::fs::write(folder.join("adapter_config.json"), config)?;
    weights(
        &folder.join("adapter_model.safetensors"),
        mebibytes << 20,
        99,
    )?;
    let names = vec![
        "adapter_config.json".to_owned(),
        "adapter_model.safetensors".to_owned(),
    ];
    Ok(Tree {
        folder,
        names,
        bytes: mebibytes << 20,
    })
}

/// One tensor of the type I8 over the whole file, with bytes from a generator.
fn weights(path: &Path, size: u64, seed: u64) -> anyhow::Result<()> {
    let mut length = size - 8;
    // The header tells the size of what follows it, and its own length depends on that number's digits: repeat until
    // both agree.
    let header = loop {
        let text =
            format!(r#"{{"w":{{"dtype":"I8","shape":[{length}],"data_offsets":[0,{length}]}}}}"#);
        let rest = size - 8 - text.len() as u64;
        if rest == length {
            break text;
        }
        if rest > length {
            // One digit fewer leaves one byte over: pad the header.
            break format!(
                r#"{{"w":{{"dtype":"I8","shape":[{length}],"data_offsets":[0,{length}]}}{:1$}}}"#,
                "",
                (rest - length) as usize
            );
        }
        length = rest;
    };
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let mut left = size - 8 - header.len() as u64;
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut block = [0_u8; 64 << 10];
    while left > 0 {
        for word in block.chunks_exact_mut(8) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            word.copy_from_slice(&state.to_le_bytes());
        }
        let take = left.min(block.len() as u64);
        file.write_all(&block[..take as usize])?;
        left -= take;
    }
    file.into_inner()?.sync_all()?;
    Ok(())
}

/// Hashes so many bytes of memory.
pub(crate) fn hash(bytes: u64) {
    let block = vec![7_u8; 1 << 20];
    let mut hasher = Sha256::new();
    let mut left = bytes;
    while left > 0 {
        let take = left.min(block.len() as u64);
        hasher.update(&block[..take as usize]);
        left -= take;
    }
    std::hint::black_box(hasher.finalize());
}
