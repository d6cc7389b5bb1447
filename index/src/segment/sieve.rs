//! The scan: the wanted points of near cells are estimated, and the best of them compared.
//!
//! What a walk costs grows as fewer points are wanted; what this costs falls. First come the nearest cells that have
//! wanted points; what they hold tells how far the k-th nearest is at most, and so which other cells may have nearer
//! ones (`bounds`), and how many wanted points there are to look at. They come in a few rounds, the likeliest first, as
//! each brings the k-th nearest nearer. So a scan takes as long as its query is hard, and tells before what it will cost.

use std::ops::Range;

use super::bounds::Bounds;
use super::cells::{Away, Cell};
use super::contest::Contest;
use super::form::Form;
use super::packed::{self, Packed};
use super::place::Place;
use super::queue::Waiting;
use super::sketch::Planes;
use super::walk::{Breadth, Cancelled, Near, Scratch, admit};
use crate::bits::is_set;
use crate::kernels::{BATCH, Kernels, LANES, Lut};
use crate::payload_index::Matches;

/// Cells with wanted points that are scanned before the k-th nearest is asked for, at most,
const FIRST_CELLS: usize = 12;

/// unless fewer have as many points, for each of `k`.
const FIRST_POINTS: usize = 10;

/// So few points are all scanned: to tell which of them may be near takes as long.
const ALL: u32 = 1_536;

/// Packed batches of them that are scanned before the k-th nearest is asked for, at most.
const FIRST_BATCHES: usize = 6;

/// Where more than one in so many wanted points is of a cell that is near enough, all are scanned.
const MOST: u32 = 2;

/// Rounds in which the other cells come.
const ROUNDS: u8 = 3;

/// So few points are compared without a look at their codes.
pub(super) const FEW: u32 = 48;

/// Points between two questions whether the answer is still wanted: some 50 µs.
const PATIENCE: usize = 4_096;

/// What estimating a sketch takes, and comparing what seems near, in nanoseconds: all that choosing between scan and walk
/// takes is how these compare to each other and to a hop.
pub(super) const SKETCH_NS: f32 = 16.0;
const COMPARING_NS: f32 = 7_500.0;

/// The same of a point whose filter is packed once it was asked for again. The point takes 2 then, and 16 until then; it
/// must have one price, so that two replicas choose alike, and most searches come when it is packed.
const PACKABLE_NS: f32 = 8.0;

/// What is scanned.
#[derive(Clone, Copy)]
pub(super) struct Cells<'a> {
    pub(super) table: &'a [Cell],
    /// Of all points, one after the other.
    pub(super) sketches: &'a [u8],
    /// Bytes of a sketch.
    pub(super) stride: usize,
    /// Codes of centres.
    pub(super) centers: &'a [u8],
    /// Bytes of such a code.
    pub(super) center_stride: usize,
    pub(super) form: Form<'a>,
}

/// Which points are wanted.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    pub(super) live: Option<&'a [u64]>,
    pub(super) filter: &'a Matches,
}

/// What a scan needs besides. Kept in a scratch.
#[derive(Debug, Default)]
pub(super) struct Sieve {
    /// See [`Scan`].
    counts: Vec<u32>,
    bases: Vec<f32>,
    least: Vec<f32>,
    keys: Vec<[f32; LANES]>,
    /// A bit for each point that is wanted, where the filter has none.
    pub(super) wanted: Vec<u64>,
    /// Where a walk among wanted points starts.
    pub(super) starts: Vec<Waiting>,
    planes: Planes,
    tables: Lut,
    /// Wanted points of the cell at hand.
    own: Vec<u32>,
    /// See [`Contest`].
    waiting: Vec<Waiting>,
    estimates: Vec<f32>,
}

/// What a scan saw of the nearest cells, and what is left to it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Outlook {
    /// Share of the points there that are wanted.
    pub(super) share: f32,
    /// Wanted points there,
    seen: u32,
    /// and those of other cells that may be nearer.
    near: u32,
    /// Whether so few points are wanted that the rest costs less than anything else, or than to say what it costs.
    pub(super) is_all: bool,
}

impl Outlook {
    /// How long the rest takes at such a price of a point, in nanoseconds.
    #[allow(clippy::cast_precision_loss, reason = "rough")]
    pub(super) fn ns(self, point_ns: f32) -> f32 {
        self.near as f32 * point_ns + COMPARING_NS
    }
}

/// What estimating a point takes where so many pass.
pub(super) fn point_ns(passing: u32) -> f32 {
    if packed::is_packable(passing) { PACKABLE_NS } else { SKETCH_NS }
}

/// Which points are wanted, made ready for a scan.
#[derive(Clone, Copy)]
pub(super) struct Among<'a> {
    /// A bit for each.
    pub(super) wanted: &'a [u64],
    /// The same points and others, packed.
    pub(super) packed: Option<&'a Packed>,
    /// Whether there are no others.
    pub(super) is_whole: bool,
}

/// What a scan did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Work {
    pub(super) estimated: u64,
    pub(super) compared: u64,
}

/// Leaves the `k` nearest of a few wanted points in `scratch.nearest`. The query's place is set.
pub(super) fn compare_all(form: Form<'_>, scratch: &mut Scratch, wanted: impl Iterator<Item = u32>, k: usize) -> Work {
    scratch.nearest.clear();
    scratch.met.clear();
    let mut work = Work::default();
    for offset in wanted {
        let distance = form.distance(&scratch.place, offset);
        let near = Near { distance, offset };
        admit(&mut scratch.nearest, near, Breadth::beam(k));
        scratch.met.push(near);
        work.compared += 1;
    }
    work
}

/// A scan under way.
///
/// What it finds, and the outlook that it gives, follow from the segment, the query and which points are wanted: packed
/// points are scanned faster, in another order, and to the same end.
pub(super) struct Scan<'a> {
    cells: Cells<'a>,
    among: Among<'a>,
    contest: Contest<'a>,
    bounds: Bounds,
    /// Of cells, or those that have packed points: how many wanted points each has,
    counts: &'a mut Vec<u32>,
    /// what is added to their codes: the squared distance of the cell's centre, less what a code may be off,
    bases: &'a mut Vec<f32>,
    /// and how near they may be, squared; infinite if none is wanted, or all were scanned.
    least: &'a mut Vec<f32>,
    /// How near points of units, which are cells or batches, may be; infinite for those that were scanned.
    keys: &'a mut Vec<[f32; LANES]>,
    planes: &'a mut Planes,
    tables: &'a mut Lut,
    own: &'a mut Vec<u32>,
    k: usize,
    outlook: Outlook,
    estimated: u64,
    /// Points estimated since it was asked whether the answer is still wanted.
    unasked: usize,
    stop: &'a (dyn Fn() -> bool + Sync),
}

impl<'a> Scan<'a> {
    /// Scans the nearest cells for the `k` nearest wanted points. The query's place is set.
    ///
    /// Errors: `Cancelled`.
    pub(super) fn begin(
        cells: Cells<'a>,
        scratch: &'a mut Scratch,
        among: Among<'a>,
        k: usize,
        bounds: Bounds,
        stop: &'a (dyn Fn() -> bool + Sync),
    ) -> Result<Self, Cancelled> {
        let Scratch { place, nearest, met, sieve, .. } = scratch;
        let Sieve { counts, bases, least, keys, planes, tables, own, waiting, estimates, .. } = sieve;
        place.narrow();
        let contest = Contest::new(cells.form, place, waiting, nearest, (met, estimates), k);
        let (outlook, estimated, unasked) = (Outlook::default(), 0, PATIENCE);
        let mut scan = Self {
            cells,
            among,
            contest,
            bounds,
            counts,
            bases,
            least,
            keys,
            planes,
            tables,
            own,
            k,
            outlook,
            estimated,
            unasked,
            stop,
        };
        scan.count();
        scan.outlook.is_all = scan.counts.iter().sum::<u32>() <= ALL;
        scan.rank();
        if scan.outlook.is_all {
            scan.scan_promising()?;
        } else {
            scan.scan_nearest()?;
            scan.expect();
        }
        Ok(scan)
    }

    /// Counts the wanted points of cells.
    fn count(&mut self) {
        let Self { cells, among: Among { wanted, packed, is_whole }, counts, .. } = self;
        let of = |number: usize| count(wanted, cells.table[number].first, cells.table[number].len);
        counts.clear();
        match packed {
            None => counts.extend((0..cells.table.len()).map(of)),
            // Most have no dead: what was packed was counted then.
            Some(packed) if *is_whole => counts.extend(packed.counts()),
            Some(packed) => counts.extend(packed.cells().map(of)),
        }
    }

    /// Looks how far the cells are that have wanted points.
    fn rank(&mut self) {
        let Self { cells, among, contest, bounds, counts, bases, least, outlook, .. } = self;
        // No cell's angle keeps its points out where all are scanned.
        let bounds = (*bounds, !outlook.is_all);
        let (place, rotated) = (contest.place, contest.place.rotated());
        match among.packed {
            None => {
                cells.rank(place, bounds, counts, |at| at, (bases, least));
                self.planes.set(rotated);
            }
            Some(packed) => {
                cells.rank(place, bounds, counts, |at| packed.cell(at), (bases, least));
                self.tables.fill_coarse(Kernels::best(), rotated);
            }
        }
        self.estimated += self.bases.len() as u64;
    }

    /// Scans the nearest units, and compares the best of their points; all others are left to do.
    fn scan_promising(&mut self) -> Result<(), Cancelled> {
        match self.among.packed {
            Some(packed) => set_keys(self.keys, (0..packed.batches()).map(|number| packed.least(number, self.bases))),
            None => set_keys(self.keys, self.bases.iter().copied()),
        }
        let units = if self.among.packed.is_some() { FIRST_BATCHES } else { FIRST_CELLS };
        for _ in 0..units {
            let at = Kernels::best().first_least(self.keys);
            let Some(key) = self.keys.as_flattened_mut().get_mut(at).filter(|key| key.is_finite()) else {
                break;
            };
            *key = f32::INFINITY;
            self.unit(at)?;
        }
        self.keys.as_flattened_mut().iter_mut().filter(|key| key.is_finite()).for_each(|key| *key = 0.0);
        self.contest.decide();
        Ok(())
    }

    /// Scans the nearest cells, and compares the best of their points.
    #[allow(clippy::cast_precision_loss, reason = "a rough share")]
    fn scan_nearest(&mut self) -> Result<(), Cancelled> {
        set_keys(self.keys, self.bases.iter().copied());
        let (mut scanned, mut wanted, mut all) = (0, 0, 0);
        while wanted < self.k || (scanned < FIRST_CELLS && wanted < FIRST_POINTS * self.k) {
            let at = Kernels::best().first_least(self.keys);
            let Some(key) = self.keys.as_flattened_mut().get_mut(at).filter(|key| key.is_finite()) else {
                break;
            };
            *key = f32::INFINITY;
            self.ask()?;
            // It is among the nearest, whatever its angle.
            self.least[at] = f32::NEG_INFINITY;
            match self.among.packed {
                Some(packed) => self.batches_of(packed, at),
                None => self.cell(at),
            }
            self.least[at] = f32::INFINITY;
            (scanned, wanted, all) = (scanned + 1, wanted + self.counts[at] as usize, all + self.len(at));
            self.outlook.seen += self.counts[at];
        }
        self.outlook.share = wanted as f32 / all.max(1) as f32;
        self.contest.decide();
        Ok(())
    }

    /// Tells which units may have nearer points, and how many wanted ones are in cells that may.
    fn expect(&mut self) {
        let (limit, mut near) = (self.contest.limit(), 0);
        for (count, least) in self.counts.iter().zip(self.least.iter()) {
            near += count & u32::from(*least <= limit).wrapping_neg();
        }
        // A query that is far from all that is wanted: angles are others there.
        let rest = self.counts.iter().sum::<u32>() - self.outlook.seen;
        if near > rest / MOST {
            self.least.iter_mut().filter(|least| least.is_finite()).for_each(|least| *least = 0.0);
            near = rest;
        }
        self.outlook.near = near;
        match self.among.packed {
            Some(packed) => set_keys(self.keys, (0..packed.batches()).map(|number| packed.least(number, self.least))),
            None => set_keys(self.keys, self.least.iter().copied()),
        }
    }

    /// What is left to do.
    pub(super) fn outlook(&self) -> Outlook {
        self.outlook
    }

    /// Ends it here, and leaves the nearest in `scratch.nearest` and `scratch.met`.
    pub(super) fn stop(self) -> Work {
        let work = Work { estimated: self.estimated, compared: self.contest.compared() };
        self.contest.end();
        work
    }

    /// Scans the other units that may have nearer points, leaves the nearest in `scratch.nearest` and `scratch.met`, and
    /// tells what it did. Errors: `Cancelled`.
    pub(super) fn finish(mut self) -> Result<Work, Cancelled> {
        let least = self.keys.as_flattened().iter().copied().fold(f32::MAX, f32::min);
        for round in 1..=ROUNDS {
            let limit = self.contest.limit();
            let share = f32::from(round) / f32::from(ROUNDS);
            // The last is as far as the limit, not as far as rounding leaves of it.
            let bound = if round < ROUNDS { least + (limit - least) * share } else { limit };
            for block in 0..self.keys.len() {
                for lane in 0..LANES {
                    let key = &mut self.keys[block][lane];
                    if *key <= bound {
                        *key = f32::INFINITY;
                        self.unit(block * LANES + lane)?;
                    }
                }
            }
            self.contest.decide();
        }
        Ok(self.stop())
    }

    /// Estimates the wanted points of a cell or batch.
    fn unit(&mut self, number: usize) -> Result<(), Cancelled> {
        self.ask()?;
        match self.among.packed {
            Some(packed) => self.batch(packed, number),
            None => self.cell(number),
        }
        Ok(())
    }

    /// Asks now and then whether the answer is still wanted.
    fn ask(&mut self) -> Result<(), Cancelled> {
        if self.unasked >= PATIENCE {
            self.unasked = 0;
            if (self.stop)() {
                return Err(Cancelled);
            }
        }
        Ok(())
    }

    /// Points of a cell.
    fn len(&self, cell: usize) -> usize {
        let number = self.among.packed.map_or(cell, |packed| packed.cell(cell));
        self.cells.table[number].len as usize
    }

    /// Estimates the packed points of a cell, and nothing else of the batches that have them: what is found in the nearest
    /// cells decides what comes next.
    fn batches_of(&mut self, packed: &Packed, cell: usize) {
        let points = packed.points_of(cell);
        for number in points.start / BATCH..points.end.div_ceil(BATCH) {
            let (near, estimates) = self.estimate(packed, number);
            let own = packed.batch(number);
            for_each_bit(near & lanes(number * BATCH, &points), |lane| {
                if is_set(self.among.wanted, own[lane]) {
                    self.enter(estimates[lane], cell, own[lane]);
                }
            });
        }
    }

    /// Estimates the points of a batch.
    fn batch(&mut self, packed: &Packed, number: usize) {
        let (near, estimates) = self.estimate(packed, number);
        let own = packed.batch(number);
        for_each_bit(near, |lane| {
            // The dead are packed too.
            if !is_set(self.among.wanted, own[lane]) {
                return;
            }
            if self.outlook.is_all {
                self.contest.enter(estimates[lane], own[lane]);
            } else {
                self.enter(estimates[lane], packed.cell_of(number, lane), own[lane]);
            }
        });
    }

    /// Estimates of a batch, and which are not beyond the limit, a bit each.
    #[inline]
    fn estimate(&mut self, packed: &Packed, number: usize) -> (u32, [f32; BATCH]) {
        let mut estimates = [0.0; BATCH];
        let len = packed.batch(number).len();
        (self.estimated, self.unasked) = (self.estimated + len as u64, self.unasked + len);
        // What is as far as the limit is not beyond it.
        let bound = self.contest.limit().next_up();
        (packed.estimate(number, self.tables, self.bases, bound, &mut estimates), estimates)
    }

    /// Estimates the wanted points of a cell.
    fn cell(&mut self, number: usize) {
        let Cells { table, sketches, stride, .. } = self.cells;
        let cell = table[number];
        let mut own = std::mem::take(self.own);
        own.clear();
        for_each_word(self.among.wanted, cell.first, cell.len, |first, mut word| {
            while word != 0 {
                let offset = first + word.trailing_zeros();
                word &= word - 1;
                Kernels::prefetch(&sketches[offset as usize * stride..][..stride]);
                own.push(offset);
            }
        });
        for offset in &own {
            let estimate = self.planes.estimate(&sketches[*offset as usize * stride..][..stride], self.bases[number]);
            self.enter(estimate, number, *offset);
        }
        self.estimated += own.len() as u64;
        self.unasked += own.len();
        *self.own = own;
    }

    /// Lets a point of a cell wait, unless its estimate, or how near that cell's points may be, is beyond the limit.
    #[inline]
    fn enter(&mut self, estimate: f32, cell: usize, offset: u32) {
        let (least, limit) = (self.least[cell], self.contest.limit());
        if estimate <= limit && least <= limit {
            self.contest.enter(estimate.max(least), offset);
        }
    }
}

/// A bit for each of the 32 points from `first` on that is in `points`.
fn lanes(first: usize, points: &Range<usize>) -> u32 {
    let below = |end: usize| (1_u64 << end.saturating_sub(first).min(BATCH)) - 1;
    #[allow(clippy::cast_possible_truncation, reason = "32 bits at most")]
    let lanes = (below(points.end) & !below(points.start)) as u32;
    lanes
}

#[inline]
fn for_each_bit(mut bits: u32, mut seen: impl FnMut(usize)) {
    while bits != 0 {
        seen(bits.trailing_zeros() as usize);
        bits &= bits - 1;
    }
}

/// Keys of units, and infinite ones behind them that make their blocks whole.
fn set_keys(keys: &mut Vec<[f32; LANES]>, of: impl ExactSizeIterator<Item = f32>) {
    keys.clear();
    keys.resize(of.len().div_ceil(LANES), [f32::INFINITY; LANES]);
    keys.as_flattened_mut().iter_mut().zip(of).for_each(|(key, own)| *key = own);
}

impl Cells<'_> {
    /// How far a cell's centre is.
    #[inline]
    fn away(&self, place: &Place, number: usize) -> Away {
        let code = &self.centers[number * self.center_stride..][..self.center_stride];
        Away::read(place, &self.table[number], code)
    }

    /// Writes for each cell that has wanted points, by its number, what is added to their codes and how near they may be,
    /// if that bounds them.
    fn rank(
        &self,
        place: &Place,
        (bounds, is_bound): (Bounds, bool),
        counts: &[u32],
        number: impl Fn(usize) -> usize,
        (bases, least): (&mut Vec<f32>, &mut Vec<f32>),
    ) {
        bases.clear();
        let distance = |(at, count): (usize, &u32)| {
            if *count > 0 { self.away(place, number(at)).distance } else { f32::INFINITY }
        };
        bases.extend(counts.iter().enumerate().map(distance));
        least.clear();
        // Roots wait for nothing in a loop of their own.
        least.extend(bases.iter_mut().zip(counts).enumerate().map(|(at, (base, count))| {
            let cell = &self.table[number(at)];
            let away = Away { distance: *base, leeway: Away::leeway(place, cell) };
            let error = bounds.error(away, cell.radius);
            let nearest = if is_bound { bounds.nearest_of_cell(away, cell.radius) } else { f32::NEG_INFINITY };
            *base = if *count > 0 { *base - error } else { f32::INFINITY };
            if *count > 0 { nearest } else { f32::INFINITY }
        }));
    }

    pub(super) fn sketch(&self, offset: u32) -> &[u8] {
        &self.sketches[offset as usize * self.stride..][..self.stride]
    }
}

impl<'a> Wanted<'a> {
    /// The points, if they are few.
    pub(super) fn few(&self) -> Option<impl Iterator<Item = u32>> {
        let Self { live, filter } = *self;
        let lives = move |offset: &u32| live.is_none_or(|live| is_set(live, *offset));
        (filter.len() <= FEW).then(|| filter.iter().filter(lives))
    }

    /// A bit for each of `len` points: the filter's own if they say all, else written to `bits`.
    pub(super) fn write<'b>(&self, len: usize, bits: &'b mut Vec<u64>) -> &'b [u64]
    where
        'a: 'b,
    {
        bits.clear();
        match (self.filter.bits(), self.live) {
            (Some(words), None) => return words,
            (Some(words), Some(_)) => bits.extend_from_slice(words),
            (None, _) => {
                bits.resize(len.div_ceil(64), 0);
                let list = self.filter.list().unwrap_or_default();
                list.iter().for_each(|offset| bits[*offset as usize / 64] |= 1 << (offset % 64));
            }
        }
        if let Some(live) = self.live {
            bits.iter_mut().zip(live).for_each(|(bits, live)| *bits &= live);
        }
        bits
    }
}

/// Shows `seen` the words that have bits of the `len` points from `first` on, others cleared, and what their lowest bits
/// are of.
#[inline]
fn for_each_word(words: &[u64], first: u32, len: u32, mut seen: impl FnMut(u32, u64)) {
    let end = first + len;
    for at in first / 64..end.div_ceil(64) {
        let start = 64 * at;
        let mut word = words.get(at as usize).copied().unwrap_or(0);
        if start < first {
            word &= u64::MAX << (first - start);
        }
        if end - start < 64 {
            word &= (1 << (end - start)) - 1;
        }
        seen(start, word);
    }
}

/// How many of the `len` points from `first` on have their bit set.
#[inline]
fn count(words: &[u64], first: u32, len: u32) -> u32 {
    let mut count = 0;
    for_each_word(words, first, len, |_, word| count += word.count_ones());
    count
}
