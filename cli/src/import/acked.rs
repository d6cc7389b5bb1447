//! Which rows are acknowledged without a gap, while batches are acknowledged in any order.

use std::collections::BTreeMap;

/// A place in a file: the rows before it, and their digest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// How many rows lie before it.
    pub(crate) rows: u64,
    /// Digest of those rows.
    pub(crate) digest: u64,
}

/// Acknowledged rows.
#[derive(Debug, Default)]
pub(crate) struct Acked {
    reached: Mark,
    /// Batches behind a gap: first row, and the mark after the last.
    ahead: BTreeMap<u64, Mark>,
}

impl Acked {
    /// Everything before `reached` is acknowledged.
    pub(crate) fn from(reached: Mark) -> Self {
        Self { reached, ahead: BTreeMap::new() }
    }

    /// The rows from `first` up to `end` are acknowledged.
    pub(crate) fn add(&mut self, first: u64, end: Mark) {
        self.ahead.insert(first, end);
        while let Some(end) = self.ahead.remove(&self.reached.rows) {
            self.reached = end;
        }
    }

    /// Whether rows behind the first that is not acknowledged are.
    pub(crate) fn has_gap(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Where the first row lies that is not acknowledged.
    pub(crate) fn reached(&self) -> Mark {
        self.reached
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_without_a_gap_count() {
        let mark = |rows| Mark { rows, digest: rows * 10 };
        let mut acked = Acked::from(mark(5));
        for (first, end, want) in [(15, 20, 5), (10, 15, 5), (5, 10, 20), (25, 30, 20), (20, 25, 30)] {
            acked.add(first, mark(end));
            assert_eq!(acked.reached(), mark(want), "after rows {first} to {end}");
        }
    }
}
