//! The rows that may still be among the nearest `k`.

use super::bound::Interval;

/// Fewest rows that are gathered before it is worth sorting out.
const PRUNE_MIN: usize = 64;

/// A row, whatever names it, and where its nearness lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate<R> {
    interval: Interval,
    pub(crate) row: R,
}

/// Gathers rows and drops those that `k` others beat for certain.
///
/// Sorting out happens each time the rows have doubled, so a row costs a few nanoseconds on average, whatever `k` is.
/// Memory is that of the rows that can still win: about `2 k`, more only when more are too close to call.
#[derive(Debug)]
pub(crate) struct Candidates<R> {
    k: usize,
    /// A row that ends below it cannot be among the nearest `k`.
    floor: f64,
    rows: Vec<Candidate<R>>,
    prune_at: usize,
}

impl<R> Candidates<R> {
    /// `k >= 1`; `floor`: a nearness below which no row is wanted.
    pub(crate) fn new(k: usize, floor: f64) -> Self {
        Self { k, floor, rows: Vec::new(), prune_at: PRUNE_MIN.max(k.saturating_mul(2)) }
    }

    /// Whether a row may still be among the nearest.
    #[inline]
    pub(crate) fn admit(&self, interval: Interval) -> bool {
        !interval.is_below(self.floor)
    }

    pub(crate) fn push(&mut self, interval: Interval, row: R) {
        self.rows.push(Candidate { interval, row });
        if self.rows.len() >= self.prune_at {
            self.prune();
            self.prune_at = PRUNE_MIN.max(2 * self.k.max(self.rows.len()));
        }
    }

    /// How many rows are wanted.
    pub(super) fn k(&self) -> usize {
        self.k
    }

    /// Whether there are `k` rows, so that others must be near to be among them.
    pub(super) fn are_enough(&self) -> bool {
        self.rows.len() >= self.k
    }

    /// Raises the floor to what the rows so far allow.
    pub(super) fn tighten(&mut self) {
        self.prune();
    }

    /// The nearness that a row must reach, as far as is known.
    pub(super) fn floor(&self) -> f64 {
        self.floor
    }

    /// The rows that are left in the end.
    pub(crate) fn into_rows(mut self) -> Vec<Candidate<R>> {
        self.prune();
        self.rows
    }

    fn prune(&mut self) {
        if self.rows.len() < self.k {
            return;
        }
        let by_low = |a: &Candidate<R>, b: &Candidate<R>| b.interval.low.total_cmp(&a.interval.low);
        let (_, kth, _) = self.rows.select_nth_unstable_by(self.k - 1, by_low);
        self.floor = self.floor.max(kth.interval.low);
        let floor = self.floor;
        self.rows.retain(|candidate| !candidate.interval.is_below(floor));
    }
}
