//! Walks for points that are known, over a graph that is not written yet: how hard to look for a wanted recall.

use super::blocks::Blocks;
use super::calibration::{self, Sample};
use super::entries;
use super::form::Form;
use super::place::Place;
use super::queue::Waiting;
use super::walk::{Cancelled, Scratch};
use crate::graph::Points;

/// Walks for points that are known, to find out how hard to look.
pub(super) struct Trial<'a, N> {
    pub(super) points: &'a Points,
    pub(super) form: Form<'a>,
    /// The point that an offset of the form means.
    pub(super) name: N,
    /// Offsets of the form.
    pub(super) queries: Vec<u32>,
    /// Likewise.
    pub(super) entries: Vec<u32>,
    pub(super) stop: &'a (dyn Fn() -> bool + Sync),
}

impl<N: Fn(u32) -> u32 + Sync> Trial<'_, N> {
    /// What walks among all points take, and what those among one in [`calibration::SPARSE`] take.
    pub(super) fn run(&self) -> Result<[Vec<Sample>; 2], Cancelled> {
        let Self { points, form, name, .. } = self;
        let layout = entries::layout(points.space().dims());
        let padded_dims = points.rotation().padded_dim();
        let entries = entries::write(&layout, padded_dims, &self.entries, |offset| points.rotated(name(offset)));
        let entries = Blocks::new(&layout, &entries);
        let distance = |place: &Place, offset: u32| {
            if form.is_coded() {
                place.distance_of(points.vector(name(offset)), form.vector_scale(offset))
            } else {
                form.distance(place, offset)
            }
        };
        let ask = |place: &mut Place, own: u32| {
            place.set(points.space(), points.rotation(), points.center(), points.vector(name(own)));
            place.narrow();
        };
        // Queries of callers have no point of their own whose links lead to all that is near; only a segment so small
        // that every point is an entry starts from it.
        let starts = |scratch: &Scratch, own| -> Vec<Waiting> {
            let entry = entries::nearest(entries, &scratch.place).map(Waiting::start);
            entry.into_iter().chain([Waiting::never(own)]).collect()
        };
        let settle = |scratch: &mut Scratch| {
            if form.is_coded() {
                form.refine(scratch, calibration::K, |_| (), |place, near| distance(place, near.offset));
            }
        };
        let all: Vec<u32> = (0..).take(points.len()).collect();
        let walk = |scratch: &mut Scratch, own, breadth| {
            let starts = starts(scratch, own);
            let path = form.walk(scratch, &starts, breadth, |_| 1.0, |offset| offset != own, self.stop)?;
            settle(scratch);
            Ok(path.visited)
        };
        let walks = calibration::measure(&all, &self.queries, ask, distance, walk, self.stop)?;
        // Near points stand together, so each region has its share.
        let is_sparse = |offset: u32| name(offset).is_multiple_of(calibration::SPARSE);
        let sparse: Vec<u32> = all.into_iter().filter(|offset| is_sparse(*offset)).collect();
        let few = &self.queries[..self.queries.len().min(calibration::QUERIES_AMONG)];
        let walk_among = |scratch: &mut Scratch, own, breadth| {
            let starts = starts(scratch, own);
            let wanted = |offset| offset != own && is_sparse(offset);
            let path = form.walk_among(scratch, &starts, breadth, wanted, self.stop)?;
            settle(scratch);
            Ok(path.visited)
        };
        let among = calibration::measure(&sparse, few, ask, distance, walk_among, self.stop)?;
        Ok([walks, among])
    }
}
