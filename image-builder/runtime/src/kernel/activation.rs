//! Inputs of a product, in 8 bits.
//!
//! Blocks of 32 values share a scale, as in GGML's Q8_1. The words are laid out so that one 32-bit broadcast puts four
//! neighbouring values beside the same four columns of eight rows.

use half::f16;
use rayon::prelude::*;

use super::{Kernel, MulAdd, run};

/// Values of one block.
pub(crate) const BLOCK: usize = 32;

/// 32 values of one token.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Block {
    /// Four values each, signed, lowest byte first.
    pub(crate) words: [i32; 8],
    /// One step of the values.
    pub(crate) scale: f32,
    /// Sums of the first and the second 16 values, times the scale.
    pub(crate) sums: [f32; 2],
}

struct Quantise<'a> {
    values: &'a [f32],
    blocks: &'a mut [Block],
}

impl Kernel for Quantise<'_> {
    type Output = ();
    #[inline(always)]
    fn run<M: MulAdd>(self) {
        let (chunks, _) = self.values.as_chunks::<BLOCK>();
        for (values, block) in chunks.iter().zip(self.blocks) {
            *block = quantise_block(values);
        }
    }
}

#[inline(always)]
fn quantise_block(values: &[f32; BLOCK]) -> Block {
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
    const SHIFTER: f32 = 12_582_912.0;
    let mut lanes = [0.0_f32; 8];
    for chunk in values.as_chunks::<8>().0 {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = lane.max(value.abs());
        }
    }
    let largest = lanes.iter().fold(0.0_f32, |a, b| a.max(*b));
    if !(largest > 0.0 && largest.is_finite()) {
        return Block::default();
    }
    let inverse = 127.0 / largest;
    let mut bytes = [0_u8; BLOCK];
    let mut halves = [0.0_f32; 2];
    for ((values, bytes), half) in values
        .as_chunks::<16>()
        .0
        .iter()
        .zip(bytes.as_chunks_mut::<16>().0)
        .zip(&mut halves)
    {
        let mut sums = [0.0_f32; 8];
        for (i, (value, byte)) in values.iter().zip(bytes).enumerate() {
            let shifted = value * inverse + SHIFTER;
            let [low, ..] = shifted.to_bits().to_le_bytes();
            *byte = low;
            if let Some(sum) = sums.get_mut(i % 8) {
                *sum += shifted - SHIFTER;
            }
        }
        *half = sums.iter().sum();
    }
    let scale = largest / 127.0;
    let mut words = [0_i32; 8];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *word = i32::from_le_bytes(*bytes);
    }
    Block {
        words,
        scale: narrow(scale),
        sums: narrowed_sums(halves.map(|sum| sum * scale)),
    }
}

/// Rounds to 16 bits, as files and llama.cpp hold scales: the same bits give the same answer, and next to 8-bit values
/// eleven bits of scale cost nothing.
fn narrow(value: f32) -> f32 {
    f16::from_f32(value).to_f32()
}

/// Both halves such that their total is the rounded total.
fn narrowed_sums([first, second]: [f32; 2]) -> [f32; 2] {
    [first, narrow(first + second) - first]
}

/// Quantises tokens of `columns` values each; `columns` is a multiple of 32.
pub(crate) fn quantise(values: &[f32], columns: usize) -> Vec<Block> {
    let per_token = columns / BLOCK;
    let mut blocks = vec![Block::default(); values.len() / BLOCK];
    if per_token == 0 {
        return blocks;
    }
    let one = |(values, blocks): (&[f32], &mut [Block])| run(Quantise { values, blocks });
    if values.len() <= 16 * 1024 {
        one((values, &mut blocks));
    } else {
        values
            .par_chunks(columns)
            .zip(blocks.par_chunks_mut(per_token))
            .with_min_len(8)
            .for_each(one);
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_back_within_half_a_step() {
        let values: Vec<f32> = (0..64).map(|i| (i as f32 * 0.37).sin() * 3.0).collect();
        let blocks = quantise(&values, 64);
        assert_eq!(blocks.len(), 2);
        for (block, values) in blocks.iter().zip(values.chunks(32)) {
            let bytes = block.words.iter().flat_map(|word| word.to_le_bytes());
            for (byte, value) in bytes.zip(values) {
                let back = f32::from(byte.cast_signed()) * block.scale;
                // Half a step, and what the rounded scale moves the largest value.
                assert!((back - value).abs() <= block.scale * 0.57);
            }
            let sum: f32 = values.iter().sum();
            assert!((block.sums[0] + block.sums[1] - sum).abs() < block.scale * 16.0);
        }
    }

    #[test]
    fn nothing_but_zeros_stays_zero() {
        let blocks = quantise(&[0.0; 32], 32);
        assert_eq!(blocks[0].words, [0; 8]);
        assert_eq!(blocks[0].scale.to_bits(), 0);
    }
}
