//! Products of matrices and the other inner loops, in safe Rust.
//!
//! The program is compiled for plain x86-64 (or any other machine); loops here run with AVX2 and FMA where the processor
//! has them, chosen once at run time. Every output value is computed in an order that depends on the shape of the weights
//! only, never on how many tokens are in the batch or how many threads work: a request gets the same numbers alone and in
//! company. May not know what a layer or a request is.

use std::sync::OnceLock;

pub(crate) mod activation;
#[cfg(target_arch = "x86_64")]
mod avx2;
pub(crate) mod blocks;
pub(crate) mod dense;
pub mod matrix;
pub(crate) mod packed;
pub(crate) mod vector;

/// What the processor offers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Level {
    /// Nothing beyond what the program was compiled for.
    Plain,
    /// AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2(pulp::x86::V3),
}

/// The best level of this processor, asked once. `KAITO_RUNTIME_SIMD=plain` forces the slow one, to compare.
pub(crate) fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(detect)
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    let forced = std::env::var("KAITO_RUNTIME_SIMD").is_ok_and(|level| level == "plain");
    match pulp::x86::V3::try_new() {
        Some(token) if !forced => Level::Avx2(token),
        _ => Level::Plain,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Plain
}

/// Name of the instructions in use, for logs and metrics.
#[must_use]
pub fn instructions() -> &'static str {
    match level() {
        Level::Plain => "plain",
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(_) => "avx2",
    }
}

/// `a * b + c`, rounded once or twice. Without the instruction for it, rounding once is a slow library call.
pub(crate) trait MulAdd: Copy {
    /// `a * b + c`.
    fn mul_add(a: f32, b: f32, c: f32) -> f32;
}

#[derive(Clone, Copy)]
pub(crate) struct Fused;

#[derive(Clone, Copy)]
pub(crate) struct Separate;

impl MulAdd for Fused {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
}

impl MulAdd for Separate {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

/// A loop that is compiled once for every level. `run` and all it calls must be `#[inline(always)]`.
pub(crate) trait Kernel {
    type Output;
    fn run<M: MulAdd>(self) -> Self::Output;
}

/// Runs `kernel` at the processor's level.
#[inline]
pub(crate) fn run<K: Kernel>(kernel: K) -> K::Output {
    match level() {
        Level::Plain => kernel.run::<Separate>(),
        #[cfg(target_arch = "x86_64")]
        Level::Avx2(token) => {
            struct Compiled<K>(K);
            impl<K: Kernel> pulp::NullaryFnOnce for Compiled<K> {
                type Output = K::Output;
                #[inline(always)]
                fn call(self) -> K::Output {
                    self.0.run::<Fused>()
                }
            }
            token.vectorize(Compiled(kernel))
        }
    }
}
