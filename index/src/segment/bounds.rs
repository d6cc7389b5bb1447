//! How far a scan of cells looks, so that it finds a wanted share of the nearest.
//!
//! A point `p` of a cell around `c`, and a query `q`: `|q - c|^2 = |q - p|^2 + |p - c|^2 + 2 <q - p, p - c>`. How near the
//! points of a cell may be so follows from how far its centre is, how wide it is, and how much less than at a right angle
//! the two ways meet. That angle does not depend on how far the nearest are, so neither does it on what share of the
//! points a filter lets through. The error of a sketch, too, is a share of `|q - c| |p - c|`. Both shares are measured at
//! build time: on sampled points, asked as queries, and their true neighbours among a sparse part of the others.

use rayon::prelude::*;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::cells::{self, Away, Cell};
use super::place::Place;
use super::sketch::{self, Planes};
use super::walk::Near;
use crate::graph::Points;

/// Neighbours looked for.
const K: usize = 10;

/// Points that are looked among, at first and then: filters let few through where cells are scanned, and where clusters
/// are dense, the nearest of very few lie in other cells, at other angles, than those of some.
const SPARSE: [usize; 2] = [2_000, 80];

/// Shares of the nearest for which bounds are kept.
const RECALLS: [f32; 14] = [0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1.0];

/// Share of the misses that are for want of scanned cells; the others have sketches that seem too far.
const CELL_MISSES: f32 = 0.4;

/// Bounds lie within: points that are equal to queries, and cells without width, have no angle.
const BOUND: f32 = 4.0;

/// How far to look for a share of the nearest.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Bounds {
    /// Share of the nearest that is found at least, on average.
    recall: f32,
    /// Cosine between the ways from query to point and from point to centre, at most.
    cell: f32,
    /// How much farther a sketch may make a point seem, in shares of the product of the ways from the centre to the
    /// query and to the point.
    point: f32,
}

/// Whether they are what [`Ground::measure`] returns: numbers that ascend.
pub(crate) fn check(all: &[Bounds]) -> bool {
    let sound = |b: &Bounds| b.recall.is_finite() && b.cell.abs() <= BOUND && b.point.abs() <= BOUND;
    all.iter().all(sound) && all.is_sorted_by(|a, b| a.recall < b.recall && a.cell <= b.cell && a.point <= b.point)
}

/// What finds a share of the nearest; everything if nothing was measured.
pub(crate) fn for_recall(all: &[Bounds], recall: f32) -> Bounds {
    let at = all.iter().position(|bounds| bounds.recall >= recall).or(all.len().checked_sub(1));
    let Some(at) = at else {
        return Bounds { recall: 1.0, cell: BOUND, point: BOUND };
    };
    let (after, before) = (all[at], all[at.saturating_sub(1)]);
    let rise = after.recall - before.recall;
    let share = if rise > 0.0 { ((recall - before.recall) / rise).clamp(0.0, 1.0) } else { 1.0 };
    let between = |of: fn(&Bounds) -> f32| of(&before) + share * (of(&after) - of(&before));
    Bounds {
        recall: between(|bounds| bounds.recall),
        cell: between(|bounds| bounds.cell),
        point: between(|bounds| bounds.point),
    }
}

/// What to look for so that a share is found by queries that are unlike points, and under filters that let through what
/// is far from them: half of the misses.
pub(crate) fn cautious(recall: f32) -> f32 {
    (1.0 + recall) / 2.0
}

impl Bounds {
    /// What both find.
    fn and(self, other: Self) -> Self {
        Self { recall: self.recall, cell: self.cell.max(other.cell), point: self.point.max(other.point) }
    }

    /// Least squared distance to expect of a point of a cell whose points are `radius` from its centre.
    ///
    /// It is where `x^2 + 2 cos radius x = center - radius^2`, the largest cosine given.
    #[inline]
    pub(crate) fn nearest_of_cell(&self, center: Away, radius: f32) -> f32 {
        let along = self.cell * radius;
        let beyond = center.distance - center.leeway - radius * radius;
        let nearest = (along * along + beyond).max(0.0).sqrt() - along;
        nearest.max(0.0) * nearest
    }

    /// How much nearer a point of a cell may be than its sketch makes it seem.
    #[inline]
    pub(crate) fn error(&self, center: Away, radius: f32) -> f32 {
        self.point * scale(center, radius)
    }
}

/// What errors of sketches are measured by.
#[inline]
fn scale(center: Away, radius: f32) -> f32 {
    center.distance.sqrt() * radius + center.leeway
}

/// What is measured on: points on their way into a segment, and their cells.
pub(crate) struct Ground<'a> {
    pub(crate) points: &'a Points,
    /// Points cell by cell, which is their order in the file.
    pub(crate) order: &'a [u32],
    /// As they will be in the file: centres are named by their place in `order`.
    pub(crate) cells: &'a [Cell],
    /// Likewise, with the codes of centres.
    pub(crate) sketches: &'a [u8],
    pub(crate) centers: &'a [u8],
}

/// What one true neighbour takes to be found.
#[derive(Clone, Copy, Debug)]
struct Need {
    cell: f32,
    point: f32,
}

impl Ground<'_> {
    /// Asks `queries`, offsets of points.
    pub(crate) fn measure(&self, queries: &[u32]) -> Vec<Bounds> {
        let mut places = vec![0; self.points.len()];
        (0..).zip(self.order).for_each(|(place, own)| places[*own as usize] = place);
        let [some, few] = SPARSE.map(|len| {
            let step = (self.points.len() / len).max(1);
            let ask = |(place, planes): &mut (Place, Planes), own: &u32| self.needs(place, planes, *own, step, &places);
            let needs = queries.par_iter().map_init(|| (Place::new(), Planes::default()), ask);
            bounds_of(&needs.collect::<Vec<_>>().concat())
        });
        some.into_iter().zip(few).map(|(some, few)| some.and(few)).collect()
    }

    /// What the nearest of a point among a sparse part of the others take to be found.
    fn needs(&self, place: &mut Place, planes: &mut Planes, own: u32, step: usize, places: &[u32]) -> Vec<Need> {
        let points = self.points;
        place.set(points.space(), points.rotation(), points.center(), points.vector(own));
        place.narrow();
        planes.set(place.rotated());
        let near = self.nearest(place, own, step);
        let limit = near.iter().max().map_or(0.0, |near| near.distance);
        let padded_dims = points.rotation().padded_dim();
        let (center_stride, stride) = (cells::center_stride(padded_dims), sketch::stride(padded_dims));
        let need = |near: &Near| {
            let offset = places[near.offset as usize];
            let number = self.cells.partition_point(|cell| cell.first + cell.len <= offset);
            let cell = &self.cells[number];
            let away = Away::read(place, cell, &self.centers[number * center_stride..][..center_stride]);
            let seems = planes.estimate(&self.sketches[offset as usize * stride..][..stride], away.distance);
            let beyond = away.distance - away.leeway - cell.radius * cell.radius - limit;
            Need {
                cell: share(beyond, 2.0 * limit.sqrt() * cell.radius),
                point: share(seems - limit, scale(away, cell.radius)),
            }
        };
        near.iter().map(need).collect()
    }

    /// The [`K`] nearest of every so many-th point. Codes tell which may be, vectors which are.
    fn nearest(&self, place: &Place, own: u32, step: usize) -> Vec<Near> {
        let sparse = (0..).take(self.points.len()).skip(own as usize % step).step_by(step);
        let seems = |offset: u32| Near { distance: self.points.distance(own, offset), offset };
        let mut near: Vec<Near> = sparse.filter(|offset| *offset != own).map(seems).collect();
        keep_nearest(&mut near, 4 * K);
        near.iter_mut().for_each(|near| near.distance = self.distance(place, near.offset));
        keep_nearest(&mut near, K);
        near
    }

    fn distance(&self, place: &Place, offset: u32) -> f32 {
        let vector = self.points.vector(offset);
        place.distance_of(vector, self.points.space().scale(vector))
    }
}

fn keep_nearest(near: &mut Vec<Near>, count: usize) {
    if near.len() > count {
        near.select_nth_unstable(count - 1);
        near.truncate(count);
    }
}

/// How far to look for each of [`RECALLS`]; nothing if nothing was found.
fn bounds_of(needs: &[Need]) -> Vec<Bounds> {
    let sorted = |of: fn(&Need) -> f32| {
        let mut values: Vec<f32> = needs.iter().map(of).collect();
        values.sort_unstable_by(f32::total_cmp);
        values
    };
    let (cell, point) = (sorted(|need| need.cell), sorted(|need| need.point));
    let bounds = |recall: f32| {
        let misses = 1.0 - recall;
        let cell = quantile(&cell, 1.0 - CELL_MISSES * misses)?;
        Some(Bounds { recall, cell, point: quantile(&point, 1.0 - (1.0 - CELL_MISSES) * misses)? })
    };
    RECALLS.into_iter().filter_map(bounds).collect()
}

/// A part of a whole that may be nothing, within bounds.
fn share(part: f32, whole: f32) -> f32 {
    if part <= 0.0 && whole <= 0.0 { 0.0 } else { (part / whole.max(f32::MIN_POSITIVE)).clamp(-BOUND, BOUND) }
}

/// The least of ascending values that a share of them does not exceed; `None` if there are none.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "few values")]
fn quantile(values: &[f32], share: f32) -> Option<f32> {
    let at = (share * values.len() as f32).ceil() as usize;
    values.get(at.clamp(1, values.len().max(1)) - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: [Bounds; 2] =
        [Bounds { recall: 0.9, cell: 0.0, point: -0.1 }, Bounds { recall: 1.0, cell: 0.2, point: 0.3 }];

    #[test]
    fn what_is_wanted_lies_between_what_was_measured() {
        for (recall, cell, point) in [(0.1, 0.0, -0.1), (0.9, 0.0, -0.1), (0.95, 0.1, 0.1), (1.0, 0.2, 0.3)] {
            let bounds = for_recall(&BOUNDS, recall);
            assert!((bounds.cell - cell).abs() < 1e-5 && (bounds.point - point).abs() < 1e-5, "{recall}: {bounds:?}");
        }
        assert_eq!(for_recall(&[], 0.5).cell, BOUND, "nothing measured, nothing spared");
    }

    #[test]
    fn bounds_must_ascend_and_be_small_numbers() {
        assert!(check(&BOUNDS) && check(&[]));
        let [a, b] = BOUNDS;
        assert!(!check(&[b, a]));
        for bad in [f32::NAN, f32::INFINITY, 5.0] {
            assert!(!check(&[Bounds { cell: bad, ..a }]) && !check(&[Bounds { point: bad, ..a }]), "{bad}");
        }
    }

    #[test]
    fn a_cell_is_as_near_as_its_angle_says() {
        let bounds = |cell| Bounds { recall: 1.0, cell, point: 0.0 };
        let away = |distance| Away { distance, leeway: 0.0 };
        let near = |a: f32, b: f32| assert!((a - b).abs() < 1e-4, "{a} is not {b}");
        // At a right angle; the point on the way to the centre; within the cell.
        near(bounds(0.0).nearest_of_cell(away(25.0), 3.0), 16.0);
        near(bounds(1.0).nearest_of_cell(away(25.0), 3.0), 4.0);
        near(bounds(0.0).nearest_of_cell(away(4.0), 3.0), 0.0);
        near(bounds(1.0).nearest_of_cell(away(4.0), 3.0), 0.0);
        near(bounds(4.0).nearest_of_cell(away(9.0), 0.0), 9.0);
    }

    #[test]
    fn quantiles_are_of_the_values() {
        let values = [1.0, 2.0, 3.0, 4.0];
        for (share, want) in [(-1.0, 1.0), (0.0, 1.0), (0.25, 1.0), (0.26, 2.0), (1.0, 4.0), (2.0, 4.0)] {
            assert_eq!(quantile(&values, share), Some(want), "{share}");
        }
        assert_eq!(quantile(&[], 0.5), None);
    }
}
