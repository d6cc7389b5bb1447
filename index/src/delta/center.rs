//! Where rows lie on average. Codes of residuals from there say more than codes of the rows themselves.
//!
//! Embeddings share a direction, pixels are never negative: of what a row has in common with all others, a code need
//! not tell. Around their mean, codes of 20,000 images leave half as many rows to be compared as around zero, codes of
//! 20,000 texts three quarters.
//!
//! A centre is given with a delta and stays: were it to follow the rows as they come, codes would tell of the order in which they
//! came, and of two replicas of the same rows each would miss others.

use shoal_model::Metric;

use super::codes::LENGTHS;
use crate::kernels::Kernels;
use crate::rotation::Rotation;

/// A place that codes of a delta are made around.
#[derive(Clone, Debug, PartialEq)]
pub struct Center {
    /// As many components as the delta has dimensions.
    pub mean: Vec<f32>,
    /// Mean length of the rows it was made of.
    pub length: f32,
}

impl Center {
    /// That of some rows, of unit length for cosine; `None` if none is of a length that codes can tell of, or their mean is
    /// not.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "thousands of rows; means of `f32`"
    )]
    pub(super) fn of<'a>(metric: Metric, dim: u32, rows: impl Iterator<Item = &'a [f32]>) -> Option<Self> {
        let (mut sum, mut lengths, mut count) = (vec![0.0; dim as usize], 0.0, 0.0);
        for row in rows {
            let length = Kernels::best().dot_and_square_f64(row, row).1.sqrt();
            if !LENGTHS.contains(&(length as f32)) {
                continue;
            }
            let scale = if metric == Metric::Cosine { 1.0 / length } else { 1.0 };
            sum.iter_mut().zip(row).for_each(|(sum, component)| *sum += scale * f64::from(*component));
            (lengths, count) = (lengths + scale * length, count + 1.0);
        }
        let mean = sum.iter().map(|sum| (sum / count) as f32).collect();
        let center = Self { mean, length: (lengths / count) as f32 };
        center.is_of_use().then_some(center)
    }

    /// Whether codes can be made around it: all of it is finite, and of a length that they can tell of.
    #[must_use]
    pub fn is_of_use(&self) -> bool {
        let square = Kernels::best().dot_and_square_f64(&self.mean, &self.mean).1;
        #[allow(clippy::cast_possible_truncation, reason = "what does not fit is not within the lengths")]
        let length = square.sqrt() as f32;
        LENGTHS.contains(&length) && LENGTHS.contains(&self.length)
    }
}

/// A centre as codes are: rotated.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) center: Center,
    /// Rotated.
    pub(super) place: Vec<f32>,
    /// Its squared length.
    pub(super) square: f32,
}

impl Placed {
    /// # Panics
    /// If it is of another dimension.
    pub(super) fn new(center: Center, rotation: &Rotation) -> Self {
        let mut place = vec![0.0; rotation.padded_dim()];
        rotation.rotate(&center.mean, &mut place);
        #[allow(clippy::cast_possible_truncation, reason = "of a centre that is of use, it fits")]
        let square = Kernels::best().dot_and_square_f64(&place, &place).1 as f32;
        Self { center, place, square }
    }
}
