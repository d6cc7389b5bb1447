//! Points by region: what is scanned where a filter lets too few through for a walk.
//!
//! Each point belongs to the entry point that it is nearest to. Points of a cell lie side by side, and each has a sketch
//! relative to its cell's entry point (`sketch`). Source: an inverted file of RaBitQ codes, arXiv 2405.12497.

use rayon::prelude::*;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::blocks::Blocks;
use super::place::Place;
use super::{entries, sketch};
use crate::graph::Points;
use crate::kernels::BLOCK_DIMS;
use crate::quantize;

/// A region: points that lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Cell {
    /// The entry point that its points are nearest to.
    pub(crate) center: u32,
    /// Its first point.
    pub(crate) first: u32,
    /// How many points it has.
    pub(crate) len: u32,
    /// How far they are from its centre: the root of the mean square.
    pub(crate) radius: f32,
    /// Squared length of the centre's place, what its code is multiplied by, and the standard deviation of a distance
    /// from it for a query of unit length: see `quantize::narrow_u4`.
    pub(crate) square: f32,
    pub(crate) rescale: f32,
    pub(crate) error: f32,
}

/// Standard deviations of a distance by its code within which the truth is taken to lie.
const DEVIATIONS: f32 = 2.5;

/// So many points as wide as those of the middle cell count for the width of each: of a few of its own, chance decides.
const RADIUS_PRIOR: f32 = 4.0;

/// Whether cells divide `points` among them and have centres that are points.
pub(crate) fn check(cells: &[Cell], points: u32) -> bool {
    let mut next = 0_u32;
    let in_order = cells.iter().all(|cell| {
        let fits = cell.first == next && cell.center < points && cell.len > 0;
        let fits =
            fits && [cell.radius, cell.square, cell.rescale, cell.error].iter().all(|c| c.is_finite() && *c >= 0.0);
        next = cell.first.saturating_add(cell.len);
        fits
    });
    in_order && next == points
}

/// Sorts `order`, which stays as it is within a cell, and tells the cells; their centres are named as `order` names
/// points.
pub(crate) fn divide(points: &Points, entry_points: &[u32], order: &mut [u32]) -> Vec<Cell> {
    let layout = entries::layout(points.space().dims());
    let blocks = entries::write(&layout, points.rotation().padded_dim(), entry_points, |offset| points.rotated(offset));
    let blocks = Blocks::new(&layout, &blocks);
    let nearest = |place: &mut Place, own: &u32| {
        place.set_point(points.space(), points.vector(*own), points.rotated(*own));
        entries::nearest(blocks, place).unwrap_or(*own)
    };
    let mut centers = vec![0; points.len()];
    let near: Vec<u32> = order.par_iter().map_init(Place::new, nearest).collect();
    order.iter().zip(near).for_each(|(own, center)| centers[*own as usize] = center);
    let mut ranks = vec![0_u32; points.len()];
    (0..).zip(order.iter()).for_each(|(rank, own)| ranks[*own as usize] = rank);
    order.par_sort_by_key(|own| ranks[centers[*own as usize] as usize]);

    let (mut cells, mut first) = (Vec::new(), 0);
    for run in order.chunk_by(|a, b| centers[*a as usize] == centers[*b as usize]) {
        let len = u32::try_from(run.len()).expect("a graph has fewer than 2^31 points");
        let center = centers[run[0] as usize];
        cells.push(Cell { center, first, len, radius: 0.0, square: 0.0, rescale: 0.0, error: 0.0 });
        first += len;
    }
    measure_radii(points, order, &mut cells);
    cells
}

#[allow(clippy::cast_precision_loss, reason = "as rough as counts of 24 bits")]
fn measure_radii(points: &Points, order: &[u32], cells: &mut [Cell]) {
    let square = |cell: &Cell| {
        let own = &order[cell.first as usize..][..cell.len as usize];
        own.iter().map(|own| points.distance(*own, cell.center)).sum::<f32>()
    };
    let squares: Vec<f32> = cells.par_iter().map(square).collect();
    // Of the middle cell: a mean of all would be what one point makes it that is far from everything.
    let mut means: Vec<f32> = squares.iter().zip(cells.iter()).map(|(square, cell)| square / cell.len as f32).collect();
    let middle = means.len() / 2;
    let prior = if means.is_empty() { 0.0 } else { *means.select_nth_unstable_by(middle, f32::total_cmp).1 };
    for (cell, square) in cells.iter_mut().zip(squares) {
        let mean = (square + RADIUS_PRIOR * prior) / (cell.len as f32 + RADIUS_PRIOR);
        cell.radius = mean.sqrt().min(f32::MAX);
    }
}

/// Bytes of a centre's code.
pub(crate) fn center_stride(padded_dims: usize) -> usize {
    padded_dims / 2
}

/// The codes of all centres, 4 bits a component, and what goes with them in `cells`, whose centres are named as `points`
/// names them.
pub(crate) fn write_centers(points: &Points, cells: &mut [Cell]) -> Vec<u8> {
    let stride = center_stride(points.rotation().padded_dim());
    let mut codes = vec![0; cells.len() * stride];
    for (cell, code) in cells.iter_mut().zip(codes.chunks_exact_mut(stride)) {
        let factors = quantize::narrow_u4(points.rotated(cell.center), code);
        (cell.square, cell.rescale, cell.error) = (factors.square, factors.rescale, factors.error);
    }
    codes
}

/// How far a query is from the centre of a cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Away {
    /// Squared distance, by the centre's code.
    pub(crate) distance: f32,
    /// How far off that may be: in few dimensions more than it is worth.
    pub(crate) leeway: f32,
}

impl Away {
    /// Reads the code of a cell's centre. The query's place is narrowed.
    #[inline]
    pub(crate) fn read(place: &Place, cell: &Cell, code: &[u8]) -> Self {
        let square = place.square();
        let distance = (square + cell.square - 2.0 * cell.rescale * place.dot_u4(code)).max(0.0);
        Self { distance, leeway: Self::leeway(place, cell) }
    }

    /// How far off the distance of a cell's centre may be.
    #[inline]
    pub(crate) fn leeway(place: &Place, cell: &Cell) -> f32 {
        DEVIATIONS * cell.error * place.square().sqrt()
    }
}

/// The sketches of all points, as [`divide`] gives cells and order.
pub(crate) fn write_sketches(points: &Points, order: &[u32], cells: &[Cell]) -> Vec<u8> {
    let padded_dims = points.rotation().padded_dim();
    let stride = sketch::stride(padded_dims);
    let sketches = |cell: &Cell| {
        let (mut bits, mut out) = (vec![0; padded_dims / BLOCK_DIMS], vec![0; cell.len as usize * stride]);
        let own = &order[cell.first as usize..][..cell.len as usize];
        for (own, out) in own.iter().zip(out.chunks_exact_mut(stride)) {
            sketch::write(points.rotated(*own), points.rotated(cell.center), &mut bits, out);
        }
        out
    };
    cells.par_iter().map(sketches).collect::<Vec<_>>().concat()
}
