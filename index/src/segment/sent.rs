//! Vectors of points where they lie, as they were sent: for scans, which compare many of them with a query.

use shoal_model::Metric;

use super::blocks::{Blocks, Row, row};
use super::frozen::{Segment, tag};

/// The vectors of a segment.
#[derive(Clone, Copy)]
pub(crate) struct Sent<'a> {
    metric: Metric,
    dim: usize,
    blocks: Blocks<'a>,
    /// All vectors, if blocks have lost some of them.
    stored: Option<&'a [f32]>,
    /// No less than the length of any of them, for dot.
    reach: f32,
}

impl Segment {
    /// The vectors of all points.
    pub(crate) fn sent(&self) -> Sent<'_> {
        #[allow(clippy::cast_possible_truncation, reason = "rounded up")]
        let reach = (self.space.reach() as f32).next_up();
        let stored = self.stored_image().table(tag::VECTORS).ok().filter(|_| !self.is_lossless());
        Sent { metric: self.metric(), dim: self.space.dim(), blocks: self.blocks(), stored, reach }
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
        let (layout, block) = (self.blocks.layout(), self.blocks.block(offset));
        let scale = match self.metric {
            Metric::Cosine => layout.head(block).row_scale,
            Metric::Dot => self.reach,
            Metric::Euclidean => 0.0,
        };
        let vector = self.stored.map(|vectors| Row::F32(&vectors[offset as usize * self.dim..][..self.dim]));
        (vector.unwrap_or_else(|| row(layout, block)), scale)
    }
}
