//! Bodies of answers.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Bytes of one piece.
const PIECE: usize = 256 << 10;

/// Where the bytes of an answer come from.
pub(crate) enum Origin {
    Memory(Bytes),
    /// A file of this machine, read from where it is.
    File(std::fs::File),
}

/// The body of an answer.
pub(crate) struct Answer {
    origin: Origin,
    left: u64,
    sent: u64,
    /// Cut the connection after this many bytes.
    cut: Option<u64>,
    /// Flip a bit of the first piece.
    tamper: bool,
    stall: Option<Duration>,
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Answer {
    pub(crate) fn new(origin: Origin, length: u64) -> Self {
        Self {
            origin,
            left: length,
            sent: 0,
            cut: None,
            tamper: false,
            stall: None,
            sleep: None,
        }
    }

    pub(crate) fn memory(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        let length = bytes.len() as u64;
        Self::new(Origin::Memory(bytes), length)
    }

    pub(crate) fn empty() -> Self {
        Self::memory(Bytes::new())
    }

    pub(crate) fn cut_after(mut self, bytes: u64) -> Self {
        self.cut = Some(bytes);
        self
    }

    pub(crate) fn tampered(mut self) -> Self {
        self.tamper = true;
        self
    }

    pub(crate) fn stalling(mut self, time: Duration) -> Self {
        self.stall = Some(time);
        self
    }

    fn piece(&mut self) -> std::io::Result<Bytes> {
        use std::io::Read as _;

        let cut = self.cut.map_or(u64::MAX, |cut| cut - self.sent);
        let length = (PIECE as u64).min(self.left).min(cut);
        let length = usize::try_from(length).unwrap_or(PIECE);
        let mut bytes = match &mut self.origin {
            Origin::Memory(bytes) => bytes.split_to(length.min(bytes.len())),
            Origin::File(file) => {
                let mut piece = vec![0; length];
                file.read_exact(&mut piece)?;
                piece.into()
            }
        };
        if std::mem::take(&mut self.tamper) {
            let mut changed = bytes.to_vec();
            if let Some(last) = changed.last_mut() {
                *last ^= 1;
            }
            bytes = changed.into();
        }
        self.left -= bytes.len() as u64;
        self.sent += bytes.len() as u64;
        Ok(bytes)
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        if let Some(sleep) = &mut self.sleep {
            std::task::ready!(sleep.as_mut().poll(context));
            self.sleep = None;
        }
        if self.cut == Some(self.sent) {
            return Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into())));
        }
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let piece = self.piece();
        if let Some(time) = self.stall.take() {
            self.sleep = Some(Box::pin(tokio::time::sleep(time)));
        }
        Poll::Ready(Some(piece.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && self.cut.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
