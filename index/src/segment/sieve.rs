//! The scan: the wanted points of near cells are estimated, and the best of them compared.
//!
//! What a walk costs grows as fewer points are wanted; what this costs falls. First come the nearest cells that have
//! wanted points; what they hold tells how far the k-th nearest is at most, and so which other cells are near enough.
//! A cell is near enough if its centre is, give or take a slack: in high dimensions points of a cell lie at right
//! angles to the query's direction, so they are farther from the query than the centre is.

use std::collections::BinaryHeap;

use super::blocks::Blocks;
use super::cells::Cell;
use super::form::Form;
use super::layout::DEGREE;
use super::place::Place;
use super::queue::{Queue, Waiting};
use super::sketch::Planes;
use super::walk::{Breadth, Cancelled, Near, Scratch, admit};
use crate::kernels::{Kernels, LANES};
use crate::payload_index::Matches;

/// How much farther than the k-th nearest something may seem, in shares of its squared distance, and still be looked at.
///
/// Errors of 1-bit codes, and how far from a right angle points of a cell lie, fall with the root of the dimensions.
#[derive(Clone, Copy, Debug)]
struct Slack {
    /// Of a point, to be compared.
    point: f32,
    /// Of the centre of a cell, to be scanned.
    cell: f32,
}

impl Slack {
    /// Found on debian-packages (384) and on clustered points of 48 dimensions.
    fn of(padded_dims: usize) -> Self {
        #[allow(clippy::cast_precision_loss, reason = "dimensions are far below 2^24")]
        let root = (padded_dims as f32).sqrt();
        Self { point: 2.0 / root, cell: 0.25 + 4.0 / root }
    }
}

/// Cells that are scanned before the k-th nearest is asked for.
const FIRST_CELLS: usize = 12;

/// Points that a walk among wanted ones starts from.
const STARTS: usize = 12;

/// So few points are compared without a look at their codes.
const FEW: u32 = 48;

/// Points between two questions whether the answer is still wanted: some 50 µs.
const PATIENCE: u64 = 4_096;

/// What is scanned.
#[derive(Clone, Copy)]
pub(super) struct Cells<'a> {
    pub(super) table: &'a [Cell],
    /// Of all points, one after the other.
    pub(super) sketches: &'a [u8],
    /// Bytes of a sketch.
    pub(super) stride: usize,
    pub(super) entries: Blocks<'a>,
    pub(super) form: Form<'a>,
}

/// Which points are wanted.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) live: Option<&'a [u64]>,
    pub(super) filter: Option<&'a Matches>,
}

/// What a scan needs besides. Kept in a scratch.
#[derive(Debug, Default)]
pub(super) struct Sieve {
    /// Estimated squared distances of the cells' centres; infinite for those that were scanned.
    centers: Vec<[f32; LANES]>,
    /// A bit for each point that is wanted.
    pub(super) wanted: Vec<u64>,
    /// Wanted points that seem near.
    pub(super) starts: Vec<Waiting>,
    planes: Planes,
    /// Wanted points of the cell at hand.
    own: Vec<u32>,
}

/// Leaves the `width` nearest of the wanted points in `scratch.nearest`. The query's place is set.
///
/// Returns how many points were estimated and how many compared. Errors: `Cancelled`.
pub(super) fn sieve(
    cells: Cells<'_>,
    scratch: &mut Scratch,
    wanted: Wanted<'_>,
    width: usize,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<(u64, u64), Cancelled> {
    let Scratch { place, nearest, queue, sieve: Sieve { centers, wanted: bits, planes, own, .. }, .. } = scratch;
    nearest.clear();
    queue.clear();
    let slack = Slack::of(place.rotated().len());
    let breadth = Breadth { slack: slack.point, ..Breadth::beam(width) };
    let mut scan =
        Scan { cells, place, queue, nearest, breadth, limit: f32::MAX, planes, own, estimated: 0, compared: 0, stop };
    if let Some(few) = wanted.few() {
        few.for_each(|offset| scan.compare(offset));
        return Ok((0, scan.compared));
    }
    wanted.write(cells.form.len(), bits);
    rank(cells, scan.place, centers);
    scan.planes.set(scan.place.rotated());
    scan.nearest_cells(centers, bits)?;
    scan.compare_best();
    let reach = (scan.limit / (1.0 + slack.point) * (1.0 + slack.cell)).min(f32::MAX);
    for (number, centers) in (0..).step_by(LANES).zip(centers.iter()) {
        for (at, center) in (number..).zip(centers) {
            if *center <= reach {
                scan.cell(at, bits)?;
            }
        }
    }
    scan.compare_best();
    Ok((scan.estimated, scan.compared))
}

/// Leaves in `scratch.sieve.starts` wanted points to walk from: those of the nearest cells that seem nearest.
///
/// `scratch.sieve.wanted` and the query's place are set. Errors: `Cancelled`.
pub(super) fn starts(
    cells: Cells<'_>,
    scratch: &mut Scratch,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<(), Cancelled> {
    let Scratch { place, nearest, queue, sieve: Sieve { centers, wanted, starts, planes, own }, .. } = scratch;
    queue.clear();
    starts.clear();
    let breadth = Breadth::beam(1);
    let mut scan =
        Scan { cells, place, queue, nearest, breadth, limit: f32::MAX, planes, own, estimated: 0, compared: 0, stop };
    rank(cells, scan.place, centers);
    scan.planes.set(scan.place.rotated());
    scan.nearest_cells(centers, wanted)?;
    starts.extend(std::iter::from_fn(|| scan.queue.pop()).take(STARTS));
    Ok(())
}

/// A scan under way.
struct Scan<'a> {
    cells: Cells<'a>,
    place: &'a Place,
    queue: &'a mut Queue,
    nearest: &'a mut BinaryHeap<Near>,
    breadth: Breadth,
    /// Estimates beyond it are of no use.
    limit: f32,
    planes: &'a mut Planes,
    own: &'a mut Vec<u32>,
    estimated: u64,
    compared: u64,
    stop: &'a (dyn Fn() -> bool + Sync),
}

impl Scan<'_> {
    /// Estimates the wanted points of the [`FIRST_CELLS`] nearest cells that have any, and marks these cells in `centers`.
    fn nearest_cells(&mut self, centers: &mut [[f32; LANES]], wanted: &[u64]) -> Result<(), Cancelled> {
        let mut scanned = 0;
        while scanned < FIRST_CELLS {
            let at = Kernels::best().first_least(centers);
            let Some(center) = centers.as_flattened_mut().get_mut(at).filter(|center| center.is_finite()) else {
                break;
            };
            *center = f32::INFINITY;
            scanned += usize::from(self.cell(at, wanted)?);
        }
        Ok(())
    }

    /// Estimates the wanted points of a cell. Tells whether it has any.
    fn cell(&mut self, number: usize, wanted: &[u64]) -> Result<bool, Cancelled> {
        let cell = self.cells.table[number];
        self.own.clear();
        for first in (cell.first..cell.first + cell.len).step_by(32) {
            let mut mask = bits(wanted, first, cell.first + cell.len - first);
            while mask != 0 {
                let offset = first + mask.trailing_zeros();
                mask &= mask - 1;
                Kernels::prefetch(self.sketch(offset));
                self.own.push(offset);
            }
        }
        if self.own.is_empty() {
            return Ok(false);
        }
        let base = self.distance(cell.center);
        for at in 0..self.own.len() {
            if self.estimated.is_multiple_of(PATIENCE) && (self.stop)() {
                return Err(Cancelled);
            }
            self.estimated += 1;
            let offset = self.own[at];
            let estimate = self.planes.estimate(self.sketch(offset), base);
            if estimate < self.limit {
                self.queue.push(estimate, offset);
            }
        }
        Ok(true)
    }

    fn sketch(&self, offset: u32) -> &[u8] {
        &self.cells.sketches[offset as usize * self.cells.stride..][..self.cells.stride]
    }

    /// Compares points that wait, from the best estimate on, until no other can be among the nearest.
    fn compare_best(&mut self) {
        let mut ahead = self.queue.pop();
        while let Some(next) = ahead.filter(|next| next.estimate <= self.limit) {
            ahead = self.queue.pop();
            if let Some(ahead) = ahead {
                self.cells.form.prefetch_row(ahead.offset);
            }
            self.compare(next.offset);
        }
        self.queue.clear();
    }

    fn compare(&mut self, offset: u32) {
        let distance = self.distance(offset);
        self.compared += 1;
        self.limit = admit(self.nearest, Near { distance, offset }, self.breadth);
    }

    fn distance(&self, offset: u32) -> f32 {
        self.cells.form.distance(self.place, offset)
    }
}

impl Wanted<'_> {
    /// The points, if they are few.
    fn few(&self) -> Option<impl Iterator<Item = u32>> {
        let filter = self.filter.filter(|filter| filter.len() <= FEW)?;
        let live = self.live;
        let lives = move |offset: &u32| live.is_none_or(|live| live[*offset as usize / 64] >> (offset % 64) & 1 == 1);
        Some(filter.iter().filter(lives))
    }

    /// Writes a bit for each of `len` points.
    pub(super) fn write(&self, len: usize, bits: &mut Vec<u64>) {
        bits.clear();
        match self.filter.map(|filter| (filter.bits(), filter.list())) {
            None => bits.resize(len.div_ceil(64), u64::MAX),
            Some((Some(words), _)) => bits.extend_from_slice(words),
            Some((None, list)) => {
                bits.resize(len.div_ceil(64), 0);
                list.unwrap_or_default().iter().for_each(|offset| bits[*offset as usize / 64] |= 1 << (offset % 64));
            }
        }
        if let Some(live) = self.live {
            bits.iter_mut().zip(live).for_each(|(bits, live)| *bits &= live);
        }
    }
}

/// The bits of the `len` points from `first` on, at most 32.
#[inline]
fn bits(words: &[u64], first: u32, len: u32) -> u32 {
    let (at, shift) = (first as usize / 64, first % 64);
    let word = |at: usize| words.get(at).copied().unwrap_or(0);
    let both = u128::from(word(at)) | u128::from(word(at + 1)) << 64;
    #[allow(clippy::cast_possible_truncation, reason = "the lower 32 bits are wanted")]
    let bits = (both >> shift) as u32;
    if len >= 32 { bits } else { bits & ((1 << len) - 1) }
}

/// Writes the estimated squared distances of all cells' centres, infinite ones behind them.
fn rank(cells: Cells<'_>, place: &Place, centers: &mut Vec<[f32; LANES]>) {
    centers.clear();
    let mut estimates = [0.0; DEGREE];
    let square = place.square();
    for batch in (0..).take(cells.entries.len()) {
        place.estimate(cells.entries.layout(), cells.entries.block(batch), square, &mut estimates);
        centers.extend_from_slice(estimates.as_chunks().0);
    }
    // Free places of the last batch are far, unless a file says otherwise.
    centers.as_flattened_mut().iter_mut().skip(cells.table.len()).for_each(|center| *center = f32::INFINITY);
}
