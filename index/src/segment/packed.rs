//! The points that pass a filter, packed: their codes side by side in batches, as if they were all there is.
//!
//! Sketches are estimated one by one, where they lie among others; batches of 32 codes take a sixth of that for each
//! point. So a filter that comes again and again is worth a copy of the codes of what it lets through, made in some 200 ns
//! a point. `sieve` scans it as it scans cells.

use super::cells;
use super::frozen::Segment;
use super::place::Place;
use super::search::is_wide;
use super::sieve::FEW;
use super::sketch;
use crate::kernels::{BATCH, BLOCK_BYTES, BLOCK_DIMS};
use crate::payload_index::Matches;
use crate::quantize;

/// Most points that are packed: it takes some 3 ms, and more are better walked to.
const POINTS_MAX: u32 = 1 << 14;

/// Codes of some points of a segment.
#[derive(Debug)]
pub struct Packed {
    /// Points of the segment that they are of.
    points: u32,
    /// Ascending, so cell by cell.
    offsets: Vec<u32>,
    /// Of each its cell, as a place in `cells`.
    slots: Vec<u16>,
    /// Cells that have any.
    cells: Vec<u16>,
    factors: Vec<Factors>,
    codes: Vec<u8>,
    /// Bytes of the codes of a batch.
    stride: usize,
}

/// What corrects the codes of a batch.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Factors {
    add: [f32; BATCH],
    rescale: [f32; BATCH],
}

impl Packed {
    /// Points of the segment that it is of.
    pub(super) fn points(&self) -> u32 {
        self.points
    }

    /// Cells that have any of the points.
    pub(super) fn cells(&self) -> &[u16] {
        &self.cells
    }

    /// How many batches there are.
    pub(super) fn batches(&self) -> usize {
        self.factors.len()
    }

    /// Points of a batch.
    #[inline]
    pub(super) fn batch(&self, number: usize) -> &[u32] {
        let first = number * BATCH;
        &self.offsets[first..self.offsets.len().min(first + BATCH)]
    }

    /// The least of the values that [`Packed::cells`] have, of a batch's cells.
    #[inline]
    pub(super) fn least(&self, number: usize, values: &[f32]) -> f32 {
        let (first, last) = (number * BATCH, self.offsets.len().min((number + 1) * BATCH) - 1);
        let cells = usize::from(self.slots[first])..=usize::from(self.slots[last]);
        values[cells].iter().copied().fold(f32::MAX, f32::min)
    }

    /// Estimates the points of a batch: `bases` are squared distances of [`Packed::cells`].
    #[inline]
    pub(super) fn estimate(&self, number: usize, place: &Place, bases: &[f32], out: &mut [f32; BATCH]) {
        let mut sums = [0.0; BATCH];
        place.scan(&self.codes[number * self.stride..][..self.stride], &mut sums);
        let Factors { add, rescale } = &self.factors[number];
        out.fill(f32::INFINITY);
        for (out, slot) in out.iter_mut().zip(&self.slots[number * BATCH..]) {
            *out = bases[usize::from(*slot)];
        }
        for (lane, out) in out.iter_mut().enumerate() {
            *out += add[lane] + rescale[lane] * sums[lane];
        }
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let Self { points: _, offsets, slots, cells, factors, codes, stride: _ } = self;
        let small = size_of_val(&offsets[..]) + size_of_val(&slots[..]) + size_of_val(&cells[..]);
        small + size_of_val(&factors[..]) + codes.len()
    }
}

impl Segment {
    /// Packs what passes a filter, unless it is so much that it would be walked to, or so little that it is compared at
    /// once.
    #[must_use]
    pub fn pack(&self, matches: &Matches) -> Option<Packed> {
        if matches.len() > POINTS_MAX || matches.len() <= FEW || is_wide(matches.len(), self.len()) {
            return None;
        }
        let offsets: Vec<u32> = matches.iter().collect();
        let (slots, cells) = slots(self.cells().table, &offsets)?;
        let words = self.rotation.padded_dim() / BLOCK_DIMS;
        let (stride, batches) = (words * BLOCK_BYTES, offsets.len().div_ceil(BATCH));
        let (mut codes, mut factors) = (vec![0; batches * stride], Vec::with_capacity(batches));
        let mut bits = vec![0; BATCH * words];
        for (offsets, codes) in offsets.chunks(BATCH).zip(codes.chunks_exact_mut(stride)) {
            let mut own = Factors { add: [0.0; BATCH], rescale: [0.0; BATCH] };
            for (lane, (offset, bits)) in offsets.iter().zip(bits.chunks_exact_mut(words)).enumerate() {
                (own.add[lane], own.rescale[lane]) = sketch::read(self.cells().sketch(*offset), bits);
            }
            let rows: Vec<&[u64]> = bits.chunks_exact(words).take(offsets.len()).collect();
            quantize::pack(&rows, codes);
            factors.push(own);
        }
        Some(Packed { points: self.len(), offsets, slots, cells, factors, codes, stride })
    }
}

/// Which cells have any of some ascending points, and of each point which of these has it. `None` if cells have numbers
/// of more than 16 bits, as only a file made to deceive has.
fn slots(table: &[cells::Cell], offsets: &[u32]) -> Option<(Vec<u16>, Vec<u16>)> {
    let (mut slots, mut cells) = (Vec::with_capacity(offsets.len()), Vec::<u16>::new());
    let mut rest = offsets;
    for (number, cell) in table.iter().enumerate() {
        let own = rest.partition_point(|offset| *offset < cell.first + cell.len);
        if own > 0 {
            cells.push(u16::try_from(number).ok()?);
            slots.resize(slots.len() + own, u16::try_from(cells.len() - 1).ok()?);
        }
        rest = &rest[own..];
    }
    Some((slots, cells))
}
