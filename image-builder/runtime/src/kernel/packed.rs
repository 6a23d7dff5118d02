//! Matrices of small integers, laid out for eight rows at a time.
//!
//! A group is eight rows; of a group, 32 columns at a time lie together: eight vectors of 32 bytes, each holding four
//! columns of all eight rows, so that one multiplication of bytes serves eight rows and no sum crosses lanes. Nibbles
//! halve that: vector `t` holds columns `4t..` in its low and `4(t + 4)..` in its high nibbles.

use candle_core::quantized::GgmlDType;

use super::activation::Block;
use super::blocks::{Format, Weights, decode};
use super::{Level, level};

/// Rows that are computed together.
pub(crate) const GROUP: usize = 8;

/// Quants of one group and 32 columns.
#[derive(Clone, Debug)]
pub(super) enum Quants {
    /// 0 to 15.
    Nibbles(Vec<[[u8; 32]; 4]>),
    /// -127 to 127.
    Bytes(Vec<[[u8; 32]; 8]>),
}

/// A matrix of small integers with scales.
#[derive(Clone, Debug)]
pub(crate) struct Packed {
    /// Blocks of 32 columns.
    pub(super) blocks: usize,
    pub(super) quants: Quants,
    /// One for each row of a block, or two: for the first 16 columns, then for the others.
    pub(super) scales: Vec<[f32; GROUP]>,
    /// As `scales`, or empty if all are zero.
    pub(super) minima: Vec<[f32; GROUP]>,
    /// Whether scales come in twos.
    pub(super) halves: bool,
}

/// One group of rows.
pub(super) struct Group<'a, Q> {
    pub(super) quants: &'a [Q],
    pub(super) scales: &'a [[f32; GROUP]],
    pub(super) minima: &'a [[f32; GROUP]],
}

impl Packed {
    /// Packs raw blocks of a GGUF tensor of `rows` rows, taken in the order that `order` tells for each new row.
    /// Nothing, if the type is not one that is computed with directly.
    pub(crate) fn from_raw(
        kind: GgmlDType,
        raw: &[u8],
        rows: usize,
        columns: usize,
        order: impl Fn(usize) -> usize,
    ) -> Option<Self> {
        let format = Format::of(kind)?;
        if rows == 0 || columns == 0 || !columns.is_multiple_of(kind.block_size()) {
            return None;
        }
        let row_bytes = columns / kind.block_size() * kind.type_size();
        let blocks = columns / 32;
        let mut packed = Self::empty(rows, blocks, format);
        for first in (0..rows).step_by(GROUP) {
            let group: Vec<Vec<Weights>> = (first..rows.min(first + GROUP))
                .map(|row| {
                    let at = order(row) * row_bytes;
                    let bytes = raw.get(at..at + row_bytes).unwrap_or_default();
                    decode(kind, format, bytes)
                })
                .collect();
            packed.push_group(&group, format);
        }
        Some(packed)
    }

    fn empty(rows: usize, blocks: usize, format: Format) -> Self {
        let count = rows.div_ceil(GROUP) * blocks;
        let scales = count * if format.halves { 2 } else { 1 };
        Self {
            blocks,
            quants: if format.nibbles {
                Quants::Nibbles(Vec::with_capacity(count))
            } else {
                Quants::Bytes(Vec::with_capacity(count))
            },
            scales: Vec::with_capacity(scales),
            minima: Vec::with_capacity(if format.minima { scales } else { 0 }),
            halves: format.halves,
        }
    }

    fn push_group(&mut self, rows: &[Vec<Weights>], format: Format) {
        for block in 0..self.blocks {
            // Rows past the end have scale zero.
            let at = |row: usize| {
                let weights = rows.get(row).and_then(|row| row.get(block));
                weights.copied().unwrap_or_default()
            };
            let group: [Weights; GROUP] = std::array::from_fn(at);
            let mut vectors = [[0_u8; 32]; 8];
            for (row, weights) in group.iter().enumerate() {
                for (vector, quants) in vectors.iter_mut().zip(weights.quants.as_chunks::<4>().0) {
                    let place = vector.iter_mut().skip(row * 4);
                    for (byte, quant) in place.zip(quants) {
                        *byte = quant.cast_unsigned();
                    }
                }
            }
            match &mut self.quants {
                Quants::Bytes(all) => all.push(vectors),
                Quants::Nibbles(all) => all.push(fold(vectors)),
            }
            for half in 0..if format.halves { 2 } else { 1 } {
                let pick = |of: [f32; 2]| of.get(half).copied().unwrap_or_default();
                self.scales.push(group.map(|weights| pick(weights.scales)));
                if format.minima {
                    self.minima.push(group.map(|weights| pick(weights.minima)));
                }
            }
        }
    }

    /// A copy of `rows` rows from `first` on; nothing, unless it starts with a group.
    pub(crate) fn slice(&self, first: usize, rows: usize) -> Option<Self> {
        if !first.is_multiple_of(GROUP) {
            return None;
        }
        let span = first / GROUP * self.blocks..(first + rows).div_ceil(GROUP) * self.blocks;
        let per_block = if self.halves { 2 } else { 1 };
        let wide = span.start * per_block..span.end * per_block;
        Some(Self {
            blocks: self.blocks,
            quants: match &self.quants {
                Quants::Nibbles(all) => Quants::Nibbles(all.get(span)?.to_vec()),
                Quants::Bytes(all) => Quants::Bytes(all.get(span)?.to_vec()),
            },
            scales: self.scales.get(wide.clone())?.to_vec(),
            minima: match self.minima.as_slice() {
                [] => Vec::new(),
                minima => minima.get(wide)?.to_vec(),
            },
            halves: self.halves,
        })
    }

    /// One row as floats.
    pub(crate) fn row(&self, row: usize, out: &mut Vec<f32>) {
        let (group, lane) = (row / GROUP, row % GROUP);
        let per_block = if self.halves { 2 } else { 1 };
        for block in 0..self.blocks {
            let at = group * self.blocks + block;
            for column in 0..32 {
                let (vector, byte) = (column / 4, lane * 4 + column % 4);
                let quant = match &self.quants {
                    Quants::Bytes(all) => byte_of(all.get(at), vector, byte).cast_signed(),
                    Quants::Nibbles(all) => {
                        let both = byte_of(all.get(at), vector % 4, byte);
                        let quant = if vector < 4 { both & 15 } else { both >> 4 };
                        quant.cast_signed()
                    }
                };
                let half = if self.halves { column / 16 } else { 0 };
                let pick = |of: &[[f32; GROUP]]| {
                    let group = of.get(at * per_block + half);
                    group.and_then(|group| group.get(lane)).copied()
                };
                let scale = pick(&self.scales).unwrap_or_default();
                out.push(f32::from(quant) * scale + pick(&self.minima).unwrap_or_default());
            }
        }
    }

    /// Multiplies the rows of groups `first..` with every token. `tokens` holds the blocks of all tokens, `outs` for each
    /// token the places of those rows.
    pub(crate) fn multiply(&self, first: usize, tokens: &[Block], outs: &mut [&mut [f32]]) {
        let width = outs.first().map_or(0, |out| out.len());
        for group in 0..width.div_ceil(GROUP) {
            let at = (first + group) * self.blocks;
            let place = group * GROUP;
            let span = at..at + self.blocks;
            match &self.quants {
                Quants::Nibbles(all) => {
                    let quants = all.get(span).unwrap_or_default();
                    self.nibbles(&self.group(quants, at), tokens, place, outs);
                }
                Quants::Bytes(all) => {
                    let quants = all.get(span).unwrap_or_default();
                    self.bytes(&self.group(quants, at), tokens, place, outs);
                }
            }
        }
    }

    fn group<'a, Q>(&'a self, quants: &'a [Q], at: usize) -> Group<'a, Q> {
        let per_block = if self.halves { 2 } else { 1 };
        let span = at * per_block..(at + self.blocks) * per_block;
        Group {
            quants,
            scales: self.scales.get(span.clone()).unwrap_or_default(),
            minima: self.minima.get(span).unwrap_or_default(),
        }
    }

    fn nibbles(
        &self,
        group: &Group<'_, [[u8; 32]; 4]>,
        tokens: &[Block],
        place: usize,
        outs: &mut [&mut [f32]],
    ) {
        match level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(token) => super::avx2::nibbles(token, group, tokens, place, outs),
            Level::Plain => {
                for (out, token) in outs.iter_mut().zip(tokens.chunks_exact(self.blocks)) {
                    let unfolded = group.quants.iter().map(|folded| unfold(*folded));
                    store(out, place, plain(unfolded, group, token, false));
                }
            }
        }
    }

    fn bytes(
        &self,
        group: &Group<'_, [[u8; 32]; 8]>,
        tokens: &[Block],
        place: usize,
        outs: &mut [&mut [f32]],
    ) {
        match level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(token) if self.halves => {
                super::avx2::halves(token, group, tokens, place, outs);
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx2(token) => super::avx2::bytes(token, group, tokens, place, outs),
            Level::Plain => {
                for (out, token) in outs.iter_mut().zip(tokens.chunks_exact(self.blocks)) {
                    let quants = group.quants.iter().copied();
                    store(out, place, plain(quants, group, token, self.halves));
                }
            }
        }
    }
}

/// Copies as many lanes as there are rows left.
#[inline(always)]
pub(super) fn store(out: &mut [f32], place: usize, lanes: [f32; GROUP]) {
    let rows = out.get_mut(place..).unwrap_or_default();
    for (out, lane) in rows.iter_mut().zip(lanes) {
        *out = lane;
    }
}

fn byte_of<const N: usize>(block: Option<&[[u8; 32]; N]>, vector: usize, byte: usize) -> u8 {
    let vector = block.and_then(|block| block.get(vector));
    vector
        .and_then(|vector| vector.get(byte))
        .copied()
        .unwrap_or(0)
}

fn fold(vectors: [[u8; 32]; 8]) -> [[u8; 32]; 4] {
    let (low, high) = vectors.split_at(4);
    let mut folded = [[0; 32]; 4];
    for (folded, (low, high)) in folded.iter_mut().zip(low.iter().zip(high)) {
        for (byte, (low, high)) in folded.iter_mut().zip(low.iter().zip(high)) {
            *byte = low | high << 4;
        }
    }
    folded
}

fn unfold(folded: [[u8; 32]; 4]) -> [[u8; 32]; 8] {
    let mut vectors = [[0; 32]; 8];
    let (low, high) = vectors.split_at_mut(4);
    for (folded, (low, high)) in folded.iter().zip(low.iter_mut().zip(high)) {
        *low = folded.map(|byte| byte & 15);
        *high = folded.map(|byte| byte >> 4);
    }
    vectors
}

/// The product of one group with one token, for any processor.
fn plain<Q>(
    quants: impl Iterator<Item = [[u8; 32]; 8]>,
    group: &Group<'_, Q>,
    token: &[Block],
    halves: bool,
) -> [f32; GROUP] {
    let per_block = if halves { 2 } else { 1 };
    let mut sums = [0.0_f32; GROUP];
    let scales = group.scales.chunks_exact(per_block);
    let mut minima = group.minima.chunks_exact(per_block);
    for ((vectors, scales), block) in quants.zip(scales).zip(token) {
        for (half, scale) in scales.iter().enumerate() {
            let span = vectors.chunks_exact(8 / per_block).nth(half);
            let words = block.words.chunks_exact(8 / per_block).nth(half);
            let mut dots = [0_i32; GROUP];
            for (vector, word) in span
                .unwrap_or_default()
                .iter()
                .zip(words.unwrap_or_default())
            {
                let inputs = word.to_le_bytes().map(|byte| i32::from(byte.cast_signed()));
                for (dot, row) in dots.iter_mut().zip(vector.as_chunks::<4>().0) {
                    for (quant, input) in row.iter().zip(inputs) {
                        *dot += i32::from(quant.cast_signed()) * input;
                    }
                }
            }
            for ((sum, dot), scale) in sums.iter_mut().zip(dots).zip(scale) {
                *sum += dot as f32 * (scale * block.scale);
            }
        }
        for (half, minimum) in minima.next().unwrap_or_default().iter().enumerate() {
            let input = match (halves, block.sums.get(half)) {
                (true, Some(sum)) => *sum,
                _ => block.sums.iter().sum(),
            };
            for (sum, minimum) in sums.iter_mut().zip(minimum) {
                *sum += minimum * input;
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use candle_core::quantized::QTensor;
    use candle_core::{Device, Tensor};

    use super::super::activation::quantise;
    use super::*;

    const KINDS: [GgmlDType; 8] = [
        GgmlDType::Q4_0,
        GgmlDType::Q4_1,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::Q8_0,
        GgmlDType::Q4K,
        GgmlDType::Q5K,
        GgmlDType::Q6K,
    ];

    fn noise(count: usize) -> Vec<f32> {
        (0..count)
            .map(|i| ((i * 7919 % 1009) as f32 / 500.0 - 1.0) * (1.0 + (i % 5) as f32))
            .collect()
    }

    fn packed(kind: GgmlDType, rows: usize, columns: usize) -> (Packed, Vec<f32>) {
        let tensor =
            Tensor::from_vec(noise(rows * columns), (rows, columns), &Device::Cpu).unwrap();
        let quantised = QTensor::quantize(&tensor, kind).unwrap();
        let wide = quantised
            .dequantize(&Device::Cpu)
            .unwrap()
            .flatten_all()
            .unwrap();
        let raw = quantised.data().unwrap();
        let packed = Packed::from_raw(kind, &raw, rows, columns, |row| row).unwrap();
        (packed, wide.to_vec1().unwrap())
    }

    #[test]
    fn products_are_those_of_the_values_that_the_bits_stand_for() {
        let (rows, columns) = (19, 512);
        for kind in KINDS {
            let (packed, wide) = packed(kind, rows, columns);
            for tokens in [1, 2, 3, 4, 7] {
                let blocks = quantise(&noise(tokens * columns), columns);
                let mut out = vec![0.0; tokens * rows];
                let mut outs: Vec<&mut [f32]> = out.chunks_mut(rows).collect();
                packed.multiply(0, &blocks, &mut outs);
                for (token, blocks) in blocks.chunks(columns / 32).enumerate() {
                    let inputs: Vec<f64> = blocks
                        .iter()
                        .flat_map(|block| {
                            let bytes = block.words.into_iter().flat_map(i32::to_le_bytes);
                            bytes.map(|byte| f64::from(byte.cast_signed()) * f64::from(block.scale))
                        })
                        .collect();
                    for row in 0..rows {
                        let weights = &wide[row * columns..(row + 1) * columns];
                        let terms = weights.iter().zip(&inputs).map(|(w, x)| f64::from(*w) * x);
                        let exact: f64 = terms.clone().sum();
                        let size: f64 = terms.map(f64::abs).sum();
                        let found = f64::from(out[token * rows + row]);
                        // Sums of inputs, for the minima, are rounded to 16 bits.
                        assert!(
                            (found - exact).abs() < 1e-3 * size,
                            "{kind:?}: {found} is not {exact}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn rows_come_back_as_they_were() {
        for kind in KINDS {
            let (packed, wide) = packed(kind, 10, 256);
            let mut row = Vec::new();
            packed.row(9, &mut row);
            for (found, expected) in row.iter().zip(&wide[9 * 256..]) {
                assert!((found - expected).abs() < 1e-5, "{kind:?}");
            }
            assert_eq!(row.len(), 256);
        }
    }

    #[test]
    fn every_processor_computes_the_same_but_for_rounding() {
        for kind in KINDS {
            let (packed, _) = packed(kind, 8, 256);
            let blocks = quantise(&noise(256), 256);
            let mut fast = vec![0.0; 8];
            packed.multiply(0, &blocks, &mut [fast.as_mut_slice()]);
            let slow = match &packed.quants {
                Quants::Nibbles(all) => {
                    let group = packed.group(all, 0);
                    plain(
                        all.iter().map(|folded| unfold(*folded)),
                        &group,
                        &blocks,
                        packed.halves,
                    )
                }
                Quants::Bytes(all) => {
                    let group = packed.group(all, 0);
                    plain(all.iter().copied(), &group, &blocks, packed.halves)
                }
            };
            let largest = slow
                .iter()
                .fold(0.0_f32, |largest, value| largest.max(value.abs()));
            for (fast, slow) in fast.iter().zip(slow) {
                assert!(
                    (fast - slow).abs() < 1e-5 * largest,
                    "{kind:?}: {fast} is not {slow}"
                );
            }
        }
    }
}
