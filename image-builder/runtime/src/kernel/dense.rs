//! Matrices of floats, in the width of the file: 32 bits, or 16 that are widened while they are used.

use half::{bf16, f16};

use super::vector::{LANES, accumulate, sum_lanes};
use super::{Kernel, MulAdd, run};

/// Rows that are computed together, so that an input is loaded once for all of them.
pub(crate) const ROWS: usize = 4;

/// A type of element.
pub(crate) trait Element: Copy + Send + Sync + 'static {
    /// Its value.
    fn widen(self) -> f32;
}

impl Element for f32 {
    #[inline(always)]
    fn widen(self) -> f32 {
        self
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

impl Element for f16 {
    /// Without special cases, so that the compiler can do eight at a time: infinities do not occur in weights.
    #[inline(always)]
    fn widen(self) -> f32 {
        // 2^112 moves the exponent's bias from 15 to 127, also for the smallest numbers.
        const REBIAS: f32 = f32::from_bits((127 + 112) << 23);
        let bits = u32::from(self.to_bits());
        let magnitude = f32::from_bits((bits & 0x7fff) << 13) * REBIAS;
        f32::from_bits(magnitude.to_bits() | (bits & 0x8000) << 16)
    }
}

struct Product<'a, 'b, E> {
    weights: &'a [E],
    columns: usize,
    tokens: &'a [f32],
    outs: &'a mut [&'b mut [f32]],
}

impl<E: Element> Kernel for Product<'_, '_, E> {
    type Output = ();
    #[inline(always)]
    fn run<M: MulAdd>(self) {
        let rows = self.weights.chunks(self.columns * ROWS);
        for (group, weights) in rows.enumerate() {
            let mut inputs = self.tokens.chunks_exact(self.columns);
            let first = group * ROWS;
            let (pairs, rest) = self.outs.as_chunks_mut::<2>();
            for pair in pairs {
                let tokens: [&[f32]; 2] =
                    std::array::from_fn(|_| inputs.next().unwrap_or_default());
                let sums = tile::<M, E, 2>(weights, self.columns, tokens);
                for (out, sums) in pair.iter_mut().zip(sums) {
                    store(out, first, sums);
                }
            }
            for (out, token) in rest.iter_mut().zip(inputs) {
                let [sums] = tile::<M, E, 1>(weights, self.columns, [token]);
                store(out, first, sums);
            }
        }
    }
}

#[inline(always)]
fn store(out: &mut [f32], first: usize, sums: [f32; ROWS]) {
    for (out, sum) in out.iter_mut().skip(first).zip(sums) {
        *out = sum;
    }
}

#[inline(always)]
fn tile<M: MulAdd, E: Element, const T: usize>(
    weights: &[E],
    columns: usize,
    tokens: [&[f32]; T],
) -> [[f32; ROWS]; T] {
    let mut sums = [[[0.0_f32; LANES]; ROWS]; T];
    let mut rest = [[0.0_f32; ROWS]; T];
    let mut rows = weights.chunks_exact(columns);
    let rows: [&[E]; ROWS] = std::array::from_fn(|_| rows.next().unwrap_or_default());
    let chunks = rows.map(|row| row.as_chunks::<LANES>().0);
    let inputs = tokens.map(|token| token.as_chunks::<LANES>().0);
    for at in 0..columns / LANES {
        let wide = chunks.map(|chunks| match chunks.get(at) {
            Some(chunk) => chunk.map(E::widen),
            None => [0.0; LANES],
        });
        for (sums, input) in sums.iter_mut().zip(inputs) {
            let Some(input) = input.get(at) else { continue };
            for (sum, wide) in sums.iter_mut().zip(&wide) {
                accumulate::<M>(sum, wide, input);
            }
        }
    }
    for (rest, token) in rest.iter_mut().zip(tokens) {
        let (_, tail) = token.as_chunks::<LANES>();
        for (rest, row) in rest.iter_mut().zip(rows) {
            let (_, weights) = row.as_chunks::<LANES>();
            for (weight, input) in weights.iter().zip(tail) {
                *rest += weight.widen() * input;
            }
        }
    }
    let mut out = [[0.0; ROWS]; T];
    for ((out, sums), rest) in out.iter_mut().zip(sums).zip(rest) {
        for ((out, lanes), rest) in out.iter_mut().zip(sums).zip(rest) {
            *out = sum_lanes(lanes) + rest;
        }
    }
    out
}

/// Multiplies whole rows with every token. `weights` holds the rows, `tokens` the inputs of `columns` values each, `outs`
/// for each token the places of those rows.
pub(crate) fn multiply<E: Element>(
    weights: &[E],
    columns: usize,
    tokens: &[f32],
    outs: &mut [&mut [f32]],
) {
    run(Product {
        weights,
        columns,
        tokens,
        outs,
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bit_floats_widen_to_their_value() {
        for bits in 0..0x7c00_u16 {
            for bits in [bits, bits | 0x8000] {
                let half = f16::from_bits(bits);
                assert_eq!(half.widen().to_bits(), half.to_f32().to_bits());
            }
        }
        assert_eq!(bf16::from_f32(-1.5).widen().to_bits(), (-1.5_f32).to_bits());
    }

    #[test]
    fn rows_and_columns_that_fill_no_register_are_computed_too() {
        let (rows, columns) = (5, 11);
        let weights: Vec<f32> = (0..rows * columns).map(|i| i as f32).collect();
        let tokens: Vec<f32> = (0..3 * columns).map(|i| (i % 7) as f32).collect();
        let mut out = vec![0.0; 3 * rows];
        let mut outs: Vec<&mut [f32]> = out.chunks_mut(rows).collect();
        multiply(&weights, columns, &tokens, &mut outs);
        for (token, input) in tokens.chunks(columns).enumerate() {
            for (row, weights) in weights.chunks(columns).enumerate() {
                let exact: f32 = weights.iter().zip(input).map(|(w, x)| w * x).sum();
                assert_eq!(out[token * rows + row].to_bits(), exact.to_bits());
            }
        }
    }
}
