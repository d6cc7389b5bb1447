//! A point in one or two cache lines: its 1-bit code relative to the centre of its cell, and what corrects it.
//!
//! Batches of 32 codes are estimated faster than codes alone, but where few of 32 points are wanted it is the lines read
//! that count. A query's components are rounded to 4 bits and kept as four planes of bits, so that their sum under the
//! signs of a code is a few counts of bits. Source: RaBitQ, arXiv 2405.12497, section 3.3.1.
//!
//! ```text
//! f32 add, f32 rescale, a bit for each component, padding up to the stride
//! ```

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::kernels::BLOCK_DIMS;
use crate::quantize;

/// Bits of a rounded component.
const PLANES: usize = 4;

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;

/// Bytes of a sketch of `padded_dims` components: it lies in as few lines as can be.
pub(super) fn stride(padded_dims: usize) -> usize {
    let bytes = size_of::<Factors>() + padded_dims / 8;
    if bytes < LINE_BYTES { bytes.next_power_of_two() } else { bytes.next_multiple_of(LINE_BYTES) }
}

/// What corrects a code, before its bits.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Factors {
    add: f32,
    rescale: f32,
}

/// Writes the sketch of a point at `rotated`, of a cell whose centre is at `center`.
pub(super) fn write(rotated: &[f32], center: &[f32], bits: &mut [u64], out: &mut [u8]) {
    let quantize::Factors { add, rescale, .. } = quantize::encode(rotated, center, bits);
    let (factors, code) = out.split_at_mut(size_of::<Factors>());
    factors.copy_from_slice(Factors { add, rescale }.as_bytes());
    code[..size_of_val(bits)].copy_from_slice(bits.as_bytes());
}

/// Writes the bits of a sketch, and returns `add` and `rescale`, which correct it.
pub(super) fn read(sketch: &[u8], bits: &mut [u64]) -> (f32, f32) {
    let (factors, code) = sketch.split_at(size_of::<Factors>());
    let Factors { add, rescale } = *Factors::ref_from_bytes(factors).expect("sketches start at multiples of 16");
    for (bits, word) in bits.iter_mut().zip(code.as_chunks().0) {
        *bits = u64::from_le_bytes(*word);
    }
    (add, rescale)
}

/// A query, ready to be compared with sketches.
#[derive(Debug, Default)]
pub(super) struct Planes {
    /// For each 64 components the bits of value 1, 2, 4 and 8.
    words: Vec<[u64; PLANES]>,
    least: f32,
    step: f32,
    total: f32,
}

impl Planes {
    /// Takes a query, rotated to a multiple of 64 components.
    pub(super) fn set(&mut self, rotated: &[f32]) {
        let (least, largest) = rotated.iter().fold((f32::MAX, f32::MIN), |(a, b), c| (a.min(*c), b.max(*c)));
        let levels = (1 << PLANES) as f32 - 1.0;
        let step = (largest - least) / levels;
        let inverse = if step > 0.0 { 1.0 / step } else { 0.0 };
        self.words.clear();
        self.words.extend(rotated.chunks_exact(BLOCK_DIMS).map(|block| {
            let mut planes = [0; PLANES];
            for (i, component) in block.iter().enumerate() {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 15")]
                let level = ((component - least) * inverse + 0.5) as u64;
                for (bit, plane) in planes.iter_mut().enumerate() {
                    *plane |= (level >> bit & 1) << i;
                }
            }
            planes
        }));
        (self.least, self.step, self.total) = (least, step, rotated.iter().sum());
    }

    /// Estimate of the squared distance from the point of a sketch, `base` being that from the centre of its cell.
    #[inline]
    pub(super) fn estimate(&self, sketch: &[u8], base: f32) -> f32 {
        let (factors, code) = sketch.split_at(size_of::<Factors>());
        let factors = Factors::ref_from_bytes(factors).expect("sketches start at multiples of 16");
        let (mut ones, mut counts) = (0, [0; PLANES]);
        for (planes, word) in self.words.iter().zip(code.as_chunks::<8>().0) {
            let word = u64::from_le_bytes(*word);
            ones += word.count_ones();
            for (count, plane) in counts.iter_mut().zip(planes) {
                *count += (word & plane).count_ones();
            }
        }
        let levels = counts[0] + 2 * counts[1] + 4 * counts[2] + 8 * counts[3];
        #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^24")]
        let under_ones = self.least * ones as f32 + self.step * levels as f32;
        base + factors.add + factors.rescale * (2.0 * under_ones - self.total)
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn estimates_are_near_and_do_not_lean() {
        let mut rng = StdRng::seed_from_u64(9);
        for dims in [64, 384, 832] {
            let mut vector = || (0..dims).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>();
            let (center, query) = (vector(), vector());
            let square = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
            let mut planes = Planes::default();
            planes.set(&query);
            let (mut bits, mut bytes) = (vec![0; dims / 64], vec![0_u8; stride(dims)]);
            let errors: Vec<f32> = (0..200)
                .map(|_| {
                    let point = vector();
                    write(&point, &center, &mut bits, &mut bytes);
                    planes.estimate(&bytes, square(&query, &center)) / square(&query, &point) - 1.0
                })
                .collect();
            let mean = errors.iter().sum::<f32>() / 200.0;
            assert!(mean.abs() < 0.02, "{dims}: leans by {mean}");
            assert!(errors.iter().all(|error| error.abs() < 8.0 / (dims as f32).sqrt()), "{dims}: {errors:?}");
        }
    }
}
