//! Vectors of points where they lie, as they were sent: for scans, which compare many of them with a query.

use shoal_model::Metric;
use zerocopy::IntoBytes;

use super::blocks::Blocks;
use super::form::Form;
use super::frozen::Segment;
use super::layout::Precision;
use super::row_sums::{self, RowSums};
use crate::kernels::{Component, Kernels, Query};

/// The vectors of a segment.
#[derive(Clone, Copy)]
pub(crate) struct Sent<'a> {
    metric: Metric,
    dim: usize,
    form: Form<'a>,
    vectors: Vectors<'a>,
    component: Component,
    sums: &'a [RowSums],
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
        let component = match (&vectors, self.precision()) {
            (Vectors::Blocks(_), Precision::F16) => Component::F16,
            (Vectors::Blocks(_), Precision::U8) => Component::U8,
            _ => Component::F32,
        };
        let (form, sums) = (self.form(), self.row_sums());
        Sent { metric: self.metric(), dim: self.space.dim(), form, vectors, component, sums, reach }
    }
}

impl<'a> Sent<'a> {
    /// A vector's inner product with the query, or squared distance to it, and what must be known of the vector to bound that:
    /// the inverse of its length for cosine, no less than its length for dot. `None` if it is not what was written.
    ///
    /// # Panics
    /// If there is no such point.
    #[inline]
    pub(crate) fn compare(&self, kernels: Kernels, query: &Query, offset: u32) -> Option<(f32, f32)> {
        let row = self.row(offset);
        let (compared, row_sum) = match self.metric {
            Metric::Euclidean => kernels.squared_euclidean_and_sum(query, row, self.component),
            Metric::Cosine | Metric::Dot => kernels.dot_and_sum(query, row, self.component),
        };
        let scale = row_sums::bounding_scale(self.metric, || self.form.vector_scale(offset));
        let is_sound = row_sums::of_vector(row_sum, scale, offset) == self.sums[offset as usize].vector;
        is_sound.then_some((compared, if self.metric == Metric::Dot { self.reach } else { scale }))
    }

    /// Whether a vector is what was written, and what bounds its distance.
    pub(crate) fn is_sound(&self, offset: u32) -> bool {
        let scale = row_sums::bounding_scale(self.metric, || self.form.vector_scale(offset));
        let row_sum = Kernels::best().row_sum(self.row(offset));
        row_sums::of_vector(row_sum, scale, offset) == self.sums[offset as usize].vector
    }

    /// A vector as it lies in the file.
    #[inline]
    fn row(&self, offset: u32) -> &'a [u8] {
        match self.vectors {
            Vectors::Blocks(blocks) => &blocks.block(offset)[blocks.layout().row()],
            Vectors::Stored(vectors) => vectors[offset as usize * self.dim..][..self.dim].as_bytes(),
        }
    }
}
