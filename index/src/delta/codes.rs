//! 1-bit codes of rows, written as rows come: 32 of them lie in a batch that is scanned at once.
//!
//! A code stands for the residual `r = x - c` of a rotated row from the centre of its chunk; a row is of unit length
//! for cosine. With `g` and the signs `s` of `crate::quantize`, and `q` the query, rotated alike,
//!
//! ```text
//! <x, q>           =  <c, q> + a t + g sum(s_i q_i)  +- e |q - a c|,    t = (|x|^2 - |c|^2 - add) / 2
//! -|x - q|^2 / 2   =  -|c - q|^2 / 2 - add / 2 + g sum(s_i q_i)  +- e |q - c|
//! ```
//!
//! for any number `a`, with `add` as `crate::quantize` has it and `e` the standard deviation for each unit of length
//! across the residual. The first is for cosine and dot, the second for euclidean: one kernel computes both.

use std::ops::RangeInclusive;
use std::sync::Arc;

use shoal_model::Metric;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::center::{Center, Mean};
use crate::kernels::{BATCH, BLOCK_BYTES, BLOCK_DIMS, Kernels, Wide};
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

/// The writer's means to encode.
#[derive(Debug)]
pub(super) struct Coder {
    metric: Metric,
    rotation: Arc<Rotation>,
    /// Of the rows that come now.
    center: Arc<Center>,
    mean: Mean,
    rotated: Vec<f32>,
    bits: Vec<u64>,
}

/// What is kept of a row.
#[derive(Debug)]
pub(super) struct Code<'a> {
    bits: &'a [u64],
    add: f32,
    rescale: f32,
    error: f32,
    reach: f32,
}

impl Coder {
    /// `None` for dimensions without codes.
    pub(super) fn new(dim: u32, metric: Metric) -> Option<Self> {
        if dim > DIM_MAX {
            return None;
        }
        let rotation = Arc::new(Rotation::new(dim, SEED));
        let padded = rotation.padded_dim();
        Some(Self {
            metric,
            rotation,
            center: Arc::new(Center::origin(padded)),
            mean: Mean::new(padded),
            rotated: vec![0.0; padded],
            bits: vec![0; padded / BLOCK_DIMS],
        })
    }

    pub(super) fn rotation(&self) -> &Arc<Rotation> {
        &self.rotation
    }

    /// Room for the codes of a new chunk of `rows`, around the centre of the rows that came of late.
    pub(super) fn open(&mut self, rows: usize) -> Codes {
        if let Some(center) = self.mean.take_if_ripe() {
            self.center = Arc::new(center);
        }
        Codes::new(self.center.clone(), self.bits.len(), rows)
    }

    /// The code of a row for the chunk that was opened last. `scale` is the inverse of its length for cosine.
    pub(super) fn encode(&mut self, vector: &[f32], scale: f32) -> Code<'_> {
        let Self { metric, rotation, center, mean, rotated, bits } = self;
        rotation.rotate(vector, rotated);
        if *metric == Metric::Cosine {
            rotated.iter_mut().for_each(|c| *c *= scale);
        }
        let [square] = Kernels::best().dot(rotated, [rotated]);
        let length = square.sqrt();
        if LENGTHS.contains(&length) {
            mean.add(rotated, length);
        }
        let factors = quantize::encode(rotated, center.place(), bits);
        let (gain, deviation) = (-0.5 * factors.rescale, 0.5 * factors.error);
        let add = match metric {
            Metric::Euclidean => -0.5 * factors.add,
            Metric::Cosine | Metric::Dot => 0.5 * (square - center.square() - factors.add),
        };
        let reach = length.max(center.square().sqrt());
        if reach == 0.0 || LENGTHS.contains(&reach) {
            Code { bits, add, rescale: gain, error: deviation.max(0.5 * gain), reach }
        } else {
            Code { bits, add: 0.0, rescale: 0.0, error: f32::INFINITY, reach: 0.0 }
        }
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
    /// No less than the length of any row whose error is finite, and that of the centre.
    pub(super) reach: f32,
}

/// Codes of the rows of a chunk.
#[derive(Clone, Debug)]
pub(super) struct Codes {
    center: Arc<Center>,
    /// Blocks of signs of a batch.
    blocks: usize,
    signs: Vec<Signs>,
    factors: Vec<Factors>,
}

impl Codes {
    fn new(center: Arc<Center>, blocks: usize, rows: usize) -> Self {
        let batches = rows.div_ceil(BATCH);
        let factors = Factors { wide: Wide::NONE, reach: 0.0 };
        Self { center, blocks, signs: vec![Signs([0; BLOCK_BYTES]); batches * blocks], factors: vec![factors; batches] }
    }

    /// Writes the code of a row.
    pub(super) fn put(&mut self, row: usize, code: &Code<'_>) {
        let (batch, lane) = (row / BATCH, row % BATCH);
        let signs = &mut self.signs[batch * self.blocks..][..self.blocks];
        quantize::insert(signs.as_mut_bytes(), lane, code.bits);
        let Factors { wide, reach } = &mut self.factors[batch];
        wide.add[lane] = code.add;
        wide.rescale[lane] = code.rescale;
        wide.error[lane] = code.error;
        *reach = reach.max(code.reach);
    }

    pub(super) fn center(&self) -> &Arc<Center> {
        &self.center
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
