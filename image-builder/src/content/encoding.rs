//! Compression of content on its way, and back. Bytes are pushed in and what is ready comes out; equal input gives equal
//! output however it is cut into pieces. May do no I/O.

use std::io::{self, Write as _};
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use flate2::write::{GzEncoder, MultiGzDecoder};
use zstd::stream::raw::{InBuffer, Operation, OutBuffer};

use super::Encoding;

/// zstd's level: the last one at which it is faster than most links.
const ZSTD_LEVEL: i32 = 3;

/// gzip's level: readers that know nothing else get it as fast as it goes.
const GZIP_LEVEL: u32 = 1;

/// Bytes of content in one zstd frame. Frames can be decoded apart from one another.
const FRAME_BYTES: usize = 4 * 1024 * 1024;

/// Content bytes that are decoded before they are handed out, so that a small input cannot fill the memory at once.
const OUTPUT_BYTES: usize = 1024 * 1024;

/// The largest window that is accepted when decoding, as a power of two: what zstd's own program accepts, 128 MiB.
const MAX_WINDOW_LOG: u32 = 27;

/// Bytes of one sample of a file.
const SAMPLE_BYTES: u64 = 4 * 1024 * 1024;

/// Why bytes cannot be encoded or decoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodingError {
    /// The compressor refused.
    #[error("cannot compress with {format}")]
    Encode {
        /// `zstd`, `gzip`.
        format: &'static str,
        /// What it said.
        #[source]
        cause: io::Error,
    },
    /// The bytes are not what they should be.
    #[error("cannot decompress: the content is damaged or no {format}")]
    Decode {
        /// `zstd`, `gzip`.
        format: &'static str,
        /// What the decompressor said.
        #[source]
        cause: io::Error,
    },
    /// The bytes end before the content does.
    #[error("cannot decompress: the {format} content was cut off")]
    CutOff {
        /// `zstd`, `gzip`.
        format: &'static str,
    },
}

/// Encodes content piece by piece.
pub struct Encoder(Inner);

enum Inner {
    Plain,
    Zstd(ZstdEncoder),
    Gzip(GzEncoder<Vec<u8>>),
}

struct ZstdEncoder {
    encoder: zstd::stream::raw::Encoder<'static>,
    /// Content bytes that the present frame still takes.
    left: usize,
    empty: bool,
}

impl Encoder {
    /// An encoder for one blob.
    ///
    /// # Errors
    /// When the compressor cannot be set up.
    pub fn new(encoding: Encoding) -> Result<Self, EncodingError> {
        let inner = match encoding {
            Encoding::Plain => Inner::Plain,
            Encoding::Zstd => Inner::Zstd(ZstdEncoder::new().map_err(encode_error("zstd"))?),
            // Neither a name nor a time: both would differ from host to host.
            Encoding::Gzip => Inner::Gzip(GzEncoder::new(
                Vec::new(),
                flate2::Compression::new(GZIP_LEVEL),
            )),
        };
        Ok(Self(inner))
    }

    /// Takes the next content and gives what is ready of the encoded bytes, which may be nothing.
    ///
    /// # Errors
    /// When the compressor refuses.
    pub fn push(&mut self, content: Bytes) -> Result<Bytes, EncodingError> {
        match &mut self.0 {
            Inner::Plain => Ok(content),
            Inner::Zstd(encoder) => encoder.push(&content).map_err(encode_error("zstd")),
            Inner::Gzip(encoder) => {
                encoder.write_all(&content).map_err(encode_error("gzip"))?;
                Ok(std::mem::take(encoder.get_mut()).into())
            }
        }
    }

    /// Ends the content and gives the last encoded bytes.
    ///
    /// # Errors
    /// When the compressor refuses.
    pub fn finish(self) -> Result<Bytes, EncodingError> {
        match self.0 {
            Inner::Plain => Ok(Bytes::new()),
            Inner::Zstd(encoder) => encoder.finish().map_err(encode_error("zstd")),
            Inner::Gzip(encoder) => {
                let rest = encoder.finish().map_err(encode_error("gzip"))?;
                Ok(rest.into())
            }
        }
    }
}

impl ZstdEncoder {
    fn new() -> io::Result<Self> {
        let mut encoder = zstd::stream::raw::Encoder::new(ZSTD_LEVEL)?;
        encoder.set_parameter(zstd::stream::raw::CParameter::ChecksumFlag(true))?;
        Ok(Self {
            encoder,
            left: FRAME_BYTES,
            empty: true,
        })
    }

    fn push(&mut self, mut content: &[u8]) -> io::Result<Bytes> {
        let mut output = BytesMut::new();
        while !content.is_empty() {
            let (now, later) = content.split_at(content.len().min(self.left));
            self.run(now, &mut output)?;
            self.empty = false;
            self.left -= now.len();
            content = later;
            if self.left == 0 {
                self.end_frame(&mut output)?;
                self.encoder.reinit()?;
                self.left = FRAME_BYTES;
            }
        }
        Ok(output.freeze())
    }

    fn finish(mut self) -> io::Result<Bytes> {
        let mut output = BytesMut::new();
        // Empty content is one empty frame; a frame that was just ended needs none after it.
        if self.left < FRAME_BYTES || self.empty {
            self.end_frame(&mut output)?;
        }
        Ok(output.freeze())
    }

    fn run(&mut self, mut content: &[u8], output: &mut BytesMut) -> io::Result<()> {
        let mut buffer = vec![0; zstd::zstd_safe::CCtx::out_size()];
        while !content.is_empty() {
            let status = self.encoder.run_on_buffers(content, &mut buffer)?;
            content = content.get(status.bytes_read..).unwrap_or_default();
            output.extend_from_slice(buffer.get(..status.bytes_written).unwrap_or_default());
        }
        Ok(())
    }

    fn end_frame(&mut self, output: &mut BytesMut) -> io::Result<()> {
        let mut buffer = vec![0; zstd::zstd_safe::CCtx::out_size()];
        loop {
            let mut out = OutBuffer::around(&mut buffer);
            let left = self.encoder.finish(&mut out, true)?;
            output.extend_from_slice(out.as_slice());
            if left == 0 {
                return Ok(());
            }
        }
    }
}

/// Decodes content piece by piece: feed it, then take what comes out until nothing does.
pub struct Decoder(DecoderInner);

enum DecoderInner {
    Plain(Bytes),
    Zstd(ZstdDecoder),
    Gzip {
        decoder: Box<MultiGzDecoder<Vec<u8>>>,
        input: Bytes,
        fed: bool,
    },
}

struct ZstdDecoder {
    decoder: zstd::stream::raw::Decoder<'static>,
    input: Bytes,
    /// Whether a frame has begun and not ended.
    inside: bool,
    /// Whether there may be more output without more input.
    full: bool,
    /// Whether any byte was fed.
    fed: bool,
}

impl Decoder {
    /// A decoder for one blob.
    ///
    /// # Errors
    /// When the decompressor cannot be set up.
    pub fn new(encoding: Encoding) -> Result<Self, EncodingError> {
        let inner = match encoding {
            Encoding::Plain => DecoderInner::Plain(Bytes::new()),
            Encoding::Zstd => DecoderInner::Zstd(ZstdDecoder::new().map_err(decode_error("zstd"))?),
            Encoding::Gzip => DecoderInner::Gzip {
                decoder: Box::new(MultiGzDecoder::new(Vec::new())),
                input: Bytes::new(),
                fed: false,
            },
        };
        Ok(Self(inner))
    }

    /// Gives the next encoded bytes. Everything that [`Decoder::take`] has must have been taken before.
    pub fn feed(&mut self, bytes: Bytes) {
        match &mut self.0 {
            DecoderInner::Plain(pending) => *pending = bytes,
            DecoderInner::Zstd(decoder) => {
                decoder.fed |= !bytes.is_empty();
                decoder.input = bytes;
            }
            DecoderInner::Gzip { input, fed, .. } => {
                *fed |= !bytes.is_empty();
                *input = bytes;
            }
        }
    }

    /// Takes the next content, about a mebibyte at most; `None` when more must be fed.
    ///
    /// # Errors
    /// When the bytes are damaged.
    pub fn take(&mut self) -> Result<Option<Bytes>, EncodingError> {
        let taken = match &mut self.0 {
            DecoderInner::Plain(pending) => std::mem::take(pending),
            DecoderInner::Zstd(decoder) => decoder.take().map_err(decode_error("zstd"))?,
            DecoderInner::Gzip { decoder, input, .. } => {
                take_gzip(decoder, input).map_err(decode_error("gzip"))?
            }
        };
        Ok((!taken.is_empty()).then_some(taken))
    }

    /// Ends the content and gives its last bytes.
    ///
    /// # Errors
    /// When the bytes were cut off or are damaged.
    pub fn finish(self) -> Result<Bytes, EncodingError> {
        match self.0 {
            DecoderInner::Plain(pending) => Ok(pending),
            DecoderInner::Zstd(decoder) if decoder.inside || !decoder.fed => {
                Err(EncodingError::CutOff { format: "zstd" })
            }
            DecoderInner::Zstd(_) => Ok(Bytes::new()),
            DecoderInner::Gzip { fed: false, .. } => Err(EncodingError::CutOff { format: "gzip" }),
            DecoderInner::Gzip { mut decoder, .. } => match decoder.try_finish() {
                Ok(()) => Ok(std::mem::take(decoder.get_mut()).into()),
                Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {
                    Err(EncodingError::CutOff { format: "gzip" })
                }
                Err(cause) => Err(decode_error("gzip")(cause)),
            },
        }
    }
}

/// Feeds little at a time, so that what comes out stays small.
fn take_gzip(decoder: &mut MultiGzDecoder<Vec<u8>>, input: &mut Bytes) -> io::Result<Bytes> {
    // Deflate makes at most about a thousand bytes of one.
    const STEP: usize = OUTPUT_BYTES / 1024;
    while !input.is_empty() && decoder.get_ref().len() < OUTPUT_BYTES {
        let piece = input.split_to(input.len().min(STEP));
        decoder.write_all(&piece)?;
    }
    decoder.flush()?;
    Ok(std::mem::take(decoder.get_mut()).into())
}

impl ZstdDecoder {
    fn new() -> io::Result<Self> {
        let mut decoder = zstd::stream::raw::Decoder::new()?;
        decoder.set_parameter(zstd::stream::raw::DParameter::WindowLogMax(MAX_WINDOW_LOG))?;
        Ok(Self {
            decoder,
            input: Bytes::new(),
            inside: false,
            full: false,
            fed: false,
        })
    }

    fn take(&mut self) -> io::Result<Bytes> {
        if self.input.is_empty() && !self.full {
            return Ok(Bytes::new());
        }
        let mut buffer = BytesMut::zeroed(OUTPUT_BYTES);
        let mut written = 0;
        while written < buffer.len() && (!self.input.is_empty() || self.full) {
            let mut source = InBuffer::around(&self.input);
            let target = buffer.get_mut(written..).unwrap_or_default();
            let room = target.len();
            let mut out = OutBuffer::around(target);
            let hint = self.decoder.run(&mut source, &mut out)?;
            let (read, wrote) = (source.pos(), out.pos());
            written += wrote;
            self.full = wrote == room && hint != 0;
            self.inside = hint != 0;
            self.input = self.input.slice(read..);
            if read == 0 && wrote == 0 {
                return Err(io::Error::other("the decompressor stands still"));
            }
        }
        buffer.truncate(written);
        Ok(buffer.freeze())
    }
}

/// The ranges of a file of `size` bytes from which [`sample_ratio`] tells how the whole would shrink: 3 × 4 MiB.
#[must_use]
pub fn sample_ranges(size: u64) -> Vec<Range<u64>> {
    if size <= 3 * SAMPLE_BYTES {
        return std::iter::once(0..size).collect();
    }
    [1, 2, 3]
        .map(|quarter| {
            let start = (size / 4 * quarter).min(size - SAMPLE_BYTES);
            start..start + SAMPLE_BYTES
        })
        .to_vec()
}

/// Size of samples after zstd by size before; 1 for no samples.
///
/// # Errors
/// When the compressor refuses.
pub fn sample_ratio(samples: &[Bytes]) -> Result<f64, EncodingError> {
    let mut encoder = Encoder::new(Encoding::Zstd)?;
    let (mut before, mut after) = (0, 0);
    for sample in samples {
        before += sample.len();
        after += encoder.push(sample.clone())?.len();
    }
    after += encoder.finish()?.len();
    Ok(if before == 0 {
        1.0
    } else {
        after as f64 / before as f64
    })
}

fn encode_error(format: &'static str) -> impl FnOnce(io::Error) -> EncodingError {
    move |cause| EncodingError::Encode { format, cause }
}

fn decode_error(format: &'static str) -> impl FnOnce(io::Error) -> EncodingError {
    move |cause| EncodingError::Decode { format, cause }
}

#[cfg(test)]
mod tests;
