//! Vectors of points where they lie, as they were sent: for scans, which compare many of them with a query.

use shoal_model::Metric;

use super::blocks::{Blocks, Row, row};
use super::form::Form;
use super::frozen::Segment;

/// The vectors of a segment.
#[derive(Clone, Copy)]
pub(crate) struct Sent<'a> {
    metric: Metric,
    dim: usize,
    form: Form<'a>,
    vectors: Vectors<'a>,
    /// No less than the length of any of them, for dot.
    reach: f32,
}

/// Where they lie.
#[derive(Clone, Copy)]
enum Vectors<'a> {
    Blocks(Blocks<'a>),
    /// One after the other, where blocks have lost some of them.
    Stored(&'a [f32]),
}

impl Segment {
    /// The vectors of all points.
    pub(crate) fn sent(&self) -> Sent<'_> {
        #[allow(clippy::cast_possible_truncation, reason = "rounded up")]
        let reach = (self.space.reach() as f32).next_up();
        let vectors = match self.form() {
            Form::Full(blocks) if self.is_lossless() => Vectors::Blocks(blocks),
            _ => Vectors::Stored(self.stored_vectors()),
        };
        Sent { metric: self.metric(), dim: self.space.dim(), form: self.form(), vectors, reach }
    }
}

impl<'a> Sent<'a> {
    /// A vector, padded with zeros or not, and what must be known of it to bound its distance: the inverse of its length for
    /// cosine, no less than its length for dot.
    ///
    /// # Panics
    /// If there is no such point.
    #[inline]
    pub(crate) fn get(&self, offset: u32) -> (Row<'a>, f32) {
        let scale = match self.metric {
            Metric::Cosine => self.form.vector_scale(offset),
            Metric::Dot => self.reach,
            Metric::Euclidean => 0.0,
        };
        let vector = match self.vectors {
            Vectors::Blocks(blocks) => row(blocks.layout(), blocks.block(offset)),
            Vectors::Stored(vectors) => Row::F32(&vectors[offset as usize * self.dim..][..self.dim]),
        };
        (vector, scale)
    }
}
