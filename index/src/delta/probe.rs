//! What codes tell of a query: how near each row is, about, and which rows may be nearer than that.
//!
//! The error of an estimate is a fixed vector of each row, at right angles to its residual `r`, times the query. After
//! a random rotation that product scatters like a normal variable, by `e` for each unit that the query lies off the
//! line of `r`. A row may be among the nearest if its estimate and some such deviations reach the floor. How far
//! off the query can lie follows from the floor itself: the line of `r` passes through the row, so for a row nearer
//! than the floor it is at most that distance, where the distance to the centre may be many times it.
//!
//! So a row has a *ceiling*: the highest floor that its estimate and deviations reach, by which its code says that it is
//! no nearer. A row that is, which is rare, counts as being just there, whoever asks: a search is for the rows whose nearness, or
//! ceiling where that is less, is highest. No floor that comes of these turns away a row that belongs to the answer, so the answer
//! depends on query and rows alone, not on their order, nor on what was looked at first, by how many threads.
//!
//! Source: Gao and Long, RaBitQ, arXiv 2405.12497, theorem 3.2, with the query's part across the residual in place of
//! its whole length.

use shoal_model::Metric;

use super::center::Placed;
use super::codes::{Codes, Factors, Frame, LENGTHS};
use crate::kernels::{Aim, BATCH, Kernels, Lut};

/// Deviations that an estimate is given. A normal variable exceeds 4 once in 31,000 times, and a row is lost only if
/// its error does so *and* it is hardly nearer than the k-th. Of 1.5 million of the ten nearest, over all metrics and 1
/// to 784 dimensions, none was lost; with 3 it is one in 13,000. Each unit more doubles the rows to compare.
pub(super) const SIGMAS_SURE: f32 = 4.0;

/// Likewise, for searches that want less than all: one in some 2,500 of the hundred nearest is lost, fewer of the ten. With 2.5
/// it is one in 1,300.
pub(super) const SIGMAS_LIKELY: f32 = 2.7;

/// A query, ready to be held against codes.
///
/// Nearness is halved for euclidean: minus half the squared distance.
#[derive(Debug)]
pub(super) struct Probe {
    kernels: Kernels,
    metric: Metric,
    lut: Lut,
    aim: Aim,
    square: f32,
    /// `a` in the formula of [`super::codes`]; 0 if the centre is zero, as it means nothing then.
    weight: f32,
    /// Square of the query's distance from the centre, or from `a` times the centre.
    across_square: f32,
    /// Deviations that an estimate is given.
    sigmas: f32,
    /// What the tables' rounding adds to the square of what lies across.
    noise_square: f32,
}

impl Probe {
    /// `query` is of unit length for cosine. `None` if codes cannot tell anything of it.
    #[allow(clippy::cast_possible_truncation, reason = "what does not fit is not within the lengths")]
    pub(super) fn new(metric: Metric, frame: &Frame, query: &[f32], sigmas: f32) -> Option<Self> {
        let Frame { rotation, center, rounding } = frame;
        let kernels = Kernels::best();
        let mut rotated = vec![0.0; rotation.padded_dim()];
        rotation.rotate(query, &mut rotated);
        // In `f64`, as sums of `f32` are not the same on every instruction set.
        let square = kernels.dot_and_square_f64(&rotated, &rotated).1 as f32;
        let length = square.sqrt();
        if !LENGTHS.contains(&length) {
            return None;
        }
        let (aim, weight, across_square) = match (metric, center) {
            (Metric::Euclidean, _) => {
                let away = |center: &Placed| kernels.squared_euclidean_f64(&rotated, &center.place) as f32;
                let across_square = center.as_ref().map_or(square, away);
                (Aim { base: 1.5 * rounding * square - 0.5 * across_square, weight: 1.0 }, 1.0, across_square)
            }
            (_, None) => (Aim { base: 0.0, weight: rounding * length }, 0.0, square),
            (_, Some(Placed { center, place, square: place_square })) => {
                // Rows and query are then of a length, and the query lies about as far from the centre as rows do.
                let weight = length / center.length;
                let base = kernels.dot_and_square_f64(&rotated, place).0 as f32;
                let across_square = square - 2.0 * weight * base + weight * weight * place_square;
                (Aim { base, weight }, weight, across_square)
            }
        };
        let mut lut = Lut::default();
        lut.fill(&rotated);
        // A row's error is at least half of its gain, which multiplies the sum.
        let noise = 2.0 * lut.deviation();
        let noise_square = noise * noise;
        Some(Self { kernels, metric, lut, aim, square, weight, across_square, sigmas, noise_square })
    }

    /// Estimates of the nearness of the 32 rows of a batch.
    #[inline]
    pub(super) fn estimate(&self, codes: &Codes, batch: usize, out: &mut [f32; BATCH]) {
        self.kernels.estimate_wide32(codes.signs(batch), &self.lut, &codes.factors(batch).wide, self.aim, out);
    }

    /// Which rows of a batch, estimated as in `estimates`, may have a ceiling of at least `floor`: all that have, and hardly
    /// others.
    #[inline]
    pub(super) fn within(&self, factors: &Factors, estimates: &[f32; BATCH], floor: f32) -> u32 {
        let spread = self.spread(factors.reach, floor);
        self.kernels.within32(estimates, &factors.wide.error, spread, floor)
    }

    /// The ceiling of a row of a batch, if it is less than `high`; else something that is not.
    pub(super) fn ceiling(&self, factors: &Factors, lane: usize, estimate: f32, high: f64) -> f64 {
        let (error, reach) = (factors.wide.error[lane], factors.reaches[lane]);
        let reaches = |floor: f32| estimate + error * self.spread(reach, floor) >= floor;
        let double = self.metric == Metric::Euclidean;
        #[allow(clippy::cast_possible_truncation, reason = "rounding is made up for")]
        let above = ((if double { 0.5 * high } else { high }) as f32).next_up();
        // What is not a number is not turned away, here as in the kernels.
        if above.is_nan() || reaches(above) {
            return f64::INFINITY;
        }
        let ceiling = f64::from(highest(reaches, above));
        if double { 2.0 * ceiling } else { ceiling }
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

    /// Deviations allowed, times the most that the query lies off the line of the residual of a row at least as near as
    /// `floor`, and of at most that `reach`.
    ///
    /// Falls as the floor rises, and rises with the reach. Each step of the arithmetic does, as roundings keep an order: so a
    /// batch may be asked with its longest reach, and a ceiling searched for by halves.
    #[inline]
    fn spread(&self, reach: f32, floor: f32) -> f32 {
        let to_row_square = match self.metric {
            Metric::Euclidean => -2.0 * floor,
            Metric::Cosine | Metric::Dot if self.weight > 0.0 => {
                let scaled = self.weight * reach;
                self.square - 2.0 * self.weight * floor + scaled * scaled
            }
            // The residual is the row: what of the query lies along it is told by their product.
            Metric::Cosine | Metric::Dot => {
                let along = (floor / reach).max(0.0);
                self.square - along * along
            }
        };
        self.sigmas * (self.across_square.min(to_row_square).max(0.0) + self.noise_square).sqrt()
    }
}

/// The highest number below `above` that `reaches`, as all lower ones do; the lowest if none does.
fn highest(reaches: impl Fn(f32) -> bool, above: f32) -> f32 {
    // Halves what is between in the order of all numbers, which is that of their bits but for the sign.
    let ordered = |number: f32| {
        let bits = number.to_bits().cast_signed();
        bits ^ ((bits >> 31).cast_unsigned() >> 1).cast_signed()
    };
    let number =
        |ordered: i32| f32::from_bits((ordered ^ ((ordered >> 31).cast_unsigned() >> 1).cast_signed()).cast_unsigned());
    let (mut low, mut high) = (ordered(f32::MIN), ordered(above));
    while high - 1 > low {
        let middle = low.midpoint(high);
        if reaches(number(middle)) { low = middle } else { high = middle }
    }
    number(low)
}
