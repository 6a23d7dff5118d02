//! Hands what arrives to the thread that hashes and writes it, in batches: waking a thread for each piece that the network
//! delivers costs more than the pieces.

use bytes::Bytes;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Bytes that are gathered before they are handed on.
const BATCH: usize = 512 << 10;
/// Batches that may wait. With the one being gathered and the one being written this bounds the memory of a stream.
const AHEAD: usize = 3;

/// Pieces of a blob, in order.
pub(super) type Pieces = Vec<Bytes>;

/// The end to which pieces are given.
pub(super) struct Batches {
    sender: Sender<Pieces>,
    pieces: Pieces,
    gathered: usize,
}

/// The other end was closed: its owner knows why.
#[derive(Debug)]
pub(super) struct Closed;

/// Both ends.
pub(super) fn batches() -> (Batches, Receiver<Pieces>) {
    let (sender, receiver) = channel(AHEAD);
    (
        Batches {
            sender,
            pieces: Pieces::new(),
            gathered: 0,
        },
        receiver,
    )
}

impl Batches {
    /// Adds a piece.
    pub(super) async fn add(&mut self, piece: Bytes) -> Result<(), Closed> {
        self.gathered += piece.len();
        self.pieces.push(piece);
        if self.gathered < BATCH {
            return Ok(());
        }
        self.hand_on().await
    }

    /// Hands on what is left.
    pub(super) async fn end(mut self) -> Result<(), Closed> {
        if self.pieces.is_empty() {
            Ok(())
        } else {
            self.hand_on().await
        }
    }

    async fn hand_on(&mut self) -> Result<(), Closed> {
        self.gathered = 0;
        self.sender
            .send(std::mem::take(&mut self.pieces))
            .await
            .map_err(|_| Closed)
    }
}
