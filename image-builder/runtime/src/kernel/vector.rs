//! Loops over vectors: dot products, norms, exponentials, rotations. Lengths are the caller's business: the shorter of two
//! slices decides.

use super::{Kernel, MulAdd, run};

/// Lanes of one register with AVX2.
pub(crate) const LANES: usize = 8;

/// Adds up eight lanes, always in the same order.
#[inline(always)]
pub(crate) fn sum_lanes(lanes: [f32; LANES]) -> f32 {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (b + f)) + ((c + g) + (d + h))
}

#[inline(always)]
pub(crate) fn accumulate<M: MulAdd>(sum: &mut [f32; LANES], a: &[f32; LANES], b: &[f32; LANES]) {
    for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
        *sum = M::mul_add(*a, *b, *sum);
    }
}

/// Dot product, for use inside kernels.
#[inline(always)]
pub(crate) fn dot_inline<M: MulAdd>(a: &[f32], b: &[f32]) -> f32 {
    let (a_chunks, a_rest) = a.as_chunks::<LANES>();
    let (b_chunks, b_rest) = b.as_chunks::<LANES>();
    let mut even = [0.0; LANES];
    let mut odd = [0.0; LANES];
    let (a_pairs, a_last) = a_chunks.as_chunks::<2>();
    let (b_pairs, b_last) = b_chunks.as_chunks::<2>();
    for ([a0, a1], [b0, b1]) in a_pairs.iter().zip(b_pairs) {
        accumulate::<M>(&mut even, a0, b0);
        accumulate::<M>(&mut odd, a1, b1);
    }
    for (a, b) in a_last.iter().zip(b_last) {
        accumulate::<M>(&mut even, a, b);
    }
    for (even, odd) in even.iter_mut().zip(odd) {
        *even += odd;
    }
    let mut sum = sum_lanes(even);
    for (a, b) in a_rest.iter().zip(b_rest) {
        sum += a * b;
    }
    sum
}

/// `e` to the power of `x`, within two units in the last place; 0 below -87, and the largest finite value above 88.
#[inline(always)]
pub(crate) fn exp_inline<M: MulAdd>(x: f32) -> f32 {
    // 1.5 * 2^23: adding it leaves the rounded integer in the low bits.
    const SHIFTER: f32 = 12_582_912.0;
    let x = x.clamp(-87.0, 88.0);
    let shifted = M::mul_add(x, std::f32::consts::LOG2_E, SHIFTER);
    let n = shifted - SHIFTER;
    // ln 2 in two parts, so that n * ln 2 is exact to more digits than one float holds.
    let r = M::mul_add(n, -0.693_145_75, x);
    let r = M::mul_add(n, -1.428_606_8e-6, r);
    // Taylor's series to the sixth power on [-ln 2 / 2, ln 2 / 2].
    let mut p = 1.0 / 720.0;
    for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = M::mul_add(p, r, c);
    }
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(127 << 23))
}

struct RmsNorm<'a> {
    values: &'a [f32],
    weight: &'a [f32],
    epsilon: f32,
    out: &'a mut [f32],
}

impl Kernel for RmsNorm<'_> {
    type Output = ();
    #[inline(always)]
    fn run<M: MulAdd>(self) {
        let squares = dot_inline::<M>(self.values, self.values);
        let mean = squares / self.values.len().max(1) as f32;
        let scale = 1.0 / (mean + self.epsilon).sqrt();
        for ((out, value), weight) in self.out.iter_mut().zip(self.values).zip(self.weight) {
            *out = value * scale * weight;
        }
    }
}

/// Divides by the root of the mean square and scales each element: `out = values / rms * weight`.
pub(crate) fn rms_norm(values: &[f32], weight: &[f32], epsilon: f32, out: &mut [f32]) {
    run(RmsNorm {
        values,
        weight,
        epsilon,
        out,
    });
}

struct Swiglu<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Kernel for Swiglu<'_> {
    type Output = ();
    #[inline(always)]
    fn run<M: MulAdd>(self) {
        for (gate, up) in self.gate.iter_mut().zip(self.up) {
            let g = *gate;
            *gate = g / (1.0 + exp_inline::<M>(-g)) * up;
        }
    }
}

/// `gate = silu(gate) * up`, element by element.
pub(crate) fn swiglu(gate: &mut [f32], up: &[f32]) {
    run(Swiglu { gate, up });
}

struct Rotate<'a> {
    head: &'a mut [f32],
    cosines: &'a [f32],
    sines: &'a [f32],
}

impl Kernel for Rotate<'_> {
    type Output = ();
    #[inline(always)]
    fn run<M: MulAdd>(self) {
        let half = self.cosines.len();
        let Some((first, rest)) = self.head.split_at_mut_checked(half) else {
            return;
        };
        let angles = self.cosines.iter().zip(self.sines);
        for ((a, b), (cos, sin)) in first.iter_mut().zip(rest).zip(angles) {
            let (x, y) = (*a, *b);
            *a = x * cos - y * sin;
            *b = y * cos + x * sin;
        }
    }
}

/// Turns the pairs (i, i + n) of a head by the angles of a position, n being the number of angles; the rest of the head
/// is left as it is.
pub(crate) fn rotate(head: &mut [f32], cosines: &[f32], sines: &[f32]) {
    run(Rotate {
        head,
        cosines,
        sines,
    });
}

/// `sum += values`.
pub(crate) fn add(sum: &mut [f32], values: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(values) {
        *sum += value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Exp(f32);
    impl Kernel for Exp {
        type Output = f32;
        #[inline(always)]
        fn run<M: MulAdd>(self) -> f32 {
            exp_inline::<M>(self.0)
        }
    }

    #[test]
    fn exponentials_agree_with_the_library_to_a_few_units_in_the_last_place() {
        for step in -8600..8700_i32 {
            let x = step as f32 / 100.0;
            let (ours, exact) = (run(Exp(x)), f64::from(x).exp());
            let error = (f64::from(ours) - exact).abs() / exact;
            assert!(error < 4e-7, "exp({x}) is {ours}, not {exact}");
        }
    }

    #[test]
    fn a_dot_product_takes_all_lengths() {
        for length in 0..70_usize {
            let a: Vec<f32> = (0..length).map(|i| i as f32).collect();
            let exact: usize = (0..length).map(|i| i * i).sum();
            let found = dot_inline::<super::super::Separate>(&a, &a);
            assert_eq!(found.to_bits(), (exact as f32).to_bits());
        }
    }
}
