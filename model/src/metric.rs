//! How the nearness of two vectors is measured, and which way a score points.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

/// How nearness is measured.
///
/// The *score* that users see is the quantity itself: the cosine and the inner product grow with nearness,
/// the euclidean distance shrinks. [`Metric::compare`] is the one place that knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Metric {
    /// Cosine of the angle, −1 to 1; higher is nearer. Vectors need not be normalised, but must have a direction.
    Cosine,
    /// Inner product; higher is nearer.
    Dot,
    /// Root of the sum of squared differences; lower is nearer.
    Euclidean,
}

impl Metric {
    /// Whether a higher score is nearer.
    #[must_use]
    pub const fn higher_is_nearer(self) -> bool {
        !matches!(self, Self::Euclidean)
    }

    /// Orders scores nearest first. A NaN, which no kernel returns for checked vectors, comes last.
    #[must_use]
    pub fn compare(self, a: f32, b: f32) -> Ordering {
        let nearest_first = if self.higher_is_nearer() { b.total_cmp(&a) } else { a.total_cmp(&b) };
        a.is_nan().cmp(&b.is_nan()).then(nearest_first)
    }

    /// The name used in commands and configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cosine => "cosine",
            Self::Dot => "dot",
            Self::Euclidean => "euclidean",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_comes_first_and_nan_last() {
        for (metric, want) in
            [(Metric::Cosine, [3.0, 1.0, -2.0]), (Metric::Dot, [3.0, 1.0, -2.0]), (Metric::Euclidean, [-2.0, 1.0, 3.0])]
        {
            let mut scores = [1.0, f32::NAN, 3.0, -f32::NAN, -2.0];
            scores.sort_by(|a, b| metric.compare(*a, *b));
            assert_eq!(scores[..3], want, "{metric:?}");
            assert!(scores[3..].iter().all(|s| s.is_nan()), "{metric:?}");
        }
    }
}
