//! Terms of all entries of a log in a few words: they only grow, so one note per change is enough.

/// Terms by index, as runs.
#[derive(Clone, Debug, Default)]
pub(crate) struct TermRuns {
    /// First index of a run and its term, ascending.
    runs: Vec<(u64, u64)>,
}

impl TermRuns {
    /// The term of `index`, which must be one of the log's.
    pub(crate) fn at(&self, index: u64) -> Option<u64> {
        let after = self.runs.partition_point(|(first, _)| *first <= index);
        Some(self.runs.get(after.checked_sub(1)?)?.1)
    }

    /// The next entry is at `index` and has `term`.
    pub(crate) fn push(&mut self, index: u64, term: u64) {
        if self.runs.last().is_none_or(|(_, last)| *last != term) {
            self.runs.push((index, term));
        }
    }

    /// Entries from `index` on are gone.
    pub(crate) fn cut_from(&mut self, index: u64) {
        self.runs.retain(|(first, _)| *first < index);
    }

    /// Entries up to `index` are gone.
    pub(crate) fn cut_through(&mut self, index: u64) {
        let keep_from = self.runs.partition_point(|(first, _)| *first <= index + 1).saturating_sub(1);
        self.runs.drain(..keep_from);
    }

    pub(crate) fn clear(&mut self) {
        self.runs.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_tell_the_term_of_every_index() {
        let terms = [1, 1, 2, 2, 2, 5, 7, 7];
        let mut runs = TermRuns::default();
        for (i, term) in terms.into_iter().enumerate() {
            runs.push(i as u64 + 10, term);
        }
        for (i, term) in terms.into_iter().enumerate() {
            assert_eq!(runs.at(i as u64 + 10), Some(term), "term of {}", i + 10);
        }
        assert_eq!(runs.at(9), None);
        runs.cut_from(15);
        runs.push(15, 9);
        runs.cut_through(12);
        assert_eq!((runs.at(13), runs.at(14), runs.at(15)), (Some(2), Some(2), Some(9)));
    }
}
