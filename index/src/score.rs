//! Scores that anyone can repeat: in `f64`, over the components as they were sent, the same bits on every machine.

use shoal_model::Metric;

use crate::kernels::Kernels;

/// A query to score rows against.
#[derive(Debug)]
pub(crate) struct Exact<'a> {
    kernels: Kernels,
    metric: Metric,
    query: &'a [f32],
    norm: f64,
}

impl<'a> Exact<'a> {
    pub(crate) fn new(metric: Metric, query: &'a [f32]) -> Self {
        let kernels = Kernels::best();
        Self { kernels, metric, query, norm: kernels.dot_and_square_f64(query, query).0.sqrt() }
    }

    /// The score as `shoal_model::Metric` documents it, rounded once, never a negative zero.
    pub(crate) fn score(&self, row: &[f32]) -> f32 {
        let score = match self.metric {
            Metric::Dot => self.kernels.dot_and_square_f64(self.query, row).0,
            Metric::Euclidean => self.kernels.squared_euclidean_f64(self.query, row).sqrt(),
            Metric::Cosine => {
                let (dot, square) = self.kernels.dot_and_square_f64(self.query, row);
                dot / (self.norm * square.sqrt())
            }
        };
        #[allow(clippy::cast_possible_truncation, reason = "rounding to f32 is meant")]
        let rounded = score as f32;
        rounded + 0.0
    }
}
