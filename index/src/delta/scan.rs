//! Looking at rows: their vectors and, if there is a filter, their payload.

use super::bound::Bound;
use super::candidates::Candidates;
use super::chunk::{Chunk, Label, Slot};
use super::pace::{Pace, ROW_BYTES};
use super::search::SearchStats;
use super::view::RowRef;
use crate::{CompiledFilter, IndexError};

/// Rows scored in one call.
const ROWS: usize = 4;

/// A row that was looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Looked {
    pub(super) row: RowRef,
    /// The nearness that its code allows at most, where that may be less than its own.
    pub(super) ceiling: f64,
}

/// A search on its way through the rows.
pub(super) struct Scan<'a> {
    pub(super) candidates: Candidates<Looked>,
    pub(super) pace: Pace<'a>,
    pub(super) stats: SearchStats,
    bound: Bound<'a>,
    filter: Option<&'a CompiledFilter>,
    /// Rows that the filter was asked about, and how many passed.
    asked: usize,
    passed: usize,
    /// Whether the filter looks at rows before the bound does.
    filter_first: bool,
    /// Rows scored since that was chosen, and how many of them the bound let through.
    scored: usize,
    near: usize,
}

impl<'a> Scan<'a> {
    pub(super) fn new(
        bound: Bound<'a>,
        filter: Option<&'a CompiledFilter>,
        candidates: Candidates<Looked>,
        pace: Pace<'a>,
    ) -> Self {
        let stats = SearchStats::default();
        Self { candidates, pace, stats, bound, filter, asked: 0, passed: 0, filter_first: false, scored: 0, near: 0 }
    }

    /// Looks at every row of a chunk. `rows` is scratch space.
    pub(super) fn chunk(&mut self, number: usize, slot: &Slot, rows: &mut Vec<usize>) -> Result<(), IndexError> {
        let chunk = slot.chunk();
        rows.clear();
        if self.filter_first {
            for row in slot.rows() {
                if self.passes(chunk, row)? {
                    rows.push(row);
                }
            }
        } else {
            rows.extend(slot.rows());
        }
        for group in rows.chunks(ROWS) {
            self.group::<ROWS>(number, chunk, group, &|_| f64::INFINITY)?;
        }
        self.choose_order();
        Ok(())
    }

    /// Looks at one row. `ceiling` tells the nearness that its code allows at most, if that is less than it is given.
    #[inline]
    pub(super) fn row(
        &mut self,
        number: usize,
        chunk: &Chunk,
        row: usize,
        ceiling: &dyn Fn(f64) -> f64,
    ) -> Result<(), IndexError> {
        if self.filter_first && !self.passes(chunk, row)? {
            return Ok(());
        }
        self.group::<1>(number, chunk, &[row], ceiling)
    }

    /// Scores up to `N` rows, which the filter has let pass if it goes first.
    ///
    /// `ceiling` is asked of few rows. Were this compiled for each that there is, what it calls would not become part of it, and
    /// handing over a row through memory has the next one wait for it: four times the time of a search.
    fn group<const N: usize>(
        &mut self,
        number: usize,
        chunk: &Chunk,
        rows: &[usize],
        ceiling: &dyn Fn(f64) -> f64,
    ) -> Result<(), IndexError> {
        // A group that is not full repeats its last row.
        let row = |i: usize| rows[i.min(rows.len() - 1)];
        let vectors: [&[f32]; N] = std::array::from_fn(|i| chunk.vector(row(i)));
        self.pace.work(rows.len() * (ROW_BYTES + size_of_val(vectors[0])))?;
        let intervals = self.bound.intervals(vectors, std::array::from_fn(|i| chunk.scale(row(i))));
        self.stats.scanned += rows.len() as u64;
        self.scored += rows.len();
        for (row, interval) in rows.iter().zip(intervals) {
            if !self.candidates.admit(interval) {
                continue;
            }
            let ceiling = ceiling(interval.high);
            let interval = interval.capped(ceiling);
            if self.candidates.admit(interval) {
                self.near += 1;
                if self.filter_first || self.passes(chunk, *row)? {
                    self.candidates.push(interval, Looked { row: RowRef::new(number, *row), ceiling });
                }
            }
        }
        Ok(())
    }

    fn passes(&mut self, chunk: &Chunk, row: usize) -> Result<bool, IndexError> {
        let Some(filter) = self.filter else { return Ok(true) };
        let Label { id, payload, .. } = chunk.label(row);
        self.pace.work(filter.work_bytes(payload))?;
        let passes = filter.matches(id, payload);
        self.stats.filtered += u64::from(!passes);
        self.asked += 1;
        self.passed += usize::from(passes);
        Ok(passes)
    }

    /// How many rows the filter will have to be asked about until `k` pass, by what passed so far.
    pub(super) fn rows_to_pass(&self) -> usize {
        self.candidates.k().saturating_mul(self.asked) / (self.passed + 1)
    }

    /// Whether rows were scored since the last choice of an order, and the bound let none through.
    pub(super) fn is_in_vain(&self) -> bool {
        self.scored > 0 && self.near == 0
    }

    /// Chooses for the next rows: the bound goes first unless it let most of the last ones through, for then the
    /// filter would look at nearly every row anyway and can spare the vectors of those it turns away.
    pub(super) fn choose_order(&mut self) {
        if self.scored > 0 {
            self.filter_first = self.filter.is_some() && 2 * self.near > self.scored;
            (self.scored, self.near) = (0, 0);
        }
    }
}
