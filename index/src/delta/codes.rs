//! 1-bit codes of rows, written as rows come: 32 of them lie in a batch that is scanned at once.
//!
//! A code is a function of its row and the delta's centre: not of other rows, nor of when they came. So replicas have the
//! same codes of the same rows, whatever became of their deltas meanwhile.
//!
//! It stands for the residual `r = x - c` of a rotated row from the centre; a row is of unit length for cosine. With `g` and the
//! signs `s` of `crate::quantize`, and `q` the query, rotated alike,
//!
//! ```text
//! <x, q>           =  <c, q> + a t + g sum(s_i q_i)  +- e |q across r|,    t = (|x|^2 - |c|^2 - add) / 2
//! -|x - q|^2 / 2   =  -|c - q|^2 / 2 - add / 2 + g sum(s_i q_i)  +- e |q across r|
//! ```
//!
//! for any number `a`, with `add` as `crate::quantize` has it and `e` the standard deviation for each unit of length
//! across the residual. The first is for cosine and dot, the second for euclidean: one kernel computes both, as
//! `base + weight * add + gain * sum`. What roundings may come to is in `base` and `add`, too. Everything that makes a code,
//! or compares it, is the same bit by bit on every instruction set.

use std::ops::RangeInclusive;
use std::sync::Arc;

use shoal_model::Metric;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::center::{Center, Placed};
use crate::kernels::{BATCH, BLOCK_BYTES, BLOCK_DIMS, Kernels, Wide, rounding_error};
use crate::quantize;
use crate::rotation::Rotation;

/// Most dimensions that codes are kept for. Above, a chunk has so few rows that codes in batches of 32 would take as
/// much memory as these; below, codes are faster than vectors however few dimensions there are.
pub(super) const DIM_MAX: u32 = 8_192;

/// Lengths whose squares and products keep their precision in `f32`. A row beyond them is never turned away by its
/// code; a query beyond them does not ask codes.
pub(super) const LENGTHS: RangeInclusive<f32> = 1e-9..=1e9;

/// The same rotation for every delta, so that a view's codes do not depend on who made them.
const SEED: u64 = 0x5e41_de17;

/// Share of the lengths involved that roundings of rotation, factors and estimate come to at most, over that of a sum.
const ROUNDING: f64 = 4.0;

/// More than all roundings of an estimate can come to: this times the squares and the product of the lengths involved.
pub(super) fn rounding(padded_dim: usize) -> f32 {
    #[allow(clippy::cast_possible_truncation, reason = "a small positive number")]
    let rounding = (ROUNDING * rounding_error(padded_dim, 64).relative) as f32;
    rounding
}

/// What codes of a delta are made with: the same for all its rows, and for queries.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) rotation: Rotation,
    /// `None` for zero.
    pub(super) center: Option<Placed>,
    pub(super) rounding: f32,
}

impl Frame {
    /// `None` for dimensions without codes.
    fn new(dim: u32, center: Option<Center>) -> Option<Self> {
        if dim > DIM_MAX {
            return None;
        }
        let rotation = Rotation::new(dim, SEED);
        let center = center.map(|center| Placed::new(center, &rotation));
        let rounding = rounding(rotation.padded_dim());
        Some(Self { rotation, center, rounding })
    }
}

/// The writer's means to encode.
#[derive(Debug)]
pub(super) struct Coder {
    metric: Metric,
    frame: Arc<Frame>,
    zero: Vec<f32>,
    rotated: Vec<f32>,
    bits: Vec<u64>,
}

/// What is kept of a row.
#[derive(Debug)]
pub(super) struct Code<'a> {
    bits: &'a [u64],
    add: f32,
    gain: f32,
    error: f32,
    reach: f32,
}

impl Coder {
    /// `None` for dimensions without codes.
    pub(super) fn new(dim: u32, metric: Metric, center: Option<Center>) -> Option<Self> {
        let frame = Arc::new(Frame::new(dim, center)?);
        let padded = frame.rotation.padded_dim();
        let (zero, rotated, bits) = (vec![0.0; padded], vec![0.0; padded], vec![0; padded / BLOCK_DIMS]);
        Some(Self { metric, frame, zero, rotated, bits })
    }

    pub(super) fn frame(&self) -> &Arc<Frame> {
        &self.frame
    }

    /// Room for the codes of a new chunk of `rows`.
    pub(super) fn room(&self, rows: usize) -> Codes {
        Codes::new(self.bits.len(), rows)
    }

    /// The code of a row. `scale` is the inverse of its length for cosine.
    pub(super) fn encode(&mut self, vector: &[f32], scale: f32) -> Code<'_> {
        let Self { metric, frame, zero, rotated, bits } = self;
        frame.rotation.rotate(vector, rotated);
        if *metric == Metric::Cosine {
            rotated.iter_mut().for_each(|c| *c *= scale);
        }
        // In `f64`, as sums of `f32` are not the same on every instruction set.
        #[allow(clippy::cast_possible_truncation, reason = "what does not fit is not within the lengths")]
        let square = Kernels::best().dot_and_square_f64(rotated, rotated).1 as f32;
        let place = frame.center.as_ref().map_or(&zero[..], |center| &center.place);
        let factors = quantize::encode(rotated, place, bits);
        let (gain, deviation) = (-0.5 * factors.rescale, 0.5 * factors.error);
        let reach = frame.center.as_ref().map_or(square, |center| square.max(center.square)).sqrt();
        if !LENGTHS.contains(&reach) && vector.iter().any(|c| *c != 0.0) {
            return Code { bits, add: 0.0, gain: 0.0, error: f32::INFINITY, reach: 0.0 };
        }
        let rounding = frame.rounding;
        let add = match (metric, &frame.center) {
            (Metric::Euclidean, _) => 1.5 * rounding * reach * reach - 0.5 * factors.add,
            // Weighed with the query's length and the rounding.
            (_, None) => reach,
            // Weighed with the query's length over that of the centre.
            (_, Some(Placed { center, square: place, .. })) => {
                0.5 * (square - place - factors.add) + rounding * reach * (reach + center.length)
            }
        };
        Code { bits, add, gain, error: deviation.max(0.5 * gain), reach }
    }
}

/// The signs of 32 rows in 64 dimensions, aligned so that no load straddles two cache lines.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C, align(64))]
struct Signs([u8; BLOCK_BYTES]);

/// What goes with the signs of 32 rows.
#[derive(Clone, Debug)]
pub(super) struct Factors {
    pub(super) wide: Wide,
    /// Of each row its length, or that of the centre if it is longer.
    pub(super) reaches: [f32; BATCH],
    /// The longest.
    pub(super) reach: f32,
}

/// Codes of the rows of a chunk.
#[derive(Clone, Debug)]
pub(super) struct Codes {
    /// Blocks of signs of a batch.
    blocks: usize,
    signs: Vec<Signs>,
    factors: Vec<Factors>,
}

impl Codes {
    fn new(blocks: usize, rows: usize) -> Self {
        let batches = rows.div_ceil(BATCH);
        let factors = Factors { wide: Wide::NONE, reaches: [0.0; BATCH], reach: 0.0 };
        Self { blocks, signs: vec![Signs([0; BLOCK_BYTES]); batches * blocks], factors: vec![factors; batches] }
    }

    /// Writes the code of a row.
    pub(super) fn put(&mut self, row: usize, code: &Code<'_>) {
        let (batch, lane) = (row / BATCH, row % BATCH);
        let signs = &mut self.signs[batch * self.blocks..][..self.blocks];
        quantize::insert(signs.as_mut_bytes(), lane, code.bits);
        let Factors { wide, reaches, reach } = &mut self.factors[batch];
        wide.add[lane] = code.add;
        wide.rescale[lane] = code.gain;
        wide.error[lane] = code.error;
        reaches[lane] = code.reach;
        *reach = reach.max(code.reach);
    }

    /// Signs of a batch, as kernels want them.
    #[inline]
    pub(super) fn signs(&self, batch: usize) -> &[u8] {
        self.signs[batch * self.blocks..][..self.blocks].as_bytes()
    }

    #[inline]
    pub(super) fn factors(&self, batch: usize) -> &Factors {
        &self.factors[batch]
    }

    pub(super) fn memory_bytes(&self) -> usize {
        size_of_val(&self.signs[..]) + size_of_val(&self.factors[..])
    }
}
