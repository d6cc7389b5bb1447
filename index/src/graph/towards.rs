//! Walks to a point of the graph itself.

use shoal_model::Metric;

use super::points::Points;
use crate::segment::{Aid, Blocks, DEGREE, Place, Seen, Steps};

/// The blocks of a graph that is being made, as a walk to `own` reads them.
///
/// Under the dot product a point has a component beside those of its row, which makes all places equally long. A query
/// has none there, a point has, so rows do not tell how far two points are from each other; their codes do.
#[derive(Clone, Copy)]
pub(super) struct Towards<'a> {
    pub(super) blocks: Blocks<'a>,
    pub(super) points: &'a Points,
    pub(super) own: u32,
}

impl Steps for Towards<'_> {
    fn len(&self) -> usize {
        self.blocks.len()
    }

    #[inline]
    fn prefetch(&self, offset: u32) {
        self.blocks.prefetch(offset);
    }

    #[inline]
    fn distance(&self, place: &Place, offset: u32) -> f32 {
        match self.points.space().metric() {
            Metric::Dot => self.points.distance(self.own, offset),
            _ => self.blocks.distance(place, offset),
        }
    }

    #[inline]
    fn links(&self, offset: u32) -> &[u32; DEGREE] {
        self.blocks.links(offset)
    }

    #[inline]
    fn estimate(&self, place: &Place, aid: &mut Aid, seen: &Seen, offset: u32, distance: f32, out: &mut [f32; DEGREE]) {
        self.blocks.estimate(place, aid, seen, offset, distance, out);
    }
}
