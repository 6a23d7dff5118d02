//! Products of packed matrices with AVX2, through `pulp`: its token proves that the processor has the instructions.

use core::arch::x86_64::{__m256, __m256i};

use pulp::NullaryFnOnce;
use pulp::bytemuck::cast;
use pulp::x86::V3;

use super::activation::Block;
use super::packed::{GROUP, Group, store};

/// Stands for a block that is missing, which the shapes exclude: a branch here costs less than one at every use.
static NOTHING: Block = Block {
    words: [0; 8],
    scale: 0.0,
    sums: [0.0; 2],
};

/// Multiplies a group of nibbles with every token.
pub(super) fn nibbles(
    simd: V3,
    group: &Group<'_, [[u8; 32]; 4]>,
    tokens: &[Block],
    place: usize,
    outs: &mut [&mut [f32]],
) {
    simd.vectorize(Nibbles(Product {
        simd,
        group,
        tokens,
        place,
        outs,
    }));
}

/// Multiplies a group of bytes with every token.
pub(super) fn bytes(
    simd: V3,
    group: &Group<'_, [[u8; 32]; 8]>,
    tokens: &[Block],
    place: usize,
    outs: &mut [&mut [f32]],
) {
    simd.vectorize(Bytes::<8>(Product {
        simd,
        group,
        tokens,
        place,
        outs,
    }));
}

/// The same where each half of a block has its own scale.
pub(super) fn halves(
    simd: V3,
    group: &Group<'_, [[u8; 32]; 8]>,
    tokens: &[Block],
    place: usize,
    outs: &mut [&mut [f32]],
) {
    simd.vectorize(Bytes::<4>(Product {
        simd,
        group,
        tokens,
        place,
        outs,
    }));
}

/// A group of rows, every token, and where in the outputs the rows begin.
struct Product<'a, 'b, Q> {
    simd: V3,
    group: &'a Group<'a, Q>,
    tokens: &'a [Block],
    place: usize,
    outs: &'a mut [&'b mut [f32]],
}

struct Nibbles<'a, 'b>(Product<'a, 'b, [[u8; 32]; 4]>);

impl NullaryFnOnce for Nibbles<'_, '_> {
    type Output = ();
    #[inline(always)]
    fn call(self) {
        let Product {
            simd,
            group,
            tokens,
            place,
            outs,
        } = self.0;
        let mut tokens = tokens.chunks_exact(group.quants.len().max(1));
        let (quads, rest) = outs.as_chunks_mut::<4>();
        for outs in quads {
            let inputs: [&[Block]; 4] = std::array::from_fn(|_| tokens.next().unwrap_or_default());
            let sums = nibbles_tile(simd, group, inputs);
            for (out, sums) in outs.iter_mut().zip(sums) {
                store(out, place, sums);
            }
        }
        for (out, token) in rest.iter_mut().zip(tokens) {
            let [sums] = nibbles_tile(simd, group, [token]);
            store(out, place, sums);
        }
    }
}

#[inline(always)]
fn nibbles_tile<const T: usize>(
    simd: V3,
    group: &Group<'_, [[u8; 32]; 4]>,
    tokens: [&[Block]; T],
) -> [[f32; GROUP]; T] {
    let mask = simd.avx._mm256_set1_epi8(15);
    let ones = simd.avx._mm256_set1_epi16(1);
    let mut sums = [simd.avx._mm256_setzero_ps(); T];
    let parts = group.quants.iter().zip(group.scales).zip(group.minima);
    for (at, ((quants, scale), minimum)) in parts.enumerate() {
        let inputs: [&Block; T] = tokens.map(|token| token.get(at).unwrap_or(&NOTHING));
        let mut pairs = [simd.avx._mm256_setzero_si256(); T];
        for (place, folded) in quants.iter().enumerate() {
            let folded: __m256i = cast(*folded);
            let low = simd.avx2._mm256_and_si256(folded, mask);
            let high = simd.avx2._mm256_srli_epi16::<4>(folded);
            let high = simd.avx2._mm256_and_si256(high, mask);
            for (pair, input) in pairs.iter_mut().zip(inputs) {
                // Sums of eight products of at most 15 * 127 each, twice, fit into 16 bits.
                *pair = multiply_add(simd, *pair, low, word(input, place));
                *pair = multiply_add(simd, *pair, high, word(input, place + 4));
            }
        }
        let (scale, minimum): (__m256, __m256) = (cast(*scale), cast(*minimum));
        for ((sum, pair), input) in sums.iter_mut().zip(pairs).zip(inputs) {
            let [first, second] = input.sums;
            let step = simd.avx._mm256_set1_ps(input.scale);
            let total = simd.avx._mm256_set1_ps(first + second);
            let dots = simd.avx2._mm256_madd_epi16(pair, ones);
            let dots = simd.avx._mm256_cvtepi32_ps(dots);
            let factor = simd.avx._mm256_mul_ps(scale, step);
            *sum = simd.fma._mm256_fmadd_ps(dots, factor, *sum);
            *sum = simd.fma._mm256_fmadd_ps(minimum, total, *sum);
        }
    }
    sums.map(cast)
}

#[inline(always)]
fn word(block: &Block, place: usize) -> i32 {
    // Places are below 8 by construction; the loop over them is unrolled.
    block.words.get(place).copied().unwrap_or(0)
}

#[inline(always)]
fn multiply_add(simd: V3, sum: __m256i, quants: __m256i, word: i32) -> __m256i {
    let input = simd.avx._mm256_set1_epi32(word);
    let products = simd.avx2._mm256_maddubs_epi16(quants, input);
    simd.avx2._mm256_add_epi16(sum, products)
}

struct Bytes<'a, 'b, const VECTORS: usize>(Product<'a, 'b, [[u8; 32]; 8]>);

impl<const VECTORS: usize> NullaryFnOnce for Bytes<'_, '_, VECTORS> {
    type Output = ();
    #[inline(always)]
    fn call(self) {
        let Product {
            simd,
            group,
            tokens,
            place,
            outs,
        } = self.0;
        let mut tokens = tokens.chunks_exact(group.quants.len().max(1));
        let (pairs, rest) = outs.as_chunks_mut::<2>();
        for outs in pairs {
            let inputs: [&[Block]; 2] = std::array::from_fn(|_| tokens.next().unwrap_or_default());
            let sums = bytes_tile::<VECTORS, 2>(simd, group, inputs);
            for (out, sums) in outs.iter_mut().zip(sums) {
                store(out, place, sums);
            }
        }
        for (out, token) in rest.iter_mut().zip(tokens) {
            let [sums] = bytes_tile::<VECTORS, 1>(simd, group, [token]);
            store(out, place, sums);
        }
    }
}

/// `VECTORS` vectors share a scale: 8 for a whole block, 4 for half of one.
#[inline(always)]
fn bytes_tile<const VECTORS: usize, const T: usize>(
    simd: V3,
    group: &Group<'_, [[u8; 32]; 8]>,
    tokens: [&[Block]; T],
) -> [[f32; GROUP]; T] {
    let ones = simd.avx._mm256_set1_epi16(1);
    let mut sums = [simd.avx._mm256_setzero_ps(); T];
    let parts = 8 / VECTORS;
    let mut scales = group.scales.iter();
    let mut minima = group.minima.iter();
    for (at, quants) in group.quants.iter().enumerate() {
        let inputs: [&Block; T] = tokens.map(|token| token.get(at).unwrap_or(&NOTHING));
        let (spans, _) = quants.as_chunks::<VECTORS>();
        for (part, span) in spans.iter().enumerate() {
            let mut dots = [simd.avx._mm256_setzero_si256(); T];
            for (place, quants) in span.iter().enumerate() {
                let quants: __m256i = cast(*quants);
                // One factor has to be unsigned: the weight's sign moves to the input.
                let size = simd.avx2._mm256_abs_epi8(quants);
                for (dot, input) in dots.iter_mut().zip(inputs) {
                    let word = word(input, part * VECTORS + place);
                    let input = simd.avx._mm256_set1_epi32(word);
                    let input = simd.avx2._mm256_sign_epi8(input, quants);
                    let products = simd.avx2._mm256_maddubs_epi16(size, input);
                    let products = simd.avx2._mm256_madd_epi16(products, ones);
                    *dot = simd.avx2._mm256_add_epi32(*dot, products);
                }
            }
            let scale: __m256 = cast(scales.next().copied().unwrap_or_default());
            let minimum = minima.next().copied();
            for ((sum, dot), input) in sums.iter_mut().zip(dots).zip(inputs) {
                let step = simd.avx._mm256_set1_ps(input.scale);
                let factor = simd.avx._mm256_mul_ps(scale, step);
                let dot = simd.avx._mm256_cvtepi32_ps(dot);
                *sum = simd.fma._mm256_fmadd_ps(dot, factor, *sum);
                if let Some(minimum) = minimum {
                    let [first, second] = input.sums;
                    let whole = [first + second, first, second];
                    let total = whole.get(if parts == 1 { 0 } else { part + 1 });
                    let total = simd.avx._mm256_set1_ps(total.copied().unwrap_or(0.0));
                    *sum = simd.fma._mm256_fmadd_ps(cast(minimum), total, *sum);
                }
            }
        }
    }
    sums.map(cast)
}
