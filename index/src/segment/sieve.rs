//! The scan: the wanted points of near cells are estimated, and the best of them compared.
//!
//! What a walk costs grows as fewer points are wanted; what this costs falls. First come the nearest cells that have
//! wanted points; what they hold tells how far the k-th nearest is at most, and so which other cells may have nearer
//! ones (`bounds`), and how many wanted points there are to look at. They come in a few rounds, the likeliest first, as
//! each brings the k-th nearest nearer. So a scan takes as long as its query is hard, and tells before what it will cost.

use super::bounds::Bounds;
use super::cells::{Away, Cell};
use super::contest::Contest;
use super::form::Form;
use super::packed::Packed;
use super::place::Place;
use super::queue::Waiting;
use super::sketch::Planes;
use super::walk::{Breadth, Cancelled, Near, Scratch, admit};
use crate::bits::is_set;
use crate::kernels::{BATCH, Kernels, LANES};
use crate::payload_index::Matches;

/// Cells with wanted points that are scanned before the k-th nearest is asked for, at most,
const FIRST_CELLS: usize = 12;

/// unless fewer have as many points, for each of `k`.
const FIRST_POINTS: usize = 10;

/// Where more than one in so many units is near enough, all are scanned.
const MOST: usize = 2;

/// Rounds in which the other cells come.
const ROUNDS: u8 = 3;

/// So few points are compared without a look at their codes.
pub(super) const FEW: u32 = 48;

/// Points between two questions whether the answer is still wanted: some 50 µs.
const PATIENCE: usize = 4_096;

/// Packed batches that are scanned before it is asked for, at most.
const FIRST_BATCHES: usize = 6;

/// What estimating a sketch takes, and a packed batch of 32, and comparing what seems near, in nanoseconds: all that
/// choosing between scan and walk takes is how these compare to each other and to a hop.
pub(super) const SKETCH_NS: f32 = 16.0;
const BATCH_NS: f32 = 60.0;
const COMPARING_NS: f32 = 7_500.0;

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
    keys: Vec<[f32; LANES]>,
    bases: Vec<f32>,
    least: Vec<f32>,
    /// A bit for each point that is wanted, where the filter has none.
    pub(super) wanted: Vec<u64>,
    /// Where a walk among wanted points starts.
    pub(super) starts: Vec<Waiting>,
    planes: Planes,
    /// Wanted points of the cell at hand.
    own: Vec<u32>,
    /// See [`Contest`].
    waiting: Vec<Waiting>,
}

/// What a scan saw of the nearest cells, and what is left to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outlook {
    /// Share of the points there that are wanted.
    pub(super) share: f32,
    /// How long the rest takes, in nanoseconds.
    pub(super) ns: f32,
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
pub(super) struct Scan<'a> {
    cells: Cells<'a>,
    packed: Option<&'a Packed>,
    contest: Contest<'a>,
    bounds: Bounds,
    /// How near points of units, which are cells or batches, may be, squared; infinite for those that were scanned.
    keys: &'a mut Vec<[f32; LANES]>,
    /// What is added to the codes of each cell: the squared distance of its centre, less what a code may be off.
    bases: &'a mut Vec<f32>,
    /// How near the points of each cell may be, squared.
    least: &'a mut Vec<f32>,
    planes: &'a mut Planes,
    own: &'a mut Vec<u32>,
    /// A bit for each point that is wanted.
    wanted: &'a [u64],
    k: usize,
    share: f32,
    estimated: u64,
    /// Points estimated since it was asked whether the answer is still wanted.
    unasked: usize,
    stop: &'a (dyn Fn() -> bool + Sync),
}

impl<'a> Scan<'a> {
    /// Scans the nearest cells for the `k` nearest wanted points. The query's place is set, and so is a bit of `wanted`
    /// for each point that is; `packed` has all of them, if it is there.
    ///
    /// Errors: `Cancelled`.
    pub(super) fn begin(
        cells: Cells<'a>,
        scratch: &'a mut Scratch,
        (wanted, packed): (&'a [u64], Option<&'a Packed>),
        k: usize,
        bounds: Bounds,
        stop: &'a (dyn Fn() -> bool + Sync),
    ) -> Result<Self, Cancelled> {
        let Scratch { place, nearest, met, sieve, .. } = scratch;
        let Sieve { keys, bases, least, planes, own, waiting, .. } = sieve;
        place.narrow();
        let contest = Contest::new(cells.form, place, waiting, nearest, met, k);
        let (share, estimated, unasked) = (0.0, 0, PATIENCE);
        let mut scan = Self {
            cells,
            packed,
            contest,
            bounds,
            keys,
            bases,
            least,
            planes,
            own,
            wanted,
            k,
            share,
            estimated,
            unasked,
            stop,
        };
        scan.rank();
        scan.scan_nearest()?;
        scan.expect();
        Ok(scan)
    }

    /// Looks how far the cells are that have wanted points.
    fn rank(&mut self) {
        let Self { cells, contest, bounds, bases, least, wanted, .. } = self;
        let look = |number: usize| {
            let Cell { radius, .. } = cells.table[number];
            let away = cells.away(contest.place, number);
            (away.distance - bounds.error(away, radius), bounds.nearest_of_cell(away, radius))
        };
        bases.clear();
        least.clear();
        let mut add = |(base, nearest)| {
            bases.push(base);
            least.push(nearest);
        };
        match self.packed {
            Some(packed) => packed.cells().for_each(|number| add(look(number))),
            None => {
                let has = |cell: &Cell| count(wanted, cell.first, cell.len) > 0;
                let look = |(number, cell)| if has(cell) { look(number) } else { (f32::INFINITY, f32::INFINITY) };
                cells.table.iter().enumerate().for_each(|cell| add(look(cell)));
                self.planes.set(self.contest.place.rotated());
            }
        }
        self.estimated += self.bases.len() as u64;
        self.keys.clear();
        match self.packed {
            Some(packed) => {
                self.keys.resize(packed.batches().div_ceil(LANES), [f32::INFINITY; LANES]);
                let keys = self.keys.as_flattened_mut().iter_mut();
                keys.zip(0..packed.batches()).for_each(|(key, number)| *key = packed.least(number, self.bases));
            }
            None => {
                self.keys.resize(self.bases.len().div_ceil(LANES), [f32::INFINITY; LANES]);
                self.keys.as_flattened_mut()[..self.bases.len()].copy_from_slice(self.bases);
            }
        }
    }

    /// Scans the nearest units, and compares the best of their points.
    #[allow(clippy::cast_precision_loss, reason = "a rough share")]
    fn scan_nearest(&mut self) -> Result<(), Cancelled> {
        let (mut scanned, mut wanted, mut all) = (0, 0, 0);
        let most = if self.packed.is_some() { FIRST_BATCHES } else { FIRST_CELLS };
        while wanted < self.k || (scanned < most && wanted < FIRST_POINTS * self.k) {
            let at = Kernels::best().first_least(self.keys);
            let Some(key) = self.keys.as_flattened_mut().get_mut(at).filter(|key| key.is_finite()) else {
                break;
            };
            *key = f32::INFINITY;
            let (found, of) = self.unit(at)?;
            (scanned, wanted, all) = (scanned + 1, wanted + found, all + of);
        }
        self.share = wanted as f32 / all.max(1) as f32;
        self.contest.decide();
        Ok(())
    }

    /// Makes of keys, which put units in order, how near their points may be.
    fn expect(&mut self) {
        let least = |number| self.packed.map_or_else(|| self.least[number], |packed| packed.least(number, self.least));
        let units = self.packed.map_or(self.least.len(), Packed::batches);
        for (key, number) in self.keys.as_flattened_mut().iter_mut().zip(0..units).filter(|(key, _)| key.is_finite()) {
            *key = least(number);
        }
        let limit = self.contest.limit();
        let keys = self.keys.as_flattened_mut();
        let near = keys.iter().filter(|key| **key <= limit).count();
        // A query that is far from all that is wanted: angles are others there.
        if near > units / MOST {
            keys.iter_mut().filter(|key| key.is_finite()).for_each(|key| *key = 0.0);
        }
    }

    /// What is left to do.
    #[allow(clippy::cast_precision_loss, reason = "rough")]
    pub(super) fn outlook(&self) -> Outlook {
        let near = self.keys.as_flattened().iter().enumerate().filter(|(_, key)| **key <= self.contest.limit());
        let ns = match self.packed {
            Some(_) => near.count() as f32 * BATCH_NS,
            None => {
                let cells = near.map(|(number, _)| self.cells.table[number]);
                cells.map(|cell| count(self.wanted, cell.first, cell.len)).sum::<u32>() as f32 * SKETCH_NS
            }
        };
        Outlook { share: self.share, ns: ns + COMPARING_NS }
    }

    /// Ends it here.
    pub(super) fn stop(self) -> Work {
        Work { estimated: self.estimated, compared: self.contest.compared() }
    }

    /// Scans the other units that may have nearer points, leaves the nearest in `scratch.nearest` and `scratch.met`, and
    /// tells what it did. Errors: `Cancelled`.
    pub(super) fn finish(mut self) -> Result<Work, Cancelled> {
        let least = self.keys.as_flattened().iter().copied().fold(f32::MAX, f32::min);
        for round in 1..=ROUNDS {
            let bound = least + (self.contest.limit() - least) * (f32::from(round) / f32::from(ROUNDS));
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

    /// Estimates the wanted points of a cell or batch. Tells how many there are, and of how many points.
    fn unit(&mut self, number: usize) -> Result<(usize, usize), Cancelled> {
        if self.unasked >= PATIENCE {
            self.unasked = 0;
            if (self.stop)() {
                return Err(Cancelled);
            }
        }
        let (found, of) = match self.packed {
            Some(packed) => self.batch(packed, number),
            None => self.cell(number),
        };
        self.estimated += found as u64;
        self.unasked += found;
        Ok((found, of))
    }

    fn batch(&mut self, packed: &Packed, number: usize) -> (usize, usize) {
        let mut estimates = [0.0; BATCH];
        let mut near = packed.estimate(number, self.contest.place, self.bases, self.contest.limit(), &mut estimates);
        let own = packed.batch(number);
        while near != 0 {
            let lane = near.trailing_zeros() as usize;
            near &= near - 1;
            let offset = own[lane];
            // The dead are packed too.
            if is_set(self.wanted, offset) {
                self.contest.enter(estimates[lane], offset);
            }
        }
        (own.len(), (own[own.len() - 1] - own[0]) as usize + 1)
    }

    fn cell(&mut self, number: usize) -> (usize, usize) {
        let Cells { table, sketches, stride, .. } = self.cells;
        let cell = table[number];
        self.own.clear();
        for_each_word(self.wanted, cell.first, cell.len, |first, mut word| {
            while word != 0 {
                let offset = first + word.trailing_zeros();
                word &= word - 1;
                Kernels::prefetch(&sketches[offset as usize * stride..][..stride]);
                self.own.push(offset);
            }
        });
        for offset in self.own.iter() {
            let estimate = self.planes.estimate(&sketches[*offset as usize * stride..][..stride], self.bases[number]);
            if estimate < self.contest.limit() {
                self.contest.enter(estimate, *offset);
            }
        }
        (self.own.len(), cell.len as usize)
    }
}

impl Cells<'_> {
    /// How far a cell's centre is.
    #[inline]
    fn away(&self, place: &Place, number: usize) -> Away {
        let code = &self.centers[number * self.center_stride..][..self.center_stride];
        Away::read(place, &self.table[number], code)
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
