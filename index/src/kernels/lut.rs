//! Tables that turn 32 rows of 1-bit codes into 32 sums `s_1 q_1 + s_2 q_2 + ...` of a query's components.
//!
//! Codes lie in batches of 32 rows. Each four dimensions are a group of 16 bytes: the low nibble of byte `j` has the
//! four signs of row `j`, the high one those of row `j + 16`. For each group the query has a table of 16 entries, one
//! for each pattern of four signs, and one instruction looks 16 or more of them up.
//!
//! Entries have 6 bits, so four of them add up in a byte, and the sums of 64 blocks of 64 dimensions in 16 bits. The
//! step is the same for all groups. It leaves an error of about 0.05 in a sum whose error from keeping signs alone is
//! 0.6 for a query of unit length, whatever the dimension.
//! Source: Andre, Kermarrec and Le Scouarnec, Cache locality is not enough, VLDB 2015; arXiv 2405.12497, section 3.3.

use super::{Kernels, LANES};

/// Rows of a batch of codes.
pub const BATCH: usize = 32;

/// Dimensions of a block: those of a word of signs.
pub const BLOCK_DIMS: usize = 64;

/// Bytes of 32 rows in a block, and of the tables of a block.
pub const BLOCK_BYTES: usize = BLOCK_DIMS / 4 * 16;

/// Blocks whose sums fit 16 bits: 64 blocks of 16 entries of at most 63.
pub(super) const WIDE_BLOCKS: usize = 64;

/// Largest entry.
const ENTRY_MAX: f32 = 63.0;

/// Below it, a query is taken for zero: the inverse of the step would overflow.
const PEAK_MIN: f32 = 1e-36;

/// Bits that hold a component in [`Steps`], its sign included.
pub(crate) const STEP_BITS: usize = 5;

/// Most steps of a component: those of a group's four add up to an entry.
const STEPS_MAX: f32 = 15.0;

/// A query's components in whole steps, few enough that tables and planes of bits hold the same numbers: sums by either
/// are equal bit by bit.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Steps {
    step: f32,
    inverse: f32,
}

impl Steps {
    /// Those of a query, rotated to a multiple of 64 components.
    pub(crate) fn of(rotated: &[f32]) -> Self {
        let mut lanes = [0.0; LANES];
        for block in rotated.as_chunks::<LANES>().0 {
            for (largest, component) in lanes.iter_mut().zip(block) {
                let magnitude = component.abs();
                *largest = if magnitude > *largest { magnitude } else { *largest };
            }
        }
        let largest = lanes.into_iter().fold(0.0, f32::max);
        let inverse = if largest < PEAK_MIN { 0.0 } else { STEPS_MAX / largest };
        Self { step: largest / STEPS_MAX, inverse }
    }

    /// A component in steps.
    #[inline]
    pub(crate) fn round(self, component: f32) -> i8 {
        #[allow(clippy::cast_possible_truncation, reason = "-15 to 15")]
        let steps = (component * self.inverse).round_ties_even() as i8;
        steps
    }

    /// What a unit of a looked-up sum is worth, and the sum if no sign agrees, `total` being the steps of all components.
    pub(crate) fn scale(self, total: u32) -> (f32, f32) {
        #[allow(clippy::cast_precision_loss, reason = "a total of numbers of few bits stays below 2^24")]
        let total = total as f32;
        (2.0 * self.step, -self.step * total)
    }
}

/// Tables of 16 groups, aligned so that no load straddles two cache lines.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Block(pub(super) [u8; BLOCK_BYTES]);

impl Block {
    /// Tables of the groups.
    pub(super) fn groups(&self) -> &[[u8; 16]] {
        self.0.as_chunks().0
    }

    /// Tables of the groups, to be filled.
    pub(super) fn groups_mut(&mut self) -> &mut [[u8; 16]] {
        self.0.as_chunks_mut().0
    }
}

/// Tables of one query. Filled again for the next one, they need no memory.
#[derive(Clone, Debug, Default)]
pub struct Lut {
    blocks: Vec<Block>,
    step: f32,
    bias: f32,
}

impl Lut {
    /// Makes the tables of a query, rotated to a multiple of 64 components.
    ///
    /// # Panics
    /// If it has not a multiple of 64 components.
    pub fn fill(&mut self, rotated: &[f32]) {
        self.fill_with(Kernels::best(), rotated);
    }

    /// A component becomes `round(q_i / step)`, which rounding moves by a half at most: 61 for the four of a group
    /// leave room for that.
    pub(crate) fn fill_with(&mut self, kernels: Kernels, rotated: &[f32]) {
        assert!(rotated.len().is_multiple_of(BLOCK_DIMS), "{} components are no whole blocks", rotated.len());
        self.blocks.resize(rotated.len() / BLOCK_DIMS, Block([0; BLOCK_BYTES]));
        let peak = kernels.peak(rotated);
        let inverse = if peak < PEAK_MIN { 0.0 } else { (ENTRY_MAX - 2.0) / peak };
        self.fill_steps(kernels, rotated, Steps { step: peak / (ENTRY_MAX - 2.0), inverse });
    }

    /// Makes the tables of a query in [`Steps`]. Panics as [`Lut::fill`] does.
    pub(crate) fn fill_coarse(&mut self, kernels: Kernels, rotated: &[f32]) {
        assert!(rotated.len().is_multiple_of(BLOCK_DIMS), "{} components are no whole blocks", rotated.len());
        self.blocks.resize(rotated.len() / BLOCK_DIMS, Block([0; BLOCK_BYTES]));
        self.fill_steps(kernels, rotated, Steps::of(rotated));
    }

    fn fill_steps(&mut self, kernels: Kernels, rotated: &[f32], steps: Steps) {
        let total = kernels.fill_lut(rotated, steps.inverse, &mut self.blocks);
        (self.step, self.bias) = steps.scale(total);
    }

    /// Standard deviation of a sum from rounding components to steps, if they fall anywhere between.
    pub(crate) fn deviation(&self) -> f32 {
        #[allow(clippy::cast_precision_loss, reason = "dimensions are far below 2^24")]
        let dim = (self.blocks.len() * BLOCK_DIMS) as f32;
        self.step / 2.0 * (dim / 12.0).sqrt()
    }

    /// What a unit of a looked-up sum is worth: each sign that agrees gives `q_i` instead of `-q_i`.
    pub(super) fn step(&self) -> f32 {
        self.step
    }

    /// The sum if no sign agrees.
    pub(super) fn bias(&self) -> f32 {
        self.bias
    }

    pub(super) fn blocks(&self) -> &[Block] {
        &self.blocks
    }
}

/// For the four components of a group: where the table's entries pick component `i` of lane `l`, and nothing (an index
/// out of range) where an entry's pattern lacks its sign. The 64 components of a row are bytes `4 l + i`.
pub(super) const PICKS: [[u8; 64]; 4] = {
    let mut picks = [[0x80; 64]; 4];
    let mut i = 0;
    while i < 256 {
        let (component, byte) = (i / 64, i % 64);
        if byte >> component & 1 == 1 {
            #[allow(clippy::cast_possible_truncation, reason = "below 16")]
            let pick = (byte / 16 * 4 + component) as u8;
            picks[component][byte] = pick;
        }
        i += 1;
    }
    picks
};

/// Picks the lowest byte of the 32 bits of lane `l`, for all of the lane.
pub(super) const SPREAD: [u8; 64] = {
    let mut spread = [0; 64];
    let mut i = 0;
    while i < 64 {
        #[allow(clippy::cast_possible_truncation, reason = "below 16")]
        let pick = (i / 16 * 4) as u8;
        spread[i] = pick;
        i += 1;
    }
    spread
};
