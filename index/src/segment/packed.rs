//! The points that pass a filter, packed: their codes side by side in batches, as if they were all there is.
//!
//! Sketches are estimated one by one, where they lie among others; batches of 32 codes take a sixth of that for each
//! point. So a filter that comes again is worth a copy of the codes of what it lets through, made in some 40 ns a point.
//! `sieve` scans it faster than cells, and finds the same: a packed point has the very estimate that its sketch has, and
//! counts as being of its own cell, whichever share its batch.

use std::ops::Range;

use super::cells;
use super::frozen::Segment;
use super::sieve::FEW;
use super::sketch;
use crate::kernels::{BATCH, BLOCK_BYTES, BLOCK_DIMS, Each, Kernels, Lut};
use crate::payload_index::Matches;
use crate::quantize;

/// Most points that are packed: it takes some 600 µs, and to scan all of them 30. More are walked to.
const POINTS_MAX: u32 = 1 << 14;

/// Whether so many points are packed once their filter was asked for again.
pub(super) fn is_packable(passing: u32) -> bool {
    passing > FEW && passing <= POINTS_MAX
}

/// Codes of some points of a segment.
#[derive(Debug)]
pub struct Packed {
    /// Points of the segment that they are of.
    points: u32,
    /// Ascending, so cell by cell.
    offsets: Vec<u32>,
    /// Cells that have any of the points.
    cells: Vec<Own>,
    /// Of each batch the cells that have any of its points, as places in `cells`: the first and the last.
    spans: Vec<(u16, u16)>,
    factors: Vec<Each>,
    codes: Vec<u8>,
    /// Bytes of the codes of a batch.
    stride: usize,
}

/// What a cell has of the points.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Own {
    /// Which cell it is.
    number: u16,
    /// How many points it has and those before it.
    end: u32,
}

impl Packed {
    /// Points of the segment that it is of.
    pub(super) fn points(&self) -> u32 {
        self.points
    }

    /// Numbers of the cells that have any of the points.
    pub(super) fn cells(&self) -> impl ExactSizeIterator<Item = usize> {
        self.cells.iter().map(|own| usize::from(own.number))
    }

    /// The number of one of them.
    #[inline]
    pub(super) fn cell(&self, at: usize) -> usize {
        usize::from(self.cells[at].number)
    }

    /// How many of the points each of them has.
    pub(super) fn counts(&self) -> impl Iterator<Item = u32> {
        let ends = || self.cells.iter().map(|own| own.end);
        ends().zip(std::iter::once(0).chain(ends())).map(|(end, before)| end - before)
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
        let (first, last) = self.spans[number];
        values[usize::from(first)..=usize::from(last)].iter().copied().fold(f32::MAX, f32::min)
    }

    /// Which of [`Packed::cells`] a point of a batch is of, `lane` being its place there.
    #[inline]
    pub(super) fn cell_of(&self, number: usize, lane: usize) -> usize {
        let (first, last) = self.spans[number];
        let (first, last) = (usize::from(first), usize::from(last));
        first + self.cells[first..last].partition_point(|own| own.end as usize <= number * BATCH + lane)
    }

    /// Where the points of one of [`Packed::cells`] stand among all.
    #[inline]
    pub(super) fn points_of(&self, cell: usize) -> Range<usize> {
        let first = cell.checked_sub(1).map_or(0, |before| self.cells[before].end);
        first as usize..self.cells[cell].end as usize
    }

    /// Estimates the points of a batch, `bases` being squared distances of [`Packed::cells`], and tells which are nearer
    /// than `bound`, a bit each. `tables` are those of the query's place, in `Steps`.
    #[inline]
    pub(super) fn estimate(
        &self,
        number: usize,
        tables: &Lut,
        bases: &[f32],
        bound: f32,
        out: &mut [f32; BATCH],
    ) -> u32 {
        let (first, last) = self.spans[number];
        let (first, last) = (usize::from(first), usize::from(last));
        let mut lanes = [f32::INFINITY; 2 * BATCH];
        let mut lane = 0;
        // Each cell's base is written to all lanes from its first on: that takes less than to ask how many it has.
        for (own, base) in self.cells[first..=last].iter().zip(&bases[first..=last]) {
            lanes[lane..][..BATCH].fill(*base);
            lane = (own.end as usize - number * BATCH).min(BATCH);
        }
        lanes[lane..][..BATCH].fill(f32::INFINITY);
        let codes = &self.codes[number * self.stride..][..self.stride];
        let bases = lanes.first_chunk().expect("twice as many");
        Kernels::best().near32(codes, tables, &self.factors[number], bases, bound, out)
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let Self { points: _, offsets, cells, spans, factors, codes, stride: _ } = self;
        let small = size_of_val(&offsets[..]) + size_of_val(&cells[..]) + size_of_val(&spans[..]);
        small + size_of_val(&factors[..]) + codes.len()
    }
}

impl Segment {
    /// Packs what passes a filter, unless it is so much that it is better walked to, or so little that it is compared at
    /// once.
    #[must_use]
    pub fn pack(&self, matches: &Matches) -> Option<Packed> {
        if !is_packable(matches.len()) {
            return None;
        }
        let offsets: Vec<u32> = matches.iter().collect();
        let cells = own(self.cells().table, &offsets)?;
        let spans = spans(&cells, offsets.len());
        let words = self.rotation.padded_dim() / BLOCK_DIMS;
        let (stride, batches) = (words * BLOCK_BYTES, offsets.len().div_ceil(BATCH));
        let (mut codes, mut factors) = (vec![0; batches * stride], Vec::with_capacity(batches));
        let mut bits = vec![0; BATCH * words];
        for (offsets, codes) in offsets.chunks(BATCH).zip(codes.chunks_exact_mut(stride)) {
            let mut own = Each { add: [0.0; BATCH], rescale: [0.0; BATCH] };
            for (lane, (offset, bits)) in offsets.iter().zip(bits.chunks_exact_mut(words)).enumerate() {
                (own.add[lane], own.rescale[lane]) = sketch::read(self.cells().sketch(*offset), bits);
            }
            let rows: Vec<&[u64]> = bits.chunks_exact(words).take(offsets.len()).collect();
            quantize::pack(&rows, codes);
            factors.push(own);
        }
        Some(Packed { points: self.len(), offsets, cells, spans, factors, codes, stride })
    }
}

/// Which cells have any of some ascending points. `None` if one has a number of more than 16 bits, as only a file made to
/// deceive has.
fn own(table: &[cells::Cell], offsets: &[u32]) -> Option<Vec<Own>> {
    let (mut cells, mut end) = (Vec::new(), 0);
    for (number, cell) in table.iter().enumerate() {
        let has = offsets[end..].partition_point(|offset| *offset < cell.first + cell.len);
        if has > 0 {
            end += has;
            cells.push(Own { number: u16::try_from(number).ok()?, end: u32::try_from(end).ok()? });
        }
    }
    Some(cells)
}

/// Of each batch of so many points the first and the last of the cells, of which there are no more than 2^16.
fn spans(cells: &[Own], points: usize) -> Vec<(u16, u16)> {
    let mut cell = 0_u16;
    let mut of = |point: usize| {
        while cells[usize::from(cell)].end as usize <= point {
            cell += 1;
        }
        cell
    };
    (0..points).step_by(BATCH).map(|first| (of(first), of(points.min(first + BATCH) - 1))).collect()
}
