//! Manifests: where they come from ([`source`]), how they are read with positions ([`reader`], [`tree`]), and which
//! rules they must pass before anything is sent ([`check`]).

pub mod check;
pub mod reader;
pub mod scalar;
pub mod source;
pub mod tree;

use std::fmt;

pub use self::tree::{Position, Tree};

/// One object of a manifest, with the place of everything in it.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// File, URL or `-`, as it is named in messages.
    pub source: String,
    /// The object with positions.
    pub tree: Tree,
}

impl Document {
    /// The object.
    #[must_use]
    pub fn value(&self) -> serde_json::Value {
        self.tree.to_value()
    }
}

/// One thing that is wrong in a manifest; displayed as `FILE:LINE:COLUMN: PATH: MESSAGE`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// File, URL or `-`.
    pub source: String,
    /// Where it is.
    pub position: Position,
    /// Field, empty for the whole document.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { line, column } = self.position;
        write!(formatter, "{}:{line}:{column}: ", self.source)?;
        if !self.path.is_empty() {
            write!(formatter, "{}: ", self.path)?;
        }
        // One problem is one line.
        formatter.write_str(
            &self
                .message
                .lines()
                .map(str::trim)
                .collect::<Vec<_>>()
                .join(" "),
        )
    }
}
