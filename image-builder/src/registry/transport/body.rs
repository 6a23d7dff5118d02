//! Bodies of requests: nothing, bytes in memory, or a stream that is made while it is sent.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc::Receiver;

/// What a streamed body's maker sends: bytes, then `None`. A channel that closes without it cuts the request, so that a
/// registry never takes half a blob for a whole one.
pub(crate) type Item = Option<Bytes>;

/// Told how many bytes the connection took.
pub(crate) type OnSent = Arc<dyn Fn(u64) + Send + Sync>;

/// The body of a request.
pub(crate) enum RequestBody {
    Empty,
    Bytes(Bytes),
    Stream(StreamBody),
}

/// A body that is made while it is sent.
pub(crate) struct StreamBody {
    items: Receiver<Item>,
    remaining: Option<u64>,
    meter: Meter,
    on_sent: OnSent,
    done: bool,
}

/// Counts what the connection took, for whoever watches for stalls.
#[derive(Clone, Default)]
pub(crate) struct Meter {
    sent: Arc<AtomicU64>,
    complete: Arc<AtomicBool>,
}

/// Why a streamed body ended early. The maker knows the reason and reports it itself.
#[derive(Debug, thiserror::Error)]
#[error("the data ended before the request did")]
pub(crate) struct Cut;

impl Meter {
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Relaxed)
    }
}

impl StreamBody {
    /// `length` in bytes where it is known: it becomes `Content-Length`, else the body is sent in chunks.
    pub(crate) fn new(items: Receiver<Item>, length: Option<u64>, on_sent: OnSent) -> Self {
        Self {
            items,
            remaining: length,
            meter: Meter::default(),
            on_sent,
            done: length == Some(0),
        }
    }
}

impl RequestBody {
    pub(crate) fn meter(&self) -> Meter {
        match self {
            Self::Stream(stream) => stream.meter.clone(),
            Self::Empty | Self::Bytes(_) => {
                let meter = Meter::default();
                meter.complete.store(true, Ordering::Relaxed);
                meter
            }
        }
    }

    /// The same body once more, where that is possible.
    pub(crate) fn again(&self) -> Option<Self> {
        match self {
            Self::Empty => Some(Self::Empty),
            Self::Bytes(bytes) => Some(Self::Bytes(bytes.clone())),
            Self::Stream(_) => None,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Bytes(bytes) => {
                let all = std::mem::take(bytes);
                Poll::Ready((!all.is_empty()).then(|| Ok(Frame::data(all))))
            }
            Self::Stream(stream) => stream.poll_next(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::Stream(stream) => stream.done,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(stream) => match stream.remaining {
                Some(remaining) => SizeHint::with_exact(remaining),
                None => SizeHint::default(),
            },
        }
    }
}

impl StreamBody {
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if self.done {
            return Poll::Ready(None);
        }
        match ready!(self.items.poll_recv(context)) {
            Some(Some(bytes)) => Poll::Ready(Some(self.pass(bytes))),
            Some(None) if self.remaining.is_none_or(|remaining| remaining == 0) => {
                self.finish();
                Poll::Ready(None)
            }
            Some(None) | None => Poll::Ready(Some(Err(Cut))),
        }
    }

    fn pass(&mut self, bytes: Bytes) -> Result<Frame<Bytes>, Cut> {
        let length = bytes.len() as u64;
        if let Some(remaining) = &mut self.remaining {
            *remaining = remaining.checked_sub(length).ok_or(Cut)?;
            if *remaining == 0 {
                self.finish();
            }
        }
        self.meter.sent.fetch_add(length, Ordering::Relaxed);
        (self.on_sent)(length);
        Ok(Frame::data(bytes))
    }

    fn finish(&mut self) {
        self.done = true;
        self.meter.complete.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::sync::mpsc;

    use super::*;

    fn stream(items: Vec<Item>, length: Option<u64>) -> RequestBody {
        let (sender, receiver) = mpsc::channel(8);
        for item in items {
            sender.try_send(item).unwrap();
        }
        RequestBody::Stream(StreamBody::new(receiver, length, Arc::new(|_| {})))
    }

    #[tokio::test]
    async fn a_stream_whose_maker_gave_up_is_never_taken_for_a_whole_one() {
        let cut = stream(vec![Some(Bytes::from_static(b"ab"))], None);
        assert!(cut.collect().await.is_err());
        let whole = stream(vec![Some(Bytes::from_static(b"ab")), None], None);
        assert_eq!(whole.collect().await.unwrap().to_bytes(), "ab");
        let short = stream(vec![Some(Bytes::from_static(b"ab")), None], Some(3));
        assert!(short.collect().await.is_err());
        let long = stream(vec![Some(Bytes::from_static(b"abcd")), None], Some(3));
        assert!(long.collect().await.is_err());
    }

    #[tokio::test]
    async fn a_known_length_is_announced_and_the_meter_tells_when_all_was_taken() {
        let body = stream(vec![Some(Bytes::from_static(b"abc"))], Some(3));
        let meter = body.meter();
        assert_eq!(body.size_hint().exact(), Some(3));
        assert!(!meter.is_complete());
        body.collect().await.unwrap();
        assert!(meter.is_complete());
        assert_eq!(meter.sent(), 3);
    }
}
