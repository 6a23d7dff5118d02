use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn encode(content: &[u8], encoding: Encoding, step: usize) -> Vec<u8> {
    let mut encoder = Encoder::new(encoding).unwrap();
    let mut encoded = Vec::new();
    for piece in content.chunks(step) {
        encoded.extend_from_slice(&encoder.push(Bytes::copy_from_slice(piece)).unwrap());
    }
    encoded.extend_from_slice(&encoder.finish().unwrap());
    encoded
}

fn decode(encoded: &[u8], encoding: Encoding, step: usize) -> Result<Vec<u8>, EncodingError> {
    let mut decoder = Decoder::new(encoding)?;
    let mut content = Vec::new();
    for piece in encoded.chunks(step) {
        decoder.feed(Bytes::copy_from_slice(piece));
        while let Some(more) = decoder.take()? {
            assert!(
                more.len() <= 4 * OUTPUT_BYTES,
                "{} bytes at once",
                more.len()
            );
            content.extend_from_slice(&more);
        }
    }
    content.extend_from_slice(&decoder.finish()?);
    Ok(content)
}

/// Content that neither repeats nor is noise.
fn text(length: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        b"etaoin shrdlu"[(state >> 33) as usize % 13]
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn content_comes_back_over_several_frames_and_is_smaller_in_between() {
    let content = text(2 * FRAME_BYTES + 12_345);
    for encoding in [Encoding::Zstd, Encoding::Gzip] {
        let encoded = encode(&content, encoding, 1 << 20);
        assert!(encoded.len() < content.len() * 3 / 4, "{encoding:?}");
        assert_eq!(decode(&encoded, encoding, 70_000).unwrap(), content);
    }
    assert_eq!(encode(&content, Encoding::Plain, 1000), content);
    assert_eq!(decode(&content, Encoding::Plain, 1000).unwrap(), content);
}

#[test]
fn independent_decoders_read_what_is_written() {
    let content = text(FRAME_BYTES + 1000);
    let zstd = encode(&content, Encoding::Zstd, 1 << 20);
    assert_eq!(zstd::stream::decode_all(&zstd[..]).unwrap(), content);
    let gzip = encode(&content, Encoding::Gzip, 1 << 20);
    let mut read = Vec::new();
    io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&gzip[..]), &mut read).unwrap();
    assert_eq!(read, content);
}

#[test]
fn gzip_carries_neither_name_nor_time() {
    let encoded = encode(b"content", Encoding::Gzip, 7);
    assert_eq!(encoded[3], 0, "no flags, so no name");
    assert_eq!(encoded[4..8], [0; 4], "no time");
}

#[test]
fn zeros_that_explode_come_out_in_pieces() {
    let content = vec![0; 40 * 1024 * 1024];
    for encoding in [Encoding::Zstd, Encoding::Gzip] {
        let encoded = encode(&content, encoding, 1 << 20);
        assert!(encoded.len() < 300_000);
        assert_eq!(
            decode(&encoded, encoding, usize::MAX).unwrap().len(),
            content.len()
        );
    }
}

#[test]
fn content_that_was_cut_off_or_changed_is_refused() {
    let content = text(50_000);
    for encoding in [Encoding::Zstd, Encoding::Gzip] {
        let encoded = encode(&content, encoding, 1 << 20);
        for end in [0, 1, 10, encoded.len() / 2, encoded.len() - 1] {
            assert!(
                decode(&encoded[..end], encoding, 1000).is_err(),
                "{encoding:?} cut at {end}"
            );
        }
        let mut changed = encoded.clone();
        changed[encoded.len() / 2] ^= 0x10;
        let read = decode(&changed, encoding, 1000);
        assert!(read.is_err(), "{encoding:?} changed");
        assert!(decode(b"no such format at all", encoding, 1000).is_err());
    }
}

#[test]
fn samples_tell_how_content_shrinks() {
    let ratio = |content: Vec<u8>| sample_ratio(&[content.into()]).unwrap();
    assert!(ratio(text(1 << 20)) < 0.7);
    let mut state = 1_u64;
    let noise = (0..1 << 20).map(|_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 40) as u8
    });
    assert!(ratio(noise.collect()) > 0.99);
    assert!((ratio(Vec::new()) - 1.0).abs() < 1e-9);
    assert_eq!(sample_ranges(1000), [0..1000]);
    for size in [13 << 20, 100 << 30] {
        let ranges = sample_ranges(size);
        assert_eq!(ranges.len(), 3);
        assert!(
            ranges
                .iter()
                .all(|range| range.end - range.start == SAMPLE_BYTES && range.end <= size)
        );
    }
}

#[test]
fn empty_content_is_a_valid_stream() {
    for encoding in [Encoding::Plain, Encoding::Zstd, Encoding::Gzip] {
        let encoded = encode(b"", encoding, 1);
        assert_eq!(decode(&encoded, encoding, 1).unwrap(), b"");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_encoded_bytes_do_not_depend_on_how_content_is_cut(
        content in prop::collection::vec(0..7_u8, 0..20_000),
        step in 1..5000_usize,
    ) {
        for encoding in [Encoding::Zstd, Encoding::Gzip] {
            let encoded = encode(&content, encoding, 1 << 20);
            prop_assert_eq!(&encode(&content, encoding, step), &encoded);
            prop_assert_eq!(&decode(&encoded, encoding, step).unwrap(), &content);
        }
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000), step in 1..500_usize) {
        for encoding in [Encoding::Zstd, Encoding::Gzip] {
            let _ = decode(&bytes, encoding, step);
        }
    }
}
