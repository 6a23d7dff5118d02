//! What a blob consists of, before any byte of it is read. May do no I/O.
//!
//! A raw layer is one file; a plain tar layer is headers, files and padding. Both are a list of parts whose sizes are
//! known, so that a layer of any size is streamed from where its files are, with no copy on disk and none in memory.

pub mod encoding;

use bytes::Bytes;

use crate::digest::Digest;
use crate::oci::{Annotations, Descriptor};

/// One stretch of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Bytes that are known already: headers, padding, small generated files.
    Bytes(Bytes),
    /// A whole file of the source.
    File {
        /// The file's path in the source's tree, relative, `/` between its names.
        path: String,
        /// Its size in bytes; a file that turns out longer or shorter is an error.
        size: u64,
    },
}

/// How a blob's parts are encoded on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// As they are: the blob's size and offsets are known beforehand.
    Plain,
    /// zstd, level 3, several frames.
    Zstd,
    /// gzip, level 1, for readers that know nothing else.
    Gzip,
}

/// A blob to be made: what it is of, and what is known of it already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// The media type that its descriptor will have.
    pub media_type: String,
    /// Its content, in order.
    pub parts: Vec<Part>,
    /// How the content is encoded.
    pub encoding: Encoding,
    /// The digest that the encoded blob must have, where the source or the cache knows it. Only an expectation: the
    /// bytes are hashed when they pass, and a difference is an error.
    pub expected: Option<Digest>,
    /// Annotations of its descriptor.
    pub annotations: Annotations,
}

/// A blob that was made: its descriptor, and the digest of its content before encoding (`diff_id` of an image layer).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeBlob {
    /// What names it in a manifest.
    pub descriptor: Descriptor,
    /// The digest of the plain content; equals the descriptor's for [`Encoding::Plain`].
    pub content_digest: Digest,
}

impl Part {
    /// Size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { size, .. } => *size,
        }
    }
}

impl Blob {
    /// Size of the content before encoding, in bytes.
    #[must_use]
    pub fn content_size(&self) -> u64 {
        self.parts.iter().map(Part::size).sum()
    }
}
