//! From files to a [`Model`]: finds what is there, reads every tensor once, puts the layers together.

use std::collections::HashMap;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::Content;

use super::config::{self, Config};
use super::transformer::{Layer, Linear, Model};
use super::{gguf, safetensors};
use crate::kernel::matrix::{self, Matrix};

/// Where weights come from.
#[derive(Debug)]
pub enum Source {
    /// A folder with `config.json` and `*.safetensors`.
    Folder(PathBuf),
    /// One GGUF file with everything in it.
    Gguf {
        /// Where it is.
        path: PathBuf,
        /// Its metadata and table of tensors.
        content: Box<Content>,
    },
}

/// Why a model could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read.
    #[error("reading {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    /// Nothing that looks like weights.
    #[error("{} holds neither config.json with *.safetensors nor exactly one *.gguf", .0.display())]
    Nothing(PathBuf),
    /// The file is damaged or of another format.
    #[error("reading the tensors of {}", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What the reader said.
        #[source]
        source: Box<candle_core::Error>,
    },
    /// The configuration is of a model that is not understood.
    #[error("understanding the configuration of {}", .0.display())]
    Config(PathBuf, #[source] config::Error),
    /// A metadata key is missing or of the wrong type.
    #[error("GGUF metadata {0} is missing or of another type")]
    Metadata(String),
    /// A tensor that every layer needs is not there.
    #[error("tensor {0} is missing; the weights are incomplete or of another model")]
    Missing(String),
    /// A tensor has not the shape that the configuration tells.
    #[error("tensor {name} has {found:?} rows and columns, not {expected:?}")]
    Shape {
        /// Name of the tensor.
        name: String,
        /// In the file.
        found: (usize, usize),
        /// By the configuration.
        expected: (usize, usize),
    },
    /// A tensor could not become a matrix.
    #[error(transparent)]
    Matrix(#[from] matrix::Error),
    /// An adapter does not fit.
    #[error("loading adapter {name}: {why}")]
    Adapter {
        /// Its name.
        name: String,
        /// What does not fit, and what to do.
        why: String,
    },
}

/// All tensors of a file under the names that transformers gives them.
#[derive(Debug, Default)]
pub(super) struct Tensors {
    pub(super) matrices: HashMap<String, Matrix>,
    pub(super) vectors: HashMap<String, Vec<f32>>,
}

impl Source {
    /// Looks at a file or a folder.
    ///
    /// # Errors
    /// [`Error`] if it cannot be read, or holds no weights.
    pub fn open(path: &Path) -> Result<Self, Error> {
        if path.is_file() {
            return Self::open_gguf(path.to_owned());
        }
        let mut ggufs = files(path, "gguf")?;
        if path.join("config.json").is_file() && !files(path, "safetensors")?.is_empty() {
            return Ok(Self::Folder(path.to_owned()));
        }
        match (ggufs.pop(), ggufs.is_empty()) {
            (Some(only), true) => Self::open_gguf(only),
            _ => Err(Error::Nothing(path.to_owned())),
        }
    }

    fn open_gguf(path: PathBuf) -> Result<Self, Error> {
        let file = std::fs::File::open(&path).map_err(|e| Error::Read(path.clone(), e))?;
        let content = Content::read(&mut BufReader::new(file)).map_err(|source| Error::Format {
            path: path.clone(),
            source: Box::new(source),
        })?;
        Ok(Self::Gguf {
            path,
            content: Box::new(content),
        })
    }

    /// Reads the model, for sequences of at most `positions` tokens, or as many as it was made for.
    ///
    /// # Errors
    /// [`Error`] telling which file or tensor is not as it should be.
    pub fn load(&self, positions: Option<usize>) -> Result<Model, Error> {
        let (config, tensors) = match self {
            Self::Folder(folder) => {
                let path = folder.join("config.json");
                let text =
                    std::fs::read_to_string(&path).map_err(|e| Error::Read(path.clone(), e))?;
                let config = Config::from_json(&text).map_err(|e| Error::Config(path, e))?;
                (config, safetensors::read(&files(folder, "safetensors")?)?)
            }
            Self::Gguf { path, content } => {
                let config = gguf::config(path, content)?;
                let tensors = gguf::read(path, content, &config)?;
                (config, tensors)
            }
        };
        assemble(config, positions, tensors)
    }
}

/// Files of a folder with an extension, in order of their names.
pub(super) fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, Error> {
    let read = |e| Error::Read(folder.to_owned(), e);
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or("");
        // Mistral ships its own copy of the same weights, and training leaves adapters beside them.
        let foreign = name.starts_with("consolidated") || name.starts_with("adapter_model");
        if path.extension().is_some_and(|found| found == extension) && !foreign {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn assemble(
    mut config: Config,
    positions: Option<usize>,
    mut tensors: Tensors,
) -> Result<Model, Error> {
    if let Some(positions) = positions {
        config.context = config.context.min(positions);
    }
    let embedding = tensors.take("model.embed_tokens.weight")?;
    let hidden = (embedding.rows(), config.hidden);
    check("model.embed_tokens.weight", &embedding, hidden)?;
    let mut layers = Vec::with_capacity(config.layers);
    for number in 0..config.layers {
        layers.push(layer(&config, number, &mut tensors)?);
    }
    let norm = tensors.vector("model.norm.weight")?;
    let output = tensors.matrices.remove("lm_head.weight");
    if let Some(output) = &output {
        check("lm_head.weight", output, hidden)?;
    }
    let positions = config.context;
    Ok(Model::new(
        config, positions, embedding, layers, norm, output,
    ))
}

fn layer(config: &Config, number: usize, tensors: &mut Tensors) -> Result<Layer, Error> {
    let name = |part: &str| format!("model.layers.{number}.{part}");
    let (heads, kv) = (config.heads * config.head, config.kv_width());
    let (hidden, wide) = (config.hidden, config.intermediate);
    let attention = |part: &str| name(&format!("self_attn.{part}"));
    let feed = |part: &str| name(&format!("mlp.{part}"));
    let qkv = [("q_proj", heads), ("k_proj", kv), ("v_proj", kv)];
    let [query, key, value] = tensors.fused(attention, "qkv_proj", qkv, hidden)?;
    let gate_up = [("gate_proj", wide), ("up_proj", wide)];
    let [gate, up] = tensors.fused(feed, "gate_up_proj", gate_up, hidden)?;
    Ok(Layer {
        attention_norm: tensors.vector(&name("input_layernorm.weight"))?,
        query,
        key,
        value,
        output: tensors.linear(&attention("o_proj"), (hidden, heads))?,
        feed_norm: tensors.vector(&name("post_attention_layernorm.weight"))?,
        gate,
        up,
        down: tensors.linear(&feed("down_proj"), (hidden, wide))?,
    })
}

fn check(name: &str, matrix: &Matrix, expected: (usize, usize)) -> Result<(), Error> {
    let found = (matrix.rows(), matrix.columns());
    if found == expected {
        return Ok(());
    }
    Err(Error::Shape {
        name: name.to_owned(),
        found,
        expected,
    })
}

impl Tensors {
    fn take(&mut self, name: &str) -> Result<Matrix, Error> {
        let missing = || Error::Missing(name.to_owned());
        self.matrices.remove(name).ok_or_else(missing)
    }

    fn vector(&mut self, name: &str) -> Result<Vec<f32>, Error> {
        let missing = || Error::Missing(name.to_owned());
        self.vectors.remove(name).ok_or_else(missing)
    }

    fn linear(&mut self, name: &str, shape: (usize, usize)) -> Result<Linear, Error> {
        let weight = format!("{name}.weight");
        let matrix = self.take(&weight)?;
        check(&weight, &matrix, shape)?;
        Ok(Linear {
            matrix,
            bias: self.vectors.remove(&format!("{name}.bias")),
        })
    }

    /// Matrices that are one in some families, and apart in others.
    fn fused<const N: usize>(
        &mut self,
        name: impl Fn(&str) -> String,
        together: &str,
        parts: [(&str, usize); N],
        columns: usize,
    ) -> Result<[Linear; N], Error> {
        let whole = name(together) + ".weight";
        if let Some(matrix) = self.matrices.remove(&whole) {
            let rows = parts.map(|(_, rows)| rows);
            let found = (matrix.rows(), matrix.columns());
            let wrong = || Error::Shape {
                name: whole.clone(),
                found,
                expected: (rows.iter().sum(), columns),
            };
            let split: [Matrix; N] = matrix
                .split(&rows)
                .and_then(|all| all.try_into().ok())
                .ok_or_else(wrong)?;
            return Ok(split.map(|matrix| Linear { matrix, bias: None }));
        }
        let mut linears = Vec::with_capacity(N);
        for (part, rows) in parts {
            linears.push(self.linear(&name(part), (rows, columns))?);
        }
        linears.try_into().map_err(|_| Error::Missing(whole))
    }
}
