//! What codes tell of a query: how near each row is, about, and which rows may be nearer than that.
//!
//! The error of an estimate is a fixed vector of each row, at right angles to its residual `r`, times the query. After
//! a random rotation that product scatters like a normal variable, by `e` for each unit that the query lies off the
//! line of `r`. A row may be among the nearest if its estimate and some such deviations reach the floor. How far
//! off the query can lie follows from the floor itself: the line of `r` passes through the row, so for a row nearer
//! than the floor it is at most that distance, where the distance to the centre may be many times it.
//!
//! Source: Gao and Long, RaBitQ, arXiv 2405.12497, theorem 3.2, with the query's part across the residual in place of
//! its whole length.

use std::sync::Arc;

use shoal_model::Metric;

use super::center::Center;
use super::codes::{Codes, Factors, LENGTHS};
use crate::kernels::{Aim, BATCH, Kernels, Lut, rounding_error};
use crate::rotation::Rotation;

/// Deviations that an estimate is given. A normal variable exceeds 4 once in 31,000 times, and a row is lost only if
/// its error does so *and* it is hardly nearer than the k-th. Of 1.5 million of the ten nearest, over all metrics and 1
/// to 784 dimensions, none was lost; with 3 it is one in 13,000. Each unit more doubles the rows to compare.
pub(super) const SIGMAS_SURE: f32 = 4.0;

/// Likewise, for searches that want less than all: one in 1,800 was lost.
pub(super) const SIGMAS_LIKELY: f32 = 2.5;

/// Share of the lengths involved that roundings of rotation, factors and estimate come to at most, over that of a sum.
const ROUNDING: f64 = 4.0;

/// A query, ready to be held against codes.
///
/// Nearness is halved for euclidean: minus half the squared distance.
#[derive(Debug)]
pub(super) struct Probe {
    kernels: Kernels,
    metric: Metric,
    rotated: Vec<f32>,
    lut: Lut,
    square: f32,
    length: f32,
    /// Deviations that an estimate is given.
    sigmas: f32,
    /// What the tables' rounding adds to the square of what lies across.
    noise_square: f32,
    rounding: f32,
}

/// A probe seen from a centre.
#[derive(Clone, Debug)]
pub(super) struct Sight {
    center: Arc<Center>,
    /// `a` in the formula of [`super::codes`].
    weight: f32,
    base: f32,
    /// Square of the query's distance from the centre, or from `a` times the centre.
    across_square: f32,
}

impl Probe {
    /// `query` is of unit length for cosine. `None` if codes cannot tell anything of it.
    pub(super) fn new(metric: Metric, rotation: &Rotation, query: &[f32], sigmas: f32) -> Option<Self> {
        let kernels = Kernels::best();
        let mut rotated = vec![0.0; rotation.padded_dim()];
        rotation.rotate(query, &mut rotated);
        let [square] = kernels.dot(&rotated, [&rotated]);
        let length = square.sqrt();
        if !LENGTHS.contains(&length) {
            return None;
        }
        let mut lut = Lut::default();
        lut.fill(&rotated);
        // A row's error is at least half of its gain, which multiplies the sum.
        let noise = 2.0 * lut.deviation();
        #[allow(clippy::cast_possible_truncation, reason = "a small positive number")]
        let rounding = (ROUNDING * rounding_error(rotated.len(), 64).relative) as f32;
        Some(Self { kernels, metric, rotated, lut, square, length, sigmas, noise_square: noise * noise, rounding })
    }

    /// What is the same for all chunks around one centre. Keeps `last` if it is of that centre.
    #[inline]
    pub(super) fn sight(&self, center: &Arc<Center>, last: Option<Sight>) -> Sight {
        match last {
            Some(last) if Arc::ptr_eq(&last.center, center) => last,
            _ => self.look_from(center.clone()),
        }
    }

    fn look_from(&self, center: Arc<Center>) -> Sight {
        if self.metric == Metric::Euclidean {
            let [across_square] = self.kernels.squared_euclidean(&self.rotated, [center.place()]);
            return Sight { center, weight: 1.0, base: -0.5 * across_square, across_square };
        }
        // Rows and query are then of a length, and the query lies about as far from the centre as rows do.
        let weight = if center.length() > 0.0 { self.length / center.length() } else { 0.0 };
        let [base] = self.kernels.dot(&self.rotated, [center.place()]);
        let across_square = self.square - 2.0 * weight * base + weight * weight * center.square();
        Sight { center, weight, base, across_square }
    }

    /// Estimates of the nearness of the 32 rows of a batch.
    #[inline]
    pub(super) fn estimate(&self, sight: &Sight, codes: &Codes, batch: usize, out: &mut [f32; BATCH]) {
        let Factors { wide, reach } = codes.factors(batch);
        let aim = Aim { base: sight.base + self.slack(sight, *reach), weight: sight.weight };
        self.kernels.estimate_wide32(codes.signs(batch), &self.lut, wide, aim, out);
    }

    /// Which rows of a batch, estimated as in `estimates`, may be at least as near as `floor`.
    #[inline]
    pub(super) fn within(&self, sight: &Sight, factors: &Factors, estimates: &[f32; BATCH], floor: f32) -> u32 {
        let spread = self.spread(sight, factors.reach, floor);
        self.kernels.within32(estimates, &factors.wide.error, spread, floor)
    }

    /// Which estimates are at least `floor`.
    #[inline]
    pub(super) fn at_least(&self, estimates: &[f32; BATCH], floor: f32) -> u32 {
        self.kernels.at_least32(estimates, floor)
    }

    /// A nearness as this probe has it, rounded down, and never minus infinity.
    pub(super) fn floor(&self, nearness: f64) -> f32 {
        let nearness = if self.metric == Metric::Euclidean { 0.5 * nearness } else { nearness };
        #[allow(clippy::cast_possible_truncation, reason = "rounding is made up for")]
        let floor = (nearness as f32).next_down();
        floor.max(f32::MIN)
    }

    /// More than all roundings of an estimate can come to.
    fn slack(&self, sight: &Sight, reach: f32) -> f32 {
        let square = if self.metric == Metric::Euclidean { self.square } else { 0.0 };
        self.rounding * (square + reach * (self.length + sight.weight * reach))
    }

    /// Deviations allowed, times the most that the query lies off the line of the residual of a row at least as near as
    /// `floor`.
    fn spread(&self, sight: &Sight, reach: f32, floor: f32) -> f32 {
        let to_row_square = match self.metric {
            Metric::Euclidean => -2.0 * floor,
            Metric::Cosine | Metric::Dot => {
                let scaled = sight.weight * reach;
                self.square - 2.0 * sight.weight * floor + scaled * scaled
            }
        };
        self.sigmas * (sight.across_square.min(to_row_square).max(0.0) + self.noise_square).sqrt()
    }
}
