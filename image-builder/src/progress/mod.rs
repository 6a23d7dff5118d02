//! What happens while blobs move, as events. The engines send them; printers show them. May not print.

mod bars;
mod json;
mod lines;
mod size;
mod tally;

use crate::digest::Digest;

pub use bars::Bars;
pub use json::JsonLines;
pub use lines::Lines;
pub use size::Size;
pub use tally::Tally;

/// What is being done with a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Read and hashed without being sent.
    Hash,
    /// Read, hashed and sent.
    Upload,
    /// Asked for from another repository of the same registry.
    Mount,
    /// Received, hashed and written.
    Download,
    /// Compared with what is there.
    Verify,
}

/// How a blob ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was sent or received.
    Moved,
    /// The other side mounted it from another repository.
    Mounted,
    /// It was there already.
    Present,
    /// It failed for good.
    Failed,
}

impl Phase {
    /// The phase in one lower-case word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Upload => "upload",
            Self::Mount => "mount",
            Self::Download => "download",
            Self::Verify => "verify",
        }
    }
}

impl Outcome {
    /// The outcome in one lower-case word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Moved => "moved",
            Self::Mounted => "mounted",
            Self::Present => "present",
            Self::Failed => "failed",
        }
    }
}

/// Where a printer of progress sends its lines.
pub type LineWriter = Box<dyn Fn(&str) + Send + Sync>;

/// One event. `blob` is the blob's place in the plan, from 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The work that lies ahead.
    Planned {
        /// Name and size in bytes of each blob.
        blobs: Vec<(String, u64)>,
    },
    /// A blob enters a phase.
    Started {
        /// Which blob.
        blob: usize,
        /// What begins.
        phase: Phase,
    },
    /// Bytes went by.
    Advanced {
        /// Which blob.
        blob: usize,
        /// Bytes since the last event of this blob.
        bytes: u64,
    },
    /// Something failed and is tried again; bytes of the attempt no longer count.
    Retried {
        /// Which blob.
        blob: usize,
        /// Which attempt comes next, from 2.
        attempt: u32,
        /// Why.
        reason: String,
    },
    /// A blob is done.
    Finished {
        /// Which blob.
        blob: usize,
        /// How.
        outcome: Outcome,
        /// Its digest, where it ended well.
        digest: Option<Digest>,
    },
    /// Something a person should know.
    Note(String),
}

/// Where events go. Must be cheap: engines call it from their inner loops, a few times per MiB at most.
pub trait Progress: Send + Sync {
    /// Takes one event.
    fn event(&self, event: Event);
}

/// Shows nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _event: Event) {}
}
