//! The arithmetic of searches, with the best instructions the machine has.
//!
//! | kernel | does |
//! | --- | --- |
//! | `dot`, `squared_euclidean`, and those of `_f16`, `_u8` and `_i8` | an `f32` query against rows of any width |
//! | `dot_and_sum`, `squared_euclidean_and_sum`, `row_sum` | a query against a row, with the row's checksum; that alone |
//! | `dot_i8_i8`, `squared_euclidean_i8_i8` | two rows of `i8`, in integers |
//! | `dot_u4_i8` | a row of 4-bit numbers and one of `i8`, in integers |
//! | `scan32`, `estimate32` | a query's [`Lut`] against the 1-bit codes of 32 rows |
//! | `near32` | the same with a base for each row, and which rows are near |
//! | `estimate_wide32`, `within32`, `at_least32` | the same with factors in `f32`, and which rows may reach a floor |
//! | `hadamard`, `signs`, `fill_lut` | what rotation, encoding and tables are made of |
//!
//! Each instruction set has the same few operations on 16 lanes, and the plans in `rows`, `scans`, `hadamard` and `signs` are
//! written once over them; arithmetic of bytes is written for each set, as there it is the registers' shape that
//! counts. Integers, rotations, signs, tables and estimates are the same bit by bit on every set. Distances are not,
//! as fused multiply-add rounds once where others round twice; [`rounding_error`] bounds all of them, and callers settle
//! near-ties in `f64`.
//!
//! A flat scan is bound by memory: 384 components are 1,536 bytes, 85 ns at 18 GB/s. Rows are therefore read one after
//! the other, as hardware prefetchers like it: four rows at a time, with the query loaded once for all of them, took
//! 12 ms for 98 MB where this takes 5.6 (EPYC, AVX-512; summing the same bytes takes 5.2). Software prefetch only cost.

use std::sync::LazyLock;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod hadamard;
mod lines;
mod lut;
#[cfg(target_arch = "aarch64")]
mod neon;
mod prefetch;
mod queue;
mod rows;
mod scalar;
mod scans;
mod signs;
mod sums;

pub use lines::{Component, Query, ROW_BYTES_MAX};
pub use lut::{BATCH, BLOCK_BYTES, BLOCK_DIMS, Lut};
pub(crate) use lut::{STEP_BITS, Steps};
pub use rows::{RoundingError, rounding_error};
pub(crate) use scans::{Aim, Each, Wide};
pub(crate) use signs::Moments;

/// Components of a block, and partial sums of a chain.
pub const LANES: usize = 16;

/// Longest rows of `i8` whose squared distance fits 32 bits: 255^2 for each component.
pub const I8_DIMS_MAX: usize = 32_768;

/// Longest rows of `i8` whose inner product fits 32 bits: 128^2 for each component.
pub const I8_DOT_DIMS_MAX: usize = 131_056;

/// Longest rows of 4-bit numbers whose product with `i8` fits 32 bits: 15 times 128 for each component.
pub const U4_DIMS_MAX: usize = 1 << 20;

/// An instruction set that this machine has been seen to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernels(Set);

/// Private, so that a value of a set is made only where the set was detected: the calls below rest on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    #[cfg(target_arch = "x86_64")]
    Avx512,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "aarch64")]
    Neon,
    Scalar,
}

/// Calls a kernel of a set.
macro_rules! call {
    ($kernels:expr, $($kernel:tt)+) => {
        match $kernels.0 {
            // SAFETY: `all` saw avx512f, avx512bw and avx512vnni, and only it makes this value.
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => unsafe { avx512::$($kernel)+ },
            // SAFETY: `all` saw avx2, fma and f16c, and only it makes this value.
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => unsafe { avx2::$($kernel)+ },
            // SAFETY: `all` saw neon, and only it makes this value.
            #[cfg(target_arch = "aarch64")]
            Set::Neon => unsafe { neon::$($kernel)+ },
            Set::Scalar => scalar::$($kernel)+,
        }
    };
}

impl Kernels {
    /// The fastest on this machine. Looked up once.
    #[must_use]
    pub fn best() -> Self {
        static BEST: LazyLock<Kernels> = LazyLock::new(|| Kernels::all()[0]);
        *BEST
    }

    /// All that this machine can run, fastest first.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut sets = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::is_x86_feature_detected as has;
            if has!("avx512f") && has!("avx512bw") && has!("avx512vnni") {
                sets.push(Self(Set::Avx512));
            }
            if has!("avx2") && has!("fma") && has!("f16c") {
                sets.push(Self(Set::Avx2));
            }
        }
        #[cfg(target_arch = "aarch64")]
        if std::arch::is_aarch64_feature_detected!("neon") {
            sets.push(Self(Set::Neon));
        }
        sets.push(Self(Set::Scalar));
        sets
    }

    /// Name of the instruction set, for logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Set::Avx512 => "avx512",
            #[cfg(target_arch = "x86_64")]
            Set::Avx2 => "avx2",
            #[cfg(target_arch = "aarch64")]
            Set::Neon => "neon",
            Set::Scalar => "scalar",
        }
    }
}

impl Kernels {
    /// Asks for bytes that will be read soon; a wish, without effect on what is read.
    #[inline]
    pub(crate) fn prefetch(bytes: &[u8]) {
        prefetch::prefetch(bytes);
    }
}

/// Distances. Panics if lengths differ.
impl Kernels {
    /// Inner products of `query` with each of `rows`.
    #[must_use]
    #[inline]
    pub fn dot<const N: usize>(self, query: &[f32], rows: [&[f32]; N]) -> [f32; N] {
        rows.iter().for_each(|row| same_dimension(query.len(), row.len()));
        call!(self, dot(query, rows))
    }

    /// Sums of squared differences between `query` and each of `rows`.
    #[must_use]
    #[inline]
    pub fn squared_euclidean<const N: usize>(self, query: &[f32], rows: [&[f32]; N]) -> [f32; N] {
        rows.iter().for_each(|row| same_dimension(query.len(), row.len()));
        call!(self, squared_euclidean(query, rows))
    }

    /// Inner product of `query` with a row of finite `f16` bits. Both are padded with zeros to a multiple of 16.
    #[must_use]
    #[inline]
    pub fn dot_f16(self, query: &[f32], row: &[u16]) -> f32 {
        whole_blocks(query.len(), row.len());
        call!(self, dot_f16(query, row))
    }

    /// Squared distance between `query` and a row of finite `f16` bits, padded alike.
    #[must_use]
    #[inline]
    pub fn squared_euclidean_f16(self, query: &[f32], row: &[u16]) -> f32 {
        whole_blocks(query.len(), row.len());
        call!(self, squared_euclidean_f16(query, row))
    }

    /// Widens a row of finite `f16` bits, padded to a multiple of 16, to the components that `out` has.
    #[inline]
    pub fn widen_row(self, row: &[u16], out: &mut [f32]) {
        whole_blocks(out.len().next_multiple_of(LANES), row.len());
        call!(self, widen_row(row, out));
    }

    /// Inner product of `query` with a row of `u8`, padded alike.
    #[must_use]
    #[inline]
    pub fn dot_u8(self, query: &[f32], row: &[u8]) -> f32 {
        whole_blocks(query.len(), row.len());
        call!(self, dot_u8(query, row))
    }

    /// Squared distance between `query` and a row of `u8`, padded alike.
    #[must_use]
    #[inline]
    pub fn squared_euclidean_u8(self, query: &[f32], row: &[u8]) -> f32 {
        whole_blocks(query.len(), row.len());
        call!(self, squared_euclidean_u8(query, row))
    }

    /// Inner product of `query` with a row of `i8`, padded alike; the caller multiplies by the row's scale.
    #[must_use]
    #[inline]
    pub fn dot_i8(self, query: &[f32], row: &[i8]) -> f32 {
        whole_blocks(query.len(), row.len());
        call!(self, dot_i8(query, row))
    }

    /// Squared distance between `query` and `scale` times a row of `i8`, padded alike.
    #[must_use]
    #[inline]
    pub fn squared_euclidean_i8(self, query: &[f32], row: &[i8], scale: f32) -> f32 {
        whole_blocks(query.len(), row.len());
        call!(self, squared_euclidean_i8(query, row, scale))
    }

    /// Inner product of two rows of at most [`I8_DOT_DIMS_MAX`] `i8`, padded alike.
    #[must_use]
    #[inline]
    pub fn dot_i8_i8(self, a: &[i8], b: &[i8]) -> i32 {
        whole_blocks(a.len(), b.len());
        assert!(a.len() <= I8_DOT_DIMS_MAX, "sums of {} components may not fit", a.len());
        call!(self, dot_i8_i8(a, b))
    }

    /// Inner product of a row of 4-bit numbers, at most [`U4_DIMS_MAX`], and one of `i8`, in whole blocks of 64.
    ///
    /// Of each block of 64 components, byte `j` has component `j` in its low nibble and `j + 32` in its high one.
    #[must_use]
    #[inline]
    pub fn dot_u4_i8(self, codes: &[u8], query: &[i8]) -> i32 {
        same_dimension(2 * codes.len(), query.len());
        assert!(query.len().is_multiple_of(BLOCK_DIMS), "{} components are no whole blocks", query.len());
        assert!(query.len() <= U4_DIMS_MAX, "sums of {} components may not fit", query.len());
        call!(self, dot_u4_i8(codes, query))
    }

    /// Squared distance of two rows of at most [`I8_DIMS_MAX`] `i8`, padded alike.
    #[must_use]
    #[inline]
    pub fn squared_euclidean_i8_i8(self, a: &[i8], b: &[i8]) -> i32 {
        whole_blocks(a.len(), b.len());
        assert!(a.len() <= I8_DIMS_MAX, "sums of {} components may not fit", a.len());
        call!(self, squared_euclidean_i8_i8(a, b))
    }
}

/// Rows as they lie in files: distances with a checksum, as `lines` says. Panics if a row is not of the query's dimension,
/// or has more than [`ROW_BYTES_MAX`] bytes.
impl Kernels {
    /// Checksum of a row, the same on every set.
    #[must_use]
    #[inline]
    pub fn row_sum(self, row: &[u8]) -> u64 {
        call!(self, row_sum(row, lines::keys(row.len().div_ceil(lines::LINE))))
    }

    /// Inner product of `query` with a row, and the row's checksum.
    #[must_use]
    #[inline]
    pub fn dot_and_sum(self, query: &Query, row: &[u8], component: Component) -> (f32, u64) {
        let lines = row.len().div_ceil(lines::LINE);
        let (query, keys) = (query.blocks(lines, component), lines::keys(lines));
        match component {
            Component::F32 => call!(self, dot_and_sum_f32(query, row, keys)),
            Component::F16 => call!(self, dot_and_sum_f16(query, row, keys)),
            Component::U8 => call!(self, dot_and_sum_u8(query, row, keys)),
        }
    }

    /// Squared distance between `query` and a row, and the row's checksum.
    #[must_use]
    #[inline]
    pub fn squared_euclidean_and_sum(self, query: &Query, row: &[u8], component: Component) -> (f32, u64) {
        let lines = row.len().div_ceil(lines::LINE);
        let (query, keys) = (query.blocks(lines, component), lines::keys(lines));
        match component {
            Component::F32 => call!(self, squared_and_sum_f32(query, row, keys)),
            Component::F16 => call!(self, squared_and_sum_f16(query, row, keys)),
            Component::U8 => call!(self, squared_and_sum_u8(query, row, keys)),
        }
    }
}

/// Sums in `f64`, the same bit by bit on every set. Panics if lengths differ.
impl Kernels {
    /// `sum(a b)` and `sum(b b)`.
    #[must_use]
    #[inline]
    pub fn dot_and_square_f64(self, a: &[f32], b: &[f32]) -> (f64, f64) {
        same_dimension(a.len(), b.len());
        call!(self, dot_and_square_f64(a, b))
    }

    /// `sum((a - b)^2)`.
    #[must_use]
    #[inline]
    pub fn squared_euclidean_f64(self, a: &[f32], b: &[f32]) -> f64 {
        same_dimension(a.len(), b.len());
        call!(self, squared_euclidean_f64(a, b))
    }
}

/// Batches of 1-bit codes. Panics if `codes` are not of the tables' dimension.
impl Kernels {
    /// `s_1 q_1 + s_2 q_2 + ...` for the signs `s` of 32 rows and the query of `lut`.
    #[inline]
    pub fn scan32(self, codes: &[u8], lut: &Lut, out: &mut [f32; BATCH]) {
        batch_of(codes, lut);
        call!(self, scan32(codes, lut, out));
    }

    /// `base + scale * (add_j + rescale_j * sum_j)` for the sums of [`Kernels::scan32`]; `add` and `rescale` are `f16`.
    #[allow(clippy::too_many_arguments, reason = "the parts of a block, as they lie in it")]
    #[inline]
    pub fn estimate32(
        self,
        codes: &[u8],
        lut: &Lut,
        add: &[u16; BATCH],
        rescale: &[u16; BATCH],
        scale: f32,
        base: f32,
        out: &mut [f32; BATCH],
    ) {
        batch_of(codes, lut);
        let factors = scans::Narrow { add, rescale, scale };
        call!(self, estimate32(codes, lut, &factors, base, out));
    }

    /// `base + weight * add_j + rescale_j * sum_j` for the sums of [`Kernels::scan32`].
    #[inline]
    pub(crate) fn estimate_wide32(self, codes: &[u8], lut: &Lut, factors: &Wide, aim: Aim, out: &mut [f32; BATCH]) {
        batch_of(codes, lut);
        call!(self, estimate_wide32(codes, lut, factors, aim, out));
    }

    /// `bases_j + add_j + rescale_j * sum_j` for the sums of [`Kernels::scan32`], and which are below `bound`, a bit each.
    #[inline]
    pub(crate) fn near32(
        self,
        codes: &[u8],
        lut: &Lut,
        factors: &Each,
        bases: &[f32; BATCH],
        bound: f32,
        out: &mut [f32; BATCH],
    ) -> u32 {
        batch_of(codes, lut);
        call!(self, near32(codes, lut, factors, bases, bound, out))
    }

    /// Which values are at least `floor`, or not a number: one bit each.
    #[inline]
    pub(crate) fn at_least32(self, values: &[f32; BATCH], floor: f32) -> u32 {
        call!(self, at_least32(values, floor))
    }

    /// Which of `value_j + error_j * spread` are at least `floor`, or not a number: one bit each.
    #[inline]
    pub(crate) fn within32(self, values: &[f32; BATCH], errors: &[f32; BATCH], spread: f32, floor: f32) -> u32 {
        call!(self, within32(values, errors, spread, floor))
    }
}

/// Queues of estimates.
impl Kernels {
    /// Which values are below `bound`, one bit each. `bound` is finite; what is infinite is not below it.
    #[inline]
    pub(crate) fn below32(self, values: &[f32; BATCH], bound: f32) -> u32 {
        call!(self, below32(values, bound))
    }

    /// Where the first of the least values is: whole blocks, at least one value finite.
    #[inline]
    pub(crate) fn first_least(self, blocks: &[[f32; LANES]]) -> usize {
        call!(self, first_least(blocks))
    }
}

/// Parts of rotation, encoding and tables.
impl Kernels {
    /// Walsh-Hadamard transform, not scaled, of `values` times `factors`, in place.
    ///
    /// Panics if the length is not a power of two, at least 64.
    #[inline]
    pub(crate) fn hadamard(self, values: &mut [f32], factors: &[f32]) {
        same_dimension(values.len(), factors.len());
        assert!(values.len() >= 64 && values.len().is_power_of_two(), "{} values", values.len());
        call!(self, hadamard(values, factors));
    }

    /// Signs of `vector - center`, 1 for plus, 64 components a word, and the sums that go with them.
    #[inline]
    pub(crate) fn signs(self, vector: &[f32], center: &[f32], bits: &mut [u64]) -> Moments {
        same_dimension(vector.len(), center.len());
        same_dimension(vector.len(), bits.len() * BLOCK_DIMS);
        call!(self, signs(vector, center, bits))
    }

    /// The largest sum of magnitudes of four neighbours in `values`, whole blocks.
    fn peak(self, values: &[f32]) -> f32 {
        whole_blocks(values.len(), values.len());
        call!(self, peak(values))
    }

    /// Writes the tables of `rotated`, which `inverse` scales to integers, and returns the sum of their magnitudes.
    fn fill_lut(self, rotated: &[f32], inverse: f32, blocks: &mut [lut::Block]) -> u32 {
        same_dimension(rotated.len(), blocks.len() * BLOCK_DIMS);
        call!(self, fill_lut(rotated, inverse, blocks))
    }
}

#[inline]
fn same_dimension(a: usize, b: usize) {
    assert!(a == b, "rows and query have one dimension, not {a} and {b}");
}

#[inline]
fn whole_blocks(a: usize, b: usize) {
    same_dimension(a, b);
    assert!(a.is_multiple_of(LANES), "{a} components are no whole blocks of {LANES}");
}

#[inline]
fn batch_of(codes: &[u8], lut: &Lut) {
    assert!(codes.len() == lut.blocks().len() * BLOCK_BYTES, "codes and tables have one dimension");
}

#[cfg(test)]
mod tests;
