//! How near a row is: quickly within proven bounds, or exactly.
//!
//! The scan works in *nearness*, a number that grows as rows come nearer: the cosine, the inner product, or the
//! negative squared distance. [`Bound`] gives an interval that holds the nearness of every score the row can have
//! after all rounding, the final one to `f32` included. So a row whose interval ends below the low ends of `k` others
//! is not among the nearest `k`, not even by a tie, and everything else is settled by `crate::score`.

use std::borrow::Cow;

use shoal_model::Metric;

use crate::kernels::{Kernels, RoundingError, rounding_error};

/// Room for the roundings in `f64`, in computing the bounds themselves and in their second-order terms. The first
/// are 2^-53 a component against at least 2^-28 of `f32` bound a component; the last stay below 0.0003 in all.
const SLACK: f64 = 1.001;

/// Where the nearness of a row lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Interval {
    pub(super) low: f64,
    pub(super) high: f64,
}

impl Interval {
    /// Whether all of it lies below `floor`. An interval that is not a number lies nowhere.
    pub(super) fn is_below(self, floor: f64) -> bool {
        self.high < floor
    }

    /// Where the lesser of the nearness and `ceiling` lies.
    pub(super) fn capped(self, ceiling: f64) -> Self {
        if ceiling < self.high { Self { low: self.low.min(ceiling), high: ceiling } } else { self }
    }
}

/// What must be kept of a row's vector for [`Bound`]: the inverse of its length for cosine, no less than its
/// length for dot, nothing for euclidean.
pub(super) fn scale(metric: Metric, vector: &[f32]) -> f32 {
    #[allow(clippy::cast_possible_truncation, reason = "lengths of checked vectors and their inverses fit an f32")]
    match metric {
        Metric::Cosine => (1.0 / norm(vector)) as f32,
        Metric::Dot => (norm(vector) as f32).next_up(),
        Metric::Euclidean => 0.0,
    }
}

/// Bounds for the rows of one query.
#[derive(Debug)]
pub(crate) struct Bound<'a> {
    kernels: Kernels,
    metric: Metric,
    /// Of unit length for cosine.
    query: Cow<'a, [f32]>,
    /// Length of the query.
    norm: f64,
    error: RoundingError,
}

impl<'a> Bound<'a> {
    pub(crate) fn new(metric: Metric, query: &'a [f32]) -> Self {
        let norm = norm(query);
        // Roundings beyond those of the kernel's products, the last being the score's to f32:
        let extra = match metric {
            Metric::Cosine => 3,    // query component to unit length, inverse length of the row, score
            Metric::Dot => 1,       // score
            Metric::Euclidean => 4, // difference and score, each squared
        };
        #[allow(clippy::cast_possible_truncation, reason = "components of a unit vector")]
        let unit = || query.iter().map(|c| (f64::from(*c) / norm) as f32).collect();
        let query = if metric == Metric::Cosine { Cow::Owned(unit()) } else { Cow::Borrowed(query) };
        let error = rounding_error(query.len(), extra);
        Self { kernels: Kernels::best(), metric, norm, error, query }
    }

    /// The query, of unit length for cosine.
    pub(crate) fn query(&self) -> &[f32] {
        &self.query
    }

    /// Intervals of the nearness of rows, given with their [`scale`].
    #[inline]
    pub(super) fn intervals<const N: usize>(&self, rows: [&[f32]; N], scales: [f32; N]) -> [Interval; N] {
        let values = match self.metric {
            Metric::Cosine | Metric::Dot => self.kernels.dot(&self.query, rows),
            Metric::Euclidean => self.kernels.squared_euclidean(&self.query, rows),
        };
        std::array::from_fn(|i| self.interval(values[i], scales[i]))
    }

    /// The interval of a row of a [`scale`], for which a kernel gave `value`: its product with [`Bound::query`], or their
    /// squared distance.
    ///
    /// `sum(|q_i v_i|)`, which bounds the error of a product, is at most `|q| |v|`; squares are their own magnitude.
    #[inline]
    pub(crate) fn interval(&self, value: f32, scale: f32) -> Interval {
        let RoundingError { relative, absolute } = self.error;
        let (value, scale) = (f64::from(value), f64::from(scale));
        let (nearness, error) = match self.metric {
            Metric::Cosine => (value * scale, relative + absolute * scale),
            Metric::Dot => (value, relative * self.norm * scale + absolute),
            Metric::Euclidean => (-value, relative * value + absolute),
        };
        Interval { low: nearness - SLACK * error, high: nearness + SLACK * error }
    }

    /// The nearness that a row of this score has.
    pub(crate) fn nearness_of_score(metric: Metric, score: f32) -> f64 {
        let score = f64::from(score);
        match metric {
            Metric::Cosine | Metric::Dot => score,
            Metric::Euclidean if score < 0.0 => f64::INFINITY,
            // Never a negative zero, which would be another number in an order of all.
            Metric::Euclidean => 0.0 - score * score,
        }
    }

    /// The score of a row that is hardly farther than `nearness`, which is a number.
    #[allow(clippy::cast_possible_truncation, reason = "rounding is made up for")]
    pub(crate) fn score_beyond(metric: Metric, nearness: f64) -> f32 {
        match metric {
            Metric::Cosine | Metric::Dot => (nearness as f32).next_down(),
            Metric::Euclidean => ((-nearness).max(0.0).sqrt() as f32).next_up(),
        }
    }
}

fn norm(vector: &[f32]) -> f64 {
    vector.iter().fold(0.0, |sum, c| sum + f64::from(*c) * f64::from(*c)).sqrt()
}
