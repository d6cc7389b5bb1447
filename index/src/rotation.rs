//! A fast random rotation, so that a vector's length spreads evenly over its components, whatever they were.
//!
//! Four times, random signs and a Walsh-Hadamard transform over the largest power of two that fits, in turn at the head
//! and at the tail of the vector. The two overlap, so all components mix. Lengths and inner products stay.
//! Sources: Ailon and Chazelle, The fast Johnson-Lindenstrauss transform, SIAM J. Comput. 2009; arXiv 2405.12497.

use crate::kernels::{BLOCK_DIMS, Kernels};

const ROUNDS: usize = 4;

/// A rotation of vectors of one dimension. The same seed gives the same bits on every machine.
#[derive(Clone, Debug)]
pub struct Rotation {
    dim: usize,
    padded_dim: usize,
    /// Components that a transform mixes: a power of two, more than half of `padded_dim`.
    mixed: usize,
    /// For each round and mixed component its sign, over the root of `mixed`.
    factors: Vec<f32>,
}

impl Rotation {
    /// A rotation of vectors of `dim` components, at least 1.
    #[must_use]
    pub fn new(dim: u32, seed: u64) -> Self {
        assert!(dim > 0, "vectors have at least one component");
        let dim = dim as usize;
        let padded_dim = dim.next_multiple_of(BLOCK_DIMS);
        let mixed = 1 << padded_dim.ilog2();
        #[allow(clippy::cast_precision_loss, reason = "a power of two is exact")]
        let length = 1.0 / (mixed as f32).sqrt();
        let mut state = seed;
        let words = std::iter::repeat_with(|| split_mix(&mut state)).take(ROUNDS * mixed / 64);
        let signs = words.flat_map(|word| (0..64).map(move |bit| word >> bit & 1 == 1));
        let factors = signs.map(|minus| if minus { -length } else { length }).collect();
        Self { dim, padded_dim, mixed, factors }
    }

    /// Components of a vector.
    #[must_use]
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Components of a rotated vector: `dim`, rounded up to a multiple of 64.
    #[must_use]
    pub fn padded_dim(&self) -> usize {
        self.padded_dim
    }

    /// Rotates a vector of `dim` components into one of `padded_dim`.
    ///
    /// # Panics
    /// If lengths differ.
    pub fn rotate(&self, input: &[f32], out: &mut [f32]) {
        self.rotate_with(Kernels::best(), input, out);
    }

    fn rotate_with(&self, kernels: Kernels, input: &[f32], out: &mut [f32]) {
        assert_eq!((input.len(), out.len()), (self.dim, self.padded_dim), "components of vector and room");
        out[..self.dim].copy_from_slice(input);
        out[self.dim..].fill(0.0);
        for (round, factors) in self.factors.chunks_exact(self.mixed).enumerate() {
            let start = if round.is_multiple_of(2) { 0 } else { self.padded_dim - self.mixed };
            kernels.hadamard(&mut out[start..start + self.mixed], factors);
        }
    }
}

/// The next of a sequence of random words. Source: Steele, Lea and Flood, Fast splittable pseudorandom number
/// generators, OOPSLA 2014.
fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

/// The numbers below `len`, in an order that `seed` decides. Source: Fisher and Yates.
pub(crate) fn shuffled(len: usize, seed: u64) -> Vec<u32> {
    let mut state = seed;
    let mut numbers: Vec<u32> = (0..).take(len).collect();
    for end in (1..len).rev() {
        // The high half of a product: its bias is below 2^-32 for lengths below 2^32.
        let other = (u128::from(split_mix(&mut state)) * (end as u128 + 1)) >> 64;
        numbers.swap(end, usize::try_from(other).expect("below the length"));
    }
    numbers
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    const DIMS: [u32; 12] = [1, 3, 63, 64, 65, 100, 384, 768, 784, 1_000, 1_536, 4_096];

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    }

    #[test]
    fn lengths_and_inner_products_stay() {
        let mut rng = StdRng::seed_from_u64(7);
        for dim in DIMS {
            let rotation = Rotation::new(dim, 9);
            let mut vector = || (0..dim).map(|_| rng.random_range(-1.0..1.0)).collect::<Vec<f32>>();
            let (a, b) = (vector(), vector());
            let [mut c, mut d] = [vec![f32::NAN; rotation.padded_dim()], vec![f32::NAN; rotation.padded_dim()]];
            rotation.rotate(&a, &mut c);
            rotation.rotate(&b, &mut d);
            let allowed = 3e-6 * (dot(&a, &a) * dot(&b, &b)).sqrt();
            for (before, after) in [(dot(&a, &a), dot(&c, &c)), (dot(&a, &b), dot(&c, &d))] {
                assert!((before - after).abs() <= allowed, "dim {dim}: {before} became {after}");
            }
        }
    }

    #[test]
    fn one_component_spreads_over_all() {
        for dim in DIMS {
            let rotation = Rotation::new(dim, 11);
            for at in [0, dim as usize / 2, dim as usize - 1] {
                let mut vector = vec![0.0; dim as usize];
                vector[at] = 1.0;
                let mut out = vec![0.0; rotation.padded_dim()];
                rotation.rotate(&vector, &mut out);
                let largest = out.iter().fold(0.0_f32, |largest, c| largest.max(c.abs()));
                let even = 1.0 / (rotation.padded_dim() as f32).sqrt();
                assert!(largest < 6.5 * even, "dim {dim}, component {at}: {largest} where {even} is even");
                for block in out.chunks(BLOCK_DIMS) {
                    let share = dot(block, block) * rotation.padded_dim() as f64 / BLOCK_DIMS as f64;
                    assert!((0.1..3.0).contains(&share), "dim {dim}, component {at}: a block has {share} of its share");
                }
            }
        }
    }

    #[test]
    fn every_set_gives_the_same_bits() {
        let mut rng = StdRng::seed_from_u64(8);
        for dim in DIMS {
            let rotation = Rotation::new(dim, 10);
            for scale in [1.0, 1e16, 1e-41] {
                let vector: Vec<f32> = (0..dim).map(|_| rng.random_range(-1.0..1.0) * scale).collect();
                let bits = |kernels| {
                    let mut out = vec![0.0; rotation.padded_dim()];
                    rotation.rotate_with(kernels, &vector, &mut out);
                    out.iter().map(|c| c.to_bits()).collect::<Vec<_>>()
                };
                for kernels in Kernels::all() {
                    assert!(bits(kernels) == bits(Kernels::best()), "{} differs at dim {dim}", kernels.name());
                }
            }
        }
    }

    #[test]
    fn bits_stay_what_segments_were_written_with() {
        let rotation = Rotation::new(3, 1);
        let mut out = vec![0.0; 64];
        rotation.rotate(&[1.0, 2.0, 3.0], &mut out);
        let sum = out.iter().fold(0_u64, |sum, c| sum.wrapping_mul(31).wrapping_add(u64::from(c.to_bits())));
        assert_eq!(sum, 6_689_516_527_857_369_088, "a seed means another rotation than it did");
    }
}
