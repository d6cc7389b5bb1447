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

use crate::kernels::{BLOCK_DIMS, STEP_BITS, Steps};
use crate::quantize;

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
    /// For each 64 components the bits of value 1, 2, 4, 8 and -16.
    words: Vec<[u64; STEP_BITS]>,
    /// Steps of all negative components.
    below: u32,
    step: f32,
    bias: f32,
}

impl Planes {
    /// Takes a query, rotated to a multiple of 64 components.
    pub(super) fn set(&mut self, rotated: &[f32]) {
        let steps = Steps::of(rotated);
        let (mut total, mut below) = (0, 0);
        self.words.clear();
        self.words.extend(rotated.as_chunks::<BLOCK_DIMS>().0.iter().map(|block| {
            let mut planes = [0; STEP_BITS];
            for (i, component) in block.iter().enumerate() {
                let own = steps.round(*component);
                total += u32::from(own.unsigned_abs());
                below += u32::from(own.min(0).unsigned_abs());
                for (bit, plane) in planes.iter_mut().enumerate() {
                    *plane |= u64::from(own.cast_unsigned() >> bit & 1) << i;
                }
            }
            planes
        }));
        (self.step, self.bias) = steps.scale(total);
        self.below = below;
    }

    /// Estimate of the squared distance from the point of a sketch, `base` being that from the centre of its cell.
    ///
    /// The order of what is added and multiplied is that of `Kernels::near32`: packed or not, a point has one estimate.
    #[inline]
    pub(super) fn estimate(&self, sketch: &[u8], base: f32) -> f32 {
        let (factors, code) = sketch.split_at(size_of::<Factors>());
        let factors = Factors::ref_from_bytes(factors).expect("sketches start at multiples of 16");
        let mut counts = [0; STEP_BITS];
        for (planes, word) in self.words.iter().zip(code.as_chunks::<8>().0) {
            let word = u64::from_le_bytes(*word);
            for (count, plane) in counts.iter_mut().zip(planes) {
                *count += (word & plane).count_ones();
            }
        }
        let [one, two, four, eight, less] = counts;
        let agreeing = self.below + one + 2 * two + 4 * four + 8 * eight - 16 * less;
        #[allow(clippy::cast_precision_loss, reason = "counts are far below 2^24")]
        let sum = agreeing as f32 * self.step + self.bias;
        factors.rescale * sum + (factors.add + base)
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::kernels::{BATCH, BLOCK_BYTES, Each, Kernels, Lut};

    /// What lets a scan of packed points find what one of points that are not finds.
    #[test]
    fn a_packed_point_has_the_same_estimate_on_every_set() {
        let mut rng = StdRng::seed_from_u64(10);
        for (dims, scale) in
            [64, 384, 832, 4_096].into_iter().flat_map(|dims| [1.0, 1e-30, 1e8, 0.0].map(|s| (dims, s)))
        {
            let mut vector = || (0..dims).map(|_| scale * rng.random_range(-1.0..1.0)).collect::<Vec<f32>>();
            let (center, query) = (vector(), vector());
            let (mut rows, mut bytes) = (vec![vec![0; dims / 64]; BATCH], vec![vec![0_u8; stride(dims)]; BATCH]);
            let mut factors = Each { add: [0.0; BATCH], rescale: [0.0; BATCH] };
            let mut planes = Planes::default();
            planes.set(&query);
            let bases: [f32; BATCH] = std::array::from_fn(|lane| scale * lane as f32);
            let mut want = [0.0; BATCH];
            for lane in 0..BATCH {
                write(&vector(), &center, &mut rows[lane], &mut bytes[lane]);
                (factors.add[lane], factors.rescale[lane]) = read(&bytes[lane], &mut rows[lane]);
                want[lane] = planes.estimate(&bytes[lane], bases[lane]);
            }
            let mut codes = vec![0; dims / BLOCK_DIMS * BLOCK_BYTES];
            quantize::pack(&rows.iter().map(Vec::as_slice).collect::<Vec<_>>(), &mut codes);
            for kernels in Kernels::all() {
                let (mut tables, mut got) = (Lut::default(), [0.0; BATCH]);
                tables.fill_coarse(kernels, &query);
                kernels.near32(&codes, &tables, &factors, &bases, f32::INFINITY, &mut got);
                assert_eq!(got.map(f32::to_bits), want.map(f32::to_bits), "{} {dims} {scale}", kernels.name());
            }
        }
    }

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
