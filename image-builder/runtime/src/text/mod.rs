//! Between text and tokens: tokeniser, chat template, incremental decoding, stop strings, and the choice of a token.
//! Pure once loaded. May not know the model or HTTP.

mod gguf;
pub mod sampling;
pub mod stream;
pub mod template;
pub mod tokenizer;

pub use sampling::{Sampler, Sampling};
pub use stream::TextStream;
pub use template::{Message, Template};
pub use tokenizer::Tokenizer;

use std::path::PathBuf;

/// Why the text side of a model could not be loaded or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("reading {}", .0.display())]
    Read(PathBuf, #[source] std::io::Error),
    /// A file is not JSON of the expected kind.
    #[error("reading {}: not the JSON that transformers writes", .0.display())]
    Json(PathBuf, #[source] serde_json::Error),
    /// The tokeniser is damaged or of an unknown kind.
    #[error("building the tokeniser: {0}")]
    Tokenizer(String),
    /// GGUF metadata is missing or of another type.
    #[error("GGUF metadata {0} is missing or of another type")]
    Metadata(String),
    /// The text could not be split.
    #[error("splitting the text into tokens: {0}")]
    Encode(String),
    /// The chat template is not valid.
    #[error("reading the chat template: {0}")]
    Template(String),
    /// The chat template refuses these messages.
    #[error("the model's chat template refuses the messages: {0}")]
    Render(String),
    /// There is no chat template.
    #[error("the model has no chat template; ask /v1/completions instead")]
    NoTemplate,
}
