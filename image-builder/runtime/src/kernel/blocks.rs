//! Reads the block formats of GGUF files: raw bytes to small integers with scales.
//!
//! Formats: those of `ggml-common.h` (llama.cpp), as of 2026-11: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K.

use candle_core::quantized::GgmlDType;
use half::f16;

/// 32 weights of one row: `value = quant * scale + minimum`, scale and minimum being one for each 16 weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Weights {
    pub(crate) quants: [i8; 32],
    pub(crate) scales: [f32; 2],
    pub(crate) minima: [f32; 2],
}

impl Default for Weights {
    fn default() -> Self {
        Self {
            quants: [0; 32],
            scales: [0.0; 2],
            minima: [0.0; 2],
        }
    }
}

/// How a format is held in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Format {
    /// Quants are 0 to 15, else signed bytes.
    pub(crate) nibbles: bool,
    /// Minima are not all zero.
    pub(crate) minima: bool,
    /// Scales of both halves differ.
    pub(crate) halves: bool,
    /// Bytes of one block in the file.
    bytes: usize,
    /// Weights of one block in the file.
    weights: usize,
}

impl Format {
    /// The format of a GGUF type, if it is one that is computed with directly.
    pub(crate) fn of(kind: GgmlDType) -> Option<Self> {
        let (nibbles, minima, halves) = match kind {
            GgmlDType::Q4_0 | GgmlDType::Q4_1 | GgmlDType::Q4K => (true, true, false),
            GgmlDType::Q5_1 | GgmlDType::Q5K => (false, true, false),
            GgmlDType::Q5_0 | GgmlDType::Q8_0 => (false, false, false),
            GgmlDType::Q6K => (false, false, true),
            _ => return None,
        };
        Some(Self {
            nibbles,
            minima,
            halves,
            bytes: kind.type_size(),
            weights: kind.block_size(),
        })
    }
}

/// Decodes raw blocks into groups of 32 weights, in file order.
pub(crate) fn decode(kind: GgmlDType, format: Format, raw: &[u8]) -> Vec<Weights> {
    let mut all = Vec::with_capacity(raw.len() / format.bytes * (format.weights / 32));
    for block in raw.chunks_exact(format.bytes) {
        let mut bytes = Reader(block);
        match kind {
            GgmlDType::Q4_0 => all.push(q4_0(&mut bytes)),
            GgmlDType::Q4_1 => all.push(q4_1(&mut bytes)),
            GgmlDType::Q5_0 => all.push(q5(&mut bytes, false)),
            GgmlDType::Q5_1 => all.push(q5(&mut bytes, true)),
            GgmlDType::Q8_0 => all.push(q8_0(&mut bytes)),
            GgmlDType::Q4K => all.extend(q4_k(&mut bytes, false)),
            GgmlDType::Q5K => all.extend(q4_k(&mut bytes, true)),
            GgmlDType::Q6K => all.extend(q6_k(&mut bytes)),
            _ => {}
        }
    }
    all
}

/// Takes fields off a block. Past the end there are zeros: blocks are cut to the exact size before.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk::<N>() {
            Some((head, rest)) => {
                self.0 = rest;
                *head
            }
            None => [0; N],
        }
    }

    fn half(&mut self) -> f32 {
        f16::from_le_bytes(self.array()).to_f32()
    }
}

/// Low nibbles are the first 16 weights, high nibbles the others.
fn nibbles(bytes: [u8; 16]) -> [u8; 32] {
    let mut quants = [0; 32];
    let (low, high) = quants.split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        *low = byte & 15;
        *high = byte >> 4;
    }
    quants
}

fn q4_0(bytes: &mut Reader<'_>) -> Weights {
    let scale = bytes.half();
    Weights {
        quants: nibbles(bytes.array()).map(u8::cast_signed),
        scales: [scale; 2],
        minima: [-8.0 * scale; 2],
    }
}

fn q4_1(bytes: &mut Reader<'_>) -> Weights {
    let (scale, minimum) = (bytes.half(), bytes.half());
    Weights {
        quants: nibbles(bytes.array()).map(u8::cast_signed),
        scales: [scale; 2],
        minima: [minimum; 2],
    }
}

fn q5(bytes: &mut Reader<'_>, with_minimum: bool) -> Weights {
    let scale = bytes.half();
    let minimum = if with_minimum { bytes.half() } else { 0.0 };
    let high = u32::from_le_bytes(bytes.array());
    let offset = if with_minimum { 0 } else { 16 };
    let mut quants = nibbles(bytes.array()).map(u8::cast_signed);
    for (i, quant) in quants.iter_mut().enumerate() {
        if (high >> i) & 1 == 1 {
            *quant += 16;
        }
        *quant -= offset;
    }
    Weights {
        quants,
        scales: [scale; 2],
        minima: [minimum; 2],
    }
}

fn q8_0(bytes: &mut Reader<'_>) -> Weights {
    let scale = bytes.half();
    Weights {
        // The kernel negates weights, and -128 has no opposite.
        quants: bytes.array().map(|byte: u8| byte.cast_signed().max(-127)),
        scales: [scale; 2],
        minima: [0.0; 2],
    }
}

/// Six-bit scales and minima of eight groups, folded into twelve bytes.
fn scales_of_k(packed: [u8; 12]) -> [(u8, u8); 8] {
    let [a, b, c] = [0, 4, 8]
        .map(|at| -> [u8; 4] { std::array::from_fn(|i| packed.get(at + i).copied().unwrap_or(0)) });
    let mut groups = [(0, 0); 8];
    let (first, second) = groups.split_at_mut(4);
    let parts = a.into_iter().zip(b).zip(c);
    for ((first, second), ((a, b), c)) in first.iter_mut().zip(second).zip(parts) {
        *first = (a & 63, b & 63);
        *second = ((c & 15) | (a >> 6 << 4), (c >> 4) | (b >> 6 << 4));
    }
    groups
}

fn q4_k(bytes: &mut Reader<'_>, five_bits: bool) -> [Weights; 8] {
    let (scale, minimum) = (bytes.half(), bytes.half());
    let groups = scales_of_k(bytes.array());
    let high: [u8; 32] = if five_bits { bytes.array() } else { [0; 32] };
    let mut all = [Weights::default(); 8];
    let mut low = [0_u8; 32];
    for (i, (weights, (s, m))) in all.iter_mut().zip(groups).enumerate() {
        let odd = i % 2 == 1;
        if !odd {
            low = bytes.array();
        }
        for ((quant, low), high) in weights.quants.iter_mut().zip(low).zip(high) {
            let four = if odd { low >> 4 } else { low & 15 };
            *quant = (four | ((high >> i & 1) << 4)).cast_signed();
        }
        weights.scales = [scale * f32::from(s); 2];
        weights.minima = [-minimum * f32::from(m); 2];
    }
    all
}

fn q6_k(bytes: &mut Reader<'_>) -> [Weights; 8] {
    let low: [[u8; 64]; 2] = [bytes.array(), bytes.array()];
    let high: [[u8; 32]; 2] = [bytes.array(), bytes.array()];
    let steps: [u8; 16] = bytes.array();
    let scale = bytes.half();
    let mut all = [Weights::default(); 8];
    for ((weights, step), i) in all.iter_mut().zip(steps.as_chunks::<2>().0).zip(0_usize..) {
        let (half, part) = (i / 4, i % 4);
        let low = low.get(half).map_or(&[][..], |low| low);
        let high = high.get(half).map_or(&[][..], |high| high);
        let low = low.iter().skip(part % 2 * 32);
        for ((quant, low), high) in weights.quants.iter_mut().zip(low).zip(high) {
            let four = if part < 2 { low & 15 } else { low >> 4 };
            let six = four | ((high >> (2 * part) & 3) << 4);
            *quant = six.cast_signed() - 32;
        }
        weights.scales = step.map(|step| scale * f32::from(step.cast_signed()));
    }
    all
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::QTensor;
    use candle_core::{Device, Tensor};

    use super::*;

    #[test]
    fn every_format_decodes_to_the_values_that_candle_reads() {
        let values: Vec<f32> = (0..512)
            .map(|i| ((i * 37 % 101) as f32 - 40.0) / 50.0)
            .collect();
        let tensor = Tensor::from_vec(values, (2, 256), &Device::Cpu).unwrap();
        for kind in [
            GgmlDType::Q4_0,
            GgmlDType::Q4_1,
            GgmlDType::Q5_0,
            GgmlDType::Q5_1,
            GgmlDType::Q8_0,
            GgmlDType::Q4K,
            GgmlDType::Q5K,
            GgmlDType::Q6K,
        ] {
            let quantised = QTensor::quantize(&tensor, kind).unwrap();
            let expected = quantised.dequantize(&Device::Cpu).unwrap();
            let expected = expected.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let format = Format::of(kind).unwrap();
            let decoded = decode(kind, format, &quantised.data().unwrap());
            let values = decoded.iter().flat_map(|weights| {
                (0..32).map(|i| {
                    let quant = f32::from(weights.quants[i]);
                    quant * weights.scales[i / 16] + weights.minima[i / 16]
                })
            });
            let mut count = 0;
            for (value, expected) in values.zip(&expected) {
                assert!(
                    (value - expected).abs() < 1e-5,
                    "{kind:?}: {value} is not {expected}"
                );
                count += 1;
            }
            assert_eq!(count, 512, "{kind:?}");
        }
    }
}
