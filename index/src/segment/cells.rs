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

/// A region: points that lie side by side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(crate) struct Cell {
    /// The entry point that its points are nearest to.
    pub(crate) center: u32,
    /// Its first point.
    pub(crate) first: u32,
    /// How many points it has.
    pub(crate) len: u32,
}

/// Whether cells divide `points` among them and have centres that are points.
pub(crate) fn check(cells: &[Cell], points: u32) -> bool {
    let mut next = 0_u32;
    let in_order = cells.iter().all(|cell| {
        let fits = cell.first == next && cell.center < points && cell.len > 0;
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
        cells.push(Cell { center: centers[run[0] as usize], first, len });
        first += len;
    }
    cells
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
