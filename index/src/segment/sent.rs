//! Vectors of points where they lie, as they were sent: for scans, which compare many of them with a query.

use shoal_model::Metric;
use zerocopy::IntoBytes;

use super::blocks::{Blocks, Row, row};
use super::form::Form;
use super::frozen::Segment;
use super::row_sums::{self, RowSums};

/// The vectors of a segment.
#[derive(Clone, Copy)]
pub(crate) struct Sent<'a> {
    metric: Metric,
    dim: usize,
    form: Form<'a>,
    vectors: Vectors<'a>,
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
        let (form, sums) = (self.form(), self.row_sums());
        Sent { metric: self.metric(), dim: self.space.dim(), form, vectors, sums, reach }
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
            Vectors::Stored(_) => Row::F32(self.stored(offset)),
        };
        (vector, scale)
    }

    /// Whether what [`Sent::get`] gives is what was written.
    #[inline]
    pub(crate) fn is_sound(&self, offset: u32) -> bool {
        let bytes = match self.vectors {
            Vectors::Blocks(blocks) => &blocks.block(offset)[blocks.layout().row()],
            Vectors::Stored(_) => self.stored(offset).as_bytes(),
        };
        row_sums::of_vector(bytes, self.form.vector_scale(offset), offset) == self.sums[offset as usize].vector
    }

    fn stored(&self, offset: u32) -> &'a [f32] {
        match self.vectors {
            Vectors::Stored(vectors) => &vectors[offset as usize * self.dim..][..self.dim],
            Vectors::Blocks(_) => &[],
        }
    }
}
