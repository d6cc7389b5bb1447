//! The compact form: a graph of short blocks, beside the sketches that filters scan.
//!
//! A block of the full form has the codes of 32 neighbours, which is most of it. Here a walk reads the sketch of each
//! neighbour where it lies, one or two cache lines, and skips those it has seen; a point that is visited has its
//! distance estimated again from 4 bits a component. Vectors are not here: what seems nearest is settled from those that
//! are stored.
//!
//! ```text
//! links    32 × u32 offsets; a free place holds the point's own
//! head     f32 squared length, rescale and error of the code (see `quantize::narrow_u4`), f32 the vector's scale
//! code     4 bits for each component of the rotated place less the segment's centre
//! ```
//!
//! Sources: RaBitQ with more bits, arXiv 2409.09913; a graph without fuller vectors as in HNSW of rabitqlib.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use super::cells::Cell;
use super::layout::DEGREE;
use super::place::Place;
use super::sketch::{self, Planes};
use super::walk::{Seen, Steps};
use crate::kernels::Kernels;
use crate::quantize;

/// What blocks are a multiple of: half a cache line.
const UNIT: usize = 32;

/// Most cells, so that a point's cell is named in two bytes.
pub(super) const CELLS_MAX: usize = 1 << 16;

/// What of a block is not code.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Start {
    links: [u32; DEGREE],
    square: f32,
    rescale: f32,
    error: f32,
    /// See `layout::Head`.
    vector_scale: f32,
}

/// Bytes of a block for places of `padded_dims` components after rotation.
pub(super) fn stride(padded_dims: usize) -> usize {
    (size_of::<Start>() + padded_dims / 2).next_multiple_of(UNIT)
}

/// Writes the block of the point at `own`.
pub(super) fn write(own: u32, links: &[u32], rotated: &[f32], vector_scale: f32, block: &mut [u8]) {
    let (start, code) = block.split_at_mut(size_of::<Start>());
    let quantize::NibbleFactors { square, rescale, error } =
        quantize::narrow_u4(rotated, &mut code[..rotated.len() / 2]);
    let mut all = [own; DEGREE];
    all[..links.len()].copy_from_slice(links);
    start.copy_from_slice(Start { links: all, square, rescale, error, vector_scale }.as_bytes());
}

/// Which cell each point is of.
pub(super) fn cells_of(cells: &[Cell]) -> Vec<u16> {
    let of = |(number, cell): (u16, &Cell)| std::iter::repeat_n(number, cell.len as usize);
    (0..=u16::MAX).zip(cells).flat_map(of).collect()
}

/// A graph in the compact form.
#[derive(Clone, Copy)]
pub(crate) struct Compact<'a> {
    pub(super) blocks: &'a [u8],
    /// Bytes of a block.
    pub(super) stride: usize,
    /// Components of a place after rotation.
    pub(super) padded_dims: usize,
    pub(super) cells: &'a [Cell],
    /// The cell of each point.
    pub(super) cells_of: &'a [u16],
    pub(super) sketches: &'a [u8],
    pub(super) sketch_stride: usize,
}

/// What a walk over the compact form needs besides.
#[derive(Debug, Default)]
pub(crate) struct Aid {
    planes: Planes,
    /// Squared distances of cells' centres, negative where not known yet.
    centers: Vec<f32>,
}

impl<'a> Compact<'a> {
    /// Of segments that are being made: `blocks`, `sketches` and cells as they will lie in the file.
    pub(super) fn new(
        padded_dims: usize,
        blocks: &'a [u8],
        sketches: &'a [u8],
        cells: &'a [Cell],
        cells_of: &'a [u16],
    ) -> Self {
        let (stride, sketch_stride) = (stride(padded_dims), sketch::stride(padded_dims));
        Self { blocks, stride, padded_dims, cells, cells_of, sketches, sketch_stride }
    }

    #[inline]
    fn start(&self, offset: u32) -> &'a Start {
        let block = &self.blocks[offset as usize * self.stride..][..size_of::<Start>()];
        Start::ref_from_bytes(block).expect("blocks start at multiples of 32 bytes")
    }

    #[inline]
    fn code(&self, offset: u32) -> &'a [u8] {
        let at = offset as usize * self.stride + size_of::<Start>();
        &self.blocks[at..at + self.padded_dims / 2]
    }

    #[inline]
    fn sketch(&self, offset: u32) -> &'a [u8] {
        &self.sketches[offset as usize * self.sketch_stride..][..self.sketch_stride]
    }

    /// Standard deviation of the distance that is told of a point.
    pub(super) fn deviation(&self, place: &Place, offset: u32) -> f32 {
        self.start(offset).error * place.square().sqrt()
    }

    /// What makes a vector a place.
    pub(super) fn vector_scale(&self, offset: u32) -> f32 {
        self.start(offset).vector_scale
    }
}

impl Steps for Compact<'_> {
    fn len(&self) -> usize {
        self.cells_of.len()
    }

    fn prepare(&self, place: &Place, aid: &mut Aid) {
        aid.planes.set(place.rotated());
        aid.centers.clear();
        aid.centers.resize(self.cells.len(), -1.0);
    }

    #[inline]
    fn prefetch(&self, offset: u32) {
        if let Some(block) = self.blocks.get(offset as usize * self.stride..).and_then(|rest| rest.get(..self.stride)) {
            Kernels::prefetch(block);
        }
    }

    #[inline]
    fn approach(&self, aid: &Aid, seen: &Seen, offset: u32) {
        for link in self.start(offset).links {
            if seen.is_new(link) {
                Kernels::prefetch(self.sketch(link));
                let cell = usize::from(self.cells_of[link as usize]);
                if aid.centers[cell] < 0.0 {
                    Steps::prefetch(self, self.cells[cell].center);
                }
            }
        }
    }

    #[inline]
    fn distance(&self, place: &Place, offset: u32) -> f32 {
        let start = self.start(offset);
        (place.square() + start.square - 2.0 * start.rescale * place.dot_u4(self.code(offset))).max(0.0)
    }

    #[inline]
    fn links(&self, offset: u32) -> &[u32; DEGREE] {
        &self.start(offset).links
    }

    #[inline]
    fn estimate(
        &self,
        place: &Place,
        aid: &mut Aid,
        seen: &Seen,
        offset: u32,
        _distance: f32,
        out: &mut [f32; DEGREE],
    ) {
        for (out, link) in out.iter_mut().zip(self.start(offset).links) {
            *out = f32::INFINITY;
            if seen.is_new(link) {
                let cell = usize::from(self.cells_of[link as usize]);
                if aid.centers[cell] < 0.0 {
                    aid.centers[cell] = self.distance(place, self.cells[cell].center);
                }
                *out = aid.planes.estimate(self.sketch(link), aid.centers[cell]);
            }
        }
    }
}
